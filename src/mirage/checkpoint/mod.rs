//! Checkpoints: a run's [`State`] in one safetensors file, with metadata that identifies the run.
//!
//! | tensor | shape | contents |
//! | --- | --- | --- |
//! | `tensor:NAME` | length | each tensor of [`State::tensors`] |
//! | `weights` | groups, 3 | weight, gradient norm and reference of each of `state:groups`; NaN for a missing value |
//! | `shares` | shares | the share of each of `state:shares` |
//! | `last_look` | length | the picture that the change is measured from, if it may end the run |
//! | `best` | length | the picture with the least loss so far, if it is an earlier one: red, green and blue of each pixel |
//!
//! Counters and names are metadata texts (`state:...`). All values are little-endian f32, so a checkpoint can be used
//! on another machine.
//!
//! `state:sha256` is the SHA-256 of the whole file, computed with 64 zeros in its own place, so a single flipped bit
//! anywhere is detected.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::CheckpointFile;

use super::run::state::State;
use crate::error::Result;
use crate::files::{LENGTH_BYTES, Overwrite};
use std::collections::HashMap;
use std::path::Path;

/// Value of the metadata text `format`.
const FORMAT: &str = "neural-mirage checkpoint 3";
/// Text that precedes the hash in the file.
const HASH_KEY: &str = "\"state:sha256\":\"";
/// Placeholder for the hash while it is computed.
const NO_HASH: [u8; 64] = [b'0'; 64];
/// Prefix of the names of the state's tensors.
const TENSOR: &str = "tensor:";
/// Name of the picture that the change is measured from.
const LAST_LOOK: &str = "last_look";
/// Name of the picture with the least loss.
const BEST: &str = "best";
/// Name of the weights: three numbers for each group.
const WEIGHTS: &str = "weights";
/// Name of the shares: one number for each group that has a share.
const SHARES: &str = "shares";
/// Number of values that are hashed, written or read at once.
const PIECE: usize = 1 << 16;

/// A run between two iterations, as stored on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// State of the run.
    pub state: State,
    /// Metadata that the program stores with the state, such as the run's options. The key `format` and keys that start
    /// with `state:` are reserved.
    pub texts: HashMap<String, String>,
}

impl Checkpoint {
    /// Writes the file atomically, and replaces an existing one.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the system refuses; [`Error::File`](crate::Error::File) if no file can be
    /// created there.
    pub fn save(&self, path: &Path) -> Result<()> {
        Self::save_state(&self.state, &self.texts, path, Overwrite::Always).map(drop)
    }

    /// Same as [`Checkpoint::save`] for a borrowed state and texts, without copying the values. An existing file is
    /// replaced only as `overwrite` says. Returns what may be replaced the next time: the version written now.
    ///
    /// # Errors
    /// Same as [`Checkpoint::save`]; [`Error::File`](crate::Error::File) if the file exists and may not be replaced.
    pub fn save_state(
        state: &State,
        texts: &HashMap<String, String>,
        path: &Path,
        overwrite: Overwrite,
    ) -> Result<Overwrite> {
        write::save(state, texts, path, overwrite)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Same as [`CheckpointFile::open`].
    pub fn load(path: &Path) -> Result<Self> {
        let (file, tensors) = CheckpointFile::open_with(path, |_| true)?;
        Ok(Self { state: file.state_of(tensors), texts: file.texts })
    }
}

/// Returns the offset of the hash in a file, or in its length and header; `None` unless its key occurs exactly once.
fn hash_at(file: &[u8]) -> Option<usize> {
    let header = usize::try_from(u64::from_le_bytes(*file.first_chunk()?)).ok()?;
    let header = file.get(LENGTH_BYTES..LENGTH_BYTES.checked_add(header)?)?;
    let mut found =
        header.windows(HASH_KEY.len()).enumerate().filter(|(_, text)| *text == HASH_KEY.as_bytes());
    let (at, _) = found.next()?;
    let start = LENGTH_BYTES + at + HASH_KEY.len();
    (found.next().is_none() && start + NO_HASH.len() <= LENGTH_BYTES + header.len()).then_some(start)
}
