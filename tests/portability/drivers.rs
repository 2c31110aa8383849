//! The same inputs on two independent Vulkan drivers: Mesa's lavapipe, and SwiftShader as it comes in Debian's
//! package chromium. Both must be in VK_DRIVER_FILES; `tools/test` sees to that.

use crate::common::{distance, inputs, turn, widen};
use neural_mirage::gpu::{AdapterChoice, Context, DeviceOptions, Family, adapters};
use neural_mirage::graph::{Engine, SingleOp};
use neural_mirage::ops::{REGISTRY, Shape};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Parts of the adapters' names.
const DRIVERS: [&str; 2] = ["llvmpipe", "SwiftShader"];

fn engines(family: Family) -> [Arc<Engine>; 2] {
    DRIVERS.map(|name| {
        let options = DeviceOptions { adapter: AdapterChoice::Name(name.to_owned()), family, ..Default::default() };
        let context = Context::open(&options).unwrap_or_else(|error| {
            let found: Vec<String> = adapters().unwrap().into_iter().map(|adapter| adapter.info.name).collect();
            panic!(
                "{error}\n{name} is not among {found:?}. Install the packages `mesa-vulkan-drivers` and `chromium` \
                 (Debian's names) and set VK_DRIVER_FILES to the drivers' JSON files, as tools/test does"
            )
        });
        Engine::new(context)
    })
}

#[test]
#[ignore = "needs two Vulkan drivers: see docs/portability.md"]
fn two_drivers_compute_the_same() {
    let _turn = turn();
    let (mut compared, mut worst) = (0, (0.0, String::new()));
    let mut alone = BTreeSet::new();
    for family in [Family::Texture, Family::Buffer] {
        let engines = engines(family);
        for entry in REGISTRY {
            for (case, seed) in (entry.cases)().into_iter().zip(1..) {
                let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
                let values = inputs(&case, seed);
                let single = |engine| SingleOp::new(engine, case.op.clone(), &shapes).unwrap();
                let [one, other] = [single(&engines[0]), single(&engines[1])];
                let [names, others] = [one.variants().unwrap(), other.variants().unwrap()];
                for name in &others {
                    if !names.contains(name) {
                        alone.insert((entry.name, *name));
                    }
                }
                for (position, name) in names.into_iter().enumerate() {
                    let Some(there) = others.iter().position(|other| *other == name) else {
                        alone.insert((entry.name, name));
                        continue;
                    };
                    let what = format!("{:?}/{name} on {:?}", case.op, case.inputs);
                    let left = one.run(position, &values).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let right = other.run(there, &values).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let apart = distance(&left.values, &widen(&right.values));
                    let close = apart <= case.tolerance; // false for NaN
                    assert!(close, "{what}: the drivers are {apart:e} apart, {:e} allowed", case.tolerance);
                    // Second outputs hold decisions, and ties may fall either way.
                    let wide: Vec<Vec<f64>> = values.iter().map(|values| widen(values)).collect();
                    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
                    for [saved, _] in [&left.saved, &right.saved].into_iter().flatten() {
                        assert_eq!(
                            case.op.saved_fault(&wide, &shapes, saved, case.tolerance),
                            None,
                            "{what}"
                        );
                    }
                    compared += 1;
                    // In units of what is allowed.
                    let share = apart / case.tolerance.max(f64::MIN_POSITIVE);
                    if share > worst.0 {
                        worst = (share, what);
                    }
                }
            }
        }
    }
    println!("{compared} kernels compared; furthest apart, at {:.2} of the tolerance: {}", worst.0, worst.1);
    println!("on one driver only, for its limits or subgroup size: {alone:?}");
    assert!(compared > 300, "only {compared} kernels have been compared");
}
