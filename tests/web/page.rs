//! The page in Chromium, with a simulated run.

use super::browser::Browser;
use super::stand_in::{StandIn, photo};
use neural_mirage::web::{Command, LivePage, Options};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Starts a simulated run in a thread that returns the received commands.
fn start(iterations: u32) -> (String, JoinHandle<Vec<Command>>) {
    let (sender, commands) = mpsc::channel();
    let page = LivePage::open(&Options::default(), move |command| {
        // The receiver is dropped only at the end of the run.
        let _ = sender.send(command);
    })
    .unwrap();
    let url = page.url().to_owned();
    let run = StandIn {
        photo: photo(320, 213),
        iterations,
        pace: Duration::from_millis(40),
        report_every: 2,
        snapshot_every: 10,
    };
    (url, std::thread::spawn(move || run.run(page, &commands)))
}

#[test]
#[ignore = "needs Debian's package chromium; tools/test installs it and runs this"]
fn page_shows_and_controls_the_run() {
    let (url, run) = start(2000);
    let mut browser = Browser::open(&url);

    // The picture changes and the curves grow.
    browser.wait_until("Number(picture.dataset.version) >= 2 && picture.naturalWidth === 320", LIMIT);
    let version = browser.attribute("#picture", "data-version");
    browser.wait_until(&format!("Number(picture.dataset.version) > {version} + 2"), LIMIT);
    // Not only its name: the colours on the screen change too.
    let colours = "(() => { const c = new OffscreenCanvas(16, 16).getContext('2d'); \
                   c.drawImage(picture, 0, 0, 16, 16); return String(c.getImageData(0, 0, 16, 16).data); })()";
    let (early, iteration) = (browser.value(colours), browser.number("#iteration"));
    browser.wait_until(&format!("Number(picture.dataset.iteration) > {iteration} + 50"), LIMIT);
    assert_ne!(browser.value(colours), early);
    browser.wait_until("Number(document.querySelector('#loss-curve').dataset.points) >= 5", LIMIT);
    let length = "document.querySelector('#share-curve .line[data-group=style]').getAttribute('d').length";
    let before = browser.value(length);
    browser.wait_until(&format!("{length} > {before}"), LIMIT);
    assert_eq!(browser.text("#title"), "harbour.jpg");
    assert_eq!(browser.attribute("#connection", "data-state"), "live");
    assert_eq!(browser.text("#photo-classes li .label"), "lakeside");
    browser.wait_until("document.querySelectorAll('#picture-classes li').length === 5", LIMIT);
    assert_eq!(browser.value("access.hidden"), true);

    // A slider changes the requested share at once, then the measured one.
    assert_eq!(browser.text("#requested-style"), "40 %");
    browser.set_range("#slider-style", 80.0);
    assert_eq!(browser.text("#requested-style"), "80 %");
    assert_eq!(browser.text("#requested-spatial"), "10 %");
    browser.wait_until("parseFloat(document.querySelector('#measured-style').textContent) > 70", LIMIT);
    assert!(browser.number("#measured-style") > browser.number("#measured-spatial"));
    browser.wait_until("document.querySelector('#shares-state').dataset.state === 'in-effect'", LIMIT);
    // Requested shares are drawn as steps: one level before, one after.
    browser.wait_until(
        "document.querySelector('#share-curve .requested[data-group=style]')?.getAttribute('d').split('H').length === 3",
        LIMIT,
    );

    // The keyboard moves it too, and Tab moves to the next control.
    browser.focus("#slider-style");
    browser.press("ArrowRight");
    browser.press("ArrowRight");
    assert_eq!(browser.text("#requested-style"), "82 %");
    assert!(browser.attribute("#slider-style", "aria-valuetext").starts_with("82 % requested"));
    browser.focus("#pause");
    browser.press("Tab");
    assert_eq!(browser.value("document.activeElement.id"), "save");

    // The iteration stays fixed while paused; the same button resumes the run.
    browser.focus("#pause");
    browser.press("Space");
    browser.wait_until("state.dataset.state === 'paused'", LIMIT);
    let paused = browser.text("#iteration");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(browser.text("#iteration"), paused);
    assert_eq!(browser.text("#pause"), "Resume");
    browser.click("#pause");
    browser.wait_until(&format!("Number(iteration.textContent) > {paused}"), LIMIT);

    browser.click("#save");
    browser.wait_until("notes.textContent.includes('Saved harbour-')", LIMIT);

    // The strip, by keyboard and by mouse.
    browser.wait_until("strip.querySelectorAll('[data-iteration]').length >= 3", LIMIT);
    browser.focus("#scrub");
    browser.press("Home");
    assert_eq!(browser.attribute("#picture", "data-iteration"), "10");
    browser.press("ArrowRight");
    assert_eq!(browser.attribute("#scrub", "aria-valuetext"), "after 20 iterations");
    browser.press("End");
    assert_eq!(browser.attribute("#scrub", "aria-valuetext"), "now");
    browser.click("#strip [data-iteration='20']");
    assert!(browser.text("#caption").contains("harbour-0020.png"), "{}", browser.text("#caption"));

    // The comparison with the photo.
    browser.focus("#mode-now");
    browser.press("ArrowRight");
    assert_eq!(browser.value("wipe.hidden"), false);
    browser.set_range("#wipe", 30.0);
    assert!(browser.value("getComputedStyle(photo).clipPath").as_str().unwrap().contains("70%"));
    browser.focus("#wipe");
    browser.press("ArrowRight");
    assert_eq!(browser.attribute("#wipe", "aria-valuetext"), "31 percent photo");

    // All controls have names.
    let controls = browser.controls();
    for (role, count) in [("slider", 5), ("button", 6), ("radio", 2)] {
        let found = controls.iter().filter(|(other, _)| other == role).count();
        assert!(found >= count, "{role}: {controls:?}");
    }
    // The thumbnails' images are decorative; their buttons have names.
    let unnamed = controls.iter().find(|(_, name)| name.trim().is_empty());
    assert_eq!(unnamed, None, "{controls:?}");

    // With reduced motion the page shows at most 3 pictures in 3 s, out of dozens.
    browser.click("#strip .thumbnail:last-child");
    browser.prefer("prefers-reduced-motion", "reduce");
    let version = "Number(picture.dataset.version)";
    let before = browser.value(version).as_f64().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let shown = browser.value(version).as_f64().unwrap() - before;
    assert!((1.0..=3.0).contains(&shown), "{shown}");
    browser.prefer("prefers-reduced-motion", "no-preference");
    browser.focus("#scrub");
    browser.press("Home");
    browser.press("ArrowRight");

    // Stop asks for confirmation once.
    browser.click("#stop");
    assert_eq!(browser.text("#stop"), "Really stop?");
    browser.press("Escape");
    assert_eq!(browser.text("#stop"), "Stop");
    browser.click("#stop");
    browser.click("#stop");
    let commands = run.join().unwrap();
    browser.wait_until("state.dataset.state === 'ended'", LIMIT);
    assert!(browser.text("#ending").contains("harbour-mirage.png"));
    assert_eq!(browser.value("document.querySelector('#pause').disabled"), true);
    assert_eq!(browser.attribute("#picture", "data-iteration"), "20", "the page lost its picture");

    let whole: Vec<_> = commands.iter().filter(|command| !matches!(command, Command::Shares(_))).collect();
    assert_eq!(whole, [&Command::Pause, &Command::Resume, &Command::Save, &Command::Stop]);
    let shares: Vec<_> = commands
        .iter()
        .filter_map(|command| if let Command::Shares(shares) = command { Some(shares) } else { None })
        .collect();
    let last = shares.last().unwrap();
    let names: Vec<&str> = last.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["spatial", "abstract", "style"]);
    // The page computes in whole percents and f64.
    assert!((last[2].1 - 0.82).abs() < 1e-4 && (last[0].1 - 0.09).abs() < 1e-4, "{shares:?}");

    assert_eq!(browser.errors(), [] as [&str; 0]);
    let own = url.split('#').next().unwrap().trim_start_matches("http://").to_owned();
    for address in browser.requests() {
        let local = ["http://", "ws://"].iter().any(|scheme| address.starts_with(&format!("{scheme}{own}")));
        assert!(local || address.starts_with("blob:") || address == "about:blank", "{address}");
    }
}

#[test]
#[ignore = "needs Debian's package chromium; tools/test installs it and runs this"]
fn page_is_view_only_without_token() {
    let (url, run) = start(100_000);
    let plain = url.split('#').next().unwrap();
    let mut browser = Browser::open(plain);
    browser.wait_until("!access.hidden && Number(picture.dataset.version) >= 1", LIMIT);
    for id in ["pause", "save", "stop", "slider-spatial", "slider-abstract", "slider-style"] {
        assert_eq!(browser.value(&format!("document.getElementById('{id}').disabled")), true, "{id}");
    }
    browser.keep("desktop-light-view-only", 1280, 900);
    browser.go(&format!("{plain}#token=00000000000000000000000000000000"));
    browser.wait_until("!access.hidden", LIMIT);

    // With the token, a second viewer receives everything from before.
    browser.wait_until("Number(document.querySelector('#loss-curve').dataset.points) >= 8", LIMIT);
    browser.go(&url);
    browser.wait_until("access.hidden && !document.querySelector('#stop').disabled", LIMIT);
    browser.wait_until("Number(document.querySelector('#loss-curve').dataset.points) >= 8", LIMIT);
    browser.wait_until("strip.querySelectorAll('[data-iteration]').length >= 1", LIMIT);
    browser.click("#stop");
    browser.click("#stop");
    assert_eq!(run.join().unwrap(), [Command::Stop]);
    browser.wait_until("state.dataset.state === 'ended'", LIMIT);
    assert_eq!(browser.errors(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs Debian's package chromium; tools/test installs it and runs this"]
fn page_fits_desktop_and_phone_in_light_and_dark() {
    let (url, run) = start(300);
    let mut browser = Browser::open(&url);
    browser.wait_until("Number(iteration.textContent) >= 60", LIMIT);
    browser.set_range("#slider-spatial", 55.0);
    browser.click("#save");
    browser.wait_until("Number(iteration.textContent) >= 120", LIMIT);
    let background = "getComputedStyle(document.body).backgroundColor";
    let mut seen = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer("prefers-color-scheme", scheme);
        for (device, width, height) in [("desktop", 1280, 900), ("phone", 390, 844)] {
            browser.resize(width, height);
            browser.value("scrollTo(0, 0)");
            browser.keep(&format!("{device}-{scheme}"), width, height);
            assert_eq!(browser.value("document.documentElement.scrollWidth <= innerWidth"), true, "{device}");
            let wide = browser.value("picture.getBoundingClientRect().width").as_f64().unwrap();
            assert!(wide >= 0.85 * f64::from(width.min(700)), "{device}: the picture is {wide} wide");
            if device == "phone" {
                screenshot_scrolled(&mut browser, &format!("{device}-{scheme}"), width, height);
            }
        }
        seen.push(browser.value(background));
    }
    assert_ne!(seen[0], seen[1]);
    browser.resize(1280, 900);
    browser.click("#mode-compare");
    browser.value("document.querySelector('#numbers').open = true; panel.scrollTo(0, 400)");
    browser.keep("desktop-dark-compare", 1280, 900);
    assert_eq!(browser.value("document.querySelectorAll('#numbers-body tr').length"), 12);
    browser.value("document.querySelector('#numbers').open = false; panel.scrollTo(0, 5000)");
    browser.keep("desktop-dark-classes", 1280, 900);
    browser.wait_until("state.dataset.state === 'ended'", LIMIT);
    assert_eq!(browser.text("#state"), "Finished");
    run.join().unwrap();
    browser.prefer("prefers-color-scheme", "light");
    browser.value("panel.scrollTo(0, 0)");
    browser.keep("desktop-light-ended", 1280, 900);
    assert_eq!(browser.errors(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs Debian's package chromium; tools/test installs it and runs this"]
fn broken_connection_is_shown_and_restored() {
    let (url, run) = start(100_000);
    let (server, token) = url.trim_start_matches("http://").split_once('/').unwrap();
    let mut wire = Wire::lay(server, 0);
    let mut browser = Browser::open(&format!("http://127.0.0.1:{}/{token}", wire.port));
    browser.wait_until("Number(document.querySelector('#loss-curve').dataset.points) >= 5", LIMIT);
    browser.wait_until("!document.querySelector('#pause').disabled", LIMIT);
    let port = wire.port;
    wire.cut();
    browser.wait_until("connection.dataset.state === 'lost'", LIMIT);
    assert!(browser.text("#connection").contains("trying again in"));
    assert_eq!(browser.value("document.querySelector('#pause').disabled"), true);
    assert_eq!(browser.value("picture.naturalWidth > 0"), true, "the page lost its picture");
    browser.keep("desktop-light-lost", 1280, 900);
    let mut wire = Wire::lay(server, port);
    browser.wait_until("connection.dataset.state === 'live'", LIMIT);
    browser.wait_until("!document.querySelector('#stop').disabled", LIMIT);
    browser.wait_until("Number(document.querySelector('#loss-curve').dataset.points) >= 6", LIMIT);
    browser.click("#stop");
    browser.click("#stop");
    assert_eq!(run.join().unwrap(), [Command::Stop]);
    browser.wait_until("state.dataset.state === 'ended'", LIMIT);
    wire.cut();
}

/// A TCP proxy to the server that can be cut.
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
    listening: Option<JoinHandle<()>>,
}

impl Wire {
    fn lay(server: &str, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (server, is_cut, kept) = (server.to_owned(), cut.clone(), ends.clone());
        let listening = std::thread::spawn(move || {
            for near in listener.incoming() {
                if is_cut.load(Ordering::SeqCst) {
                    return;
                }
                let (near, far) = (near.unwrap(), TcpStream::connect(&server).unwrap());
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        // Ends when either side closes.
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                kept.lock().unwrap().extend([near, far]);
            }
        });
        Self { port, cut, ends, listening: Some(listening) }
    }

    fn cut(&mut self) {
        self.cut.store(true, Ordering::SeqCst);
        // Wakes the listener so that it ends.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        self.listening.take().unwrap().join().unwrap();
        for end in self.ends.lock().unwrap().drain(..) {
            // It may already be closed.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn screenshot_scrolled(browser: &mut Browser, name: &str, width: u32, height: u32) {
    for (part, id) in [("shares", "shares"), ("curves", "share-legend"), ("classes", "notes")] {
        browser.value(&format!("document.getElementById('{id}').scrollIntoView({{ block: 'end' }})"));
        browser.keep(&format!("{name}-{part}"), width, height);
    }
}
