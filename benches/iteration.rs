//! Times whole iterations: `cargo bench --bench iteration [-- SIDE... --objective three|style --weights FILE
//! --iterations N --json --layers --first --exact --kernels auto|texture|buffer|naive]`.
//!
//! The default network at 128 and 256 px with all three factors if nothing else is said. `style` is
//! neural-style's objective: style at relu1_1 to relu5_1, content at relu4_2. Every iteration is forward, the
//! gradient of the picture and a step of Adam, with given weights (no balance), no report between. The picture
//! is square. Reported are the median and minimum of single iterations, each waited for, after two that warm
//! up; the device's memory; the largest resident memory of the process where the system reports it (Linux).
//!
//! `--first` in place of that: seconds from the start of the process to the end of the first iteration, as
//! `mirage render` would do it, balance and first report included (the last report, which measures the shares
//! once more, is not). For a cold start give an empty shader cache
//! (`MESA_SHADER_CACHE_DIR`), which `tools/compare_peers.py` does.

use clap::{Parser, ValueEnum};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::preset::{FACTORS, Preset, layers};
use neural_mirage::mirage::statistic::by_name;
use neural_mirage::mirage::{Request, Scales, Schedule, Session, Strength};
use neural_mirage::ops::{Padding, PoolKind};
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
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Iterations that are not counted: kernels are compiled, memory is touched.
const WARM: usize = 2;

fn request(side: usize, objective: Objective) -> neural_mirage::Result<Request> {
    let value = |index: usize| (index * 37 % 101) as f32 * 0.01;
    let photo = Picture { width: side, height: side, rgb: (0..side * side * 3).map(value).collect() };
    let mut request = Request::new(photo);
    request.schedule = Schedule::default();
    request.scales = Scales::single(1);
    // What tools/compare_peers.py gives PyTorch to do.
    request.pooling = PoolKind::Max.into();
    request.border = Padding::Zeros;
    request.average_decay = 0.0;
    let mut preset = Preset { smooth: by_name("total-variation")?, ..Preset::default() };
    preset.style.layers = layers("relu1_1,relu2_1,relu3_1,relu4_1,relu5_1")?;
    preset.style.statistic = by_name("gram")?;
    if let Objective::Style = objective {
        preset.abstracted.layers.clear();
        preset.smooth_weight = 0.0;
        request.top_classes = 0;
    }
    request.groups = preset.groups();
    Ok(request)
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
    let engine = Engine::open(&DeviceOptions { family, exact: arguments.exact, ..Default::default() })?;
    let network = Arc::new(Network::find(arguments.weights.as_deref(), None)?);
    if !arguments.json {
        println!("{}", engine.describe());
    }
    for side in arguments.sides {
        let mut request = request(side, arguments.objective)?;
        if arguments.first {
            let mut session = Session::new(&engine, &network, request)?;
            session.first_iteration()?;
            let seconds = start.elapsed().as_secs_f64();
            println!("{{\"side\": {side}, \"first\": {seconds:.3}, \"peak_mib\": {}}}", peak_mib());
            continue;
        }
        for group in request.groups.iter_mut().filter(|group| FACTORS.contains(&group.name.as_str())) {
            group.strength = Strength::Weight(1.0);
        }
        let mut session = Session::new(&engine, &network, request)?;
        let times = session.time_iterations(WARM + arguments.iterations)?;
        let mut times = times[WARM..].to_vec();
        times.sort_by(f64::total_cmp);
        let (least, median) = (times[0], times[times.len() / 2]);
        let (device, peak) = (session.memory().total() >> 20, peak_mib());
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
