//! Checkpoints of a run: where they lie, and what they say of it besides its numbers.

use super::record::{Facts, Options, VERSION};
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::mirage::{Checkpoint, State};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const OPTIONS: &str = "options";
const INPUTS: &str = "inputs";
const NETWORK: &str = "network-sha256";
const ADAPTER: &str = "adapter";

/// Saves the checkpoints of a run.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// The file, always the same: the newest replaces the one before.
    pub path: PathBuf,
    texts: HashMap<String, String>,
}

impl Checkpoints {
    /// For a run with these options, which reads `inputs`.
    ///
    /// # Errors
    /// If an input can't be read any more.
    pub(super) fn new(path: PathBuf, options: &Options, inputs: &[PathBuf]) -> Result<Self> {
        let mut hashes = Map::new();
        for input in inputs {
            let whole = std::path::absolute(input).map_err(Error::io(input, "finding the file"))?;
            hashes.insert(whole.to_string_lossy().into_owned(), Value::String(hash(input)?));
        }
        let texts = [
            (OPTIONS, Value::Object(options.absolute()?).to_string()),
            (INPUTS, Value::Object(hashes).to_string()),
            ("version", VERSION.to_owned()),
        ];
        let texts = texts.map(|(key, text)| (key.to_owned(), text)).into();
        Ok(Self { path, texts })
    }

    /// Replaces the checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; the one before is then still there.
    pub(super) fn save(&self, state: &State, facts: &Facts) -> Result<()> {
        let mut texts = self.texts.clone();
        texts.insert(NETWORK.to_owned(), facts.sha256.clone());
        texts.insert(ADAPTER.to_owned(), facts.device.clone());
        Checkpoint { state: state.clone(), texts }.save(&self.path)
    }
}

/// A checkpoint that was read.
#[derive(Debug)]
pub(super) struct Saved {
    pub state: State,
    /// Options of the run, resolved, with absolute paths.
    pub options: Map<String, Value>,
    /// SHA-256 of the network's file.
    pub network: String,
    /// Adapter, backend and driver.
    pub adapter: String,
    inputs: Map<String, Value>,
}

impl Saved {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read, is none, or is damaged.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let Checkpoint { state, mut texts } = Checkpoint::load(path)?;
        let mut text = |name: &str| texts.remove(name).unwrap_or_default();
        let mut object = |name: &str| {
            serde_json::from_str(&text(name)).map_err(|error| {
                let problem = format!("the checkpoint is damaged: {name}: {error}");
                Error::file(path, problem, "Start the run anew with `mirage render`")
            })
        };
        let (options, inputs) = (object(OPTIONS)?, object(INPUTS)?);
        Ok(Self { state, options, inputs, network: text(NETWORK), adapter: text(ADAPTER) })
    }

    /// Makes sure that what the run reads is what it read before; files that it did not read may be anything.
    ///
    /// # Errors
    /// [`Error::File`] naming the file that has changed or is gone.
    pub(super) fn check_inputs(&self, inputs: &[PathBuf]) -> Result<()> {
        for input in inputs {
            let whole = std::path::absolute(input).map_err(Error::io(input, "finding the file"))?;
            let before = self.inputs.get(&*whole.to_string_lossy()).and_then(Value::as_str);
            if before.is_some_and(|before| hash(input).is_ok_and(|now| now != before)) {
                return Err(Error::file(
                    input,
                    "this picture has changed since the run was interrupted",
                    "Put the old one back, or start a new run with --init and the last picture",
                ));
            }
        }
        Ok(())
    }
}

fn hash(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    Ok(hex(&Sha256::digest(&bytes)))
}
