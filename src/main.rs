//! The `mirage` program: a thin client of the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: neural_mirage::cli::Allocator = neural_mirage::cli::Allocator;

fn main() -> ExitCode {
    neural_mirage::cli::main()
}
