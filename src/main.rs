//! The `mirage` program: a thin client of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    neural_mirage::cli::main()
}
