//! Fully connected layers larger than a device's binding limit: the chunks must match the whole matrix and
//! respect the limits.

use crate::common::{assert_close, engine, turn, widen};
use neural_mirage::gpu::{Context, DeviceOptions, Family, Profile};
use neural_mirage::graph::{Engine, SingleOp};
use neural_mirage::ops::{
    Adjoint, CpuKernel, Kernel, Linear, LinearBackward, Matrix, Op, Operand, Shape, Signature,
};
use neural_mirage::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Wraps an op so that it sees a smaller binding limit than the device has.
#[derive(Debug)]
struct Limited {
    op: Arc<dyn Op>,
    max_binding: u64,
}

impl Op for Limited {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        self.op.output(inputs)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        self.op.kernels(signature, &Profile { max_binding: self.max_binding, ..device.clone() })
    }

    fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel> {
        self.op.cpu(signature, device)
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        self.op.reference(inputs, shapes)
    }

    fn adjoint(&self, input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        self.op.adjoint(input, shapes)
    }
}

/// Returns keys and sizes of the weights that the preferred kernel binds.
fn weights(op: &dyn Op, inputs: &[Shape], device: &Profile) -> Vec<(String, u64)> {
    let signature = Signature::of(op, inputs).unwrap();
    let kernels = op.kernels(&signature, device).unwrap();
    let bindings = kernels[0].dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
    let constants = bindings.filter_map(|(name, operand)| match operand {
        Operand::Constant(constant) if *name == "weights" => Some((constant.key.clone(), constant.bytes)),
        _ => None,
    });
    constants.collect()
}

/// Compares all kernels of an op with its reference on the same random inputs.
fn check(engine: &Arc<Engine>, op: Arc<dyn Op>, inputs: &[Shape], tolerance: f64) {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let draw =
        |shape: &Shape| crate::common::draw(*shape, neural_mirage::ops::CaseInput::Normal, &mut random);
    let values: Vec<Vec<f32>> = inputs.iter().map(draw).collect();
    let wide: Vec<Vec<f64>> = values.iter().map(|values| widen(values)).collect();
    let expected = op.reference(&wide.iter().map(Vec::as_slice).collect::<Vec<_>>(), inputs);
    let what = format!("{op:?}");
    let single = SingleOp::new(engine, op, inputs).unwrap();
    for (variant, name) in single.variants().unwrap().into_iter().enumerate() {
        let what = format!("{what}/{name}");
        let outcome = single.run(variant, &values).unwrap();
        assert_close(&what, &outcome.values, &expected, tolerance);
        assert_eq!(outcome.fault(), None, "{what}");
    }
}

#[test]
fn chunks_match_the_whole_matrix() {
    let _turn = turn();
    for family in [Family::Texture, Family::Buffer] {
        let engine = engine(family);
        for (rows, columns, half, relu) in
            [(61, 37, false, true), (61, 37, true, false), (40, 64, true, true), (9, 5, false, false)]
        {
            let matrix = Matrix::sample(rows, columns, half);
            let linear = Linear { matrix, relu };
            // Room for slightly more than 8 rows, the granularity of chunks.
            let max_binding = 8 * columns.next_multiple_of(8) as u64 * if half { 2 } else { 4 } + 20;
            let (x, y) = (Shape::Vector(columns), Shape::Vector(rows));
            let forward: Arc<dyn Op> = Arc::new(Limited { op: Arc::new(linear.clone()), max_binding });
            let backward = Arc::new(LinearBackward { linear });
            let backward: Arc<dyn Op> = Arc::new(Limited { op: backward, max_binding });
            let chunks = weights(forward.as_ref(), &[x], engine.profile());
            assert_eq!(chunks.len(), rows.div_ceil(8));
            assert!(chunks.iter().all(|(_, bytes)| *bytes <= max_binding), "{chunks:?}");
            // One copy on the device for both directions.
            assert_eq!(chunks, weights(backward.as_ref(), &[y, y], engine.profile()));
            check(&engine, forward, &[x], 5e-6);
            check(&engine, backward, &[y, y], 5e-6);
        }
    }
}

#[test]
fn chunk_keys_differ_by_chunking_and_precision() {
    let mut keys = BTreeSet::new();
    let device = engine(Family::Auto).profile().clone();
    let mut count = 0;
    for half in [false, true] {
        for max_binding in [1 << 12, 1 << 13, 1 << 20] {
            let linear = Linear { matrix: Matrix::sample(61, 32, half), relu: false };
            let profile = Profile { max_binding, ..device.clone() };
            for (key, bytes) in weights(&linear, &[Shape::Vector(32)], &profile) {
                assert!(bytes <= max_binding);
                keys.insert((key, bytes));
                count += 1;
            }
        }
    }
    // Equal keys must stand for the same rows, so the sizes must agree too.
    let distinct: BTreeSet<&String> = keys.iter().map(|(key, _)| key).collect();
    assert_eq!(distinct.len(), keys.len());
    assert!(keys.len() < count, "equal chunks share their memory");
}

#[test]
fn limit_below_one_chunk_is_out_of_memory() {
    let device = engine(Family::Auto).profile().clone();
    let linear = Linear { matrix: Matrix::sample(16, 64, false), relu: false };
    let signature = Signature::of(&linear, &[Shape::Vector(64)]).unwrap();
    for profile in
        [Profile { max_binding: 1024, ..device.clone() }, Profile { max_buffer: 2047, ..device.clone() }]
    {
        let error = linear.kernels(&signature, &profile).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { needed: 2048, .. }), "{error}");
    }
}

/// 25088 columns as in a real fc6, and enough rows to exceed WebGPU's default binding limit of 128 MiB.
#[test]
fn fc6_runs_within_default_limits() {
    let _turn = turn();
    let options = DeviceOptions { minimal: true, ..Default::default() };
    let engine = Engine::new(Context::open(&options).unwrap());
    let linear = Linear { matrix: Matrix::sample(1390, 25088, false), relu: true };
    let (x, y) = (Shape::Vector(25088), Shape::Vector(1390));
    assert_eq!(weights(&linear, &[x], engine.profile()).len(), 2);
    check(&engine, Arc::new(linear.clone()), &[x], 5e-6);
    check(&engine, Arc::new(LinearBackward { linear }), &[y, y], 5e-6);
}
