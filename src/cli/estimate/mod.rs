//! Memory and time of a run: estimated, checked against the free memory, and fitted to a limit.

pub(in crate::cli) mod auto_size;
pub(in crate::cli) mod forecast;
pub(in crate::cli) mod free_memory;
pub(in crate::cli) mod largest_size;
