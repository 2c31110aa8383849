//! Autotuning on the device excludes wrong and refused kernels. (Selection by time is tested with scripted times in
//! `src/tune/select.rs`.)

use crate::common::{engine_with, turn};
use neural_mirage::Result;
use neural_mirage::gpu::{DeviceOptions, Precision, Profile};
use neural_mirage::graph::{Bindings, Goals, Graph, Program};
use neural_mirage::ops::{Conv, CpuKernel, Filter, Kernel, Op, Relu, Shape, Signature};
use neural_mirage::tune::{Adapter, Cache, Contest, tune};
use std::sync::Arc;

/// ReLU with two kernels before the naive one: the first needs more workgroups than any device allows, the second
/// computes only the beginning.
#[derive(Debug)]
struct Faulty;

impl Op for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Relu.output(inputs)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let naive = Relu.kernels(signature, device)?.swap_remove(0);
        let with = |variant, groups| {
            let mut kernel = Kernel { variant, ..naive.clone() };
            kernel.dispatches[0].groups = groups;
            kernel
        };
        Ok(vec![with("refused", [u32::MAX, 1, 1]), with("wrong", [1, 1, 1]), naive])
    }

    fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel> {
        Relu.cpu(signature, device)
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        Relu.reference(inputs, shapes)
    }
}

#[test]
fn tuning_excludes_wrong_and_refused_kernels() {
    let _turn = turn();
    let mut engine = engine_with(&DeviceOptions::default(), |_| {});
    let op: Arc<dyn Op> = Arc::new(Faulty);
    let shape = Shape::Vector(6007);
    let signature = Signature::of(op.as_ref(), &[shape]).unwrap();
    let mut cache = Cache::default();
    let found = tune(&mut engine, &op, &signature, &Contest::default(), &mut cache).unwrap();
    assert_eq!(found.variants, ["refused", "wrong", "naive"]);
    let refused: Vec<&str> = found.refused.iter().map(|(variant, _)| *variant).collect();
    assert_eq!(refused, ["refused", "wrong"], "{:?}", found.refused);
    assert!(found.refused[0].1.contains("exceed"), "{:?}", found.refused);
    assert!(found.refused[1].1.contains("differs from the naive kernel"), "{:?}", found.refused);
    let selection = found.selection.unwrap();
    assert_eq!((selection.winner, selection.seconds[0]), (2, None));

    let prepare = || {
        let mut graph = Graph::new();
        let input = graph.external("input", shape);
        let output = graph.apply_shared(op.clone(), &[input], "output").unwrap();
        let mut bound = Bindings::new();
        bound.insert(input, engine.tensor("input", shape).unwrap());
        Program::prepare(&engine, &graph, &bound, &Goals::all([output]), |_| 0)
    };
    assert!(prepare().is_err(), "without tuning the op prefers a kernel that the device refuses");
    let (choices, note) = cache.choices(&Adapter::of(engine.gpu().unwrap()), false, Precision::Single);
    assert_eq!((choices.len(), note), (1, None));
    engine.use_choices(choices);
    assert_eq!(prepare().unwrap().nodes()[0].variant, "naive");
}

#[test]
fn unusable_cached_choice_falls_back_to_default() {
    let _turn = turn();
    let mut engine = engine_with(&DeviceOptions::default(), |_| {});
    let op: Arc<dyn Op> = Arc::new(Swapped);
    let shape = Shape::Vector(6007);
    let signature = Signature::of(op.as_ref(), &[shape]).unwrap();
    let mut cache = Cache::default();
    tune(&mut engine, &op, &signature, &Contest::default(), &mut cache).unwrap();
    // A cache from another machine names a kernel that this device can't run.
    let (mut choices, _) = cache.choices(&Adapter::of(engine.gpu().unwrap()), false, Precision::Single);
    choices.values_mut().for_each(|choice| choice.variant = "refused".to_owned());
    assert_eq!(choices.len(), 1);
    engine.use_choices(choices);
    let mut graph = Graph::new();
    let input = graph.external("input", shape);
    let output = graph.apply_shared(op, &[input], "output").unwrap();
    let mut bound = Bindings::new();
    bound.insert(input, engine.tensor("input", shape).unwrap());
    let program = Program::prepare(&engine, &graph, &bound, &Goals::all([output]), |_| 0).unwrap();
    assert_eq!(program.nodes()[0].variant, "good");
}

/// ReLU with a valid kernel first and one that no device accepts second.
#[derive(Debug)]
struct Swapped;

impl Op for Swapped {
    fn name(&self) -> &'static str {
        "swapped"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Relu.output(inputs)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let mut kernels = Faulty.kernels(signature, device)?;
        kernels[1] = Kernel { variant: "good", ..kernels[2].clone() };
        kernels.swap(0, 1);
        Ok(kernels)
    }

    fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel> {
        Relu.cpu(signature, device)
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        Relu.reference(inputs, shapes)
    }
}

/// Convolutions of one shape, with and without ReLU, have separate choices: neither evicts the other from the cache,
/// and a run that has only one of them finds nothing outdated.
#[test]
fn choices_are_kept_per_form_of_an_op() {
    let _turn = turn();
    let mut engine = engine_with(&DeviceOptions::default(), |_| {});
    let filter = Arc::new(Filter {
        id: "form".into(),
        out_channels: 8,
        in_channels: 8,
        kernel: [3, 3],
        weights: Arc::new(|| Ok((0..8 * 8 * 9).map(|index| (index % 7) as f32 * 0.1 - 0.3).collect())),
        bias: Arc::new(|| Ok((0..8).map(|index| index as f32 * 0.1).collect())),
    });
    let shape = Shape::map(8, 21, 34);
    let convs: Vec<Arc<dyn Op>> =
        vec![Arc::new(Conv::same(filter.clone(), false)), Arc::new(Conv::same(filter, true))];
    let mut cache = Cache::default();
    for conv in &convs {
        let signature = Signature::of(conv.as_ref(), &[shape]).unwrap();
        tune(&mut engine, conv, &signature, &Contest::default(), &mut cache).unwrap();
    }
    let (mut choices, _) = cache.choices(&Adapter::of(engine.gpu().unwrap()), false, Precision::Single);
    assert_eq!(choices.len(), 2);
    // Whichever kernel won, set the convolution with ReLU to naive.
    choices.retain(|of, choice| {
        choice.variant = "naive".to_owned();
        of.form.iter().any(|form| form.contains("RELU=1"))
    });
    assert_eq!(choices.len(), 1);
    engine.use_choices(choices);
    let variants: Vec<&str> = convs
        .iter()
        .map(|conv| {
            let mut graph = Graph::new();
            let input = graph.external("input", shape);
            let output = graph.apply_shared(conv.clone(), &[input], "output").unwrap();
            let mut bound = Bindings::new();
            bound.insert(input, engine.tensor("input", shape).unwrap());
            let program = Program::prepare(&engine, &graph, &bound, &Goals::all([output]), |_| 0).unwrap();
            program.nodes()[0].variant
        })
        .collect();
    assert_eq!(variants[1], "naive");
    assert_ne!(variants[0], "naive");
    assert_eq!(engine.outdated_choices(), 0);
}
