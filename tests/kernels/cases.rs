//! Every variant of every op against its f64 reference, at odd, tiny and prime shapes. Outputs are
//! prefilled with NaN and followed by a guard zone.
//!
//! `KERNEL=conv cargo test --test kernels cases::` tests the ops whose names contain `conv`.

use crate::common::{assert_close, chosen_ops, cpu, engine, engine_with, filter, inputs, turn, widen};
use neural_mirage::Error;
use neural_mirage::gpu::{DeviceOptions, Family, PipelineCache, PipelineKey};
use neural_mirage::graph::{Engine, PrepareOptions, SingleOp, SingleRun, candidates};
use neural_mirage::ops::{
    Add, Case, CaseInput, Conv, ConvBackward, GradientEpilogue, GramBackward, Kernel, MeanSquaredError,
    MseBackward, Op, Operand, Padding, Pool, PoolBackward, PoolKind, Relu, ReluBackward, RootTrace, Shape,
};
use neural_mirage::shader::Shader;
use neural_mirage::workbench::reference;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, OnceLock};

/// A case with inputs and expected outputs.
struct Prepared {
    case: Case,
    values: Vec<Vec<f32>>,
    expected: Vec<f64>,
}

impl Prepared {
    fn new(case: Case, seed: u64) -> Self {
        let values = inputs(&case, seed);
        let expected = reference(&case, &values);
        Self { case, values, expected }
    }
}

/// Returns the cases of the ops chosen by the environment. References are slower than kernels, so each is computed
/// once, by the first test that needs it.
fn cases() -> impl Iterator<Item = &'static Prepared> {
    static CASES: LazyLock<Vec<(Case, u64, OnceLock<Prepared>)>> = LazyLock::new(|| {
        let chosen = chosen_ops();
        let cases = chosen.iter().flat_map(|entry| (entry.cases)().into_iter().zip(1..));
        cases.map(|(case, seed)| (case, seed, OnceLock::new())).collect()
    });
    CASES.iter().map(|(case, seed, prepared)| prepared.get_or_init(|| Prepared::new(case.clone(), *seed)))
}

pub fn single(engine: &Arc<Engine>, case: &Case) -> SingleOp {
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
    SingleOp::new(engine, case.op.clone(), &shapes).unwrap()
}

/// Returns the engine's candidate kernels.
pub fn kernels(engine: &Engine, op: &dyn Op, single: &SingleOp) -> Vec<Kernel> {
    if engine.profile().cpu {
        return candidates(op, single.signature(), engine.profile()).unwrap();
    }
    op.kernels(single.signature(), engine.profile()).unwrap()
}

/// Kernels that have run, as full debug descriptions. Families share kernels, such as the naive one.
#[derive(Default)]
pub struct Ran(BTreeSet<String>);

impl Ran {
    /// Returns false if the kernel already ran for this case.
    pub fn insert(&mut self, case: &Case, kernel: &Kernel) -> bool {
        self.0.insert(format!("{:?} {:?} {kernel:?}", case.op, case.inputs))
    }
}

/// Tests each kernel offered on this device, except those that already ran, and returns the variants seen. With
/// `refusals` (lowered limits) a kernel may refuse to run, but its results must be correct.
fn check(
    engine: &Arc<Engine>,
    Prepared { case, values, expected }: &Prepared,
    refusals: bool,
    ran: &mut Ran,
) -> BTreeSet<(&'static str, &'static str)> {
    let single = single(engine, case);
    let kernels = kernels(engine, case.op.as_ref(), &single);
    let mut seen = BTreeSet::new();
    for (variant, name) in single.variants().unwrap().into_iter().enumerate() {
        if !ran.insert(case, &kernels[variant]) {
            continue;
        }
        let what = format!("{:?}/{name} on {:?}", case.op, case.inputs);
        let outcome = match single.run(variant, values) {
            Ok(outcome) => outcome,
            Err(Error::Shader { message, .. }) if refusals && message.contains("exceed") => continue,
            Err(error) => panic!("{what}: {error}"),
        };
        assert_close(&what, &outcome.values, expected, case.tolerance);
        assert_eq!(outcome.fault(), None, "{what}");
        check_saved(&what, case, values, &outcome);
        seen.insert((case.op.name(), name));
    }
    seen
}

/// Checks the saved output, if the op has one.
fn check_saved(what: &str, case: &Case, values: &[Vec<f32>], outcome: &SingleRun) {
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
    let expected = case.op.saved(&shapes);
    assert_eq!(outcome.saved.is_some(), expected.is_some(), "{what}");
    let (Some(saved), Some(_)) = (&outcome.saved, expected) else { return };
    let wide: Vec<Vec<f64>> = values.iter().map(|values| widen(values)).collect();
    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
    let fault = case.op.saved_fault(&wide, &shapes, saved, case.tolerance);
    assert_eq!(fault, None, "{what}");
}

#[test]
fn every_kernel_matches_its_reference() {
    let _turn = turn();
    let (mut seen, mut ran) = (BTreeSet::new(), Ran::default());
    for family in [Family::Texture, Family::Buffer] {
        let engine = engine(family);
        cases().for_each(|case| seen.extend(check(&engine, case, false, &mut ran)));
    }
    println!("{seen:?}");
    // Variants that a change of the selection could silently exclude.
    for variant in [
        "texture_winograd4",
        "texture_winograd2",
        "texture",
        "buffer_winograd4",
        "buffer_winograd2",
        "buffer",
        "buffer_double",
        "buffer_small",
        "buffer_few",
        "naive",
    ] {
        let ops = ["conv", "conv_backward"];
        let asked = |op: &str| cases().any(|prepared| prepared.case.op.name() == op);
        let missing = ops.iter().find(|op| asked(op) && !seen.contains(&(**op, variant)));
        assert_eq!(missing, None, "did not run as {variant}");
    }
}

/// Trace and gradient are defined as zero. This can't be a case of the op: the gradient does not match finite
/// differences there.
#[test]
fn root_trace_of_indefinite_matrix_is_zero() {
    let _turn = turn();
    let square = Shape::Matrix { rows: 3, columns: 3 };
    let rounding = CaseInput::Values(&[1e-4, -2e-4, 1e-5, -2e-4, -1e-4, 3e-4, 1e-5, 3e-4, 2e-4]);
    let slightly = CaseInput::Values(&[1.0, 0.0, 0.0, 0.0, -2e-3, 0.0, 0.0, 0.0, 0.5]);
    for input in [rounding, slightly] {
        let prepared = Prepared::new(Case::drawn(RootTrace, &[(square, input)], 1e-6), 1);
        assert_eq!(prepared.expected, [0.0]);
        for engine in [engine(Family::Texture), engine(Family::Buffer), cpu(DeviceOptions::default())] {
            assert!(!check(&engine, &prepared, false, &mut Ran::default()).is_empty());
        }
    }
}

#[test]
fn every_op_runs_on_the_cpu_device() {
    let _turn = turn();
    for exact in [false, true] {
        let engine = cpu(DeviceOptions { exact, threads: Some(3), ..Default::default() });
        // Only convolutions have an exact variant.
        for case in cases().filter(|case| !exact || case.case.op.name().starts_with("conv")) {
            let seen = check(&engine, case, false, &mut Ran::default());
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(case.case.op.name(), "cpu")]);
        }
    }
}

/// Tests convolutions with more transformed tiles than the CPU device keeps at once. They are too large to be cases of all
/// devices: billions of operations in the naive kernel.
#[test]
fn cpu_convolutions_process_tiles_in_bands() {
    let _turn = turn();
    let forward = Conv::same(filter(20, 904, [3, 3]), true);
    let conv = Conv::same(filter(904, 20, [3, 3]), false);
    let backward = ConvBackward { conv, size: [79, 83], epilogue: GradientEpilogue::default() };
    let upstream = Shape::map(904, 79, 83);
    for case in [
        // The registry's tolerance for convolutions.
        Case::normal(forward, &[Shape::map(904, 61, 49)], 1e-5),
        Case::normal(backward, &[upstream, upstream], 1e-5),
    ] {
        let prepared = Prepared::new(case, 1);
        let seen = check(&cpu(DeviceOptions::default()), &prepared, false, &mut Ran::default());
        assert_eq!(seen.into_iter().map(|(_, variant)| variant).collect::<Vec<_>>(), ["cpu"]);
    }
}

#[test]
fn cpu_results_do_not_depend_on_thread_count() {
    let _turn = turn();
    let engines =
        [1, 2, 3, 5].map(|threads| cpu(DeviceOptions { threads: Some(threads), ..Default::default() }));
    for Prepared { case, values, .. } in cases() {
        let bits = |engine| {
            let SingleRun { values: found, saved, .. } = single(engine, case).run(0, values).unwrap();
            let saved = saved.into_iter().flatten();
            found.into_iter().chain(saved).map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = bits(&engines[0]);
        assert!(engines[1..].iter().all(|engine| bits(engine) == one), "{:?} on {:?}", case.op, case.inputs);
    }
}

#[test]
fn every_kernel_runs_on_a_minimal_device() {
    let _turn = turn();
    let mut ran = Ran::default();
    for family in [Family::Texture, Family::Buffer] {
        let options = DeviceOptions { family, minimal: true, ..Default::default() };
        let engine = engine_with(&options, |_| {});
        assert_eq!(engine.profile().lanes, None);
        cases().for_each(|case| drop(check(&engine, case, false, &mut ran)));
    }
}

#[test]
fn kernels_are_correct_where_few_workgroups_fit() {
    let _turn = turn();
    let (mut seen, mut ran) = (BTreeSet::new(), Ran::default());
    for family in [Family::Texture, Family::Buffer] {
        let options = DeviceOptions { family, ..Default::default() };
        let engine = engine_with(&options, |profile| profile.max_groups = 16);
        cases().for_each(|case| seen.extend(check(&engine, case, true, &mut ran)));
    }
    println!("{} kernels: {seen:?}", seen.len());
    // Otherwise all kernels could refuse. Each op has a case small enough for its naive kernel, and convolutions have
    // cases small enough for others.
    let expected = |op| match op {
        "conv" | "conv_backward" => vec!["buffer_winograd2", "buffer", "naive"],
        _ => vec!["naive"],
    };
    for op in chosen_ops().into_iter().map(|entry| entry.name) {
        for variant in expected(op) {
            assert!(seen.contains(&(op, variant)), "{op} did not run as {variant}");
        }
    }
}

#[test]
fn oversized_dispatches_wrap() {
    let _turn = turn();
    let conv = Conv::same(filter(5, 4, [3, 3]), true);
    let single_tap = Conv { padding: [0, 0], ..Conv::same(filter(6, 3, [1, 1]), false) };
    let backward = ConvBackward { conv: conv.clone(), size: [61, 83], epilogue: GradientEpilogue::default() };
    let (input, output) = (Shape::map(4, 61, 83), Shape::map(5, 61, 83));
    let cases = [
        Case::normal(Add, &[Shape::Vector(6001); 2], 1e-7),
        Case::normal(Relu, &[Shape::Vector(6001)], 0.0),
        // The registry's tolerance for convolutions.
        Case::normal(conv, &[input], 1e-5),
        Case::normal(backward, &[output, output], 1e-5),
        Case::normal(single_tap, &[Shape::map(3, 61, 83)], 1e-5),
    ]
    .map(|case| Prepared::new(case, 1));
    for family in [Family::Texture, Family::Buffer] {
        let options = DeviceOptions { family, ..Default::default() };
        let engine = engine_with(&options, |profile| profile.max_groups = 13);
        for prepared in &cases {
            check(&engine, prepared, false, &mut Ran::default());
            let case = &prepared.case;
            for kernel in kernels(&engine, case.op.as_ref(), &single(&engine, case)) {
                let wraps = kernel.dispatches.iter().all(|dispatch| dispatch.groups[1] > 1);
                assert!(wraps, "{:?}/{} does not wrap, so nothing is tested", case.op, kernel.variant);
            }
        }
    }
}

/// Pool indices of four channels each, some without a set bit.
const INDICES: CaseInput =
    CaseInput::Values(&[4660.0, 1.0, 34952.0, 8.0, 0.0, 16385.0, 4.0, 520.0, 8258.0, 32.0, 2.0]);

/// A full-size VGG at 1024 pixels has maps of 256 MiB, while some adapters bind at most 128 MiB. Here both are
/// a thousand times smaller.
#[test]
fn maps_larger_than_a_binding_run_in_windows() {
    let _turn = turn();
    let conv = Conv::same(filter(70, 36, [3, 3]), true);
    let backward = ConvBackward { conv: conv.clone(), size: [21, 33], epilogue: GradientEpilogue::default() };
    let (input, output) = (Shape::map(36, 21, 33), Shape::map(70, 21, 33));
    let halve = Pool::halve(PoolKind::Max);
    let pool_backward = PoolBackward { pool: halve, size: [21, 33], rectified: false };
    let average = Pool::halve(PoolKind::Average);
    let average_backward = PoolBackward { pool: average, size: [21, 33], rectified: false };
    let halved = Shape::map(70, 10, 16);
    let gram = Shape::Matrix { rows: 70, columns: 70 };
    // The registry's tolerances.
    let pooled = Conv { pool: true, ..conv.clone() };
    let pooled_backward = ConvBackward { conv: pooled.clone(), ..backward.clone() };
    let indices = pooled.saved(&[input]).unwrap();
    // Few input channels, because edge pixels read all of them at once. Backward, either map is in windows.
    let replicate =
        |outs, ins| Conv { mode: Padding::Replicate, ..Conv::same(filter(outs, ins, [3, 3]), true) };
    let (few, many) = (Shape::map(20, 21, 33), output);
    let edges_backward = |outs, ins| {
        let conv = Conv { relu: ins > outs, ..replicate(outs, ins) };
        ConvBackward { conv, size: [21, 33], epilogue: GradientEpilogue { add: true, mask: true } }
    };
    let cases = [
        Case::normal(replicate(70, 20), &[few], 1e-5),
        Case::normal(edges_backward(70, 20), &[many, many, few, few], 1e-5),
        Case::normal(edges_backward(20, 70), &[few, few, many, many], 1e-5),
        Case::normal(pooled, &[input], 1e-5),
        Case::drawn(pooled_backward, &[(indices, INDICES), (halved, CaseInput::Normal)], 1e-5),
        Case::normal(Add, &[output; 2], 1e-7),
        Case::normal(Relu, &[output], 0.0),
        Case::normal(ReluBackward, &[output; 2], 0.0),
        Case::normal(conv, &[input], 1e-5),
        Case::normal(backward, &[output, output], 1e-5),
        Case::normal(halve, &[output], 0.0),
        Case::normal(pool_backward, &[output, halved], 2e-6),
        Case::normal(average, &[output], 2e-6),
        Case::normal(average_backward, &[halved], 2e-6),
        Case::normal(MeanSquaredError, &[output; 2], 1e-6),
        Case::normal(MseBackward, &[output, output, Shape::Vector(1)], 2.4e-7),
        Case::normal(GramBackward, &[output, gram], 1e-6),
    ];
    for case in &cases {
        // With a coarse alignment such as WebGPU's default, windows of these planes hold sixteen of eighteen quads.
        check_windows(case, Family::Texture, |alignment| if alignment > 64 { 200 << 10 } else { 96 << 10 });
    }
}

/// The buffer family's Winograd kernels also read their input in windows. Transformed weights and values must fit
/// a binding, so the map is large and has few channels.
#[test]
fn buffer_winograd_runs_in_windows() {
    let _turn = turn();
    let conv = Conv::same(filter(40, 36, [3, 3]), true);
    let epilogue = GradientEpilogue { add: true, mask: true };
    let backward = ConvBackward { conv: Conv { relu: false, ..conv.clone() }, size: [61, 83], epilogue };
    let (input, output) = (Shape::map(36, 61, 83), Shape::map(40, 61, 83));
    let pooled = Conv { pool: true, ..conv.clone() };
    // Larger, so that the pooled map is in windows too.
    let large = Shape::map(36, 101, 103);
    let (halved, indices) = (pooled.output(&[large]).unwrap(), pooled.saved(&[large]).unwrap());
    let pooled_backward =
        ConvBackward { conv: pooled.clone(), size: [101, 103], epilogue: GradientEpilogue::default() };
    let cases = [
        Case::normal(conv, &[input], 1e-5),
        // The registry's tolerance for convolutions.
        Case::normal(backward, &[output, output, input, input], 1e-5),
        Case::normal(pooled, &[large], 1e-5),
        Case::drawn(pooled_backward, &[(indices, INDICES), (halved, CaseInput::Normal)], 1e-5),
    ];
    for case in &cases {
        let variant = check_windows(case, Family::Buffer, |_| 400 << 10);
        assert_eq!(variant, "buffer_winograd4");
    }
}

/// Tests that the preferred kernel runs in windows if bindings are small. Returns its variant.
fn check_windows(case: &Case, family: Family, max_binding: impl Fn(u64) -> u64) -> &'static str {
    let mut variant = "";
    let values = inputs(case, 3);
    let expected = reference(case, &values);
    for alignment in [16, 64, 256] {
        let engine = engine_with(&DeviceOptions { family, ..Default::default() }, |profile| {
            profile.binding_alignment = profile.binding_alignment.max(alignment);
            profile.max_binding = max_binding(profile.binding_alignment);
        });
        let single = single(&engine, case);
        let outcome = single.run(0, &values).unwrap_or_else(|error| panic!("{:?}: {error}", case.op));
        assert_close(&format!("{:?}", case.op), &outcome.values, &expected, case.tolerance);
        assert_eq!(outcome.fault(), None, "{:?}", case.op);
        check_saved(&format!("{:?}", case.op), case, &values, &outcome);
        let kernel = kernels(&engine, case.op.as_ref(), &single).swap_remove(0);
        let windows = kernel.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
        let windows = windows.filter(|(_, operand)| matches!(operand, Operand::Window { .. })).count();
        assert!(windows > 1, "{:?} runs in one piece, so nothing is tested", case.op);
        variant = kernel.variant;
    }
    variant
}

#[test]
fn unrolled_and_plain_loops_agree() {
    let _turn = turn();
    let mut tested = BTreeSet::new();
    for family in [Family::Texture, Family::Buffer] {
        let engine = engine(family);
        for Prepared { case, values, .. } in cases() {
            let unrolled = single(&engine, case);
            let plain = single(&engine, case).with(PrepareOptions { unroll: false, ..Default::default() });
            for (variant, kernel) in kernels(&engine, case.op.as_ref(), &unrolled).iter().enumerate() {
                // One case per set of shaders with marked loops.
                let marked: Vec<_> = kernel
                    .dispatches
                    .iter()
                    .filter(|dispatch| {
                        let shader = Shader::load_form(dispatch.shader, &dispatch.consts, false).unwrap();
                        shader.source.contains("// unroll")
                    })
                    .map(|dispatch| (dispatch.shader, dispatch.consts.clone(), dispatch.entry))
                    .collect();
                if marked.is_empty() || !tested.insert(marked) {
                    continue;
                }
                let what = format!("{:?}/{} plain against unrolled", case.op, kernel.variant);
                let one = unrolled.run(variant, values).unwrap().values;
                let other = plain.run(variant, values).unwrap().values;
                // A driver may fuse a product and a sum in one form and not in the other.
                assert_close(&what, &other, &widen(&one), case.tolerance);
            }
        }
    }
    println!("{} shader variants with marked loops", tested.len());
}

#[test]
fn failed_pipeline_is_not_cached() {
    // A device of its own, because errors are reported per device.
    let engine = engine_with(&DeviceOptions::default(), |_| {});
    let context = engine.gpu().unwrap();
    let key = |source: &str| PipelineKey {
        label: "test".to_owned(),
        source: source.into(),
        built_in: false,
        entry: "main",
        layout: Vec::new(),
    };
    let good = key("@compute @workgroup_size(1) fn main() {}");
    let bad = key("@compute @workgroup_size(1) fn main() { nothing(); }");
    let cache = PipelineCache::default();
    for _ in 0..2 {
        let error = cache.get(context, &[good.clone(), bad.clone()]).unwrap_err();
        assert!(matches!(error, Error::Gpu { .. }), "{error}");
        assert!(cache.is_empty());
    }
    assert_eq!(cache.get(context, &[good.clone(), good]).unwrap().len(), 2);
    assert_eq!(cache.len(), 1);
}

/// At 1024 pixels eight quads of a map with 64 channels are just above the 128 MiB that some adapters bind; at 2048
/// more than one quad is. Tiles then have fewer channels. Here everything is four thousand times smaller.
#[test]
fn small_windows_reduce_channels_per_tile() {
    let _turn = turn();
    let conv = Conv::same(filter(64, 3, [3, 3]), true);
    // Windows of these planes are aligned wherever they start.
    let output = Shape::map(64, 21, 31);
    let gram = Shape::Matrix { rows: 64, columns: 64 };
    // The registry's tolerances.
    let cases = [
        Case::normal(conv, &[Shape::map(3, 21, 31)], 1e-5),
        Case::normal(GramBackward, &[output, gram], 1e-6),
    ];
    // A plane has 22 * 32 texels of 16 bytes, 11 KiB: bindings for seven planes, and for one.
    for binding in [88 << 10, 17 << 10] {
        let options = DeviceOptions { family: Family::Texture, ..Default::default() };
        let engine = engine_with(&options, |profile| profile.max_binding = binding);
        for case in &cases {
            let preferred = kernels(&engine, case.op.as_ref(), &single(&engine, case)).swap_remove(0);
            assert_eq!(preferred.variant, "texture", "{:?}", case.op);
            let values = inputs(case, 3);
            let outcome = single(&engine, case).run(0, &values).unwrap();
            let what = format!("{:?} with {binding} B", case.op);
            assert_close(&what, &outcome.values, &reference(case, &values), case.tolerance);
            assert_eq!(outcome.fault(), None, "{what}");
        }
    }
}
