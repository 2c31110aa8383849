//! Serves the live page with a simulated run, for manual testing of the page:
//! `cargo run --example web [PHOTO [PORT]]`.

#[path = "../tests/web/stand_in.rs"]
mod stand_in;

use neural_mirage::image_io::{fit, read, resize};
use neural_mirage::web::{LivePage, Options};
use stand_in::StandIn;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

fn main() -> neural_mirage::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let photo = match arguments.next() {
        Some(path) => {
            let photo = read(Path::new(&path))?.picture;
            let (width, height) = fit(photo.width, photo.height, 640);
            resize(&photo, width, height)?
        }
        None => stand_in::photo(640, 427),
    };
    let port = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let (sender, commands) = mpsc::channel();
    // The receiver is gone only when the run is over.
    let page = LivePage::open(&Options { port, ..Options::default() }, move |command| {
        let _ = sender.send(command);
    })?;
    println!("{}", page.url());
    let run = StandIn {
        photo,
        iterations: 300,
        pace: Duration::from_millis(150),
        report_every: 5,
        snapshot_every: 20,
    };
    println!("{:?}", run.run(page, &commands));
    Ok(())
}
