//! Checkpoints: the state of a run with its options, and the hashes of the files that it reads.

use super::files::inputs::{Inputs, hash};
use super::output::escape::{one_line, path_of_text};
use super::record::metadata::{NETWORK, RunMetadata, VERSION};
use super::record::options;
use super::record::resolved_options::RecordedOptions;
use crate::error::{Error, Result};
use crate::files::Overwrite;
use crate::mirage::{Checkpoint, CheckpointFile, State};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const OPTIONS: &str = "options";
const INPUTS: &str = "inputs";
/// Remedy for a file that can't be read.
const RESTORE: &str = "Restore it, or give it on the command line";
const ADAPTER: &str = "adapter";
const RUN: &str = "run";

/// Entries that are the same in all checkpoints of a run: its options, and the SHA-256 of each file that it reads.
#[derive(Debug)]
pub(super) struct RunTexts(HashMap<String, String>);

impl RunTexts {
    /// Creates the entries of a run with these options that has read `inputs`.
    ///
    /// # Errors
    /// [`Error::Io`] if the current folder no longer exists.
    pub(super) fn new(options: &RecordedOptions, inputs: &Inputs) -> Result<Self> {
        let texts = [
            (OPTIONS, Value::Object(options.absolute()?).to_string()),
            (INPUTS, Value::Object(inputs.by_path()?).to_string()),
            ("version", VERSION.to_owned()),
        ];
        Ok(Self(texts.map(|(key, text)| (key.to_owned(), text)).into()))
    }
}

/// Saves a checkpoint. Returns what may be replaced the next time.
///
/// # Errors
/// [`Error::Io`] if writing fails, [`Error::File`] if an existing file may not be replaced. The previous checkpoint
/// then remains.
pub(super) fn save(
    path: &Path,
    overwrite: Overwrite,
    state: &State,
    texts: &RunTexts,
    metadata: &RunMetadata,
) -> Result<Overwrite> {
    let mut texts = texts.0.clone();
    texts.insert(NETWORK.to_owned(), metadata.network_sha256.clone());
    texts.insert(ADAPTER.to_owned(), metadata.device.clone());
    texts.insert(RUN.to_owned(), metadata.run.clone());
    Checkpoint::save_state(state, &texts, path, overwrite)
}

/// Returns the identifier of the run that saved this checkpoint, empty if it has none; `None` if the file isn't a
/// checkpoint. Only its header is read.
pub(super) fn run_of(path: &Path) -> Option<String> {
    CheckpointFile::texts_of(path).ok().map(|mut texts| texts.remove(RUN).unwrap_or_default())
}

/// True if this checkpoint is as it was saved.
pub(super) fn is_unchanged(path: &Path) -> bool {
    CheckpointFile::open(path).is_ok()
}

/// A checkpoint that was opened and checked.
#[derive(Debug)]
pub(super) struct SavedCheckpoint {
    path: PathBuf,
    pub file: CheckpointFile,
    /// Recorded options of the run. They are untrusted: see [`accept`](super::record::trusted).
    pub options: Map<String, Value>,
    /// SHA-256 of the network's file.
    pub network: String,
    /// Adapter, backend and driver.
    pub adapter: String,
    /// Identifier of the run.
    pub run: String,
    /// SHA-256 of each file that the run read, by its path.
    inputs: Map<String, Value>,
}

impl SavedCheckpoint {
    /// Opens a checkpoint.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read, is not a checkpoint, or is damaged.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = CheckpointFile::open(path)?;
        let text = |name: &str| file.texts().get(name).cloned().unwrap_or_default();
        let object = |name: &str| {
            serde_json::from_str(&text(name)).map_err(|error| {
                let problem = format!("the checkpoint is damaged: {name}: {error}");
                Error::file(path, problem, "Start a new run with `mirage render`")
            })
        };
        let (options, inputs) = (object(OPTIONS)?, object(INPUTS)?);
        let (network, adapter, run) = (text(NETWORK), text(ADAPTER), text(RUN));
        Ok(Self { path: path.to_owned(), file, options, inputs, network, adapter, run })
    }

    /// True if the run read the same files with the same content.
    pub(super) fn has_inputs(&self, inputs: &Inputs) -> Result<bool> {
        Ok(self.inputs == inputs.by_path()?)
    }

    /// Checks that the files named by the record are unchanged, and that a photo in another place is the same one. A
    /// forged record can therefore make the program read only files whose content its author already knew.
    ///
    /// # Errors
    /// [`Error::File`] naming the file that has changed, is missing, or has no SHA-256 in the checkpoint.
    pub(super) fn check_inputs(&self, accepted: &Map<String, Value>, photo: Option<&Path>) -> Result<()> {
        let recorded = |file: &str| {
            let sha256 = self.inputs.get(file).and_then(Value::as_str);
            sha256.ok_or_else(|| {
                let problem = format!("it has no SHA-256 of {}", one_line(file));
                Error::file(&self.path, problem, "Start a new run with `mirage render`")
            })
        };
        for (name, value) in accepted {
            // The network's hash is checked separately.
            let form = options::row(name).and_then(options::Row::form).filter(|_| name != "weights");
            for file in form.map(|form| form.files(value)).unwrap_or_default() {
                let path = path_of_text(file);
                let before = recorded(file)?;
                if hash(&path, RESTORE)? != before {
                    return Err(Error::file(
                        &path,
                        "this file has changed since the run was interrupted",
                        "Restore the old file, or start a new run with --init and the last picture",
                    ));
                }
            }
        }
        let before = self.options.get("photo").and_then(Value::as_str).unwrap_or_default();
        match photo {
            Some(photo) if recorded(before)? != hash(photo, RESTORE)? => Err(Error::file(
                photo,
                "this is not the photo that the run was made with",
                "Give that photo, or start a new run with this one and --init with the last picture",
            )),
            _ => Ok(()),
        }
    }
}
