//! Times whole iterations: `cargo bench --bench iteration [-- SIDE... --objective three|style --weights FILE
//! --iterations N --json --layers --first --forward LAYER --adapter cpu|NAME|INDEX --exact
//! --kernels auto|texture|buffer|naive]`.
//!
//! The default is the default network at 128 and 256 px with all three factors. `style` is neural-style's
//! objective: style at relu1_1 to relu5_1, content at relu4_2. An iteration is a forward pass, the gradient with
//! respect to the picture and a step of Adam, with fixed weights (no balancing) and without reports. The picture
//! is square. Prints the median and minimum of single, synchronised iterations after two warm-up iterations, the
//! device memory, and the peak resident memory of the process if the system reports it (Linux).
//!
//! `--first` instead times from the start of the process to the end of the first iteration, as in
//! `mirage render`, including balancing and the first report (but not the last report, which measures the shares
//! again). For a cold start use an empty shader cache (`MESA_SHADER_CACHE_DIR`), as `tools/compare_peers.py` does.
//!
//! `--forward relu5_1` instead times forward passes up to this layer (median and minimum).

use clap::{Parser, ValueEnum};
use neural_mirage::gpu::{AdapterChoice, DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::mirage::{Benchmark, IterationTimes, Session, forward_seconds};
use neural_mirage::vgg::Network;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[derive(Clone, Copy, ValueEnum)]
enum Objective {
    Three,
    Style,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kernels {
    Auto,
    Texture,
    Buffer,
    Naive,
}

#[derive(Parser)]
struct Arguments {
    sides: Vec<usize>,
    #[arg(long, default_value = "three")]
    objective: Objective,
    #[arg(long)]
    weights: Option<PathBuf>,
    #[arg(long, default_value_t = 7)]
    iterations: usize,
    #[arg(long, default_value = "auto")]
    kernels: Kernels,
    #[arg(long)]
    exact: bool,
    /// Print one line of JSON for each side.
    #[arg(long)]
    json: bool,
    /// Also time the steps of one iteration, run one by one.
    #[arg(long)]
    layers: bool,
    #[arg(long)]
    first: bool,
    #[arg(long, value_name = "LAYER")]
    forward: Option<String>,
    #[arg(long)]
    adapter: Option<String>,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Returns the peak resident memory of this process in MiB; 0 if the system does not report it.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) / 1024
}

fn main() -> neural_mirage::Result<()> {
    let start = Instant::now();
    let mut arguments = Arguments::parse();
    if arguments.sides.is_empty() {
        arguments.sides = vec![128, 256];
    }
    let family = match arguments.kernels {
        Kernels::Auto => Family::Auto,
        Kernels::Texture => Family::Texture,
        Kernels::Buffer => Family::Buffer,
        Kernels::Naive => Family::Naive,
    };
    let adapter = arguments.adapter.as_deref().map(AdapterChoice::from).unwrap_or_default();
    let engine =
        Engine::open(&DeviceOptions { adapter, family, exact: arguments.exact, ..Default::default() })?;
    let network = Arc::new(Network::find(arguments.weights.as_deref(), None)?);
    if !arguments.json {
        println!("{}", engine.describe());
    }
    for side in arguments.sides {
        let benchmark = match arguments.objective {
            Objective::Three => Benchmark::Three,
            Objective::Style => Benchmark::Style,
        };
        if arguments.first {
            let mut session = Session::new(&engine, &network, benchmark.request(side)?)?;
            session.first_iteration()?;
            let seconds = start.elapsed().as_secs_f64();
            println!("{{\"side\": {side}, \"first\": {seconds:.3}, \"peak_mib\": {}}}", peak_mib());
            continue;
        }
        if let Some(layer) = &arguments.forward {
            let mut seconds = forward_seconds(&engine, &network, layer, side, arguments.iterations.max(1))?;
            seconds.sort_by(f64::total_cmp);
            let (least, median) = (seconds[0], seconds[seconds.len() / 2]);
            println!(
                "{{\"side\": {side}, \"min\": {least:.5}, \"median\": {median:.5}, \"peak_mib\": {}}}",
                peak_mib()
            );
            continue;
        }
        let mut session = benchmark.session(&engine, &network, side)?;
        let IterationTimes { least, median, device_bytes } =
            IterationTimes::measure(&mut session, arguments.iterations)?;
        let (device, peak) = (device_bytes >> 20, peak_mib());
        if arguments.json {
            println!(
                "{{\"side\": {side}, \"min\": {least:.5}, \"median\": {median:.5}, \"device_mib\": {device}, \"peak_mib\": {peak}}}"
            );
        } else {
            println!(
                "{side:5} px  median {median:8.3} s  min {least:8.3} s per iteration  {device} MiB on the device, {peak} MiB peak resident"
            );
        }
        if arguments.layers {
            for (step, seconds) in session.step_times()? {
                println!("{:10.2} ms  {step}", seconds * 1e3);
            }
        }
    }
    Ok(())
}
