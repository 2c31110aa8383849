//! Times the kernels at VGG-19's shapes on this machine's adapter, family by family:
//! `cargo bench --bench kernels [-- FILTER --size PIXELS --all --steps --json FILE]`.
//!
//! Measures the same as `mirage kernels bench`, as lines for scripts (`tools/compare_peers.py`,
//! `tools/plot_performance.py`); `--steps` adds the time of each dispatch. The device's peaks are measured first, then
//! each op with the preferred kernel of each family, or with `--all` every kernel that the device can run, including
//! the naive one (minutes on a CPU). Times are wall-clock times of a submission and the wait for it, including staging.
//!
//! GFLOP/s count a multiply-add as two operations and use the minimum time. For Winograd kernels the operations are
//! those of the direct sum (*direct-equivalent*), so they may exceed the peak. GB/s count the minimum traffic of an op:
//! inputs, output and weights, once each; cached maps may exceed the memory bandwidth. The last column shows which of
//! the two limits the op on this device, by the roofline model. `--json` writes one line for each row and one for the
//! peaks.

use clap::Parser;
use neural_mirage::Error;
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::{Engine, Goals, Peaks, Program, SingleOp};
use neural_mirage::ops::Shape;
use neural_mirage::workbench::{Samples, bytes, inputs, measure_wall, network_cases, topology};
use std::collections::BTreeMap;
use std::path::PathBuf;

const RUNS: usize = 10;
/// Time limit for the runs of a kernel, in seconds.
const ENOUGH: f64 = 2.0;

#[derive(Parser)]
struct Arguments {
    /// Only run cases whose name (op and shape) contains this.
    #[arg(default_value = "")]
    filter: String,
    #[arg(long, default_value_t = 256)]
    size: usize,
    #[arg(long)]
    all: bool,
    #[arg(long)]
    steps: bool,
    #[arg(long)]
    json: Option<PathBuf>,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Prints the minimum time of each kind of step, run one by one, summed over its dispatches.
fn steps(program: &Program) -> neural_mirage::Result<()> {
    let runs = (0..RUNS).map(|_| program.time_steps(&[Goals::ALL])).collect::<Result<Vec<_>, _>>()?;
    let mut sums = BTreeMap::<&str, f64>::new();
    for (index, (label, _)) in runs[0].iter().enumerate() {
        let least = runs.iter().map(|run| run[index].1).fold(f64::INFINITY, f64::min);
        *sums.entry(label).or_default() += least;
    }
    for (label, seconds) in sums {
        println!("{:10.2} ms  {label}", seconds * 1e3);
    }
    Ok(())
}

fn main() -> neural_mirage::Result<()> {
    let arguments = Arguments::parse();
    let mut log = String::new();
    let mut write_line = |line: serde_json::Value| -> neural_mirage::Result<()> {
        log += &format!("{line}\n");
        match &arguments.json {
            Some(path) => std::fs::write(path, &log).map_err(Error::io(path, "writing")),
            None => Ok(()),
        }
    };
    let cases = network_cases(&topology("vgg19").unwrap_or_default(), arguments.size);
    let mut measured = None;
    for family in [Family::Texture, Family::Buffer] {
        let engine = Engine::open(&DeviceOptions { family, ..Default::default() })?;
        let device = engine.describe();
        let peaks = match measured {
            Some(peaks) => peaks,
            None => *measured.insert(Peaks::measure(&engine)?),
        };
        let (flops, bandwidth) = (peaks.flops / 1e9, peaks.bandwidth / 1e9);
        println!("{device} with {family:?} kernels; peaks {flops:.1} GFLOP/s, {bandwidth:.1} GB/s");
        write_line(
            serde_json::json!({"device": device, "peak_flops": peaks.flops, "peak_bandwidth": peaks.bandwidth}),
        )?;
        for (name, case) in cases.iter().filter(|(name, _)| name.contains(&arguments.filter)) {
            let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
            let single = SingleOp::new(&engine, case.op.clone(), &shapes)?;
            let values = inputs(case, 1);
            let bytes = bytes(&engine, case.op.as_ref(), &single)? as f64;
            let flops = case.op.flops(single.signature()) as f64;
            let (_, compute) = peaks.bound(flops, bytes);
            let variants = single.variants()?;
            for (index, variant) in
                variants.iter().enumerate().take(if arguments.all { variants.len() } else { 1 })
            {
                engine.forget_constants();
                let program = single.prepare(index, &values)?;
                let samples: Samples = measure_wall(&program, RUNS, ENOUGH)?;
                if arguments.steps {
                    steps(&program)?;
                }
                let (least, median) = (samples.quantile(0.0), samples.median());
                println!(
                    "{name:28} {variant:17} min {:8.2} ms  median {:8.2} ms  {:7.1} GFLOP/s {:4.0}%  {:6.2} GB/s {:4.0}%  {}",
                    least * 1e3,
                    median * 1e3,
                    flops / least / 1e9,
                    flops / least / peaks.flops * 100.0,
                    bytes / least / 1e9,
                    bytes / least / peaks.bandwidth * 100.0,
                    if compute { "compute" } else { "memory" },
                );
                write_line(serde_json::json!({
                    "op": name, "variant": variant, "min": least, "median": median, "flops": flops, "bytes": bytes
                }))?;
            }
        }
    }
    Ok(())
}
