//! Native kernels against the f64 references. `KERNEL=gram cargo test --lib native_tests` tests the ops whose names
//! contain `gram`.

use super::{Case, NativeCall, NativeKernel, NativeValues, REGISTRY, Shape, Signature};
use crate::gpu::Profile;
use crate::workbench::{Difference, inputs, reference, widen};

/// Floats behind each output that a kernel must leave alone.
const GUARD: usize = 64;

/// What a kernel leaves: output and saved output with their guards, and the inputs that it changed.
struct Results {
    output: Vec<f32>,
    saved: Vec<f32>,
    mutated: Vec<Vec<f32>>,
}

impl Results {
    fn bits(&self) -> Vec<u32> {
        let all = [&self.output, &self.saved].into_iter().chain(&self.mutated);
        all.flatten().map(|value| value.to_bits()).collect()
    }
}

/// Runs a case's native kernel on poisoned outputs.
fn run(case: &Case, kernel: &NativeKernel, constants: &[NativeValues], values: &[Vec<f32>]) -> Results {
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
    let output_shape = case.op.output(&shapes).unwrap();
    let mut stored: Vec<Vec<f32>> =
        shapes.iter().zip(values).map(|(shape, values)| shape.pack(values)).collect();
    let poisoned = |shape: Option<Shape>| vec![f32::NAN; shape.map_or(0, |shape| shape.stored()) + GUARD];
    let (mut output, mut saved) = (poisoned(Some(output_shape)), poisoned(case.op.saved(&shapes)));
    if let Some(input) = case.op.overwrites() {
        let length = stored[input].len();
        output[..length].copy_from_slice(&std::mem::take(&mut stored[input]));
    }
    let mut mutated: Vec<Vec<f32>> =
        case.op.mutates().iter().map(|input| std::mem::take(&mut stored[*input])).collect();
    let (output_length, saved_length) = (output.len() - GUARD, saved.len() - GUARD);
    (kernel.run)(NativeCall {
        inputs: stored.iter().map(Vec::as_slice).collect(),
        mutated: mutated.iter_mut().map(Vec::as_mut_slice).collect(),
        output: &mut output[..output_length],
        saved: &mut saved[..saved_length],
        constants: constants.iter().collect(),
    });
    Results { output, saved, mutated }
}

/// Runs a case's native kernel, with one thread and with three, and returns what is wrong.
fn fault(case: &Case, seed: u64) -> Option<String> {
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
    let signature = Signature::of(case.op.as_ref(), &shapes).unwrap();
    let kernel = match case.op.native(&signature, &Profile::native()) {
        Ok(kernel) => kernel,
        Err(error) => return Some(error.to_string()),
    };
    let values = inputs(case, seed);
    let expected = reference(case, &values);
    let constants: Vec<NativeValues> =
        kernel.constants.iter().map(|constant| (constant.make)().unwrap()).collect();
    for (made, constant) in constants.iter().zip(&kernel.constants) {
        let bytes = match made {
            NativeValues::F32(values) => values.len() * 4,
            NativeValues::F16(values) => values.len() * 2,
        };
        assert_eq!(bytes as u64, constant.bytes, "{constant:?}");
    }
    let results = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(case, &kernel, &constants, &values))
    });
    if results[0].bits() != results[1].bits() {
        return Some("three threads give other bits than one".to_owned());
    }
    let [Results { output, saved, mutated }, _] = results;
    let saved_shape = case.op.saved(&shapes);
    let (output_length, saved_length) = (output.len() - GUARD, saved.len() - GUARD);
    if [&output[output_length..], &saved[saved_length..]].concat().iter().any(|value| !value.is_nan()) {
        return Some("values behind an output were written".to_owned());
    }
    let found = match case.op.mutates() {
        [] => signature.output.unpack(&output),
        inputs => {
            let each = inputs.iter().zip(&mutated);
            each.flat_map(|(input, stored)| shapes[*input].unpack(stored)).collect()
        }
    };
    let difference = Difference::of(&found, &expected);
    if !difference.within(case.tolerance) {
        return Some(format!("{difference:?}, allowed {}", case.tolerance));
    }
    if case.op.mutates().is_empty() && output[..output_length] != signature.output.pack(&found) {
        return Some("padding of the output is not zero".to_owned());
    }
    let shape = saved_shape?;
    let kept = shape.unpack(&saved);
    if saved[..saved_length] != shape.pack(&kept) {
        return Some("padding of the saved output is not zero".to_owned());
    }
    let wide: Vec<Vec<f64>> = values.iter().map(|values| widen(values)).collect();
    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
    case.op.saved_fault(&wide, &shapes, &kept, case.tolerance)
}

#[test]
fn native_kernels_match_the_references() {
    let wanted = std::env::var("KERNEL").unwrap_or_default();
    let mut faults = Vec::new();
    for entry in REGISTRY.iter().filter(|entry| entry.name.contains(&wanted)) {
        for (case, seed) in (entry.cases)().into_iter().zip(1..) {
            if let Some(fault) = fault(&case, seed) {
                faults.push(format!("{:?} on {:?}: {fault}", case.op, case.inputs));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}
