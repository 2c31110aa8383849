//! NaN goes through every kernel of a layer, so that a run in which activations overflow notices it. WGSL doesn't promise
//! what a comparison with NaN gives, but the drivers tested here, and the CPU device, keep it.

use crate::common::{cpu, engine, inputs, turn};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::{PrepareOptions, SingleOp};
use neural_mirage::ops::{REGISTRY, Shape};

#[test]
fn rectifiers_keep_it() {
    let _turn = turn();
    let engines = [engine(Family::Texture), engine(Family::Buffer), cpu(DeviceOptions::default())];
    for engine in &engines {
        let mut tested = 0;
        for entry in REGISTRY.iter().filter(|entry| ["conv", "linear", "relu"].contains(&entry.name)) {
            for case in (entry.cases)() {
                let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
                let options = PrepareOptions { all_families: true, ..PrepareOptions::default() };
                let single = SingleOp::new(engine, case.op.clone(), &shapes).unwrap().with(options);
                let mut values = inputs(&case, 3);
                values[0].fill(f32::NAN);
                for (variant, name) in single.variants().unwrap().into_iter().enumerate() {
                    let found = single.run(variant, &values).unwrap().values;
                    let kept = found.iter().filter(|value| value.is_nan()).count();
                    assert_eq!(kept, found.len(), "{:?}/{name} on {shapes:?}", case.op);
                    tested += 1;
                }
            }
        }
        assert!(tested > 50, "{tested} kernels on {}", engine.describe());
    }
}
