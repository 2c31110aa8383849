//! Records: the options of a run and the measurements that pictures and checkpoints carry, written and read as untrusted data.

pub(in crate::cli) mod metadata;
pub(in crate::cli) mod option_words;
pub(in crate::cli) mod options;
pub(in crate::cli) mod resolved_options;
pub(in crate::cli) mod trusted;
