//! The page in Chromium: scales, and groups with any name.

use super::browser::Browser;
use super::client::{begin, open, report};
use super::stand_in::photo;
use neural_mirage::image_io::{Picture, resize};
use neural_mirage::web::{Command, Group, GroupReport, LivePage, Start};
use serde_json::json;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Sends a picture and waits until the page shows it.
fn show(page: &LivePage, browser: &mut Browser, iteration: u32, picture: &Picture) {
    page.picture(iteration, picture);
    let shown = format!("picture.complete && picture.naturalWidth === {}", picture.width);
    browser.wait_until(&shown, LIMIT);
}

/// Returns width and height of the displayed picture.
fn displayed(browser: &mut Browser) -> serde_json::Value {
    browser.value("(({ width, height }) => [width, height])(picture.getBoundingClientRect())")
}

#[test]
#[ignore = "needs Debian's package chromium; tools/test installs it and runs this"]
fn scales_are_shown_to_early_and_late_viewers() {
    let (page, _commands) = open();
    let url = page.url().to_owned();
    let full = photo(320, 213);
    begin(&page, &full);
    page.scale(0);
    let mut browser = Browser::open(&url);
    browser.wait_until("scale.textContent === 'Scale 1 of 3, 80×54'", LIMIT);
    show(&page, &mut browser, 10, &resize(&full, 80, 54).unwrap());
    let size = displayed(&mut browser);
    for iteration in (0..=60).step_by(5) {
        page.report(&report(iteration));
        page.progress(iteration, f64::from(iteration));
    }
    page.scale(1);
    browser.wait_until("scale.textContent === 'Scale 2 of 3, 160×107'", LIMIT);
    show(&page, &mut browser, 60, &resize(&full, 160, 107).unwrap());
    assert_eq!(displayed(&mut browser), size, "pictures of all scales must be shown at one size");

    // Progress covers the whole run. 50 of 100 iterations took 50 s with a 16th of the pixels, and 10 at the second
    // scale took 10 s; 20 remain at each of the second and third scales. The exact estimate depends on which progress
    // messages were skipped, but it counts pixels: by iterations it would be 40 s.
    let mut late = Browser::open(&url);
    for viewer in [&mut browser, &mut late] {
        viewer.wait_until("Number(iteration.textContent) === 60", LIMIT);
        assert_eq!(viewer.text("#scale"), "Scale 2 of 3, 160×107");
        assert_eq!(viewer.text("#total"), "100");
        // The bar counts pixels too: 387200 of 2092800, not 0.6.
        let position = viewer.value("document.querySelector('#progress').position").as_f64().unwrap();
        assert!((position - 387_200.0 / 2_092_800.0).abs() < 1e-6, "{position}");
        let left = viewer.text("#left");
        assert!(left.contains("min") || viewer.number("#left") > 60.0, "{left}");
        // A line at the beginning of the second scale, and none yet for the third.
        for plot in ["loss-curve", "share-curve"] {
            let lines =
                format!("[...document.querySelectorAll('#{plot} .scale')].map(line => line.dataset.scale)");
            viewer.wait_until(&format!("{lines}.length === 1"), LIMIT);
            assert_eq!(viewer.value(&lines), json!(["2"]));
        }
        let title = viewer.text("#loss-curve .scale title");
        assert_eq!(title, "Scale 2 of 3, 160×107, from iteration 50");
    }
    assert_eq!(displayed(&mut late), size);

    page.scale(2);
    page.report(&report(90));
    show(&page, &mut browser, 90, &full);
    browser.wait_until("document.querySelectorAll('#loss-curve .scale').length === 2", LIMIT);
    assert_eq!(displayed(&mut browser), size);
    // A run of one scale shows no scale.
    page.begin(&Start::new("photo.jpg", &full, 100));
    browser.wait_until("scale.hidden && document.querySelectorAll('.curve .scale').length === 0", LIMIT);
    assert_eq!(browser.text("#about"), "320×213");
    for viewer in [&mut browser, &mut late] {
        assert_eq!(viewer.errors(), [] as [&str; 0]);
    }
}

#[test]
#[ignore = "needs Debian's package chromium; tools/test installs it and runs this"]
fn each_adjustable_group_has_a_slider() {
    let (page, commands) = open();
    let url = page.url().to_owned();
    let picture = photo(32, 20);
    begin(&page, &picture);
    let mut browser = Browser::open(&url);
    let names = "[...document.querySelectorAll('#sliders label b')].map(name => name.textContent)";
    browser.wait_until("document.querySelectorAll('#sliders input:enabled').length === 2", LIMIT);
    assert_eq!(browser.value(names), json!(["Layout", "Brush strokes"]));
    assert_eq!(browser.text("[id='requested-layout']"), "25 %");
    assert_eq!(browser.text("[id='requested-brush strokes']"), "75 %");
    browser.set_range("[id='slider-brush strokes']", 40.0);
    let Command::Shares(shares) = commands.recv_timeout(LIMIT).unwrap() else { panic!("shares") };
    let near = |at: usize, name: &str, share: f32| {
        assert!(shares[at].0 == name && (shares[at].1 - share).abs() < 1e-6, "{shares:?}");
    };
    near(0, "layout", 0.6);
    near(1, "brush strokes", 0.4);
    page.weights(7, &[("layout", 0.6), ("brush strokes", 0.4)], &[]);
    browser.wait_until("document.querySelector('#shares-state').dataset.state === 'in-effect'", LIMIT);

    // Many groups with fixed weights, and names with a meaning in JavaScript or HTML.
    let names: Vec<String> =
        ["__proto__", "constructor", "curve", "<b>bold</b>", "\"'&\\", "a", "b", "c", "d"]
            .map(str::to_owned)
            .into();
    let group = |name| Group { name, about: "", share: None, adjustable: true };
    let groups: Vec<Group<'_>> = names.iter().map(|name| group(name.as_str())).collect();
    page.begin(&Start { groups: &groups, ..Start::new("photo.jpg", &picture, 100) });
    let measured = |(at, name): (usize, &String)| GroupReport {
        name: name.clone(),
        loss: 10.0 + at as f64,
        loss_share: Some(0.1),
        gradient_share: Some(if at == 2 { 0.6 } else { 0.05 }),
    };
    let mut numbers = report(1);
    numbers.groups = names.iter().enumerate().map(measured).collect();
    page.report(&numbers);
    browser.wait_until("document.querySelectorAll('#sliders input:enabled').length === 9", LIMIT);
    browser.wait_until("document.querySelectorAll('#share-curve .line').length === 9", LIMIT);
    assert!(browser.text("#shares-state").contains("fixed weights"));
    assert_eq!(browser.text("[id='measured-curve']"), "60 %");
    assert_eq!(browser.text("[id='requested-curve']"), "–");
    assert_eq!(browser.value("document.querySelectorAll('#sliders b b, #loss-legend b b').length"), 0);
    browser.set_range("[id='slider-curve']", 100.0);
    let Command::Shares(shares) = commands.recv_timeout(LIMIT).unwrap() else { panic!("shares") };
    assert_eq!(shares.iter().map(|(name, _)| name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    assert_eq!(shares[2].1, 1.0);
    browser.keep("desktop-light-groups", 1280, 900);
    assert_eq!(browser.value("document.documentElement.scrollWidth <= innerWidth"), true);
    assert_eq!(browser.errors(), [] as [&str; 0]);
}
