//! The commands of the program, a file or folder each.

pub(in crate::cli) mod classify;
pub(in crate::cli) mod devices;
pub(in crate::cli) mod install;
pub(in crate::cli) mod kernels;
pub(in crate::cli) mod plan;
pub(in crate::cli) mod render;
pub(in crate::cli) mod report;
pub(in crate::cli) mod resume;
pub(in crate::cli) mod show;
pub(in crate::cli) mod sweep;
pub(in crate::cli) mod tune;
pub(in crate::cli) mod weights;
