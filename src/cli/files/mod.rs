//! The files of a run: read, named, checked beforehand, written, and saved elsewhere if that fails.

pub(in crate::cli) mod disk;
pub(in crate::cli) mod inputs;
pub(in crate::cli) mod output_checks;
pub(in crate::cli) mod rescue;
pub(in crate::cli) mod run_files;
