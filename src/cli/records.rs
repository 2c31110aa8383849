//! Reads the records of pictures and checkpoints as `mirage show`, `mirage sweep --continue` and `mirage resume` do,
//! before they open any other file. For tests with untrusted files.

use super::checkpoint::SavedCheckpoint;
use super::commands::show;
use super::record::metadata::PictureMetadata;
use super::record::option_words;
use super::record::trusted::{self, RecordKind};
use crate::error::Result;
use serde_json::{Map, Value};
use std::path::Path;

/// Reads the record of a picture, and returns the output of `mirage show` for it: text and JSON.
///
/// # Errors
/// [`Error::File`](crate::Error::File) or [`Error::Usage`](crate::Error::Usage) if the picture has no record, or one
/// that can't be used.
pub fn read_picture(path: &Path) -> Result<[String; 2]> {
    let printed = show::printed(path)?;
    if let Some(metadata) = PictureMetadata::read(path)? {
        take(path, RecordKind::Picture, &metadata.options)?;
    }
    Ok(printed)
}

/// Reads a checkpoint and the record in it.
///
/// # Errors
/// See [`read_picture`].
pub fn read_checkpoint(path: &Path) -> Result<()> {
    take(path, RecordKind::Checkpoint, &SavedCheckpoint::open(path)?.options)
}

fn take(path: &Path, kind: RecordKind, options: &Map<String, Value>) -> Result<()> {
    let accepted = trusted::accept(path, kind, options, &[])?;
    option_words::parse(&option_words::recorded(&accepted.options)).map(drop)
}
