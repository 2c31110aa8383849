//! The standard streams: output for results, error for everything else. Control characters are escaped here.

use super::escape::{escaped, one_line};
use crate::error::{Error, Result};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

const NAME: &str = "standard output";

/// Writes a text and a line break to standard output.
pub(in crate::cli) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", escaped(text))
        .and_then(|()| out.flush())
        .map_err(Error::io(Path::new(NAME), "writing"))
}

/// Writes a line to standard error, if that is open.
pub(in crate::cli) fn eprint(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", escaped(text));
}

/// Writes a note for the user to standard error.
pub(in crate::cli) fn note(text: &str) {
    eprint(&format!("note: {}", one_line(text)));
}

/// True if the error means that standard output was closed.
pub(in crate::cli) fn is_closed(error: &Error) -> bool {
    matches!(error, Error::Io { path, source, .. }
        if path == Path::new(NAME) && source.kind() == ErrorKind::BrokenPipe)
}
