//! Kernels chosen by measurement instead of by an op's own preference.

use crate::error::Result;
use crate::gpu::{Family, Profile};
use crate::hex::hex;
use crate::ops::{Kernel, Op, Operand, Shape, Signature};
use crate::shader::{generation, source};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

/// The use of an op that a choice applies to: the op with the steps fused into it (rectify, mask, add), its exact
/// channels, and its approximate size.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KernelUse {
    /// Name of the op.
    pub op: String,
    /// Fused steps: entry points and constants of the op's naive kernel. The op's other kernels depend on the fused
    /// steps too, so a choice for one form is not valid for another.
    pub form: Vec<String>,
    /// For each input and the output: channels of a map, length of a vector, or rows and columns of a matrix.
    pub channels: Vec<[usize; 2]>,
    /// For each input and the output: binary logarithm of a map's pixel count, rounded up; 0 for vectors and matrices.
    pub sizes: Vec<u32>,
}

impl KernelUse {
    /// Describes the use of an op on these shapes.
    ///
    /// # Errors
    /// As [`Op::kernels`].
    pub fn of(op: &dyn Op, signature: &Signature, device: &Profile) -> Result<Self> {
        let naive = op.kernels(signature, &Profile { family: Family::Naive, ..device.clone() })?;
        let dispatches = naive.last().into_iter().flat_map(|kernel| &kernel.dispatches);
        let form = dispatches.map(|dispatch| {
            let consts = dispatch.consts.iter().map(|(name, value)| format!(" {name}={value}"));
            format!("{}/{}{}", dispatch.shader, dispatch.entry, consts.collect::<String>())
        });
        // A set, because the number of dispatches of each entry point depends on the size.
        let form: BTreeSet<String> = form.collect();
        let shapes = || signature.inputs.iter().chain([&signature.output]);
        let channels = |shape: &Shape| match *shape {
            Shape::Map { channels, .. } | Shape::HalfMap { channels, .. } => [channels, 0],
            Shape::Vector(length) => [length, 0],
            Shape::Matrix { rows, columns } => [rows, columns],
        };
        let size = |shape: &Shape| match *shape {
            Shape::Map { height, width, .. } | Shape::HalfMap { height, width, .. } => {
                (height * width).max(1).next_power_of_two().ilog2()
            }
            _ => 0,
        };
        Ok(Self {
            op: op.name().to_owned(),
            form: form.into_iter().collect(),
            channels: shapes().map(channels).collect(),
            sizes: shapes().map(size).collect(),
        })
    }
}

/// A chosen variant and the candidates that it was chosen from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Name of the variant.
    pub variant: String,
    /// Hash of the candidates: their [`content`].
    pub content: String,
}

/// All choices for one device.
pub type Choices = HashMap<KernelUse, Choice>;

/// Returns all kernels of an op that a device can run, from every family unless the device's is forced. The preferred
/// kernel comes first and the naive one last; each variant occurs once.
///
/// # Errors
/// As [`Op::kernels`].
pub fn candidates(op: &dyn Op, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
    if device.cpu {
        return Ok(cpu());
    }
    let mut all = op.kernels(signature, device)?;
    if device.family == Family::Auto {
        for family in [Family::Texture, Family::Buffer] {
            all.extend(op.kernels(signature, &Profile { family, ..device.clone() })?);
        }
    }
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut naive = None;
    for kernel in all {
        if kernel.variant == "naive" {
            naive.get_or_insert(kernel);
        } else if !kernels.iter().any(|earlier| earlier.variant == kernel.variant) {
            kernels.push(kernel);
        }
    }
    kernels.extend(naive);
    Ok(kernels)
}

/// Returns the only kernel of any op on the CPU device: its function.
pub(super) fn cpu() -> Vec<Kernel> {
    vec![Kernel::of("cpu", Vec::new())]
}

/// Hash of the candidates: text and constants of their shaders, sizes of packed weights. A choice is valid as long as
/// the hash stays the same.
///
/// # Errors
/// [`crate::Error::Shader`] if a kernel names a shader that does not exist.
pub fn content(kernels: &[Kernel]) -> Result<String> {
    let mut hash = Sha256::new();
    // Sorted, because the order of preference depends on the size too.
    let mut kernels: Vec<&Kernel> = kernels.iter().collect();
    kernels.sort_by_key(|kernel| kernel.variant);
    for kernel in kernels {
        // A set: the size determines how often a dispatch is repeated, but not what it runs.
        let mut parts = BTreeSet::new();
        for dispatch in &kernel.dispatches {
            parts.insert(format!("{} {} {:?}", dispatch.shader, dispatch.entry, dispatch.consts));
            parts.insert(digest(dispatch.shader)?);
            for (name, operand) in &dispatch.bindings {
                if let Operand::Constant(constant) = operand {
                    parts.insert(format!("{name} {:?} {}", constant.storage, constant.bytes));
                }
            }
        }
        hash.update(format!("{}\n{}\n", kernel.variant, parts.len()));
        parts.iter().for_each(|part| hash.update(format!("{}\n{part}\n", part.len())));
    }
    Ok(hex(&hash.finalize()[..16]))
}

/// Hash of a shader file, cached per generation of its text, because it is requested for every node.
fn digest(shader: &'static str) -> Result<String> {
    static DIGESTS: LazyLock<Mutex<HashMap<(&'static str, u64), String>>> = LazyLock::new(Mutex::default);
    let key = (shader, generation());
    if let Some(digest) = DIGESTS.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(digest.clone());
    }
    let digest = hex(&Sha256::digest(source(shader)?.as_bytes())[..16]);
    DIGESTS.lock().unwrap_or_else(PoisonError::into_inner).insert(key, digest.clone());
    Ok(digest)
}

/// Result of looking up a use in the choices.
#[derive(Debug)]
pub(super) enum Verdict {
    /// There is no choice.
    Unknown,
    /// The chosen kernel.
    Chosen(Kernel),
    /// There is a choice, but it was made among other kernels.
    Outdated,
}

/// Looks up a use.
pub(super) fn look_up(
    choices: &Choices,
    op: &dyn Op,
    signature: &Signature,
    device: &Profile,
) -> Result<Verdict> {
    if device.family != Family::Auto || device.cpu {
        return Ok(Verdict::Unknown);
    }
    let Some(choice) = choices.get(&KernelUse::of(op, signature, device)?) else {
        return Ok(Verdict::Unknown);
    };
    let kernels = candidates(op, signature, device)?;
    if content(&kernels)? != choice.content {
        return Ok(Verdict::Outdated);
    }
    let chosen = kernels.into_iter().find(|kernel| kernel.variant == choice.variant);
    Ok(chosen.map_or(Verdict::Outdated, Verdict::Chosen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Conv, Filter, Pool, PoolKind};

    fn device() -> Profile {
        // WebGPU's default limits.
        Profile { software: true, lanes: Some(8), ..Profile::minimal() }
    }

    fn pool(channels: usize, height: usize, width: usize) -> (Pool, Signature) {
        let pool = Pool::halve(PoolKind::Max);
        let signature = Signature::of(&pool, &[Shape::map(channels, height, width)]).unwrap();
        (pool, signature)
    }

    #[test]
    fn use_has_exact_channels_and_a_size_bucket() {
        let of = |channels, height, width| {
            let (pool, signature) = pool(channels, height, width);
            KernelUse::of(&pool, &signature, &device()).unwrap()
        };
        assert_eq!(of(8, 20, 30).channels, [[8, 0], [8, 0]]);
        // 600 pixels, and 150 after the pool.
        assert_eq!(of(8, 20, 30).sizes, [10, 8]);
        assert_eq!(of(8, 20, 30), of(8, 30, 20));
        assert_eq!(of(8, 20, 30), of(8, 24, 36));
        assert_ne!(of(8, 20, 30), of(9, 20, 30));
        assert_ne!(of(8, 20, 30), of(8, 40, 60));
    }

    #[test]
    fn uses_with_different_epilogues_are_distinct() {
        let of = |relu| {
            let filter = Filter {
                id: "f".into(),
                out_channels: 64,
                in_channels: 64,
                kernel: [3, 3],
                weights: std::sync::Arc::new(|| Ok(Vec::new())),
                bias: std::sync::Arc::new(|| Ok(Vec::new())),
            };
            let conv = Conv::same(std::sync::Arc::new(filter), relu);
            let signature = Signature::of(&conv, &[Shape::map(64, 20, 30)]).unwrap();
            KernelUse::of(&conv, &signature, &device()).unwrap()
        };
        assert_ne!(of(true), of(false));
        assert_eq!(of(true), of(true));
        assert!(of(true).form.iter().any(|form| form.contains("RELU=1")), "{:?}", of(true).form);
    }

    #[test]
    fn variants_are_unique_candidates_with_naive_last() {
        let gram = Signature::of(&crate::ops::Gram, &[Shape::map(64, 20, 30)]).unwrap();
        let names = |device: &Profile| -> Vec<&str> {
            let kernels = candidates(&crate::ops::Gram, &gram, device).unwrap();
            kernels.iter().map(|kernel| kernel.variant).collect()
        };
        assert_eq!(names(&device()), ["texture", "buffer", "naive"]);
        assert_eq!(names(&Profile { software: false, ..device() }), ["buffer", "texture", "naive"]);
        // With a forced family, the other families are excluded.
        assert_eq!(names(&Profile { family: Family::Texture, ..device() }), ["texture", "naive"]);
        assert_eq!(names(&Profile { family: Family::Naive, ..device() }), ["naive"]);
    }

    #[test]
    fn content_depends_on_kernels_but_not_on_size() {
        let of = |height: usize, change: fn(&mut Vec<Kernel>)| {
            let (pool, signature) = pool(8, height, 30);
            let mut kernels = candidates(&pool, &signature, &device()).unwrap();
            change(&mut kernels);
            content(&kernels).unwrap()
        };
        let same = of(20, |_| {});
        assert_eq!(same, of(400, |_| {}));
        let changes: [fn(&mut Vec<Kernel>); 4] = [
            |kernels| drop(kernels.pop()),
            |kernels| kernels[0].variant = "another",
            |kernels| kernels[0].dispatches[0].entry = "another",
            |kernels| kernels[0].dispatches[0].consts.push(("ANOTHER", 1)),
        ];
        for change in changes {
            assert_ne!(same, of(20, change));
        }
        assert!(
            content(&[Kernel::of("x", vec![crate::ops::Dispatch::new("no such file", "main")])]).is_err()
        );
    }

    #[test]
    fn choice_applies_only_to_the_same_kernels() {
        let (pool, signature) = pool(8, 20, 30);
        let kernels = candidates(&pool, &signature, &device()).unwrap();
        assert_eq!(kernels.len(), 2);
        let right = Choice { variant: "naive".into(), content: content(&kernels).unwrap() };
        let with = |choice: &Choice, device: &Profile| {
            let choices =
                Choices::from([(KernelUse::of(&pool, &signature, device).unwrap(), choice.clone())]);
            look_up(&choices, &pool, &signature, device).unwrap()
        };
        assert!(matches!(with(&right, &device()), Verdict::Chosen(kernel) if kernel.variant == "naive"));
        let stale = Choice { content: "of other shaders".into(), ..right.clone() };
        assert!(matches!(with(&stale, &device()), Verdict::Outdated));
        let gone = Choice { variant: "gone".into(), ..right.clone() };
        assert!(matches!(with(&gone, &device()), Verdict::Outdated));
        let forced = Profile { family: Family::Buffer, ..device() };
        assert!(matches!(with(&right, &forced), Verdict::Unknown));
        assert!(matches!(look_up(&Choices::new(), &pool, &signature, &device()), Ok(Verdict::Unknown)));
    }
}
