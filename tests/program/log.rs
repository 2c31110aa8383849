//! The log: events and fields match docs/log.md.

use crate::common::process::{code, wait_for};
use crate::support::{Place, events, log};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use tungstenite::Message;
use tungstenite::client::IntoClientRequest as _;

/// Returns the fields of each event according to the table in docs/log.md.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/log.md")).unwrap();
    let quoted = |text: &str| -> BTreeSet<String> {
        let names = text.split('`').skip(1).step_by(2).filter(|name| !name.starts_with('-'));
        names.map(str::to_owned).collect()
    };
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let [event, _, fields] = row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        // Text in brackets and after a colon describes a field's content.
        let fields = fields.split_once("`:").map_or(fields.to_owned(), |(before, _)| format!("{before}`"));
        let mut depth = 0;
        let outside = |letter: &char| {
            depth += i32::from(*letter == '(');
            let is_outside = depth == 0;
            depth -= i32::from(*letter == ')');
            is_outside
        };
        let fields: String = fields.chars().filter(outside).collect();
        let mut fields = quoted(&fields);
        fields.insert("event".to_owned());
        (event.trim_matches('`').to_owned(), fields)
    })
    .collect()
}

/// Returns a command for a run of four iterations at 68 pixels and three at 96.
fn two_scales(place: &Place, output: &str) -> assert_cmd::Command {
    let mut command = place.mirage();
    command.args([
        "render",
        "photo.png",
        "-o",
        output,
        "--size",
        "96",
        "--scales",
        "2",
        "--iterations",
        "4,3",
    ]);
    command.arg("--weights").arg(place.network());
    command
}

/// Runs with a live page whose viewer pauses, resumes and stops the run.
fn controlled(place: &Place, log: &str) {
    let photo = place.photo("photo.png", 64, 48);
    let mut command = place.render_to(&photo, "controlled.png", "10000000");
    let mut child = place.spawn(command.args(["--web", "0", "--log", log, "--quiet"]));
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("Live page: http://").unwrap_or_else(|| panic!("{line}"));
    let (host, token) = url.split_once("/#token=").unwrap();
    let mut request = format!("ws://{host}/live").into_client_request().unwrap();
    request.headers_mut().insert("Origin", format!("http://{host}").parse().unwrap());
    let (mut viewer, _) = tungstenite::client(request, TcpStream::connect(host).unwrap()).unwrap();
    let mut send = |message: Value| viewer.send(Message::text(message.to_string())).unwrap();
    send(json!({ "type": "hello", "token": token }));
    for (command, logged) in [("pause", "\"paused\":true"), ("resume", "\"paused\":false")] {
        send(json!({ "type": command }));
        wait_for(command, || {
            std::fs::read_to_string(place.path(log)).is_ok_and(|text| text.contains(logged))
        });
    }
    send(json!({ "type": "stop" }));
    assert_eq!(code(&mut child), Some(0));
}

#[test]
fn every_event_has_the_documented_fields() {
    let place = Place::new();
    let photo = place.photo("photo.png", 96, 64);
    // Two scales, with a factor of negligible share.
    let mut command = two_scales(&place, "scales.png");
    command.args(["--checkpoint-every", "2", "--save-at", "1"]);
    command.args(["--balance", "spatial=0.2,abstract=15,style=85", "--log", "scales.jsonl"]);
    command.assert().success();
    let mut command = place.render_to(&photo, "blown.png", "30");
    command.args(["--learning-rate", "1e38", "--no-clamp", "--log", "blown.jsonl"]).assert().code(1);
    controlled(&place, "controlled.jsonl");

    let documented = documented();
    let mut seen = BTreeSet::new();
    for name in ["scales.jsonl", "blown.jsonl", "controlled.jsonl"] {
        for line in log(&place.path(name)) {
            let event = line["event"].as_str().unwrap();
            let keys: BTreeSet<String> = line.as_object().unwrap().keys().cloned().collect();
            assert_eq!(documented.get(event), Some(&keys), "{line}");
            seen.insert(event.to_owned());
        }
    }
    assert_eq!(seen, documented.into_keys().collect());
}

#[test]
fn scale_changes_are_logged() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    two_scales(&place, "out.png").args(["--log", "run.jsonl"]).assert().success();
    let log = log(&place.path("run.jsonl"));
    let scales: Vec<Value> = events(&log, "scale")
        .into_iter()
        .map(|line| json!([line["iteration"], line["scale"], line["scales"], line["size"]["width"]]))
        .collect();
    assert_eq!(scales, [json!([0, 1, 2, 68]), json!([4, 2, 2, 96])]);
    assert!(events(&log, "scale").iter().all(|line| line["device_memory"].as_u64().unwrap() > 0), "{log:?}");
}

/// The change is first measured after ten iterations, when a few more are in flight.
#[test]
fn settled_run_ends() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let mut command = place.render_for(&photo, "100");
    command.args(["--scales", "1", "--stop-when-change-below", "1", "--log", "run.jsonl"]);
    command.assert().success();
    let log = log(&place.path("run.jsonl"));
    let end = log.last().unwrap();
    assert_eq!((&end["event"], &end["ending"]), (&"end".into(), &"settled".into()));
    let iterations = end["iterations"].as_u64().unwrap();
    assert!((10..20).contains(&iterations), "{iterations}");
    assert!(place.path("out.png").exists());
}

#[test]
fn rebalance_interval_is_respected() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let mut command = place.render_for(&photo, "12");
    command.args(["--scales", "1", "--rebalance-every", "5", "--log", "run.jsonl"]).assert().success();
    let log = log(&place.path("run.jsonl"));
    let balances = events(&log, "balance");
    let iterations: Vec<u64> = balances.iter().map(|line| line["iteration"].as_u64().unwrap()).collect();
    assert_eq!(iterations, [0, 5, 10]);
    assert!(balances[0]["weights"] != balances[1]["weights"], "{balances:?}");
}
