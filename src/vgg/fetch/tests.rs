//! Downloads from a small local HTTP server.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use super::*;

/// The server's response to a request for the file, one entry per request; then [`Serve::Whole`].
#[derive(Clone, Copy)]
enum Serve {
    /// Responds normally, with ranges.
    Whole,
    /// Ignores the range: sends everything, with status 200.
    NoRange,
    /// Closes the connection after this many bytes of the response.
    Break(usize),
    /// Sends only an HTTP status.
    Status(&'static str),
}

/// A server for one file, which runs until the test process ends.
struct Server {
    base: String,
    /// The `Range` header of each request for the file.
    ranges: mpsc::Receiver<Option<String>>,
}

/// Returns the path of the incomplete download of this content.
fn part(folder: &Path, content: &[u8]) -> PathBuf {
    let sha256 = hex(&Sha256::digest(content));
    folder.join(format!(".vgg19.safetensors.{}.mirage-part", &sha256[..16]))
}

fn serve(content: &[u8], published: &[u8], plan: &[Serve]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (sender, ranges) = mpsc::channel();
    let (content, mut plan) = (content.to_vec(), plan.to_vec());
    plan.reverse();
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        hex(&Sha256::digest(published)),
        published.len()
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (path, range) = read_request(&stream);
            if path == "/timm/vgg19.tv_in1k/raw/main/model.safetensors" {
                respond(&mut stream, "200 OK", "", pointer.as_bytes(), usize::MAX);
                continue;
            }
            assert_eq!(path, "/timm/vgg19.tv_in1k/resolve/main/model.safetensors");
            let how = plan.pop().unwrap_or(Serve::Whole);
            let start =
                range.as_ref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
            let _ = sender.send(range.clone());
            let (limit, start) = match how {
                Serve::Status(status) => {
                    respond(&mut stream, status, "", b"", 0);
                    continue;
                }
                Serve::NoRange => (usize::MAX, None),
                Serve::Break(limit) => (limit, start),
                Serve::Whole => (usize::MAX, start),
            };
            match start {
                None => respond(&mut stream, "200 OK", "", &content, limit),
                Some(start) => {
                    let header =
                        format!("Content-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len());
                    respond(&mut stream, "206 Partial Content", &header, &content[start..], limit);
                }
            }
        }
    });
    Server { base, ranges }
}

fn read_request(stream: &TcpStream) -> (String, Option<String>) {
    let mut lines =
        BufReader::new(stream).lines().map_while(|line| line.ok()).take_while(|line| !line.is_empty());
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let range =
        lines.filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())));
    (path, range.filter(|(key, _)| key == "range").map(|(_, value)| value).last())
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8], limit: usize) {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body[..limit.min(body.len())]);
}

fn content() -> Vec<u8> {
    (0..700_001u32).map(|i| (i * 31 % 251) as u8).collect()
}

fn run(server: &Server, folder: &Path) -> Result<Fetched> {
    fetch_from(Some(&server.base), "vgg19", Some(folder), false, &mut |_, _| {})
}

#[test]
fn file_is_verified_and_not_fetched_twice() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content, &[]);
    let mut reports = Vec::new();
    let fetched = fetch_from(Some(&server.base), "vgg19", Some(folder.path()), false, &mut |have, all| {
        reports.push((have, all))
    })
    .unwrap();
    assert_eq!(fetched.path, folder.path().join("vgg19.safetensors"));
    assert_eq!(std::fs::read(&fetched.path).unwrap(), content);
    assert!(!fetched.already_present);
    assert!(reports.is_sorted() && reports[0].0 == 0, "{reports:?}");
    assert_eq!(reports.last(), Some(&(content.len() as u64, content.len() as u64)));
    assert!(!part(folder.path(), &content).exists());
    assert_eq!(server.ranges.try_iter().collect::<Vec<_>>(), [None]);

    // The second time no connection is needed.
    let again =
        fetch_from(Some("http://127.0.0.1:9"), "vgg19", Some(folder.path()), false, &mut |_, _| {}).unwrap();
    assert!(again.already_present && again.path == fetched.path && again.sha256 == fetched.sha256);
    // A file put there by hand is recognised by the published hash.
    std::fs::remove_file(folder.path().join("vgg19.safetensors.sha256")).unwrap();
    assert!(run(&server, folder.path()).unwrap().already_present);
    assert_eq!(server.ranges.try_iter().count(), 0);
}

#[test]
fn existing_file_is_kept_without_overwrite() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content, &[]);
    let path = run(&server, folder.path()).unwrap().path;
    std::fs::write(&path, "garbage").unwrap();
    let error = run(&server, folder.path()).unwrap_err();
    assert!(error.to_string().contains("--overwrite"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"garbage");
    let again = fetch_from(Some(&server.base), "vgg19", Some(folder.path()), true, &mut |_, _| {}).unwrap();
    assert!(!again.already_present);
    assert_eq!(std::fs::read(&path).unwrap(), content);
}

#[cfg(unix)]
#[test]
fn downloads_do_not_follow_symlinks() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content, &[]);
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("victim"), "precious").unwrap();
    std::os::unix::fs::symlink("victim", part(folder.path(), &content)).unwrap();
    run(&server, folder.path()).unwrap_err();
    std::fs::remove_file(part(folder.path(), &content)).unwrap();
    std::os::unix::fs::symlink("victim", path("vgg19.safetensors.sha256")).unwrap();
    run(&server, folder.path()).unwrap();
    assert_eq!(std::fs::read(path("victim")).unwrap(), b"precious");
}

/// Files that other programs may have left beside the network.
#[test]
fn other_files_stay() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content, &[]);
    let path = |name: &str| folder.path().join(name);
    let list = format!("{}  another.bin\n{}  vgg19.safetensors\n", "0".repeat(64), "1".repeat(64));
    std::fs::write(path("vgg19.safetensors.part"), "precious").unwrap();
    std::fs::write(path("vgg19.safetensors.sha256"), &list).unwrap();
    run(&server, folder.path()).unwrap();
    assert_eq!(std::fs::read(path("vgg19.safetensors.part")).unwrap(), b"precious");
    assert_eq!(std::fs::read_to_string(path("vgg19.safetensors.sha256")).unwrap(), list);
    assert_eq!(std::fs::read(path("vgg19.safetensors")).unwrap(), content);
    // A file with a second name could be anyone's.
    std::fs::remove_file(path("vgg19.safetensors")).unwrap();
    std::fs::hard_link(path("vgg19.safetensors.part"), part(folder.path(), &content)).unwrap();
    if cfg!(unix) {
        run(&server, folder.path()).unwrap_err();
        assert_eq!(std::fs::read(path("vgg19.safetensors.part")).unwrap(), b"precious");
    }
}

#[test]
fn interrupted_download_continues() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server =
        serve(&content, &content, &[Serve::Break(300_000), Serve::Status("503 Busy"), Serve::Break(100_000)]);
    let path = run(&server, folder.path()).unwrap().path;
    assert_eq!(std::fs::read(path).unwrap(), content);
    let ranges: Vec<_> = server.ranges.try_iter().collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=300000-".into()), Some("bytes=300000-".into()), Some("bytes=400000-".into())]
    );
}

#[test]
fn partial_file_of_earlier_run_continues() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    std::fs::write(part(folder.path(), &content), &content[..123_456]).unwrap();
    let server = serve(&content, &content, &[]);
    let path = run(&server, folder.path()).unwrap().path;
    assert_eq!(std::fs::read(path).unwrap(), content);
    assert_eq!(server.ranges.try_iter().collect::<Vec<_>>(), [Some("bytes=123456-".into())]);
}

#[test]
fn unusable_partial_download_restarts() {
    let content = content();
    for (beginning, how) in [
        (content[..5000].to_vec(), Serve::NoRange),
        (content[..5000].to_vec(), Serve::Status("416 Range Not Satisfiable")),
        (vec![0; content.len() + 1], Serve::Whole),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(part(folder.path(), &content), beginning).unwrap();
        let server = serve(&content, &content, &[how]);
        let path = run(&server, folder.path()).unwrap().path;
        assert_eq!(std::fs::read(path).unwrap(), content);
    }
}

#[test]
fn wrong_hash_is_refused_and_file_removed() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let mut sent = content.clone();
    sent[345_678] ^= 1;
    let server = serve(&sent, &content, &[]);
    let error = run(&server, folder.path()).unwrap_err();
    assert!(matches!(&error, Error::Download(text) if text.contains("SHA-256")), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn too_many_bytes_are_refused() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content[..600_000], &[]);
    let error = run(&server, folder.path()).unwrap_err();
    assert!(error.to_string().contains("600000 bytes"), "{error}");
    assert!(!folder.path().join("vgg19.safetensors").exists());
}

/// A beginning from elsewhere is replaced instead of blaming the host.
#[test]
fn continued_download_with_wrong_hash_restarts() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    std::fs::write(part(folder.path(), &content), "<html>").unwrap();
    let server = serve(&content, &content, &[]);
    let path = run(&server, folder.path()).unwrap().path;
    assert_eq!(std::fs::read(path).unwrap(), content);
    assert_eq!(server.ranges.try_iter().collect::<Vec<_>>(), [Some("bytes=6-".into()), None]);
}

#[test]
fn file_of_other_length_is_refused_at_once() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(b"<html>404</html>", &content, &[]);
    let error = run(&server, folder.path()).unwrap_err();
    assert!(error.to_string().contains("16 bytes instead of the 700001 bytes"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "an empty file remains");
}

#[cfg(unix)]
#[test]
fn part_file_replaced_during_download_is_not_named() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content, &[]);
    let part = part(folder.path(), &content);
    let error = fetch_from(Some(&server.base), "vgg19", Some(folder.path()), false, &mut |have, _| {
        if have > 0 && have < 700_001 {
            std::fs::remove_file(&part).unwrap();
            std::fs::write(&part, "precious").unwrap();
        }
    })
    .unwrap_err();
    assert!(error.to_string().contains("was replaced"), "{error}");
    assert_eq!(std::fs::read(&part).unwrap(), b"precious");
    assert!(!folder.path().join("vgg19.safetensors").exists());
}

/// Only the hash in the program counts, not one that lies beside a file.
#[test]
fn recorded_hash_of_other_network_is_not_narrow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DEFAULT_NETWORK);
    std::fs::write(&path, "other").unwrap();
    let line = format!("{}  {DEFAULT_NETWORK}\n", hex(&Sha256::digest(b"other")));
    std::fs::write(path.with_extension("safetensors.sha256"), line).unwrap();
    let base = Some("http://127.0.0.1:9");
    let error = fetch_from(base, NARROW, Some(folder.path()), false, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("--overwrite"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"other");
}

#[test]
fn invalid_addresses_are_refused_before_anything_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new");
    for base in [
        "nonsense",
        "127.0.0.1:80/x",
        "http://",
        "ftp://127.0.0.1/",
        "file:///tmp",
        "http://[::1",
        "\u{fffd}",
    ] {
        let error = fetch_from(Some(base), "vgg19", Some(&target), false, &mut |_, _| {}).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{base}: {error}");
        assert!(error.to_string().contains(BASE_VARIABLE), "{error}");
    }
    assert!(!target.exists());
}

#[test]
fn repeatedly_broken_download_keeps_partial_file() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content, &[&[Serve::Break(1000)][..], &[Serve::Break(0); 9]].concat());
    let error = run(&server, folder.path()).unwrap_err();
    assert!(error.to_string().contains("1000 of 700001"), "{error}");
    assert_eq!(std::fs::read(part(folder.path(), &content)).unwrap(), content[..1000]);
}

#[test]
fn connection_error_names_address_and_target() {
    let folder = tempfile::tempdir().unwrap();
    // A port that was free a moment ago, so nothing listens on it.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{port}");
    let error = fetch_from(Some(&base), "vgg19", Some(folder.path()), false, &mut |_, _| {}).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Download(_)));
    assert!(text.contains(&format!("{base}/timm/vgg19.tv_in1k/resolve/main/model.safetensors")), "{text}");
    assert!(text.contains(&*folder.path().join("vgg19.safetensors").to_string_lossy()), "{text}");
}

#[test]
fn missing_files_and_invalid_pointers_are_reported() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content, &[Serve::Status("404 Not Found")]);
    let error = run(&server, folder.path()).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    for page in ["<html>", "oid sha256:123\nsize 5", "size 5", ""] {
        assert_eq!(parse_pointer(page), None, "{page}");
    }
}

#[test]
fn unknown_name_lists_known_ones() {
    let error = fetch_from(Some("http://127.0.0.1:9"), "resnet", None, false, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("vgg16, vgg19, narrow"), "{error}");
}

#[test]
fn narrow_needs_an_address() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(address) = narrow_address() {
        assert_eq!(published(None, NARROW).unwrap().0, address);
    } else {
        let error = fetch_from(None, NARROW, Some(folder.path()), false, &mut |_, _| {}).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains(DEFAULT_NETWORK_SHA256) && text.contains(BASE_VARIABLE), "{text}");
    }
    let (address, _) = published(Some("http://127.0.0.1:9"), NARROW).unwrap();
    assert_eq!(address, format!("http://127.0.0.1:9/{DEFAULT_NETWORK}"));
}

#[test]
fn concurrent_download_is_refused() {
    let (content, folder) = (content(), tempfile::tempdir().unwrap());
    let server = serve(&content, &content, &[]);
    let part = File::create(part(folder.path(), &content)).unwrap();
    part.lock().unwrap();
    let error = run(&server, folder.path()).unwrap_err();
    assert!(error.to_string().contains("another run"), "{error}");
}
