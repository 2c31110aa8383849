//! The page in Chromium with a real run of the program, its default network and a photo.

use super::browser::Browser;
use super::common::process::{Running, code};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::Duration;

/// A software device shared with other tests takes about a second per iteration.
const LIMIT: Duration = Duration::from_secs(120);

/// A running program, killed on drop.
struct Program {
    child: Running,
    stderr: BufReader<ChildStderr>,
}

impl Program {
    /// Starts a very long run; returns it with the URL of its page.
    fn start(folder: &Path) -> (Self, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirage"));
        command.current_dir(folder).arg("render").arg(root.join("docs/photos/summer-palace.jpg"));
        command.arg("--weights").arg(root.join("weights/vgg16-narrow.safetensors"));
        // A graphics device, because the CPU device is slow in unoptimised builds.
        command.args(["--adapter", "0", "-o", "out.png", "--size", "160", "--web", "0"]);
        command.args(["--scales", "2", "--iterations", "6,100000"]);
        command.args(["--print-every", "4", "--save-at", "2,5,8", "--no-tuning-cache"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = Running::new(command.spawn().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut run = Self { child, stderr };
        let line = run.line("Live page: ");
        (run, line.trim_start_matches("Live page: ").trim().to_owned())
    }

    /// Returns the next line with this beginning.
    fn line(&mut self, beginning: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "no line begins with {beginning}: {all}");
            if line.starts_with(beginning) {
                return line;
            }
            all += &line;
        }
    }
}

#[test]
#[ignore = "needs Debian's package chromium; tools/test installs it and runs this"]
fn real_run_is_shown_and_controlled() {
    let folder = tempfile::tempdir().unwrap();
    let (mut run, url) = Program::start(folder.path());
    let mut browser = Browser::open(&url);

    // The second scale follows the first, the picture changes, and the curves grow.
    browser.wait_until("picture.naturalWidth === 160", LIMIT);
    assert_eq!(browser.text("#scale"), "Scale 2 of 2, 160×107");
    assert_eq!(browser.text("#total"), "100006");
    let version = browser.attribute("#picture", "data-version");
    browser.wait_until(&format!("Number(picture.dataset.version) > {version} + 2"), LIMIT);
    browser.wait_until("Number(document.querySelector('#loss-curve').dataset.points) >= 3", LIMIT);
    browser.wait_until("document.querySelectorAll('#loss-curve .scale').length === 1", LIMIT);
    let points = browser.value("Number(document.querySelector('#share-curve').dataset.points)");
    browser.wait_until(
        &format!("Number(document.querySelector('#share-curve').dataset.points) > {points}"),
        LIMIT,
    );
    browser.wait_until("document.querySelectorAll('#picture-classes li').length === 5", LIMIT);
    assert_eq!(browser.value("document.querySelectorAll('#photo-classes li').length"), 5);
    browser.wait_until("strip.querySelectorAll('[data-iteration]').length === 3", LIMIT);

    // A second viewer connects and leaves without disturbing the run.
    drop(Browser::open(&url));

    // Moving a slider changes the measured shares of the next report: the spatial factor dominates.
    let before = browser.number("#measured-spatial");
    browser.set_range("#slider-style", 1.0);
    browser.set_range("#slider-abstract", 1.0);
    browser.set_range("#slider-spatial", 100.0);
    browser.wait_until("parseFloat(document.querySelector('#measured-spatial').textContent) > 80", LIMIT);
    assert!(before < 80.0, "{before} % before");
    browser.wait_until("document.querySelector('#shares-state').dataset.state === 'in-effect'", LIMIT);

    // A paused run does not iterate but can save.
    browser.click("#pause");
    browser.wait_until("state.dataset.state === 'paused'", LIMIT);
    let paused = browser.text("#iteration");
    browser.click("#save");
    browser.wait_until("notes.textContent.includes('Saved out-')", LIMIT);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(browser.text("#iteration"), paused);
    let saved = folder.path().join(format!("out-{:0>6}.png", paused));
    image::open(&saved).unwrap_or_else(|error| panic!("{}: {error}", saved.display()));
    browser.click("#pause");
    browser.wait_until(&format!("Number(iteration.textContent) > {paused}"), LIMIT);

    browser.keep("live-desktop", 1280, 900);
    browser.keep("live-phone", 390, 844);
    browser.prefer("prefers-color-scheme", "dark");
    browser.keep("live-desktop-dark", 1280, 900);
    browser.resize(1280, 900);

    // Stop ends the process with exit code 0 and a saved picture, which the page reports.
    browser.click("#stop");
    browser.click("#stop");
    browser.wait_until("!ending.hidden && ending.textContent.includes('out.png')", LIMIT);
    assert_eq!(code(&mut run.child), Some(0));
    assert_eq!(image::image_dimensions(folder.path().join("out.png")).unwrap(), (160, 107));
    image::open(folder.path().join("out.png")).unwrap();
    assert!(folder.path().join("out-checkpoint.safetensors").exists());
    let errors: Vec<String> = browser.errors().to_vec();
    // After the program has ended, the browser may report refused connections.
    assert!(errors.iter().all(|text| text.contains("ERR_CONNECTION_REFUSED")), "{errors:?}");
}
