//! Reads a checkpoint: checks the whole file first, then reads the tensors that the run needs.

use super::{BEST, FORMAT, LAST_LOOK, NO_HASH, PIECE, SHARES, TENSOR, WEIGHTS, hash_at};
use crate::allocation::with_capacity;
use crate::error::{Error, Result};
use crate::files::{LENGTH_BYTES, LONGEST_HEADER, open_ordinary};
use crate::hex::hex;
use crate::image_io::Picture;
use crate::mirage::loss::Shares;
use crate::mirage::objective::kept_picture::KeptPicture;
use crate::mirage::objective::step::StateTensors;
use crate::mirage::optimizer::Optimizer;
use crate::mirage::request::Request;
use crate::mirage::run::reporting::CHANGE_SAMPLES;
use crate::mirage::run::state::{EarlierScale, LossHistory, State};
use crate::mirage::scales::Scale;
use crate::mirage::setback::LossTrend;
use crate::mirage::weighting::{GroupWeight, Weights};
use crate::ops::Shape;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Remedy for a file that is not a valid checkpoint.
const REMEDY: &str = "Give a file that `mirage render` saved after Ctrl-C or with --checkpoint-every";
/// Largest number of groups. Some work takes the square of it.
const MOST_GROUPS: usize = 1000;
/// Largest number of pictures in a state: the longest history of L-BFGS has 256, twice the rows of
/// [`Ring`](crate::ops::Ring).
const MOST_PICTURES: usize = 300;

/// A checkpoint that was checked, with its large tensors still on disk. The file stays open, so a run that replaces it
/// with its next checkpoint doesn't change what is read.
#[derive(Debug)]
pub struct CheckpointFile {
    file: Opened,
    /// Metadata that the program stored with the state, such as the run's options.
    pub(super) texts: HashMap<String, String>,
    /// The state without its tensors, its last look and its best picture.
    state: State,
    /// Iteration of the last look, if any.
    looked_at: Option<u32>,
    /// Iteration and loss of the best picture, if any.
    best: Option<(u32, f64)>,
}

impl CheckpointFile {
    /// Reads and checks the file in pieces. It takes little more memory than the file's header.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read, is not a checkpoint, or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::open_with(path, |_| false)?.0)
    }

    /// Reads the texts that the program stored, without checking the rest of the file.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read or is not a checkpoint.
    pub fn texts_of(path: &Path) -> Result<HashMap<String, String>> {
        Opened::new(path)?.texts()
    }

    /// Opens the file, and returns the tensors for which `is_needed` is true.
    pub(super) fn open_with(path: &Path, is_needed: impl Fn(&str) -> bool) -> Result<(Self, Tensors)> {
        let damaged = |problem: &str| damaged(path, problem);
        let file = Opened::new(path)?;
        let mut texts = file.texts()?;
        let mut text = |name: &str| {
            texts.remove(&format!("state:{name}")).ok_or_else(|| damaged(&format!("{name} is missing")))
        };
        let size = size(&text("size")?).ok_or_else(|| damaged("size"))?;
        let (shares, groups) = (list(&text("shares")?), list(&text("groups")?));
        if shares.len().max(groups.len()) > MOST_GROUPS {
            return Err(damaged(&format!("it has more than {MOST_GROUPS} groups")));
        }
        let look = text("last_look")?;
        // Files of earlier versions lack them.
        let earlier_scales = match text("earlier_scales") {
            Ok(scales) => Some(earlier_scales(&scales).ok_or_else(|| damaged("earlier_scales"))?),
            Err(_) => None,
        };
        let state = State {
            iteration: text("iteration")?.parse().map_err(|_| damaged("iteration"))?,
            seconds: text("seconds")?.parse().map_err(|_| damaged("seconds"))?,
            scale: text("scale")?.parse().map_err(|_| damaged("scale"))?,
            size,
            earlier_scales,
            tensors: Vec::new(),
            shares: Shares::default(),
            weights: Weights::default(),
            weights_measured: text("weights_measured")? == "true",
            // The first files of this version lack them.
            shares_changed: text("shares_changed").is_ok_and(|text| text == "true"),
            halvings: text("halvings").map_or(Ok(0), |text| text.parse()).map_err(|_| damaged("halvings"))?,
            last_look: None,
            has_moved: text("has_moved").map_or(true, |text| text == "true"),
            losses: match (text("loss"), text("trend")) {
                (Ok(loss), Ok(trend)) => Some(LossHistory {
                    loss: finite(&loss).ok_or_else(|| damaged("loss"))?,
                    trend: LossTrend::from_text(&trend).ok_or_else(|| damaged("trend"))?,
                    best: None,
                }),
                _ => None,
            },
        };
        state.check_time().map_err(|error| damaged(&error.to_string()))?;
        let looked_at = match file.tensors.info(LAST_LOOK) {
            Some(_) => Some(look.parse().map_err(|_| damaged("last_look"))?),
            None => None,
        };
        let best = match (file.tensors.info(BEST), text("best")) {
            (Some(_), Ok(best)) if state.losses.is_some() => {
                let parts = best.split_once(' ');
                let parts = parts.and_then(|(at, loss)| Some((at.parse().ok()?, finite(loss)?)));
                let known = parts.filter(|(at, _)| *at <= state.iteration);
                Some(known.ok_or_else(|| damaged(BEST))?)
            }
            _ => None,
        };
        file.check_lengths(size).map_err(|problem| damaged(&problem))?;
        let small = [(SHARES, shares.len()), (WEIGHTS, 3 * groups.len())];
        for (name, count) in small {
            let found = file.count(name).ok_or_else(|| damaged(&format!("`{name}` is missing")))?;
            if found != count {
                return Err(damaged(&format!("`{name}` does not have one row for each name")));
            }
        }
        text("sha256")?;
        let is_small = |name: &str| small.iter().any(|(small, _)| *small == name);
        let mut tensors = file.read(|name| is_small(name) || is_needed(name))?;
        let mut values = |name: &str| tensors.remove(name).unwrap_or_default();
        let shares = Shares(shares.into_iter().zip(values(SHARES)).collect());
        let weights = weights(groups, &values(WEIGHTS)).ok_or_else(|| damaged("weights"))?;
        let state = State { shares, weights, ..state };
        Ok((Self { file, texts, state, looked_at, best }, tensors))
    }

    /// Returns the metadata that the program stored with the state, such as the run's options.
    pub fn texts(&self) -> &HashMap<String, String> {
        &self.texts
    }

    /// Returns the number of completed iterations of the whole run.
    pub fn iteration(&self) -> u32 {
        self.state.iteration
    }

    /// Returns the requested shares of the groups in the objective; empty if all weights are fixed.
    pub fn shares(&self) -> &Shares {
        &self.state.shares
    }

    /// Returns the current weights.
    pub fn weights(&self) -> &Weights {
        &self.state.weights
    }

    /// Checks that a run with these scales can continue from the state. Needs no device.
    ///
    /// # Errors
    /// [`Error::Usage`] if the state belongs to another scale or size.
    pub fn check_scales(&self, scales: &[Scale]) -> Result<()> {
        self.state.scale_of(scales).map(drop)
    }

    /// Reads the state for continuing this request. `replaced` is the run's previous optimiser, if the request uses
    /// another one, which then starts without a history ([`State::forget_optimizer`]). Tensors that the run doesn't
    /// need are never held in memory.
    ///
    /// # Errors
    /// [`Error::File`] if the length of a tensor doesn't match the request, or if the file has changed since it was
    /// opened.
    pub fn read(&self, request: &Request, replaced: Option<&dyn Optimizer>) -> Result<State> {
        let [height, width] = self.state.size;
        let picture = Shape::map(3, height, width);
        let kept = StateTensors::list(request, picture).into_iter();
        let kept = kept.filter(|(_, _, optimizer)| optimizer.is_none() || replaced.is_none());
        let mut lengths: HashMap<_, _> = kept.map(|(name, shape, _)| (name, shape.elements())).collect();
        let shown = replaced.and_then(|before| Some(before.tensor(before.shown()?)));
        lengths.extend(shown.map(|name| (name, picture.elements())));
        for (name, length) in &lengths {
            let found = self.file.count(&format!("{TENSOR}{name}"));
            if let Some(found) = found.filter(|found| found != length) {
                let problem = format!("its {name} has {found} values instead of {length}");
                return Err(damaged(&self.file.path, &problem));
            }
        }
        let is_needed = |name: &str| match name.strip_prefix(TENSOR) {
            Some(name) => lengths.contains_key(name),
            None => name == LAST_LOOK || (name == BEST && self.best.is_some()),
        };
        let mut state = self.state_of(self.file.read(is_needed)?);
        if let Some(replaced) = replaced {
            state.forget_optimizer(replaced);
        }
        Ok(state)
    }

    /// Returns the state with its tensors taken from these.
    pub(super) fn state_of(&self, mut tensors: Tensors) -> State {
        let mut state = self.state.clone();
        state.last_look = self.looked_at.zip(tensors.remove(LAST_LOOK));
        if let (Some(losses), Some((at, loss)), Some(rgb)) =
            (&mut state.losses, self.best, tensors.remove(BEST))
        {
            let [height, width] = state.size;
            let picture = KeptPicture::Whole(Arc::new(Picture { width, height, rgb }));
            losses.best = Some((at, loss, picture));
        }
        let of_state = |(name, values): (String, _)| Some((name.strip_prefix(TENSOR)?.to_owned(), values));
        state.tensors = tensors.into_iter().filter_map(of_state).collect();
        // safetensors orders tensors by size and name; a state must not depend on that order.
        state.tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
        state
    }
}

fn wrong(path: &Path, problem: String) -> Error {
    Error::file(path, problem, REMEDY)
}

fn damaged(path: &Path, problem: &str) -> Error {
    wrong(path, format!("the checkpoint is damaged: {problem}"))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    wrong(path, format!("it can't be read: {error}"))
}

/// An open file whose header has been read.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    /// Length of the whole file in bytes.
    length: u64,
    /// Everything before the values: the length of the header, and the header itself.
    header: Vec<u8>,
    /// Parsed header.
    tensors: Metadata,
}

/// Tensors by name.
pub(super) type Tensors = HashMap<String, Vec<f32>>;

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        let (mut file, length) = open_ordinary(path).map_err(|error| unreadable(path, &error))?;
        let too_short = || wrong(path, "it is not a checkpoint: it is too short".to_owned());
        // Files of /proc report no length, and are not read: some have no end, and some block for ever.
        if length < LENGTH_BYTES as u64 {
            return Err(too_short());
        }
        let mut header = vec![0; LENGTH_BYTES];
        file.read_exact(&mut header).map_err(|_| too_short())?;
        let stated = header.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if stated > LONGEST_HEADER || stated > length.saturating_sub(LENGTH_BYTES as u64) {
            return Err(wrong(
                path,
                format!("it is not a checkpoint, or damaged: it claims a header of {stated} bytes"),
            ));
        }
        header.resize(LENGTH_BYTES + stated as usize, 0);
        file.read_exact(&mut header[LENGTH_BYTES..]).map_err(|error| unreadable(path, &error))?;
        let tensors = serde_json::from_slice(&header[LENGTH_BYTES..])
            .map_err(|error| wrong(path, format!("it is not a checkpoint, or damaged ({error})")))?;
        Ok(Self { path: path.to_owned(), file, length, header, tensors })
    }

    /// Returns the metadata texts, without that of the format.
    fn texts(&self) -> Result<HashMap<String, String>> {
        let path = &self.path;
        let mut texts = self.tensors.metadata().clone().unwrap_or_default();
        match texts.remove("format") {
            Some(format) if format == FORMAT => Ok(texts),
            Some(format) if format.starts_with("neural-mirage checkpoint") => Err(Error::file(
                path,
                format!("its format is `{format}`; this program reads `{FORMAT}`"),
                "Use the version of mirage that wrote it",
            )),
            _ => Err(wrong(path, "it is not a checkpoint".to_owned())),
        }
    }

    /// Returns the number of values of a tensor, if it exists.
    fn count(&self, name: &str) -> Option<usize> {
        let (start, end) = self.tensors.info(name)?.data_offsets;
        Some((end - start) / size_of::<f32>())
    }

    /// Checks the lengths of tensors against the picture's size before they are read: a file can claim any length,
    /// including its own.
    fn check_lengths(&self, [height, width]: [usize; 2]) -> std::result::Result<(), String> {
        if let Some(look) = self.count(LAST_LOOK).filter(|count| *count > CHANGE_SAMPLES) {
            return Err(format!("the picture that the change is measured from has {look} values"));
        }
        let picture = height.saturating_mul(width).saturating_mul(3);
        if self.count(&format!("{TENSOR}picture")) != Some(picture) {
            return Err(format!("its picture is not one of {width}x{height} pixels"));
        }
        if self.count(BEST).is_some_and(|count| count != picture) {
            return Err(format!("its best picture is not one of {width}x{height} pixels"));
        }
        // Values as the device stores them, with a border.
        let stored = height.saturating_add(2).saturating_mul(width.saturating_add(2)).saturating_mul(4);
        let bytes = stored.saturating_add(64).saturating_mul(size_of::<f32>());
        let most = bytes.saturating_mul(MOST_PICTURES).saturating_add(1 << 20);
        let found = self.tensors.data_len();
        if found > most {
            return Err(format!("it has {found} bytes of values for {width}x{height} pixels"));
        }
        Ok(())
    }

    /// Reads, hashes and checks all values, and returns the tensors for which `is_needed` is true.
    fn read(&self, is_needed: impl Fn(&str) -> bool) -> Result<Tensors> {
        let path = &self.path;
        let changed = || damaged(path, "its content is not what was written");
        let mut header = self.header.clone();
        let at = hash_at(&header).ok_or_else(changed)?;
        let place = header[at..].first_chunk_mut().ok_or_else(changed)?;
        let written: [u8; 64] = std::mem::replace(place, NO_HASH);
        if (header.len() as u64).checked_add(self.tensors.data_len() as u64) != Some(self.length) {
            return Err(damaged(path, &format!("its tensors don't end with its {} bytes", self.length)));
        }
        let mut hash = Sha256::new();
        hash.update(&header);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(header.len() as u64)).map_err(|error| unreadable(path, &error))?;
        let mut tensors = Tensors::new();
        let mut not_finite = None;
        for name in self.tensors.offset_keys() {
            if self.tensors.info(&name).is_none_or(|info| info.dtype != Dtype::F32) {
                return Err(damaged(path, &format!("`{name}` is not F32")));
            }
            let count = self.count(&name).unwrap_or(0);
            let is_kept = is_needed(&name);
            let mut values = with_capacity(if is_kept { count } else { 0 }).map_err(|problem| {
                Error::io(path, "reading the checkpoint")(std::io::Error::other(problem))
            })?;
            let is_finite = read_values(file, count, &mut hash, is_kept.then_some(&mut values))
                .map_err(|error| unreadable(path, &error))?;
            // Weights that were not measured have NaN norms.
            if !is_finite && name != WEIGHTS {
                not_finite.get_or_insert(name.clone());
            }
            if is_kept {
                tensors.insert(name, values);
            }
        }
        if hex(&hash.finalize()).as_bytes() != written {
            return Err(changed());
        }
        if let Some(name) = not_finite {
            let name = name.strip_prefix(TENSOR).unwrap_or(&name);
            return Err(damaged(path, &format!("its {name} holds NaN or infinite values")));
        }
        Ok(tensors)
    }
}

/// Reads and hashes the next `count` values of a file, and appends them to `values` if given. True if all are finite.
fn read_values(
    mut file: &File,
    count: usize,
    hash: &mut Sha256,
    mut values: Option<&mut Vec<f32>>,
) -> std::io::Result<bool> {
    let mut bytes = Vec::new();
    let (mut rest, mut is_finite) = (count, true);
    while rest > 0 {
        bytes.resize(rest.min(PIECE) * size_of::<f32>(), 0);
        rest -= rest.min(PIECE);
        file.read_exact(&mut bytes)?;
        hash.update(&bytes);
        let (numbers, _) = bytes.as_chunks::<4>();
        let numbers = numbers.iter().map(|value| f32::from_le_bytes(*value));
        is_finite &= numbers.clone().all(f32::is_finite);
        if let Some(values) = &mut values {
            values.extend(numbers);
        }
    }
    Ok(is_finite)
}

/// Parses a finite number.
fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Parses height and width.
fn size(text: &str) -> Option<[usize; 2]> {
    let (height, width) = text.split_once('x')?;
    Some([height.parse().ok()?, width.parse().ok()?])
}

/// Parses `HEIGHTxWIDTH:END` items: the size and last iteration of each scale.
fn earlier_scales(text: &str) -> Option<Vec<EarlierScale>> {
    let scale = |text: &str| {
        let (pixels, end) = text.split_once(':')?;
        Some(EarlierScale { size: size(pixels)?, end: end.parse().ok()? })
    };
    text.split(',').filter(|text| !text.is_empty()).map(scale).collect()
}

fn list(names: &str) -> Vec<String> {
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Builds the weights of these groups from three numbers each; `None` if a number is invalid.
fn weights(groups: Vec<String>, numbers: &[f32]) -> Option<Weights> {
    let known = |value: f32| Some(value).filter(|value| !value.is_nan());
    let weight = |(group, [weight, norm, reference]): (String, &[f32; 3])| GroupWeight {
        group,
        weight: *weight,
        norm: known(*norm),
        reference: known(*reference),
    };
    let (rows, _) = numbers.as_chunks::<3>();
    let is_possible = |value: f32| value >= 0.0 && value.is_finite();
    // Norm and reference are NaN for weights that were not measured.
    let is_right = |[weight, rest @ ..]: &[f32; 3]| {
        is_possible(*weight) && rest.iter().all(|value| value.is_nan() || is_possible(*value))
    };
    rows.iter().all(is_right).then(|| Weights(groups.into_iter().zip(rows).map(weight).collect()))
}
