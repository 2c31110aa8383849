//! The protocol of the live page, tested with a plain client.

use super::client::{LIMIT, Viewer, address, begin, get, open, raw, report, status};
use super::common::process::memory;
use super::stand_in::photo;
use neural_mirage::image_io::Picture;
use neural_mirage::web::{Command, LivePage, Options};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::Message;

#[test]
fn page_is_served_with_strict_headers() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    let answer = get(&host, "/", &format!("Host: {host}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
    for part in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(head.contains(part), "{part}: {head}");
    }
    // All files that the page refers to exist.
    let script = get(&host, "/main.js", &format!("Host: {host}\r\n"));
    let quoted = |text: &str| -> Vec<String> {
        text.split('"')
            .filter(|part| part.starts_with('/') && part.contains('.'))
            .map(str::to_owned)
            .collect()
    };
    let assets = [quoted(&answer), quoted(&script)].concat();
    assert!(assets.len() >= 7, "{assets:?}");
    for path in assets {
        let asset = get(&host, &path, &format!("Host: {host}\r\n"));
        assert!(asset.starts_with("HTTP/1.1 200"), "{path}: {asset}");
    }
    assert!(get(&host, "/none", &format!("Host: {host}\r\n")).starts_with("HTTP/1.1 404"));
    let post = raw(&host, &format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\nhi"));
    assert!(post.starts_with("HTTP/1.1 405"), "{post}");
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    let port = host.rsplit(':').next().unwrap().to_owned();
    let own = format!("Host: {host}\r\nOrigin: http://{host}\r\n");
    assert!(get(&host, "/", &own).starts_with("HTTP/1.1 200"));
    assert!(get(&host, "/", &format!("Host: localhost:{port}\r\n")).starts_with("HTTP/1.1 200"));
    for headers in [
        format!("Host: evil.example:{port}\r\n"),
        format!("Host: {host}.evil.example\r\n"),
        format!("Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n"),
        format!("Host: {host}\r\nOrigin: http://evil.example\r\n"),
        format!("Host: {host}\r\nOrigin: https://{host}\r\n"),
        format!("Host: {host}\r\nOrigin: null\r\n"),
        format!("Host: {host}\r\nOrigin: http://127.0.0.1:1\r\n"),
        format!("Host: {host}\r\nHost: evil.example\r\n"),
        format!("Host: {host}\r\nOrigin: http://{host}\r\nOrigin: http://evil.example\r\n"),
        "X: y\r\n".into(),
    ] {
        for path in ["/", "/live", "/main.js"] {
            let answer = get(&host, path, &headers);
            assert!(
                answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400"),
                "{headers}: {answer}"
            );
            assert!(!answer.contains("<html"));
        }
    }
    // The WebSocket too, also without an origin.
    let own = format!("http://{host}");
    assert_eq!(status(Viewer::connect(&host, Some(&own), &host)), 101);
    assert_eq!(status(Viewer::connect(&host, Some("http://evil.example"), &host)), 403);
    assert_eq!(status(Viewer::connect(&host, None, &host)), 403);
    let other = format!("evil.example:{port}");
    assert_eq!(status(Viewer::connect(&host, Some(&format!("http://{other}")), &other)), 403);
}

#[test]
fn control_requires_the_token() {
    let (page, commands) = open();
    let (host, token) = address(&page);
    begin(&page, &photo(32, 20));
    let wrong = format!("{}{}", &token[..31], if token.ends_with('0') { '1' } else { '0' });
    for bad in ["", &wrong, "\u{0}"] {
        let mut viewer = Viewer::open(&host, bad);
        assert_eq!(viewer.text("access")["control"], false);
        for command in ["pause", "resume", "save", "stop"] {
            viewer.send(&json!({ "type": command }));
            assert!(viewer.text("refused")["reason"].as_str().unwrap().contains("view only"));
        }
        viewer.send(&json!({ "type": "shares", "shares": [["layout", 1], ["brush strokes", 1]] }));
        viewer.text("refused");
    }
    // Without a hello, and with a wrong token after the right one.
    let mut viewer = Viewer::connect(&host, Some(&format!("http://{host}")), &host).unwrap();
    viewer.send(&json!({ "type": "stop" }));
    viewer.text("refused");
    let mut viewer = Viewer::open(&host, &token);
    assert_eq!(viewer.text("access")["control"], true);
    viewer.send(&json!({ "type": "hello", "token": wrong }));
    assert_eq!(viewer.text("access")["control"], false);
    viewer.send(&json!({ "type": "stop" }));
    viewer.text("refused");
    assert!(commands.try_recv().is_err(), "a command got through");

    let (mut first, mut second) = (Viewer::open(&host, &token), Viewer::open(&host, ""));
    for (text, command) in [
        ("pause", Command::Pause),
        ("resume", Command::Resume),
        ("save", Command::Save),
        ("stop", Command::Stop),
    ] {
        first.send(&json!({ "type": text }));
        assert_eq!(commands.recv_timeout(LIMIT).unwrap(), command);
    }
    let shares = json!([["brush strokes", 0.5], ["layout", 0.25]]);
    first.send(&json!({ "type": "shares", "shares": shares }));
    let command = Command::Shares(vec![("brush strokes".into(), 0.5), ("layout".into(), 0.25)]);
    assert_eq!(commands.recv_timeout(LIMIT).unwrap(), command);
    assert_eq!(second.text("requested")["shares"], shares);
}

#[test]
fn malformed_messages_affect_only_their_connection() {
    let (page, commands) = open();
    let (host, token) = address(&page);
    begin(&page, &photo(32, 20));
    let mut viewer = Viewer::open(&host, &token);
    viewer.text("access");
    for text in
        ["", "{", "[[[[[[", "null", "\"stop\"", "{\"type\":\"stop\"", "{\"type\":7}", "{\"type\":\"shares\"}"]
    {
        viewer.0.send(Message::text(text)).unwrap();
        viewer.text("refused");
    }
    viewer.0.send(Message::binary(vec![1, 2, 3])).unwrap();
    viewer.text("refused");
    for shares in [
        json!([["layout", 1], ["brush strokes", 1], ["pinned", 1]]),
        json!([["layout", 1], ["brush strokes", 1], ["smooth", 0]]),
        json!([["layout", 1], ["brush strokes", 1], ["layout", 1]]),
        json!([["layout", -1], ["brush strokes", 2]]),
        json!([["layout", 1e39], ["brush strokes", 2]]),
        json!(vec![["layout", "1"]; 200]),
    ] {
        viewer.send(&json!({ "type": "shares", "shares": shares }));
        viewer.text("refused");
    }
    viewer.send(&json!({ "type": "save" }));
    assert_eq!(commands.recv_timeout(LIMIT).unwrap(), Command::Save, "the connection was closed");
    // Too many invalid messages end the connection.
    for _ in 0..20 {
        // It may already be closed.
        let _ = viewer.0.send(Message::text("{"));
    }
    viewer.rest();

    let deep = "[".repeat(4000);
    let huge = "x".repeat(1 << 20);
    for (text, answered) in [(deep.as_str(), true), (huge.as_str(), false)] {
        let mut viewer = Viewer::open(&host, &token);
        viewer.text("access");
        // The server may close during sending.
        let _ = viewer.0.send(Message::text(text));
        if answered {
            viewer.text("refused");
        } else {
            viewer.rest();
        }
    }
    // Not HTTP, a wrong version, and an oversized head.
    for text in ["\u{1}\u{2}\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", &format!("GET /{huge} HTTP/1.1\r\n\r\n")] {
        let answer = raw(&host, text);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let mut fresh = Viewer::open(&host, &token);
    assert_eq!(fresh.text("access")["control"], true);
}

#[test]
fn unfinished_request_times_out() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    let mut silent: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(&host).unwrap()).collect();
    for stream in &mut silent[2..] {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    }
    let start = Instant::now();
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let mut answer = Vec::new();
        // An orderly end or a reset, but not a timeout.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(35), "{:?}", start.elapsed());
}

#[test]
fn late_viewers_receive_the_whole_run() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    let picture = photo(320, 213);
    let mut early = Viewer::open(&host, "");
    early.text("access");
    begin(&page, &picture);
    page.scale(0);
    page.weights(0, &[("layout", 0.25), ("brush strokes", 0.75)], &[("layout", 7.0)]);
    page.scale(1);
    for iteration in 0..3 {
        page.report(&report(iteration));
    }
    page.progress(2, 1.5);
    page.snapshot(2, &picture, "mirage-0002.png", &[("boat".into(), 0.75)]);
    page.picture(2, &picture);
    page.note("Saved mirage-0002.png");
    page.paused(true);

    let mut late = Viewer::open(&host, "");
    let mut photos = Vec::new();
    for viewer in [&mut early, &mut late] {
        let start = viewer.text("start");
        assert_eq!(start["title"], "photo.jpg");
        assert_eq!(
            start["scales"],
            json!([
                { "width": 80, "height": 54, "first": 0, "end": 50, "work": 4320, "preparing": 0 },
                { "width": 160, "height": 107, "first": 50, "end": 80, "work": 17120, "preparing": 0 },
                { "width": 320, "height": 213, "first": 80, "end": 100, "work": 68160, "preparing": 0 },
            ])
        );
        let names = |key: &str| -> Vec<Value> {
            start["groups"].as_array().unwrap().iter().map(|group| group[key].clone()).collect()
        };
        assert_eq!(names("name"), ["layout", "brush strokes", "pinned", "smooth"]);
        assert_eq!(names("adjustable"), [true, true, false, false]);
        assert_eq!(names("share"), [json!(0.25), json!(0.75), Value::Null, Value::Null]);
        assert_eq!(names("about")[0], "where things are");
        let weights = viewer.text("weights");
        assert_eq!(weights["shares"], json!([["layout", 0.25], ["brush strokes", 0.75]]));
        assert_eq!(start["photoClasses"], json!([["dock", 0.5]]));
    }
    for viewer in [&mut early, &mut late] {
        let mut reports = Vec::new();
        let (mut seen, mut about) = ([false; 3], Value::Null);
        let (mut note, mut paused, mut scale) = (Value::Null, Value::Null, Value::Null);
        while reports.len() < 3 || seen != [true; 3] || note.is_null() || paused.is_null() {
            match viewer.0.read().unwrap() {
                Message::Text(text) => {
                    let value: Value = serde_json::from_str(&text).unwrap();
                    match value["type"].as_str().unwrap() {
                        "reports" => reports.extend(value["reports"].as_array().unwrap().clone()),
                        "snapshot" => about = value,
                        "note" => note = value["text"].clone(),
                        "scale" => scale = value["index"].clone(),
                        "paused" => paused = value["paused"].clone(),
                        _ => {}
                    }
                }
                Message::Binary(bytes) => {
                    seen[usize::from(bytes[0])] = true;
                    if bytes[0] == 0 {
                        photos.push(bytes);
                    }
                }
                _ => {}
            }
        }
        assert_eq!(reports[2]["iteration"], 2);
        assert_eq!(reports[2]["groups"][0]["gradientShare"], Value::Null, "NaN");
        assert_eq!(about["path"], "mirage-0002.png");
        assert_eq!(about["classes"], json!([["boat", 0.75]]));
        assert_eq!(note, "Saved mirage-0002.png");
        assert_eq!((scale, paused), (json!(1), json!(true)));
    }
    assert_eq!(photos[0], photos[1]);
    // A second run on the same page replaces the first.
    begin(&page, &photo(32, 20));
    page.report(&report(9));
    let mut third = Viewer::open(&host, "");
    let mut texts = Vec::new();
    let jpeg = loop {
        match third.0.read().unwrap() {
            Message::Text(text) => texts.push(serde_json::from_str::<Value>(&text).unwrap()),
            Message::Binary(bytes) => break bytes.slice(12..),
            _ => {}
        }
    };
    let of = |kind: &str| texts.iter().filter(|text| text["type"] == kind).collect::<Vec<_>>();
    assert!(of("scale").is_empty() && of("weights").is_empty(), "{texts:?}");
    assert_eq!(of("reports")[0]["reports"].as_array().unwrap().len(), 1);
    assert_ne!(jpeg, photos[0][12..]);
}

#[test]
fn snapshot_strip_is_thinned_evenly() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    let picture = photo(32, 20);
    begin(&page, &picture);
    for iteration in 1..=200 {
        page.snapshot(iteration, &picture, "", &[]);
    }
    // When the last one has arrived, all are encoded.
    let mut waiting = Viewer::open(&host, "");
    while waiting.text("snapshot")["iteration"] != 200 {}
    let mut viewer = Viewer::open(&host, "");
    let kept = viewer.text("strip")["kept"].as_array().unwrap().len();
    assert!((24..=48).contains(&kept), "{kept}");
    let iterations: Vec<i64> =
        (0..kept).map(|_| viewer.text("snapshot")["iteration"].as_i64().unwrap()).collect();
    assert_eq!((iterations[0], iterations[kept - 1]), (1, 200));
    let widest = iterations.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(widest <= 20, "{iterations:?}");
}

#[test]
fn stalled_viewer_delays_nobody() {
    const PICTURES: u32 = 2000;
    let (page, _commands) = open();
    let (host, _) = address(&page);
    let picture = photo(320, 213);
    begin(&page, &picture);
    let _stalled: Vec<Viewer> = (0..3).map(|_| Viewer::open(&host, "")).collect();
    let mut good = Viewer::open(&host, "");
    good.text("access");
    let resident = || memory(std::process::id(), "VmRSS");
    let before = resident();
    let mut slowest = Duration::ZERO;
    for iteration in 1..=PICTURES {
        let call = Instant::now();
        page.picture(iteration, &picture);
        page.progress(iteration, 0.0);
        page.report(&report(iteration));
        slowest = slowest.max(call.elapsed());
    }
    // A call copies 0.8 MB. If it waited for a stalled viewer, it would take 20 s until that is dropped.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    while good.picture(1).0 != PICTURES {}
    // Unbounded queues would hold 2000 pictures of 200 kB.
    if let (Some(before), Some(after)) = (before, resident()) {
        assert!(after < before + (120 << 20), "{} MB, then {} MB", before >> 20, after >> 20);
    }
    let end = Instant::now();
    page.end("finished", "mirage.png");
    assert!(end.elapsed() < Duration::from_secs(5), "{:?}", end.elapsed());
    assert_eq!(good.text("end")["output"], "mirage.png");
}

#[test]
fn silent_viewer_stays_and_stalled_viewer_is_dropped() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    begin(&page, &photo(32, 20));
    let mut stalled = Viewer::open(&host, "");
    let mut good = Viewer::open(&host, "");
    let reader = std::thread::spawn(move || good.text("note"));
    // Steady updates for longer than the 25 s of silence allowed to a viewer, which answers only pings.
    for iteration in 0..320 {
        page.progress(iteration, 0.0);
        std::thread::sleep(Duration::from_millis(100));
    }
    page.note("still here");
    assert_eq!(reader.join().unwrap()["text"], "still here");
    let received = stalled.rest();
    assert!(received.len() > 100, "{}", received.len());
    assert!(!received.iter().any(|message| message.to_string().contains("still here")));
}

#[test]
fn pictures_are_requested_only_with_viewers() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    let picture = photo(32, 20);
    begin(&page, &picture);
    assert!(!page.wants_pictures());
    page.picture(1, &picture);
    // The first viewer receives an earlier picture.
    let mut viewer = Viewer::open(&host, "");
    assert_eq!(viewer.picture(1).0, 1);
    let start = Instant::now();
    while !page.wants_pictures() {
        assert!(start.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(5));
    }
    page.picture(2, &picture);
    assert_eq!(viewer.picture(1).0, 2);
    drop(viewer);
    let start = Instant::now();
    while page.wants_pictures() {
        assert!(start.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(5));
    }
    // A malformed picture gives a note.
    page.picture(3, &Picture { width: 5, height: 5, rgb: vec![0.0; 7] });
    let mut viewer = Viewer::open(&host, "");
    assert!(viewer.text("note")["text"].as_str().unwrap().contains("can't be shown"));
}

/// A further viewer is refused until another has left.
#[test]
fn viewers_are_limited_to_32() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    begin(&page, &photo(32, 20));
    let origin = format!("http://{host}");
    let connect = || Viewer::connect(&host, Some(&origin), &host);
    let mut viewers: Vec<Viewer> = (0..32).map(|_| connect().unwrap()).collect();
    assert_eq!(status(connect()), 503);
    viewers.iter_mut().for_each(|viewer| drop(viewer.text("start")));
    drop(viewers.pop());
    // The server needs time to notice.
    let start = Instant::now();
    let found = loop {
        let found = status(connect());
        if found != 503 || start.elapsed() > LIMIT {
            break found;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(found, 101);
}

#[test]
fn viewers_receive_the_end() {
    for by_drop in [false, true] {
        let (page, _commands) = open();
        let (host, _) = address(&page);
        let picture = photo(320, 213);
        begin(&page, &picture);
        let mut viewers: Vec<Viewer> = (0..3).map(|_| Viewer::open(&host, "")).collect();
        viewers.iter_mut().for_each(|viewer| drop(viewer.text("access")));
        page.picture(100, &picture);
        let readers: Vec<_> = viewers
            .into_iter()
            .map(|mut viewer| {
                std::thread::spawn(move || {
                    let (iteration, _) = viewer.picture(1);
                    let end = viewer.text("end");
                    let closing = viewer.0.read();
                    assert!(matches!(closing, Ok(Message::Close(_))), "{closing:?}");
                    // Answers the close.
                    let _ = viewer.0.flush();
                    (iteration, end)
                })
            })
            .collect();
        let start = Instant::now();
        if by_drop {
            drop(page);
        } else {
            page.end("finished", "mirage.png");
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        let (ending, output) = if by_drop { ("failed", "") } else { ("finished", "mirage.png") };
        for reader in readers {
            let (iteration, end) = reader.join().unwrap();
            assert_eq!(iteration, 100, "the last picture must come before the end");
            assert_eq!((&end["ending"], &end["output"]), (&json!(ending), &json!(output)));
        }
        assert!(TcpStream::connect(&host).is_err(), "the port is still in use");
    }
}

#[test]
fn port_in_use_is_a_usage_error() {
    let (page, _commands) = open();
    let (host, _) = address(&page);
    let port: u16 = host.rsplit(':').next().unwrap().parse().unwrap();
    let error = LivePage::open(&Options { port, ..Options::default() }, |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("--web: port {port}")) && text.contains("--web 0"), "{text}");
    assert_eq!(error.exit_code(), 2);
    // Not an address of this machine (TEST-NET-1).
    let host = Ipv4Addr::new(192, 0, 2, 1).into();
    let error = LivePage::open(&Options { host, port: 0 }, |_| {}).unwrap_err();
    assert!(error.to_string().contains("not an address of this machine"), "{error}");
}
