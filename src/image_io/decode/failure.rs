//! The errors of the decoders, as text for the user. The file name is added by [`Failure::error`].

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

use super::super::structure::CutShort;
use crate::Error;

pub(super) const REPLACE: &str = "Get a complete copy of the file";
const RESAVE: &str = "Save it as an 8 or 16 bit RGB PNG, or as a JPEG, and try again";
const SMALLER: &str = "Scale the picture down first";

/// Why a picture can't be read.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file is truncated.
    CutShort,
    /// The file is damaged, with the decoder's message.
    Damaged(String),
    /// The kind of picture isn't supported.
    Unsupported(String),
    /// Not enough memory, or decoding would exceed the limit.
    Memory(String),
    /// Anything else: problem and remedy.
    Refused(String, &'static str),
}

impl Failure {
    pub(super) fn damaged(error: &impl Display) -> Self {
        // One short line.
        let text: String =
            error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
        Self::Damaged(text.trim().trim_end_matches('.').to_owned())
    }

    pub(super) fn of_io(error: &std::io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::CutShort } else { Self::damaged(error) }
    }

    pub(super) fn limits() -> Self {
        Self::Memory("decoding it needs more memory than is allowed".to_owned())
    }

    /// Converts to an error for the file; `format` is the format's name.
    pub(super) fn error(self, path: &Path, format: &str) -> Error {
        let (problem, remedy) = match self {
            Self::CutShort => (format!("the {format} is cut short: its end is missing"), REPLACE),
            Self::Damaged(detail) => (format!("the {format} is damaged ({detail})"), REPLACE),
            Self::Unsupported(kind) => (format!("this kind of {format} isn't read ({kind})"), RESAVE),
            Self::Memory(reason) => (reason, SMALLER),
            Self::Refused(problem, remedy) => (problem, remedy),
        };
        Error::file(path, problem, remedy)
    }
}

impl From<CutShort> for Failure {
    fn from(_: CutShort) -> Self {
        Self::CutShort
    }
}

/// From the errors of [`Rows`](super::super::rows::Rows).
impl From<&'static str> for Failure {
    fn from(problem: &'static str) -> Self {
        Self::Refused(problem.to_owned(), "Export the picture again from the program that made it")
    }
}
