//! Records: the options and measurements of a run that pictures and checkpoints carry. They are read as untrusted data.

pub(in crate::cli) mod metadata;
pub(in crate::cli) mod option_words;
pub(in crate::cli) mod options;
pub(in crate::cli) mod resolved_options;
pub(in crate::cli) mod trusted;
