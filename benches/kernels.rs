//! Times the kernels at VGG's shapes on this machine's adapter, and holds them against what the device can do
//! at most: `cargo bench --bench kernels [-- FILTER --all --steps --json FILE]`.
//!
//! First the device's peaks are measured: multiply-adds in registers, and bytes through memory (copy or triad).
//! Then each op with the preferred kernel of each family, with `--all` with every kernel that the device can
//! run, the naive one included (minutes on a CPU). Wall clock of a submission and the wait for it, staging
//! included: minimum and median of ten runs (fewer where they take longer than two seconds together) after one
//! that warms up.
//!
//! GFLOP/s count a multiply-add as two and are those of the minimum. For Winograd's kernels they are those of
//! the direct sum (*direct-equivalent*), so they may exceed the peak. GB/s count what an op has to move at least:
//! inputs, output, weights, once each; maps that stay in a cache may exceed the memory's. The last column says
//! which of the two bounds the op on this device, by the roofline model. `--steps` adds the time of each
//! dispatch. `--json` writes one line for each row, and one for the peaks.

use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::{Engine, Peaks, SingleOp};
use neural_mirage::ops::{
    AdaptivePool, Add, Conv, ConvBackward, Filter, Gram, GramBackward, Linear, LinearBackward, Matrix,
    MatrixValues, MeanSquaredError, MseBackward, Op, Operand, Pool, PoolBackward, PoolKind, Relu,
    ReluBackward, Shape, TotalVariation,
};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

const RUNS: usize = 10;
/// Runs end when they have taken so many seconds.
const ENOUGH: f64 = 2.0;

fn filter(outs: usize, ins: usize) -> Arc<Filter> {
    // Irregular and small; the values do not matter for the time.
    let value = |index: usize| (index * 31 % 61) as f32 * 1e-3 - 0.03;
    Arc::new(Filter {
        id: format!("bench {outs}x{ins}"),
        out_channels: outs,
        in_channels: ins,
        kernel: [3, 3],
        weights: Arc::new(move || Ok((0..outs * ins * 9).map(value).collect())),
        bias: Arc::new(move || Ok((0..outs).map(value).collect())),
    })
}

/// Each op with the shapes of its inputs.
fn cases() -> Vec<(String, Arc<dyn Op>, Vec<Shape>)> {
    let mut cases: Vec<(String, Arc<dyn Op>, Vec<Shape>)> = Vec::new();
    let convs = [
        (3, 64, 256),
        (64, 64, 256),
        (64, 128, 128),
        (128, 128, 128),
        (256, 256, 64),
        (512, 512, 32),
        (512, 512, 16),
    ];
    for (ins, outs, side) in convs {
        let conv = Conv::same(filter(outs, ins), true);
        let (input, output) = (Shape::map(ins, side, side), Shape::map(outs, side, side));
        let backward = ConvBackward { conv: conv.clone(), size: [side, side], then: Default::default() };
        cases.push((format!("conv {ins}->{outs}@{side}"), Arc::new(conv), vec![input]));
        cases.push((format!("conv_backward {ins}->{outs}@{side}"), Arc::new(backward), vec![output, output]));
    }
    for (channels, side) in [(64, 256), (128, 128), (256, 64), (512, 32), (512, 16)] {
        let map = Shape::map(channels, side, side);
        let matrix = Shape::Matrix { rows: channels, columns: channels };
        cases.push((format!("gram {channels}@{side}"), Arc::new(Gram), vec![map]));
        cases.push((format!("gram_backward {channels}@{side}"), Arc::new(GramBackward), vec![map, matrix]));
    }
    let (map, halved) = (Shape::map(64, 256, 256), Shape::map(64, 128, 128));
    let mut more = |name: &str, op: Arc<dyn Op>, shapes: &[Shape]| {
        cases.push((name.to_owned(), op, shapes.to_vec()));
    };
    for (name, kind) in [("max", PoolKind::Max), ("average", PoolKind::Average)] {
        let pool = Pool::halve(kind);
        more(&format!("pool {name} 64@256"), Arc::new(pool), &[map]);
        let backward = PoolBackward { pool, size: [256, 256], rectified: false };
        let shapes: &[Shape] = if kind == PoolKind::Max { &[map, halved] } else { &[halved] };
        more(&format!("pool_backward {name} 64@256"), Arc::new(backward), shapes);
    }
    let pool = AdaptivePool { kind: PoolKind::Max, size: [7, 7] };
    more("adaptive_pool 512@16", Arc::new(pool), &[Shape::map(512, 16, 16)]);
    for (columns, rows) in [(4096, 4096), (4096, 1000)] {
        let linear = Linear { matrix: matrix(rows, columns), relu: false };
        let (x, y) = (Shape::Vector(columns), Shape::Vector(rows));
        more(&format!("linear {columns}->{rows}"), Arc::new(linear.clone()), &[x]);
        more(&format!("linear_backward {columns}->{rows}"), Arc::new(LinearBackward { linear }), &[y, y]);
    }
    more("relu 64@256", Arc::new(Relu), &[map]);
    more("relu_backward 64@256", Arc::new(ReluBackward), &[map, map]);
    more("add 64@256", Arc::new(Add), &[map, map]);
    more("mse 64@256", Arc::new(MeanSquaredError), &[map, map]);
    more("mse_backward 64@256", Arc::new(MseBackward), &[map, map, Shape::Vector(1)]);
    more("total_variation 3@256", Arc::new(TotalVariation), &[Shape::map(3, 256, 256)]);
    cases
}

fn matrix(rows: usize, columns: usize) -> Arc<Matrix> {
    let value = |index: usize| (index * 31 % 61) as f32 * 1e-3 - 0.03;
    Arc::new(Matrix {
        id: format!("bench {rows}x{columns}"),
        rows,
        columns,
        half: false,
        values: Arc::new(move |range| {
            Ok(MatrixValues::F32((range.start * columns..range.end * columns).map(value).collect()))
        }),
        bias: Arc::new(move || Ok((0..rows).map(value).collect())),
    })
}

/// Bytes that an op has to move at least: its tensors, and the weights as the naive kernel reads them.
fn bytes(engine: &Engine, op: &dyn Op, single: &SingleOp) -> neural_mirage::Result<u64> {
    let signature = single.signature();
    let tensors = signature.inputs.iter().chain([&signature.output]).map(Shape::bytes).sum::<u64>();
    let kernels = op.kernels(signature, engine.context.profile())?;
    let bindings = kernels.last().into_iter().flat_map(|kernel| &kernel.dispatches);
    let mut weights = std::collections::BTreeMap::new();
    for (_, operand) in bindings.flat_map(|dispatch| &dispatch.bindings) {
        if let Operand::Constant(constant) = operand {
            weights.insert(constant.key.clone(), constant.bytes);
        }
    }
    Ok(tensors + weights.values().sum::<u64>())
}

/// The least time of each kind of step, run one by one, summed over its dispatches.
fn steps(program: &neural_mirage::graph::Program) -> neural_mirage::Result<()> {
    let runs = (0..RUNS).map(|_| program.time_steps(1)).collect::<Result<Vec<_>, _>>()?;
    let mut sums = std::collections::BTreeMap::<&str, f64>::new();
    for (index, (label, _)) in runs[0].iter().enumerate() {
        let least = runs.iter().map(|run| run[index].1).fold(f64::INFINITY, f64::min);
        *sums.entry(label).or_default() += least;
    }
    for (label, seconds) in sums {
        println!("{:10.2} ms  {label}", seconds * 1e3);
    }
    Ok(())
}

/// Seconds of each run, in rising order.
fn times(engine: &Engine, program: &neural_mirage::graph::Program) -> neural_mirage::Result<Vec<f64>> {
    let mut times = Vec::new();
    let begin = Instant::now();
    for run in 0..=RUNS {
        let start = Instant::now();
        let submission = program.run(1, "bench")?;
        engine.context.wait(&submission, "bench")?;
        if run > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
        if run > 0 && begin.elapsed().as_secs_f64() > ENOUGH {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn main() -> neural_mirage::Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut filter, mut all, mut with_steps, mut json) = (String::new(), false, false, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--all" => all = true,
            "--steps" => with_steps = true,
            "--json" => json = arguments.next(),
            _ => filter = argument,
        }
    }
    let mut log = match &json {
        Some(path) => {
            Some(std::fs::File::create(path).map_err(neural_mirage::Error::io(path.as_ref(), "writing"))?)
        }
        None => None,
    };
    let mut tell = |line: serde_json::Value| {
        // A bench that can't write its log still has its table.
        if let Some(log) = &mut log
            && let Err(error) = writeln!(log, "{line}")
        {
            eprintln!("{}: {error}", json.as_deref().unwrap_or_default());
        }
    };
    let mut peaks = None;
    for family in [Family::Texture, Family::Buffer] {
        let engine = Engine::open(&DeviceOptions { family, ..Default::default() })?;
        let device = engine.context.describe();
        let peaks = match peaks {
            Some(peaks) => peaks,
            None => *peaks.insert(Peaks::measure(&engine)?),
        };
        let (flops, bandwidth) = (peaks.flops / 1e9, peaks.bandwidth / 1e9);
        println!("{device} with {family:?} kernels; peaks {flops:.1} GFLOP/s, {bandwidth:.1} GB/s");
        tell(
            serde_json::json!({"device": device, "peak_flops": peaks.flops, "peak_bandwidth": peaks.bandwidth}),
        );
        for (name, op, shapes) in cases().into_iter().filter(|(name, _, _)| name.contains(&filter)) {
            let single = SingleOp::new(&engine, op.clone(), &shapes)?;
            let inputs: Vec<Vec<f32>> = shapes
                .iter()
                .map(|shape| (0..shape.elements()).map(|index| (index * 37 % 101) as f32 * 0.01).collect())
                .collect();
            let bytes = bytes(&engine, op.as_ref(), &single)? as f64;
            let flops = op.flops(single.signature()) as f64;
            let (_, compute) = peaks.bound(flops, bytes);
            let variants = single.variants()?;
            for (index, variant) in variants.iter().enumerate().take(if all { variants.len() } else { 1 }) {
                engine.forget_constants();
                let program = single.prepare(index, &inputs)?;
                let times = times(&engine, &program)?;
                if with_steps {
                    steps(&program)?;
                }
                let (least, median) = (times[0], times[times.len() / 2]);
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
                tell(serde_json::json!({
                    "op": name, "variant": variant, "min": least, "median": median, "flops": flops, "bytes": bytes
                }));
            }
        }
    }
    Ok(())
}
