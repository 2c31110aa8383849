//! Kernels with cooperative matrices: which devices get them, and their results on a device that supports them, such as
//! Mesa 26.1's software driver (tools/test_drivers). On other devices the tests of results record that they did not
//! run.

use crate::common::{assert_close, engine_with, filter, inputs, not_run, turn, widen};
use neural_mirage::gpu::{CoopMatrix, DeviceOptions, Family, Precision, Profile};
use neural_mirage::graph::{Engine, SingleOp, candidates};
use neural_mirage::ops::{
    Case, CaseInput, Conv, ConvBackward, Filter, GradientEpilogue, Gram, Op, REGISTRY, Shape, Signature,
};
use neural_mirage::tune::{Cache, Contest, tune};
use neural_mirage::workbench::{HALF_TOLERANCE, check, reference};
use std::collections::BTreeSet;
use std::sync::Arc;

const VARIANTS: [&str; 3] = ["buffer_winograd4_coop", "buffer_winograd2_coop", "buffer_coop"];

fn with_coop(side: u32) -> Profile {
    let coop_matrix = Some(CoopMatrix { side, lanes: 32 });
    Profile { precision: Precision::Half, coop_matrix, ..Profile::minimal() }
}

/// Returns the variants of an op in the buffer family.
fn variants(op: &dyn Op, inputs: &[Shape], device: &Profile) -> Vec<&'static str> {
    let signature = Signature::of(op, inputs).unwrap();
    op.kernels(&signature, device).unwrap().iter().map(|kernel| kernel.variant).collect()
}

fn on_coop(variants: &[&'static str]) -> Vec<&'static str> {
    variants.iter().copied().filter(|variant| variant.contains("coop")).collect()
}

#[test]
fn offered_only_for_fitting_channels_and_never_first() {
    for side in [8, 16] {
        let device = with_coop(side);
        let size = side as usize;
        let conv = |outs: usize, ins: usize| Conv::same(filter(outs, ins, [3, 3]), true);
        for (outs, ins, fit) in [
            (2 * size, size, true),
            (size, 3 * size, true),
            (size, size + 4, false),
            (size + 4, size, false),
            (3, size, false),
        ] {
            let found = variants(&conv(outs, ins), &[Shape::map(ins, 19, 31)], &device);
            assert_eq!(on_coop(&found), if fit { &VARIANTS[..] } else { &[] }, "{outs} {ins} {found:?}");
            assert!(!found[0].contains("coop"), "{found:?}");
            assert_eq!(found.last(), Some(&"naive"));
        }
        let gram = |channels| variants(&Gram, &[Shape::map(channels, 19, 31)], &device);
        assert_eq!(gram(3 * size), ["buffer", "buffer_coop", "naive"]);
        assert_eq!(gram(size + 4), ["buffer", "naive"]);
    }
}

#[test]
fn not_offered_without_device_support() {
    let (conv, shape) = (Conv::same(filter(32, 16, [3, 3]), false), Shape::map(16, 19, 31));
    let good = with_coop(16);
    assert_eq!(on_coop(&variants(&conv, &[shape], &good)), VARIANTS);
    let changes: [fn(&mut Profile); 5] = [
        |device| device.coop_matrix = None,
        |device| device.exact = true,
        |device| device.family = Family::Texture,
        |device| device.family = Family::Naive,
        |device| device.max_invocations = 16,
    ];
    for change in changes {
        let mut device = good.clone();
        change(&mut device);
        let found = variants(&conv, &[shape], &device);
        assert_eq!(on_coop(&found), [""; 0], "{device:?}");
    }
    // On a software driver they are candidates too, like the whole family.
    let software = Profile { software: true, lanes: Some(8), ..good };
    let signature = Signature::of(&conv, &[shape]).unwrap();
    let all = candidates(&conv, &signature, &software).unwrap();
    assert!(all.iter().any(|kernel| kernel.variant == VARIANTS[0] && kernel.is_half()));
    // Without half precision, the device is opened without cooperative matrices.
    let engine = engine_with(&DeviceOptions::default(), |_| {});
    assert_eq!(engine.profile().coop_matrix, None);
}

/// Opens a device with cooperative matrices, if this machine has one.
fn engine() -> Option<Arc<Engine>> {
    let precision = Precision::Half;
    let engine =
        engine_with(&DeviceOptions { precision, family: Family::Buffer, ..Default::default() }, |_| {});
    let Some(matrices) = engine.profile().coop_matrix else {
        not_run(&format!("kernels with cooperative matrices: {} has none", engine.describe()));
        return None;
    };
    println!("{}: {matrices:?}", engine.describe());
    Some(engine)
}

/// Runs all cases of the registry. `check` fails on wrong values and on nonzero padding.
#[test]
fn kernels_match_references_in_half_precision() {
    let _turn = turn();
    let Some(mut engine) = engine() else { return };
    let mut seen = BTreeSet::new();
    for entry in REGISTRY.iter().filter(|entry| ["conv", "conv_backward", "gram"].contains(&entry.name)) {
        for (case, seed) in (entry.cases)().iter().zip(1..) {
            for checked in check(&mut engine, case, seed, |variant| variant.contains("coop")).unwrap() {
                let Some(difference) = checked.difference else { panic!("{checked:?}") };
                assert_eq!(checked.fault, None, "{checked:?}");
                println!(
                    "{}/{} {:?}: {:.1e}",
                    checked.op, checked.variant, checked.shapes, difference.largest
                );
                seen.insert((checked.op, checked.variant));
            }
        }
    }
    for variant in VARIANTS {
        assert!(
            ["conv", "conv_backward"].iter().all(|op| seen.contains(&(*op, variant))),
            "{variant}: {seen:?}"
        );
    }
    assert!(seen.contains(&("gram", "buffer_coop")), "{seen:?}");
}

/// Gradients are tiny and activations large: scaling prevents underflow and overflow of f16.
#[test]
fn results_do_not_depend_on_input_scale() {
    let _turn = turn();
    let Some(engine) = engine() else { return };
    let weights = filter(32, 48, [3, 3]);
    let without_bias = Filter { bias: Arc::new(|| Ok(vec![0.0; 32])), ..Filter::clone(&weights) };
    let conv = Conv::same(Arc::new(without_bias), false);
    let backward = ConvBackward { conv: conv.clone(), size: [17, 37], epilogue: GradientEpilogue::default() };
    let (input, output) = (Shape::map(48, 17, 37), Shape::map(32, 17, 37));
    for deviation in [1e-9, 1.0, 1e6] {
        let scaled = CaseInput::Scaled(deviation);
        let cases = [
            Case::drawn(conv.clone(), &[(input, scaled)], HALF_TOLERANCE),
            Case::drawn(backward.clone(), &[(output, CaseInput::Normal), (output, scaled)], HALF_TOLERANCE),
            Case::drawn(Gram, &[(input, scaled)], HALF_TOLERANCE),
        ];
        for case in &cases {
            let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
            let single = SingleOp::new(&engine, case.op.clone(), &shapes).unwrap();
            let values = inputs(case, 5);
            let expected = reference(case, &values);
            for (index, variant) in single.variants().unwrap().into_iter().enumerate() {
                if variant.contains("coop") {
                    let found = single.run(index, &values).unwrap().values;
                    let what = format!("{:?}/{variant} at {deviation}", case.op);
                    // Errors are relative to the largest value unless it is below 1e-30.
                    let up = 1.0 / f64::from(deviation * deviation);
                    let found: Vec<f32> = widen(&found).iter().map(|value| (value * up) as f32).collect();
                    let expected: Vec<f64> = expected.iter().map(|value| value * up).collect();
                    assert_close(&what, &found, &expected, case.tolerance);
                }
            }
        }
    }
}

#[test]
fn tuning_times_coop_matrix_kernels() {
    let _turn = turn();
    let Some(mut engine) = engine() else { return };
    let op: Arc<dyn Op> = Arc::new(Conv::same(filter(32, 48, [3, 3]), true));
    let signature = Signature::of(op.as_ref(), &[Shape::map(48, 17, 37)]).unwrap();
    let found = tune(&mut engine, &op, &signature, &Contest::default(), &mut Cache::default()).unwrap();
    assert!(found.refused.is_empty(), "{:?}", found.refused);
    let times = found.selection.unwrap().seconds;
    let timed =
        found.variants.iter().zip(times).filter(|(_, time)| time.is_some()).map(|(variant, _)| *variant);
    assert_eq!(on_coop(&timed.collect::<Vec<_>>()), VARIANTS);
}
