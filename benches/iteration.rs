//! Times whole iterations: `cargo bench --bench iteration [-- SIDE... --objective three|style --weights FILE
//! --iterations N --json --layers --first --forward LAYER --adapter cpu|NAME|INDEX --exact
//! --kernels auto|texture|buffer|naive]`.
//!
//! The default network at 128 and 256 px with all three factors if nothing else is said. `style` is
//! neural-style's objective: style at relu1_1 to relu5_1, content at relu4_2. Every iteration is forward, the
//! gradient of the picture and a step of Adam, with given weights (no balance), no report between. The picture
//! is square. Reported are the median and minimum of single iterations, each waited for, after two that warm
//! up; the device's memory; the largest resident memory of the process where the system reports it (Linux).
//!
//! `--first` instead of that: seconds from the start of the process to the end of the first iteration, as
//! `mirage render` would do it, balance and first report included (the last report, which measures the shares
//! once more, is not). For a cold start give an empty shader cache
//! (`MESA_SHADER_CACHE_DIR`), which `tools/compare_peers.py` does.
//!
//! `--forward relu5_1` instead of that: the median and minimum of forward passes up to this layer.

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
    /// One line of JSON for each side.
    #[arg(long)]
    json: bool,
    /// The steps of one iteration, run one by one.
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

/// Largest resident memory of this process so far, in MiB; 0 where the system does not report it.
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
                "{side:5} px  median {median:8.3} s  min {least:8.3} s an iteration  {device} MiB on the device, {peak} MiB resident at most"
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
