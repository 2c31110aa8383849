//! Times the heavy kernels at VGG's shapes on this machine's adapter: `cargo bench --bench kernels [-- FILTER
//! --steps]`, with `--steps` each dispatch too.
//!
//! Wall clock of a submission and the wait for it, staging included: minimum and median of ten runs after one
//! that warms up. GFLOP/s count a multiply-add as two and are those of the minimum.

use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::{Engine, SingleOp};
use neural_mirage::ops::{Conv, ConvBackward, Filter, Gram, GramBackward, Op, Pool, PoolKind, Shape};
use std::sync::Arc;
use std::time::Instant;

const RUNS: usize = 10;

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
    let map = Shape::map(64, 256, 256);
    cases.push(("pool 64@256".to_owned(), Arc::new(Pool::halve(PoolKind::Max)), vec![map]));
    cases
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

fn main() -> neural_mirage::Result<()> {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for family in [Family::Texture, Family::Buffer] {
        let engine = Engine::open(&DeviceOptions { family, ..Default::default() })?;
        println!("{} with {family:?} kernels", engine.context.describe());
        for (name, op, shapes) in cases().into_iter().filter(|(name, _, _)| name.contains(&filter)) {
            let single = SingleOp::new(&engine, op.clone(), &shapes)?;
            let inputs: Vec<Vec<f32>> = shapes
                .iter()
                .map(|shape| (0..shape.elements()).map(|index| (index * 37 % 101) as f32 * 0.01).collect())
                .collect();
            let program = single.prepare(0, &inputs)?;
            let mut times = Vec::new();
            for _ in 0..=RUNS {
                let start = Instant::now();
                let submission = program.run(1, &name)?;
                engine.context.wait(&submission, &name)?;
                times.push(start.elapsed().as_secs_f64());
            }
            times.remove(0);
            times.sort_by(f64::total_cmp);
            if std::env::args().any(|argument| argument == "--steps") {
                steps(&program)?;
            }
            let flops = op.flops(single.signature()) as f64;
            let variant = single.variants()?.first().copied().unwrap_or_default();
            println!(
                "{name:28} {variant:12} min {:8.2} ms  median {:8.2} ms  {:7.1} GFLOP/s",
                times[0] * 1e3,
                times[RUNS / 2] * 1e3,
                flops / times[0] / 1e9
            );
        }
    }
    Ok(())
}
