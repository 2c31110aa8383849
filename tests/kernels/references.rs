//! The f64 references of the ops against PyTorch, forward and backward. `cases` compares the kernels with them.

use crate::common::golden::{Golden, pair, shape, text};
use crate::common::{assert_close, widen};
use neural_mirage::ops::{
    Adam, AdaptivePool, AdjointOperand, Conv, Dot, Filter, Gram, Linear, Matrix, MatrixValues,
    MeanSquaredError, Op, Padding, Pool, PoolKind, Preprocess, Reduce, ReduceKind, Relu, Resize, ResizeMode,
    Shape, Softmax, TotalVariation, VariationKind,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The goldens are f64 results rounded to f32, and the references work in f64 on the same f32 inputs.
/// Only this rounding may differ, by 6e-8 of the largest value.
const TOLERANCE: f64 = 2e-7;

fn pool_kind(attrs: &Value) -> PoolKind {
    if text(&attrs["kind"]) == "max" { PoolKind::Max } else { PoolKind::Average }
}

fn variation(attrs: &Value) -> VariationKind {
    match attrs["kind"].as_str() {
        Some("absolute") => VariationKind::Absolute,
        Some("diagonal") => VariationKind::Diagonal,
        _ => VariationKind::Squared,
    }
}

fn triple(value: &Value) -> [f32; 3] {
    [0, 1, 2].map(|index| value[index].as_f64().expect("a number") as f32)
}

fn loaded(values: Vec<f32>) -> neural_mirage::ops::Loader {
    Arc::new(move || Ok(values.clone()))
}

/// Builds the op of a case. Also returns how many of the case's inputs are input tensors (the rest are weights).
fn build(case: &Value, inputs: &[(Vec<usize>, Vec<f32>)]) -> (Arc<dyn Op>, usize) {
    let attrs = &case["attrs"];
    let name = text(&case["name"]).to_owned();
    match text(&case["op"]) {
        "conv" => {
            let (sizes, weights) = inputs[1].clone();
            let filter = Filter {
                id: name,
                out_channels: sizes[0],
                in_channels: sizes[1],
                kernel: [sizes[2], sizes[3]],
                weights: loaded(weights),
                bias: loaded(inputs[2].1.clone()),
            };
            let mode = if text(&attrs["pad_mode"]) == "zeros" { Padding::Zeros } else { Padding::Replicate };
            let (stride, padding) = (pair(&attrs["stride"]), pair(&attrs["padding"]));
            (Arc::new(Conv { filter: Arc::new(filter), stride, padding, mode, relu: false, pool: false }), 1)
        }
        "relu" => (Arc::new(Relu), 1),
        "pool" => {
            let (kernel, stride) = (pair(&attrs["kernel"]), pair(&attrs["stride"]));
            let padding = pair(&attrs["padding"]);
            let ceil = attrs["ceil"].as_bool().expect("a bool");
            (Arc::new(Pool { kind: pool_kind(attrs), kernel, stride, padding, ceil }), 1)
        }
        "adaptive_pool" => (Arc::new(AdaptivePool { kind: pool_kind(attrs), size: pair(&attrs["size"]) }), 1),
        "linear" => {
            let (sizes, weights) = inputs[1].clone();
            let columns = sizes[1];
            let matrix = Matrix {
                id: name,
                rows: sizes[0],
                columns,
                half: false,
                values: Arc::new(move |rows| {
                    Ok(MatrixValues::F32(weights[rows.start * columns..rows.end * columns].to_vec()))
                }),
                bias: loaded(inputs[2].1.clone()),
            };
            (Arc::new(Linear { matrix: Arc::new(matrix), relu: false }), 1)
        }
        "softmax" => (Arc::new(Softmax), 1),
        "gram" => (Arc::new(Gram), 1),
        "mse" => (Arc::new(MeanSquaredError), 2),
        "total_variation" => (Arc::new(TotalVariation { kind: variation(attrs) }), 1),
        "preprocess" => {
            let order = [0, 1, 2].map(|index| attrs["order"][index].as_u64().expect("an index") as usize);
            (Arc::new(Preprocess { order, scale: triple(&attrs["scale"]), bias: triple(&attrs["bias"]) }), 1)
        }
        "resize" => {
            let mode = match text(&attrs["mode"]) {
                "bilinear" => ResizeMode::Bilinear,
                "bicubic" => ResizeMode::Bicubic,
                _ => ResizeMode::Area,
            };
            (Arc::new(Resize { mode, size: pair(&attrs["size"]) }), 1)
        }
        "reduce" => {
            let kind = match text(&attrs["kind"]) {
                "sum" => ReduceKind::Sum,
                "l1" => ReduceKind::L1,
                "nonfinite" => ReduceKind::NonFinite,
                "dot" => return (Arc::new(Dot), 2),
                other => panic!("unknown reduction {other}"),
            };
            (Arc::new(Reduce { kind }), 1)
        }
        other => panic!("unknown op {other}"),
    }
}

#[test]
fn references_and_adjoints_match_pytorch() {
    let golden = Golden::open("ops.safetensors");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for case in golden.cases.as_array().expect("a list") {
        let name = text(&case["name"]);
        let op_name = text(&case["op"]);
        if matches!(op_name, "adam" | "gram_mse") {
            continue; // tested below: several steps, two ops
        }
        let keys = case["inputs"].as_array().expect("a list");
        let inputs: Vec<_> = keys.iter().map(|key| golden.tensor(text(key))).collect();
        let (op, count) = build(case, &inputs);
        let wide: Vec<Vec<f64>> = inputs[..count].iter().map(|(_, values)| widen(values)).collect();
        let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
        let shapes: Vec<Shape> = inputs[..count].iter().map(|(sizes, _)| shape(sizes)).collect();
        let weight = case["attrs"]["weight"].as_f64().unwrap_or(1.0);
        let (sizes, expected) = golden.tensor(text(&case["output"]));
        assert_eq!(op.output(&shapes).expect(name), shape(&sizes), "{name}");
        let output = op.reference(&wide, &shapes);
        let weighted: Vec<f32> = output.iter().map(|value| (value * weight) as f32).collect();
        assert_close(name, &weighted, &widen(&expected), TOLERANCE);

        if let Some(key) = case["upstream"].as_str() {
            let upstream: Vec<f64> = golden.tensor(key).1.iter().map(|u| f64::from(*u) * weight).collect();
            for (input, key) in case["gradients"].as_array().expect("a list").iter().enumerate() {
                let Some(key) = key.as_str() else { continue };
                let adjoint = op.adjoint(input, &shapes).unwrap_or_else(|| panic!("{name}: no adjoint"));
                let output_shape = shape(&sizes);
                let operands: Vec<(&[f64], Shape)> = adjoint
                    .operands
                    .iter()
                    .map(|operand| match *operand {
                        AdjointOperand::Input(input) => (wide[input], shapes[input]),
                        AdjointOperand::Saved => panic!("no golden has a saved output"),
                        AdjointOperand::Output => (output.as_slice(), output_shape),
                        AdjointOperand::Upstream => (upstream.as_slice(), output_shape),
                    })
                    .collect();
                let values: Vec<&[f64]> = operands.iter().map(|(values, _)| *values).collect();
                let operand_shapes: Vec<Shape> = operands.iter().map(|(_, shape)| *shape).collect();
                let actual = adjoint.op.reference(&values, &operand_shapes);
                let narrow: Vec<f32> = actual.iter().map(|value| *value as f32).collect();
                let expected = widen(&golden.tensor(key).1);
                assert_close(&format!("{name} gradient {input}"), &narrow, &expected, TOLERANCE);
            }
        }
        *seen.entry(op_name.to_owned()).or_default() += 1;
    }
    println!("{seen:?}");
    assert_eq!(seen.len(), 12, "{seen:?}");
}

#[test]
fn gram_losses_match_pytorch() {
    let golden = Golden::open("ops.safetensors");
    let cases = golden.cases.as_array().expect("a list");
    let cases: Vec<&Value> = cases.iter().filter(|case| text(&case["op"]) == "gram_mse").collect();
    assert!(!cases.is_empty());
    for case in cases {
        let name = text(&case["name"]);
        let (sizes, features) = golden.tensor(text(&case["inputs"][0]));
        let (target_sizes, target) = golden.tensor(text(&case["inputs"][1]));
        let weight = case["attrs"]["weight"].as_f64().expect("a weight");
        let features = widen(&features);
        let (map, matrix) = (shape(&sizes), shape(&target_sizes));
        let gram = Gram.reference(&[&features], &[map]);
        let target = widen(&target);
        let loss = MeanSquaredError.reference(&[&gram, &target], &[matrix, matrix]);
        let weighted: Vec<f32> = loss.iter().map(|value| (value * weight) as f32).collect();
        assert_close(name, &weighted, &widen(&golden.tensor(text(&case["output"])).1), TOLERANCE);
        let upstream = widen(&golden.tensor(text(&case["upstream"])).1)[0] * weight;
        let inner = MeanSquaredError.adjoint(0, &[matrix, matrix]).expect("an adjoint");
        let by_gram = inner.op.reference(&[&gram, &target, &[upstream]], &[matrix, matrix, Shape::Vector(1)]);
        let outer = Gram.adjoint(0, &[map]).expect("an adjoint");
        let actual: Vec<f32> =
            outer.op.reference(&[&features, &by_gram], &[map, matrix]).iter().map(|v| *v as f32).collect();
        let expected = widen(&golden.tensor(text(&case["gradients"][0])).1);
        assert_close(&format!("{name} gradient"), &actual, &expected, TOLERANCE);
    }
}

#[test]
fn adam_matches_pytorch_step_by_step() {
    let golden = Golden::open("ops.safetensors");
    let cases = golden.cases.as_array().expect("a list");
    let cases: Vec<&Value> = cases.iter().filter(|case| text(&case["op"]) == "adam").collect();
    assert!(!cases.is_empty());
    for case in cases {
        let attrs = &case["attrs"];
        let number = |key: &str| attrs[key].as_f64().expect("a number");
        let op = Adam {
            beta1: number("beta1"),
            beta2: number("beta2"),
            epsilon: number("eps"),
            clamp: !attrs["clamp"].is_null(),
        };
        let (sizes, start) = golden.tensor(text(&case["inputs"][0]));
        let tensor = shape(&sizes);
        let count = tensor.elements();
        let mut x = widen(&start);
        let (mut m, mut v, mut state) = (vec![0.0; count], vec![0.0; count], vec![0.0; 4]);
        let control = [number("lr"), 0.0, 0.0, 0.0];
        let expected = widen(&golden.tensor(text(&case["output"])).1);
        for step in 0..number("steps") as usize {
            let gradient = widen(&golden.tensor(text(&case["inputs"][step + 1])).1);
            let four = Shape::Vector(4);
            let after = op.reference(
                &[&x, &gradient, &m, &v, &state, &control],
                &[tensor, tensor, tensor, tensor, four, four],
            );
            x = after[..count].to_vec();
            m = after[count..2 * count].to_vec();
            v = after[2 * count..3 * count].to_vec();
            state = after[3 * count..].to_vec();
            let narrow: Vec<f32> = x.iter().map(|value| *value as f32).collect();
            let name = format!("{} step {}", text(&case["name"]), step + 1);
            assert_close(&name, &narrow, &expected[step * count..(step + 1) * count], TOLERANCE);
        }
    }
}
