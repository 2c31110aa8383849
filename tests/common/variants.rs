//! All dispatches of the registry's cases on synthetic devices.

use super::profiles;
use neural_mirage::gpu::{Family, Profile};
use neural_mirage::ops::{Case, Dispatch, REGISTRY, Shape, Signature};
use std::collections::BTreeMap;

/// Key of a shader variant: file, constants, entry point.
pub type Variant = (&'static str, Vec<(&'static str, u32)>, &'static str);

/// Calls `visit` for each dispatch of each kernel of each case on each synthetic device.
pub fn for_each_dispatch(mut visit: impl FnMut(&str, &Case, &Profile, &Dispatch)) {
    for entry in REGISTRY {
        for case in (entry.cases)() {
            let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
            let signature = Signature::of(case.op.as_ref(), &shapes).unwrap();
            for (device, profile) in profiles() {
                let kernels = case.op.kernels(&signature, &profile).unwrap();
                let last = kernels.last().map(|kernel| kernel.variant);
                assert_eq!(last, Some("naive"), "{} on {device}: the naive kernel must be last", entry.name);
                if profile.family == Family::Naive {
                    assert_eq!(
                        kernels.len(),
                        1,
                        "{} on {device}: must offer only the naive kernel",
                        entry.name
                    );
                }
                for kernel in &kernels {
                    let what = format!("{}/{} on {device} {shapes:?}", entry.name, kernel.variant);
                    kernel.dispatches.iter().for_each(|dispatch| visit(&what, &case, &profile, dispatch));
                }
            }
        }
    }
}

/// Returns all variants, each with a description of one dispatch that uses it.
pub fn variants() -> BTreeMap<Variant, String> {
    let mut found = BTreeMap::new();
    for_each_dispatch(|what, _, _, dispatch| {
        let key = (dispatch.shader, dispatch.consts.clone(), dispatch.entry);
        found.entry(key).or_insert_with(|| what.to_owned());
    });
    found
}
