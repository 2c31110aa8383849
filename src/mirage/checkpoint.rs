//! Checkpoints: a run's [`State`] in one safetensors file, with texts that identify the run.
//!
//! | tensor | shape | holds |
//! | --- | --- | --- |
//! | `tensor:NAME` | length | each tensor of [`State::tensors`] |
//! | `weights` | groups, 3 | weight, gradient norm and reference of each of `state:groups`; NaN where there is none |
//! | `shares` | shares | the share of each of `state:shares` |
//! | `last_look` | length | the picture that the change is measured from, if it may end the run |
//!
//! Counters and names are texts (`state:...`). All values are little-endian f32, so a checkpoint can be used on another
//! machine.
//!
//! `state:sha256` is the SHA-256 of the whole file, computed with 64 zeros in its own place, so a single flipped bit
//! anywhere is detected.

use super::loss::Shares;
use super::state::State;
use super::weighting::{GroupWeight, Weights};
use crate::error::{Error, Result};
use crate::files::{LENGTH_BYTES, LONGEST_HEADER, open_ordinary, write_whole_with};
use crate::hex::hex;
use crate::room::room;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// What the text `format` of a checkpoint says.
const FORMAT: &str = "neural-mirage checkpoint 3";
/// What to do about a file that is not a checkpoint.
const REMEDY: &str = "Give a file that `mirage render` saved after Ctrl-C or with --checkpoint-every";
/// What stands before the hash in the file.
const HASH_KEY: &str = "\"state:sha256\":\"";
/// What stands in the hash's place while it is computed.
const NO_HASH: [u8; 64] = [b'0'; 64];
/// Pictures that a state has at most: the longest history of L-BFGS has 256, twice the rows of [`Ring`](crate::ops::Ring).
const MOST_PICTURES: usize = 300;
/// What the names of the state's tensors begin with.
const TENSOR: &str = "tensor:";
/// Values that are hashed and written, or read, at once.
const PIECE: usize = 1 << 16;

/// A run between two iterations, as it is on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// All numbers.
    pub state: State,
    /// Texts that the program keeps with it, such as the run's options. Keys that begin with `state:` and `format`
    /// are the file's own.
    pub texts: HashMap<String, String>,
}

impl Checkpoint {
    /// Writes the file, whole or not at all; replaces one that exists.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses, [`Error::File`] if no file can be made there.
    pub fn save(&self, path: &Path) -> Result<()> {
        Self::save_state(&self.state, &self.texts, path, true)
    }

    /// [`Checkpoint::save`] of a state and texts that are only lent; an existing file is replaced only with `replace`. The
    /// values are written from where they are, without a copy.
    ///
    /// # Errors
    /// As [`Checkpoint::save`]; [`Error::File`] if the file exists and may not be replaced.
    pub fn save_state(
        state: &State,
        texts: &HashMap<String, String>,
        path: &Path,
        replace: bool,
    ) -> Result<()> {
        let refused =
            |message: String| Error::io(path, "writing the checkpoint")(std::io::Error::other(message));
        let tensors = tensors(state);
        let mut header = header(&tensors, texts_of(state, texts)).map_err(refused)?;
        let at = hash_at(&header).ok_or_else(|| refused("a text imitates the checksum".to_owned()))?;
        let mut hash = Sha256::new();
        hash.update(&header);
        let pieces = || tensors.iter().flat_map(|tensor| tensor.values.chunks(PIECE));
        let mut bytes = Vec::new();
        for piece in pieces() {
            hash.update(little_endian(piece, &mut bytes));
        }
        header[at..at + NO_HASH.len()].copy_from_slice(hex(&hash.finalize()).as_bytes());
        let write = |file: &mut File| {
            file.write_all(&header)?;
            pieces().try_for_each(|piece| file.write_all(little_endian(piece, &mut bytes)))
        };
        write_whole_with(path, write, "writing the checkpoint", replace)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read, is not a checkpoint, or is damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let file = Opened::new(path)?;
        let header: Metadata = serde_json::from_slice(&file.header[LENGTH_BYTES..])
            .map_err(|error| not_tensors(path, &error))?;
        let mut texts = header.metadata().clone().unwrap_or_default();
        match texts.remove("format") {
            Some(format) if format == FORMAT => {}
            Some(format) if format.starts_with("neural-mirage checkpoint") => {
                return Err(Error::file(
                    path,
                    format!("its format is `{format}`, and this program knows `{FORMAT}`"),
                    "Use the version of mirage that wrote it",
                ));
            }
            _ => return Err(wrong(path, "it is not a checkpoint".to_owned())),
        }
        let size = size(&mut texts).ok_or_else(|| damaged(path, "size"))?;
        check_lengths(&header, size).map_err(|problem| damaged(path, &problem))?;
        let state = state(path, file.read_tensors(&header)?, size, &mut texts)?;
        state.check(state.size).map_err(|error| damaged(path, &error.to_string()))?;
        Ok(Self { state, texts })
    }
}

/// A tensor of the file.
struct FileTensor<'a> {
    name: String,
    shape: Vec<usize>,
    values: Cow<'a, [f32]>,
}

/// The tensors of a state's file, in its order: by name, as safetensors writes them.
fn tensors(state: &State) -> Vec<FileTensor<'_>> {
    fn lent(name: String, values: &[f32]) -> FileTensor<'_> {
        FileTensor { name, shape: vec![values.len()], values: Cow::Borrowed(values) }
    }
    let row = |weight: &GroupWeight| {
        [weight.weight, weight.norm.unwrap_or(f32::NAN), weight.reference.unwrap_or(f32::NAN)]
    };
    let weights = FileTensor {
        name: "weights".to_owned(),
        shape: vec![state.weights.0.len(), 3],
        values: state.weights.0.iter().flat_map(row).collect(),
    };
    let shares = FileTensor {
        name: "shares".to_owned(),
        shape: vec![state.shares.0.len()],
        values: state.shares.0.iter().map(|(_, share)| *share).collect(),
    };
    let of_state = state.tensors.iter().map(|(name, values)| lent(format!("{TENSOR}{name}"), values));
    let look = state.last_look.iter().map(|(_, look)| lent("last_look".to_owned(), look));
    let mut tensors: Vec<_> = of_state.chain(look).chain([weights, shares]).collect();
    tensors.sort_by(|one, other| one.name.cmp(&other.name));
    tensors
}

/// The texts of a state's file: these, and the file's own, with zeros for the hash.
fn texts_of(state: &State, texts: &HashMap<String, String>) -> HashMap<String, String> {
    let [height, width] = state.size;
    let names = |names: Vec<&str>| names.join(",");
    let mut texts = texts.clone();
    let own = [
        ("format", FORMAT.to_owned()),
        ("state:iteration", state.iteration.to_string()),
        ("state:seconds", state.seconds.to_string()),
        ("state:scale", state.scale.to_string()),
        ("state:size", format!("{height}x{width}")),
        ("state:groups", names(state.weights.0.iter().map(|weight| weight.group.as_str()).collect())),
        ("state:shares", names(state.shares.0.iter().map(|(name, _)| name.as_str()).collect())),
        ("state:weights_measured", state.weights_measured.to_string()),
        ("state:shares_changed", state.shares_changed.to_string()),
        ("state:halvings", state.halvings.to_string()),
        ("state:last_look", state.last_look.as_ref().map_or(String::new(), |(at, _)| at.to_string())),
        ("state:sha256", String::from_utf8_lossy(&NO_HASH).into_owned()),
    ];
    texts.extend(own.map(|(key, value)| (key.to_owned(), value)));
    texts
}

/// All of a file before its values: the length of the header, and the header.
fn header(
    tensors: &[FileTensor<'_>],
    texts: HashMap<String, String>,
) -> std::result::Result<Vec<u8>, String> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += size_of_val::<[f32]>(&tensor.values);
        let shape = tensor.shape.clone();
        (tensor.name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
    });
    let header = Metadata::new(Some(texts), infos.collect()).map_err(|error| error.to_string())?;
    let mut text = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
    // As safetensors does, so that the values are aligned.
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = text.len() as u64;
    text.splice(0..0, length.to_le_bytes());
    Ok(text)
}

/// The bytes of a few values as the file has them, in `bytes`.
fn little_endian<'a>(values: &[f32], bytes: &'a mut Vec<u8>) -> &'a [u8] {
    bytes.resize(size_of_val(values), 0);
    let (places, _) = bytes.as_chunks_mut::<4>();
    places.iter_mut().zip(values).for_each(|(place, value)| *place = value.to_le_bytes());
    bytes
}

fn wrong(path: &Path, problem: String) -> Error {
    Error::file(path, problem, REMEDY)
}

fn damaged(path: &Path, what: &str) -> Error {
    wrong(path, format!("the checkpoint is damaged: {what}"))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    wrong(path, format!("it can't be read: {error}"))
}

fn not_tensors(path: &Path, error: &serde_json::Error) -> Error {
    wrong(path, format!("it is not a checkpoint, or damaged ({error})"))
}

/// A file whose header is read, and its values not yet.
struct Opened<'a> {
    path: &'a Path,
    file: File,
    /// Bytes of the whole file.
    length: u64,
    /// All before the values: the length of the header, and the header.
    header: Vec<u8>,
}

impl<'a> Opened<'a> {
    fn new(path: &'a Path) -> Result<Self> {
        let (mut file, length) = open_ordinary(path).map_err(|error| unreadable(path, &error))?;
        let too_short = || wrong(path, "it is not a checkpoint: it is too short".to_owned());
        // Of a file of /proc, which states no length, nothing is read: it may have no end, and some wait for ever.
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
        Ok(Self { path, file, length, header })
    }

    /// All tensors, in the file's order, if they and the header are what was written. They are hashed as they are read,
    /// so that the file is never in memory besides them.
    fn read_tensors(mut self, header: &Metadata) -> Result<Vec<(String, Vec<f32>)>> {
        let changed = || damaged(self.path, "its content is not what was written");
        let at = hash_at(&self.header).ok_or_else(changed)?;
        let place = self.header[at..].first_chunk_mut().ok_or_else(changed)?;
        let written: [u8; 64] = std::mem::replace(place, NO_HASH);
        if (self.header.len() as u64).checked_add(header.data_len() as u64) != Some(self.length) {
            return Err(damaged(self.path, &format!("its tensors don't end with its {} bytes", self.length)));
        }
        let mut hash = Sha256::new();
        hash.update(&self.header);
        let mut tensors = Vec::new();
        for name in header.offset_keys() {
            let Some(info) = header.info(&name).filter(|info| info.dtype == Dtype::F32) else {
                return Err(damaged(self.path, &format!("`{name}` is not F32")));
            };
            let count = (info.data_offsets.1 - info.data_offsets.0) / size_of::<f32>();
            let values = read_values(&mut self.file, count, &mut hash)
                .map_err(|error| unreadable(self.path, &error))?;
            tensors.push((name, values));
        }
        if hex(&hash.finalize()).as_bytes() == written { Ok(tensors) } else { Err(changed()) }
    }
}

/// The next values of a file, which are hashed too.
fn read_values(file: &mut File, count: usize, hash: &mut Sha256) -> std::io::Result<Vec<f32>> {
    let mut values = room(count).map_err(std::io::Error::other)?;
    let mut bytes = Vec::new();
    while values.len() < count {
        bytes.resize((count - values.len()).min(PIECE) * size_of::<f32>(), 0);
        file.read_exact(&mut bytes)?;
        hash.update(&bytes);
        let (numbers, _) = bytes.as_chunks::<4>();
        values.extend(numbers.iter().map(|value| f32::from_le_bytes(*value)));
    }
    Ok(values)
}

/// The size of the picture, which is taken out of the texts.
fn size(texts: &mut HashMap<String, String>) -> Option<[usize; 2]> {
    let text = texts.remove("state:size")?;
    let (height, width) = text.split_once('x')?;
    Some([height.parse().ok()?, width.parse().ok()?])
}

/// Refuses tensors that are not as long as those of a picture of this size, before they are read: a file may state any
/// length, and lie about its own.
fn check_lengths(header: &Metadata, [height, width]: [usize; 2]) -> std::result::Result<(), String> {
    let bytes = |values: usize| values.saturating_mul(size_of::<f32>());
    let picture =
        header.info(&format!("{TENSOR}picture")).map(|info| info.data_offsets.1 - info.data_offsets.0);
    if picture != Some(bytes(height.saturating_mul(width).saturating_mul(3))) {
        return Err(format!("its picture is not one of {width}x{height} pixels"));
    }
    // As the device stores it, with a border.
    let stored = height.saturating_add(2).saturating_mul(width.saturating_add(2)).saturating_mul(4);
    let most = bytes(stored.saturating_add(64)).saturating_mul(MOST_PICTURES).saturating_add(1 << 20);
    if header.data_len() > most {
        return Err(format!("it has {} bytes of values for {width}x{height} pixels", header.data_len()));
    }
    Ok(())
}

/// The state of a file's tensors. Its own texts are taken out of `texts`.
fn state(
    path: &Path,
    tensors: Vec<(String, Vec<f32>)>,
    size: [usize; 2],
    texts: &mut HashMap<String, String>,
) -> Result<State> {
    let damaged = |what: &str| damaged(path, what);
    let mut text = |name: &str| {
        texts.remove(&format!("state:{name}")).ok_or_else(|| damaged(&format!("{name} is missing")))
    };
    text("sha256")?;
    let mut named = HashMap::new();
    let mut of_state = Vec::new();
    for (name, values) in tensors {
        match name.strip_prefix(TENSOR) {
            Some(name) => of_state.push((name.to_owned(), values)),
            None => drop(named.insert(name, values)),
        }
    }
    // safetensors orders tensors by size and name, and a state is the same whatever their order.
    of_state.sort_by(|(one, _), (other, _)| one.cmp(other));
    let list = |names: String| {
        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut needed = |name: &str| named.remove(name).ok_or_else(|| damaged(&format!("`{name}` is missing")));

    let (names, shares) = (list(text("shares")?), needed("shares")?);
    if names.len() != shares.len() {
        return Err(damaged("shares and their names differ in number"));
    }
    let weights = weights(list(text("groups")?), &needed("weights")?)
        .ok_or_else(|| damaged("weights and groups differ in number"))?;
    let look_at = text("last_look")?;
    let last_look = match needed("last_look") {
        Err(_) => None,
        Ok(values) => Some((look_at.parse().map_err(|_| damaged("last_look"))?, values)),
    };
    Ok(State {
        iteration: text("iteration")?.parse().map_err(|_| damaged("iteration"))?,
        seconds: text("seconds")?.parse().map_err(|_| damaged("seconds"))?,
        scale: text("scale")?.parse().map_err(|_| damaged("scale"))?,
        size,
        tensors: of_state,
        shares: Shares(names.into_iter().zip(shares).collect()),
        weights,
        weights_measured: text("weights_measured")? == "true",
        // The first files of this version don't state these.
        shares_changed: text("shares_changed").is_ok_and(|text| text == "true"),
        halvings: text("halvings").map_or(Ok(0), |text| text.parse()).map_err(|_| damaged("halvings"))?,
        last_look,
    })
}

/// The weights of these groups from three numbers each; `None` if there are more or fewer.
fn weights(groups: Vec<String>, numbers: &[f32]) -> Option<Weights> {
    let (rows, rest) = numbers.as_chunks::<3>();
    if rows.len() != groups.len() || !rest.is_empty() {
        return None;
    }
    let known = |value: f32| Some(value).filter(|value| !value.is_nan());
    let weight = |(group, [weight, norm, reference]): (String, &[f32; 3])| GroupWeight {
        group,
        weight: *weight,
        norm: known(*norm),
        reference: known(*reference),
    };
    Some(Weights(groups.into_iter().zip(rows).map(weight).collect()))
}

/// Where the hash begins in a file, or in its length and header alone; `None` unless its key is there exactly once.
fn hash_at(file: &[u8]) -> Option<usize> {
    let header = usize::try_from(u64::from_le_bytes(*file.first_chunk()?)).ok()?;
    let header = file.get(LENGTH_BYTES..LENGTH_BYTES.checked_add(header)?)?;
    let mut found =
        header.windows(HASH_KEY.len()).enumerate().filter(|(_, text)| *text == HASH_KEY.as_bytes());
    let (at, _) = found.next()?;
    let start = LENGTH_BYTES + at + HASH_KEY.len();
    (found.next().is_none() && start + NO_HASH.len() <= LENGTH_BYTES + header.len()).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;

    fn checkpoint() -> Checkpoint {
        let values =
            |start: f32| (0..3 * 5 * 7).map(|at| (start + at as f32).sin() / 3.0).collect::<Vec<f32>>();
        let weight = |group: &str, weight, norm, reference| GroupWeight {
            group: group.to_owned(),
            weight,
            norm,
            reference,
        };
        let state = State {
            iteration: 37,
            seconds: 12.345_678_9,
            scale: 2,
            size: [5, 7],
            tensors: vec![
                ("adam:counters".to_owned(), vec![37.0, 0.979, 0.036_4, 0.0]),
                ("adam:first_moment".to_owned(), values(2.0)),
                ("adam:second_moment".to_owned(), values(3.0)),
                ("average".to_owned(), values(5.0)),
                ("picture".to_owned(), values(1.0)),
            ],
            shares: Shares(vec![("spatial".to_owned(), 20.1), ("a b".to_owned(), 1e-9)]),
            weights: Weights(vec![
                weight("spatial", 0.1, Some(0.3), Some(0.2)),
                weight("smooth", f32::MIN_POSITIVE, None, None),
            ]),
            weights_measured: true,
            shares_changed: true,
            halvings: 2,
            last_look: Some((30, values(4.0))),
        };
        let texts = [("options".to_owned(), "{\"photo\":\"my photo ü.png\"}".to_owned())].into();
        Checkpoint { state, texts }
    }

    #[test]
    fn every_bit_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a run.safetensors");
        let full = checkpoint();
        let mut bare = checkpoint();
        bare.state.shares = Shares::default();
        bare.state.weights = Weights::default();
        bare.state.last_look = None;
        bare.state.shares_changed = false;
        for checkpoint in [full, bare] {
            checkpoint.save(&path).unwrap();
            assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint);
        }
    }

    #[test]
    fn a_state_of_several_pieces_is_the_file_that_safetensors_makes_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.safetensors");
        let mut checkpoint = checkpoint();
        let long = (0..2 * PIECE + 77).map(|at| at as f32 / 7.0).collect();
        checkpoint.state.tensors.push(("z".to_owned(), long));
        checkpoint.save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint);
        let file = std::fs::read(&path).unwrap();
        let (length, header) = SafeTensors::read_metadata(&file).unwrap();
        let read = SafeTensors::deserialize(&file).unwrap();
        let other = safetensors::serialize(read.tensors(), header.metadata().clone()).unwrap();
        // The order of texts is open.
        assert!(other.len() == file.len() && other[8 + length..] == file[8 + length..]);
    }

    #[test]
    fn any_flipped_bit_and_any_lost_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.safetensors");
        checkpoint().save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(Checkpoint::load(&path).unwrap_err().exit_code(), 2, "{length} bytes");
        }
        let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
        // Every byte of the header, a sample of the numbers.
        for at in (0..header).chain((header..whole.len()).step_by(41)) {
            for bit in [0x01, 0x10, 0x80] {
                let mut flipped = whole.clone();
                flipped[at] ^= bit;
                std::fs::write(&path, &flipped).unwrap();
                assert_eq!(Checkpoint::load(&path).unwrap_err().exit_code(), 2, "byte {at}, bit {bit}");
            }
        }
        std::fs::write(&path, [whole.as_slice(), &[0]].concat()).unwrap();
        assert!(Checkpoint::load(&path).is_err());
    }

    /// A header that is right in itself, before values that would take long to read, and memory.
    #[test]
    fn tensors_that_are_no_pictures_are_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.safetensors");
        let refusal = |tensors: &[(&str, usize)]| {
            let mut end = 0;
            let infos = tensors.iter().map(|(name, count)| {
                let start = end;
                end += count * size_of::<f32>();
                let info = TensorInfo { dtype: Dtype::F32, shape: vec![*count], data_offsets: (start, end) };
                ((*name).to_owned(), info)
            });
            let Checkpoint { state, texts } = checkpoint();
            let header = Metadata::new(Some(texts_of(&state, &texts)), infos.collect()).unwrap();
            let text = serde_json::to_vec(&header).unwrap();
            let bytes = [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat();
            std::fs::write(&path, &bytes).unwrap();
            // The rest is a hole.
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len((bytes.len() + end) as u64).unwrap();
            let begun = std::time::Instant::now();
            let message = Checkpoint::load(&path).unwrap_err().to_string();
            assert!(begun.elapsed().as_secs() < 2, "{tensors:?}: {:?}", begun.elapsed());
            message
        };
        let message = refusal(&[("tensor:picture", 3 * 5 * 7), ("tensor:z", 1 << 30)]);
        assert!(message.contains("values for 7x5 pixels"), "{message}");
        let message = refusal(&[("tensor:picture", 1 << 30)]);
        assert!(message.contains("not one of 7x5 pixels"), "{message}");
    }

    #[test]
    fn a_text_that_looks_like_the_checksum_is_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.safetensors");
        let mut checkpoint = checkpoint();
        checkpoint.texts.insert("options".to_owned(), format!("{HASH_KEY}{}\"", "1".repeat(64)));
        checkpoint.save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint);
    }

    #[test]
    fn other_files_are_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let bytes = [0_u8; 8];
        let view = TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
        for (metadata, words) in [
            (None, "not a checkpoint"),
            (Some([("format".to_owned(), "pt".to_owned())].into()), "not a checkpoint"),
            (Some([("format".to_owned(), "neural-mirage checkpoint 2".to_owned())].into()), "version"),
            (Some([("format".to_owned(), FORMAT.to_owned())].into()), "damaged"),
        ] {
            std::fs::write(&path, safetensors::serialize([("a", view.clone())], metadata).unwrap()).unwrap();
            let message = Checkpoint::load(&path).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
