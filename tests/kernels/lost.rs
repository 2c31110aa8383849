//! A kernel that causes a device loss is excluded; the others run on the reopened device.

use crate::common::{engine_with, turn};
use neural_mirage::Result;
use neural_mirage::gpu::{DeviceOptions, Profile};
use neural_mirage::graph::Engine;
use neural_mirage::ops::{
    Case, CaseInput, Constant, CpuKernel, Dispatch, Initializer, Kernel, Op, Operand, Shape, Signature,
    Storage,
};
use neural_mirage::tune::{Cache, Contest, tune};
use neural_mirage::workbench::check;
use std::sync::Arc;

const SIZE: usize = 6000;

/// Adds zeros from a constant. Creating the constant of the kernel `lost_by` loses the device.
#[derive(Debug)]
struct Losing {
    engine: Arc<Engine>,
    lost_by: &'static str,
}

impl Op for Losing {
    fn name(&self) -> &'static str {
        "losing"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Ok(inputs[0])
    }

    fn kernels(&self, _: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let kernel = |variant| {
            let lost = (variant == self.lost_by).then(|| self.engine.clone());
            let constant = Constant {
                key: format!("losing {variant}"),
                storage: Storage::Buffer,
                bytes: SIZE as u64 * 4,
                initializer: Initializer::host(move || {
                    lost.iter().filter_map(|engine| engine.gpu()).for_each(|context| context.lose());
                    Ok(vec![0; SIZE * 4])
                }),
            };
            let dispatch = Dispatch::new("add", "forward")
                .bind("a", Operand::Input(0))
                .bind("b", Operand::Constant(constant))
                .bind("output", Operand::Output)
                .size("count", SIZE / 4)
                .linear(SIZE / 4, 64, device);
            Kernel::single(variant, dispatch)
        };
        Ok(["first", "second", "naive"].map(kernel).into())
    }

    fn cpu(&self, _: &Signature, _: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| call.output.copy_from_slice(call.inputs[0])))
    }

    fn reference(&self, inputs: &[&[f64]], _: &[Shape]) -> Vec<f64> {
        inputs[0].to_vec()
    }
}

fn losing(lost_by: &'static str) -> (Arc<Engine>, Arc<dyn Op>) {
    let engine = engine_with(&DeviceOptions::default(), |profile| profile.max_groups = 1000);
    let op = Losing { engine: engine.clone(), lost_by };
    (engine, Arc::new(op))
}

#[test]
fn check_continues_after_device_loss() {
    let _turn = turn();
    let (first, op) = losing("second");
    let case = Case { op, inputs: vec![(Shape::Vector(SIZE), CaseInput::Normal)], tolerance: 0.0 };
    let mut engine = first.clone();
    let checked = check(&mut engine, &case, 1, |_| true).unwrap();
    let found: Vec<_> =
        checked.iter().map(|one| (one.variant, one.fault.is_some(), one.lost_device)).collect();
    assert_eq!(found, [("first", false, false), ("second", true, true), ("naive", false, false)]);
    let fault = checked[1].fault.as_deref().unwrap();
    assert!(fault.contains("the graphics device was lost: by a test"), "{fault}");
    assert!(!Arc::ptr_eq(&engine, &first));
    // The reopened device looks the same to kernels, including limits lowered by the test.
    assert_eq!((engine.describe(), engine.profile()), (first.describe(), first.profile()));
}

#[test]
fn tuning_excludes_kernel_that_loses_the_device() {
    let _turn = turn();
    for lost_by in ["first", "second"] {
        let (first, op) = losing(lost_by);
        let signature = Signature::of(op.as_ref(), &[Shape::Vector(SIZE)]).unwrap();
        let mut cache = Cache::default();
        let mut engine = first.clone();
        let found = tune(&mut engine, &op, &signature, &Contest::default(), &mut cache).unwrap();
        let refused: Vec<&str> = found.refused.iter().map(|(variant, _)| *variant).collect();
        assert_eq!(refused, [lost_by], "{:?}", found.refused);
        assert!(found.refused[0].1.contains("was lost"), "{:?}", found.refused);
        let selection = found.selection.unwrap();
        let entered: Vec<bool> = selection.seconds.iter().map(Option::is_some).collect();
        assert_eq!(entered, [lost_by != "first", lost_by != "second", true]);
        assert_ne!(found.variants[selection.winner], lost_by);
        assert!(!Arc::ptr_eq(&engine, &first));
    }
}

#[test]
fn nothing_is_chosen_without_naive_kernel() {
    let _turn = turn();
    let (mut engine, op) = losing("naive");
    let signature = Signature::of(op.as_ref(), &[Shape::Vector(SIZE)]).unwrap();
    let found = tune(&mut engine, &op, &signature, &Contest::default(), &mut Cache::default()).unwrap();
    assert!(found.selection.is_none(), "{:?}", found.selection);
    assert_eq!(found.refused.len(), 1, "{:?}", found.refused);
}
