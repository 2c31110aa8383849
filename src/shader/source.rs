//! The embedded WGSL files.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, PoisonError, RwLock};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        /// Every shader file: its name without extension, and its text.
        pub const SOURCES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*];
    };
}

sources![
    "accumulate",
    "adam",
    "adaptive_pool",
    "add",
    "average",
    "border",
    "channel_moments",
    "conv",
    "conv_blocks",
    "conv_edges",
    "conv_tiles",
    "coop_gram",
    "coop_products",
    "count_non_finite",
    "covariance",
    "crop",
    "cross_entropy",
    "deviation",
    "epilogue",
    "flatten",
    "gram",
    "gram_blocks",
    "gram_sum",
    "gram_tiles",
    "half_map",
    "half_rows",
    "half_scale",
    "interleave",
    "lbfgs_judge",
    "lbfgs_move",
    "lbfgs_products",
    "lbfgs_recursion",
    "lbfgs_store",
    "linear",
    "linear_combination",
    "linear_tiles",
    "matmul",
    "matmul_blocks",
    "matmul_tiles",
    "matrix_root",
    "mse",
    "multiply",
    "peaks",
    "pool",
    "pool_indices",
    "preprocess",
    "projected_gradient",
    "reduce",
    "relu",
    "resize",
    "scale_by",
    "softmax",
    "sum",
    "total_variation",
    "weighted_sum",
    "winograd_blocks",
    "winograd_filter",
    "winograd_input",
    "winograd_output",
    "winograd_tiles",
];

/// Returns the text of one shader file: the embedded one, or the one that a [`super::Folder`] replaced it by.
///
/// # Errors
/// [`Error::Shader`] if there is no file with this name, which is a bug in the caller.
pub fn source(name: &str) -> Result<Cow<'static, str>> {
    let replaced = REPLACED.read().unwrap_or_else(PoisonError::into_inner);
    if let Some((text, _)) = replaced.texts.get(name) {
        return Ok(Cow::Owned(text.clone()));
    }
    SOURCES
        .iter()
        .find(|(candidate, _)| *candidate == name)
        .map(|(_, text)| Cow::Borrowed(*text))
        .ok_or_else(|| Error::shader(name, "no such file under shaders/"))
}

/// Texts that replace embedded ones, and their files.
#[derive(Default)]
struct Replaced {
    texts: HashMap<&'static str, (String, PathBuf)>,
    generation: u64,
}

/// Replacements for the whole process, like the embedded files: an edited shader is used everywhere.
static REPLACED: LazyLock<RwLock<Replaced>> = LazyLock::new(RwLock::default);

/// Replaces an embedded text by a file's. The caller has to discard everything derived from the old text.
pub(super) fn replace(name: &'static str, text: String, file: &Path) {
    let mut replaced = REPLACED.write().unwrap_or_else(PoisonError::into_inner);
    replaced.texts.insert(name, (text, file.to_owned()));
    replaced.generation += 1;
}

/// Returns the files whose texts replace embedded ones.
pub fn files() -> Vec<PathBuf> {
    let replaced = REPLACED.read().unwrap_or_else(PoisonError::into_inner);
    replaced.texts.values().map(|(_, file)| file.clone()).collect()
}

/// Number of replacements so far. Anything derived from a text is stale once this has changed.
pub fn generation() -> u64 {
    REPLACED.read().unwrap_or_else(PoisonError::into_inner).generation
}
