//! The WGSL files, embedded.

use crate::error::{Error, Result};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        /// Every shader file: its name without the ending, and its text.
        pub const SOURCES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*];
    };
}

sources![
    "adam",
    "adaptive_pool",
    "add",
    "conv",
    "conv_blocks",
    "conv_tiles",
    "finish",
    "flatten",
    "gram",
    "gram_blocks",
    "gram_sum",
    "gram_tiles",
    "linear",
    "mse",
    "peaks",
    "picture",
    "pool",
    "reduce",
    "relu",
    "resize",
    "softmax",
    "sum",
    "total_variation",
    "weighted_sum",
    "winograd",
    "winograd_blocks",
    "winograd_tiles",
];

/// The text of one shader file.
///
/// # Errors
/// [`Error::Gpu`] if there is no file of that name, which is a fault of the caller.
pub fn source(name: &str) -> Result<&'static str> {
    SOURCES.iter().find(|(candidate, _)| *candidate == name).map(|(_, text)| *text).ok_or_else(|| {
        Error::Gpu { what: format!("shader {name}"), message: "no such file under shaders/".to_owned() }
    })
}
