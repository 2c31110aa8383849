//! Compares `mirage sweep` with painting its cells one by one.
//!
//! `cargo bench --bench sweep -- [ITERATIONS]` (10 by default) paints 3x3 cells of 160 pixels of a sample photo with
//! the default network in three ways, alternating for three rounds, and reports medians:
//! - the sweep as a separate process;
//! - its cells in this process and on one device, each with its own session: the sum of their times;
//! - nine runs of `mirage render`.
//!
//! There are two sheets: shares on both axes, and shares on rows with iterations on columns (one run fills a row).

use neural_mirage::gpu::DeviceOptions;
use neural_mirage::graph::Engine;
use neural_mirage::image_io;
use neural_mirage::mirage::{Event, Request, Scales, Session, Shares};
use neural_mirage::vgg::Network;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

const SPATIAL: [f32; 3] = [5.0, 20.0, 50.0];
const STYLE: [f32; 3] = [10.0, 40.0, 80.0];
const ROUNDS: usize = 3;

/// Share of the spatial and of the style factor, and iterations.
type Cell = (f32, f32, u32);

fn main() {
    let iterations = std::env::args().skip(1).find_map(|word| word.parse::<u32>().ok()).unwrap_or(10).max(3);
    let columns = [iterations / 3, 2 * iterations / 3, iterations];
    let both: Vec<Cell> =
        SPATIAL.iter().flat_map(|spatial| STYLE.map(|style| (*spatial, style, iterations))).collect();
    let rows: Vec<Cell> =
        SPATIAL.iter().flat_map(|spatial| columns.map(|iterations| (*spatial, 40.0, iterations))).collect();
    let list = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
    let vary = |name: &str, values: &[f32]| format!("{name}={}", list(values));
    let (spatial, style) = (vary("spatial", &SPATIAL), vary("style", &STYLE));
    let at = format!("iterations={},{},{}", columns[0], columns[1], columns[2]);
    let most = iterations.to_string();
    let shares = vec!["--vary", &spatial, "--vary", &style, "--iterations", &most];
    let chains = vec!["--vary", &spatial, "--columns", &at];

    println!(
        "| sheet | sweep, s | cells in one process, s | nine programs, s | / one process | / programs |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for (name, words, cells) in [("shares x shares", shares, both), ("shares x iterations", chains, rows)] {
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            times[0].push(sweep(&words));
            times[1].push(in_one_process(&cells));
            times[2].push(programs(&cells));
        }
        let [sweep, cells, programs] = times.map(|mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2]
        });
        println!(
            "| {name}, {iterations} iterations | {sweep:.2} | {cells:.2} | {programs:.2} | {:.2} | {:.2} |",
            sweep / cells,
            sweep / programs
        );
    }
}

fn root(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs the program and returns the seconds it took.
fn program(words: &[&str]) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirage"));
    command.current_dir(folder.path()).arg(words[0]).arg(root("docs/photos/summer-palace.jpg"));
    command.args(&words[1..]).args(["--size", "160", "--no-tuning-cache", "--quiet", "--weights"]);
    command.arg(root("weights/vgg16-narrow.safetensors"));
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).status().expect("the program");
    assert!(status.success(), "{words:?}");
    begun.elapsed().as_secs_f64()
}

fn sweep(words: &[&str]) -> f64 {
    program(&[&["sweep"], words].concat())
}

fn programs(cells: &[Cell]) -> f64 {
    let one = |(spatial, style, iterations): &Cell| {
        let balance = format!("spatial={spatial},abstract=40,style={style}");
        program(&["render", "--balance", &balance, "--iterations", &iterations.to_string(), "-o", "out.png"])
    };
    cells.iter().map(one).sum()
}

/// Paints each cell with its own session. Opening the device and loading the network are not timed.
fn in_one_process(cells: &[Cell]) -> f64 {
    let engine = Engine::open(&DeviceOptions::default()).expect("a device");
    let network = Network::open(&root("weights/vgg16-narrow.safetensors"), None).expect("the network");
    let network = Arc::new(network);
    let photo = image_io::read(&root("docs/photos/summer-palace.jpg")).expect("the photo").picture;
    let (width, height) = image_io::fit(photo.width, photo.height, 160);
    let photo = image_io::resize(&photo, width, height).expect("a size");
    let begun = Instant::now();
    for (spatial, style, iterations) in cells {
        let mut request = Request::new(photo.clone());
        let shares =
            format!("spatial={spatial},abstract=40,style={style}").parse::<Shares>().expect("shares");
        shares.apply(&mut request.groups).expect("shares");
        request.scales = Scales::single(*iterations);
        request.schedule.report_every = 0;
        let mut session = Session::new(&engine, &network, request).expect("a session");
        session.run(&mut |_: Event<'_>| Ok(ControlFlow::Continue(()))).expect("a run");
    }
    begun.elapsed().as_secs_f64()
}
