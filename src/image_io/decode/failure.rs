//! Why a picture can't be read, in words for people; the file is named later.

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
    /// The file ends before its picture does.
    CutShort,
    /// What is wrong, in the decoder's words.
    Damaged(String),
    /// What kind of picture it is.
    Unsupported(String),
    /// There is not enough memory, or more would be taken than is allowed.
    Memory(String),
    /// Anything else: the problem and its remedy.
    Refused(String, &'static str),
}

impl Failure {
    pub(super) fn damaged(error: &impl Display) -> Self {
        // On one line, short.
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

    /// The error for a file of the format with this name.
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

/// A row of values that can't be used.
impl From<&'static str> for Failure {
    fn from(problem: &'static str) -> Self {
        Self::Refused(problem.to_owned(), "Export the picture again from the program that made it")
    }
}
