//! The `mirage` program: a thin client of the library.
fn main() {}
