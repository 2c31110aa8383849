//! Prepared programs: their sections and read-backs.

mod common;
#[path = "graph/readbacks.rs"]
mod readbacks;
