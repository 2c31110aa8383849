//! Rung 3: every variant of every op against its f64 reference, at odd, tiny and prime shapes, on outputs
//! full of NaN with a guard zone behind them.

mod common;

use common::{assert_close, engine, inputs, turn, widen};
use neural_mirage::gpu::Family;
use neural_mirage::graph::{Engine, SingleOp};
use neural_mirage::ops::{REGISTRY, Shape};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tests each kernel that a device with this family offers; returns the variants seen.
fn check_all(engine: &Arc<Engine>, filter: impl Fn(&str) -> bool) -> BTreeSet<(String, &'static str)> {
    let mut seen = BTreeSet::new();
    for entry in REGISTRY.iter().filter(|entry| filter(entry.name)) {
        for (index, case) in (entry.cases)().iter().enumerate() {
            assert_eq!(case.op.name(), entry.name, "the registry line and the op disagree");
            let values = inputs(case, index as u64 + 1);
            let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
            let wide: Vec<Vec<f64>> = values.iter().map(|values| widen(values)).collect();
            let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
            let expected = case.op.reference(&wide, &shapes);
            let single = SingleOp::new(engine, case.op.clone(), &shapes).unwrap();
            for (variant, name) in single.variants().unwrap().into_iter().enumerate() {
                let what = format!("{}/{name} on {shapes:?} ({:?})", entry.name, case.op);
                let outcome = single.run(variant, &values).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_close(&what, &outcome.values, &expected, case.tolerance);
                assert!(outcome.guard_intact, "{what}: wrote behind its output");
                if case.op.mutates().is_empty() {
                    let clean = single.signature().output.pack(&outcome.values);
                    assert_eq!(outcome.stored, clean, "{what}: padding is not zero");
                }
                seen.insert((entry.name.to_owned(), name));
            }
        }
    }
    seen
}

#[test]
fn every_kernel_of_every_family_matches_its_reference() {
    let _turn = turn();
    let filter = std::env::var("KERNEL").unwrap_or_default();
    let mut seen = BTreeSet::new();
    for family in [Family::Texture, Family::Buffer] {
        seen.extend(check_all(&engine(family), |name| name.contains(&filter)));
    }
    println!("{seen:?}");
}
