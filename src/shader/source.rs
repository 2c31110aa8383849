//! The WGSL files, embedded.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, PoisonError, RwLock};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        /// Every shader file: its name without the ending, and its text.
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

/// The text of one shader file: the embedded one, or what a [`super::Folder`] put in its place.
///
/// # Errors
/// [`Error::Shader`] if there is no file of that name, which is a fault of the caller.
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

/// Texts that replace embedded ones, and the files that they are from.
#[derive(Default)]
struct Replaced {
    texts: HashMap<&'static str, (String, PathBuf)>,
    generation: u64,
}

/// Of the whole process, as the embedded files are: a shader that is worked on is used everywhere.
static REPLACED: LazyLock<RwLock<Replaced>> = LazyLock::new(RwLock::default);

/// Puts a file's text in the place of an embedded one; what was made from that is forgotten by the caller.
pub(super) fn replace(name: &'static str, text: String, file: &Path) {
    let mut replaced = REPLACED.write().unwrap_or_else(PoisonError::into_inner);
    replaced.texts.insert(name, (text, file.to_owned()));
    replaced.generation += 1;
}

/// The files whose texts replace embedded ones.
pub fn files() -> Vec<PathBuf> {
    let replaced = REPLACED.read().unwrap_or_else(PoisonError::into_inner);
    replaced.texts.values().map(|(_, file)| file.clone()).collect()
}

/// How many times a text was replaced so far: what was derived from texts is stale once this has changed.
pub fn generation() -> u64 {
    REPLACED.read().unwrap_or_else(PoisonError::into_inner).generation
}
