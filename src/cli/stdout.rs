//! Standard output for results, with a closed pipe as an ordinary end, and standard error for everything else. What
//! is written to either is escaped here.

use super::text::escaped;
use crate::error::{Error, Result};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

const NAME: &str = "standard output";

/// Writes one text with a line break after it.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", escaped(text))
        .and_then(|()| out.flush())
        .map_err(Error::io(Path::new(NAME), "writing"))
}

/// Writes a line to standard error. If that is closed, there is nobody to say so to.
pub(super) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", escaped(text));
}

/// True if the error says that nobody reads standard output any more.
pub(super) fn is_closed(error: &Error) -> bool {
    matches!(error, Error::Io { path, source, .. }
        if path == Path::new(NAME) && source.kind() == ErrorKind::BrokenPipe)
}
