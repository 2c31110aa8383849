//! Real signals, and readers that close their end of a pipe.

use crate::common::process::{Running, code, wait_for};
use crate::support::{Place, pixels};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Returns a command for a practically endless run with a log.
pub fn endless(place: &Place) -> assert_cmd::Command {
    let photo = place.photo("photo.png", 64, 48);
    let mut command = place.render_for(&photo, "10000000");
    command.args(["--log", "run.jsonl", "--quiet"]);
    command
}

/// Starts an endless run and waits for its first iteration.
pub fn start(place: &Place) -> Running {
    let child = place.spawn(&endless(place));
    wait_until_it_paints(place);
    child
}

pub fn wait_until_it_paints(place: &Place) {
    let log = place.path("run.jsonl");
    wait_for("the run doesn't begin", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"iteration\""))
    });
}

/// Sends a signal such as `-INT` with the shell's built-in `kill`: small systems have no such program.
pub fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let kill = ["-c", "kill \"$0\" \"$1\"", name, &id];
    assert!(Command::new("sh").args(kill).status().unwrap().success(), "the process has ended");
}

/// Checks that the run was stopped with its picture saved, and logged that.
fn assert_saved(place: &Place) {
    assert_eq!(image::image_dimensions(place.path("out.png")).unwrap(), (48, 36));
    image::open(place.path("out.png")).unwrap();
    let log = std::fs::read_to_string(place.path("run.jsonl")).unwrap();
    let end: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&end["event"], &end["ending"]), (&"end".into(), &"stopped".into()));
    assert!(place.path("out-checkpoint.safetensors").exists());
}

#[test]
fn ctrl_c_finishes_saves_and_exits_130() {
    for name in ["-INT", "-TERM", "-HUP"] {
        let place = Place::new();
        let mut child = start(&place);
        signal(&child, name);
        assert_eq!(code(&mut child), Some(130));
        assert_saved(&place);
    }
}

#[test]
fn second_ctrl_c_quits_immediately() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let words = ["--log", "pipe", "--print-every", "1", "--quiet"];
    let mut child = place.spawn(place.render_for(&photo, "10000000").args(words));
    let mut log = BufReader::with_capacity(16, std::fs::File::open(&pipe).unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("\"event\":\"start\""), "{line}");
    // The log is not read further and another writer fills the pipe, so the run blocks on writing and can't end.
    let mut other = std::fs::File::options().write(true).open(&pipe).unwrap();
    // Writing fails once the reader is closed.
    let filling = std::thread::spawn(move || other.write_all(&[0; 4 << 20]));
    std::thread::sleep(Duration::from_millis(500));
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "the first signal quits");
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    assert!(!place.path("out.png").exists());
    drop(log);
    assert!(filling.join().unwrap().is_err());
}

/// A closing terminal and its shell both send SIGHUP, a system that shuts down also sends SIGTERM, and `timeout`
/// signals the process and its group.
#[test]
fn signals_in_quick_succession_still_save() {
    for names in [["-HUP", "-HUP", "-TERM"], ["-TERM", "-TERM", "-HUP"], ["-INT", "-INT", "-INT"]] {
        let place = Place::new();
        let mut child = start(&place);
        let id = child.id().to_string();
        // From one process, so that they arrive within microseconds.
        let program = names.map(|name| format!("kill {name} {id}")).join("; ");
        Command::new("bash").args(["-c", &program]).stderr(Stdio::null()).status().unwrap();
        assert_eq!(code(&mut child), Some(130));
        assert_saved(&place);
    }
}

/// `nohup` ignores SIGHUP, a script's `&` ignores SIGINT and SIGQUIT.
#[test]
fn signals_ignored_at_start_stay_ignored() {
    for (ignored, names, last) in [
        ("HUP", &["-HUP"][..], "-INT"),
        ("INT", &["-INT", "-INT"], "-HUP"),
        ("HUP INT", &["-INT", "-HUP"], "-TERM"),
    ] {
        let place = Place::new();
        let mut child = place.spawn(&place.in_shell(&format!("trap '' {ignored}"), &endless(&place)));
        wait_until_it_paints(&place);
        for name in names {
            signal(&child, name);
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(child.try_wait().unwrap().is_none(), "{ignored} is no longer ignored");
        signal(&child, last);
        assert_eq!(code(&mut child), Some(130));
        assert_saved(&place);
    }
}

/// A signal before there is anything to save ends the program immediately and leaves no lock file behind.
#[test]
fn signal_during_preparation_leaves_no_files() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let locks = || {
        let entries = place.entries();
        entries.into_iter().filter(|name| name.starts_with(".mirage-") && name.ends_with(".lock")).count()
    };
    for (round, name) in ["-INT", "-TERM", "-HUP", "-INT"].into_iter().enumerate() {
        let output = format!("{round}.png");
        let mut child = place.spawn(
            place.render_to(&photo, &output, "10000000").args(["--film", "f.gif", "--log", "l.jsonl"]),
        );
        let started = Instant::now();
        while locks() == 0 {
            assert!(started.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        signal(&child, name);
        assert_eq!(code(&mut child), Some(130));
        assert_eq!(locks(), 0, "{:?}", place.entries());
        // An empty log would block a repetition of the command. On a slow machine the run may have started.
        let log = place.path("l.jsonl");
        assert!(std::fs::metadata(&log).map_or(true, |found| found.len() > 0), "an empty log is left");
        let _ = std::fs::remove_file(log);
        let _ = std::fs::remove_file(place.path("f.gif"));
    }
}

/// Runs with a log on a pipe whose reader closes it after one line.
fn close_log_reader(place: &Place, log: &str, reader: impl FnOnce(&mut Child) -> Box<dyn std::io::Read>) {
    let photo = place.photo("photo.png", 64, 48);
    let words = ["--log", log, "--print-every", "1", "--quiet"];
    let mut child = place.spawn(place.render_for(&photo, "40").args(words));
    let mut line = String::new();
    BufReader::with_capacity(16, reader(&mut child)).read_line(&mut line).unwrap();
    assert!(line.contains("\"event\":\"start\""), "{line}");
    assert_eq!(code(&mut child), Some(0));
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("warning: the log ends here") && errors.lines().count() == 1, "{errors}");
    let shown = place.mirage().args(["show", "out.png", "--json"]).output().unwrap().stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["iterations"], 40, "the run did not continue to its end");
}

#[test]
fn run_survives_closed_log_reader() {
    let place = Place::new();
    close_log_reader(&place, "-", |child| Box::new(child.stdout.take().unwrap()));
    let whole = pixels(&place.path("out.png"));
    let place = Place::new();
    let pipe: PathBuf = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let opened = pipe.clone();
    close_log_reader(&place, "pipe", move |_| Box::new(std::fs::File::open(opened).unwrap()));
    assert!(whole == pixels(&place.path("out.png")));
}

/// If the reader of its output is gone, a command that also writes files reports a failure.
#[test]
fn closed_stdout_fails_kernels_test() {
    let place = Place::new();
    let words = ["kernels", "test", "relu", "--shapes", "quick", "--adapter", "cpu", "--json", "all.json"];
    let mut child = place.spawn(place.mirage().args(words));
    drop(child.stdout.take());
    assert_eq!(code(&mut child), Some(1));
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("standard output"), "{errors}");
}
