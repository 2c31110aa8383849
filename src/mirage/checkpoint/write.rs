//! Writes a checkpoint.

use super::{BEST, FORMAT, LAST_LOOK, NO_HASH, PIECE, SHARES, TENSOR, WEIGHTS, hash_at};
use crate::error::{Error, Result};
use crate::files::{Overwrite, write_whole_with};
use crate::hex::hex;
use crate::mirage::objective::kept_picture::KeptPicture;
use crate::mirage::run::state::{EarlierScale, State};
use crate::mirage::weighting::GroupWeight;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Writes the file atomically.
pub(super) fn save(
    state: &State,
    texts: &HashMap<String, String>,
    path: &Path,
    overwrite: Overwrite,
) -> Result<Overwrite> {
    let refused = |message: String| Error::io(path, "writing the checkpoint")(std::io::Error::other(message));
    let tensors = tensors(state);
    let mut header = header(&tensors, texts_of(state, texts)).map_err(refused)?;
    let at = hash_at(&header).ok_or_else(|| refused("a text contains the key of the checksum".to_owned()))?;
    let mut hash = Sha256::new();
    hash.update(&header);
    let pieces = || tensors.iter().flat_map(|tensor| tensor.values.pieces());
    let mut bytes = Vec::new();
    for piece in pieces() {
        hash.update(little_endian(&piece, &mut bytes));
    }
    header[at..at + NO_HASH.len()].copy_from_slice(hex(&hash.finalize()).as_bytes());
    let write = |file: &mut File| {
        file.write_all(&header)?;
        pieces().try_for_each(|piece| file.write_all(little_endian(&piece, &mut bytes)))
    };
    write_whole_with(path, write, "writing the checkpoint", overwrite)
}

/// A tensor of the file.
struct FileTensor<'a> {
    name: String,
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    Floats(Cow<'a, [f32]>),
    Picture(&'a KeptPicture),
}

impl Values<'_> {
    fn pieces(&self) -> Box<dyn Iterator<Item = Cow<'_, [f32]>> + '_> {
        match self {
            Self::Floats(values) => Box::new(values.chunks(PIECE).map(Cow::Borrowed)),
            Self::Picture(picture) => picture.pieces(PIECE),
        }
    }
}

/// Returns the tensors of a state's file, sorted by name, as safetensors requires.
fn tensors(state: &State) -> Vec<FileTensor<'_>> {
    fn lent(name: String, values: &[f32]) -> FileTensor<'_> {
        FileTensor { name, shape: vec![values.len()], values: Values::Floats(Cow::Borrowed(values)) }
    }
    let row = |weight: &GroupWeight| {
        [weight.weight, weight.norm.unwrap_or(f32::NAN), weight.reference.unwrap_or(f32::NAN)]
    };
    let weights = FileTensor {
        name: WEIGHTS.to_owned(),
        shape: vec![state.weights.0.len(), 3],
        values: Values::Floats(state.weights.0.iter().flat_map(row).collect()),
    };
    let shares = FileTensor {
        name: SHARES.to_owned(),
        shape: vec![state.shares.0.len()],
        values: Values::Floats(state.shares.0.iter().map(|(_, share)| *share).collect()),
    };
    let of_state = state.tensors.iter().map(|(name, values)| lent(format!("{TENSOR}{name}"), values));
    let look = state.last_look.iter().map(|(_, look)| lent(LAST_LOOK.to_owned(), look));
    let best = state.losses.iter().flat_map(|losses| &losses.best).map(|(_, _, picture)| {
        let [height, width] = picture.size();
        FileTensor {
            name: BEST.to_owned(),
            shape: vec![3 * height * width],
            values: Values::Picture(picture),
        }
    });
    let mut tensors: Vec<_> = of_state.chain(look).chain(best).chain([weights, shares]).collect();
    tensors.sort_by(|one, other| one.name.cmp(&other.name));
    tensors
}

/// Returns `texts` and the file's own texts, with zeros for the hash.
pub(super) fn texts_of(state: &State, texts: &HashMap<String, String>) -> HashMap<String, String> {
    let [height, width] = state.size;
    let names = |names: Vec<&str>| names.join(",");
    let mut texts = texts.clone();
    let scales = state.earlier_scales.as_ref().map(|scales| {
        let text =
            |EarlierScale { size: [height, width], end }: &EarlierScale| format!("{height}x{width}:{end}");
        ("state:earlier_scales".to_owned(), scales.iter().map(text).collect::<Vec<_>>().join(","))
    });
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
        ("state:has_moved", state.has_moved.to_string()),
        ("state:last_look", state.last_look.as_ref().map_or(String::new(), |(at, _)| at.to_string())),
        ("state:sha256", String::from_utf8_lossy(&NO_HASH).into_owned()),
    ];
    let losses = state.losses.iter().flat_map(|losses| {
        let best = losses.best.as_ref().map(|(at, loss, _)| ("state:best", format!("{at} {loss}")));
        let always = [("state:loss", losses.loss.to_string()), ("state:trend", losses.trend.to_text())];
        always.into_iter().chain(best)
    });
    let own = own.into_iter().chain(losses).map(|(key, value)| (key.to_owned(), value));
    texts.extend(own.chain(scales));
    texts
}

/// Returns everything in a file before its values: the length of the header, and the header itself.
fn header(
    tensors: &[FileTensor<'_>],
    texts: HashMap<String, String>,
) -> std::result::Result<Vec<u8>, String> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * size_of::<f32>();
        let shape = tensor.shape.clone();
        (tensor.name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
    });
    let header = Metadata::new(Some(texts), infos.collect()).map_err(|error| error.to_string())?;
    let mut text = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
    // Padded as in safetensors, so that the values are aligned.
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = text.len() as u64;
    text.splice(0..0, length.to_le_bytes());
    Ok(text)
}

/// Converts values to little-endian bytes, using `bytes` as the buffer.
fn little_endian<'a>(values: &[f32], bytes: &'a mut Vec<u8>) -> &'a [u8] {
    bytes.resize(size_of_val(values), 0);
    let (places, _) = bytes.as_chunks_mut::<4>();
    places.iter_mut().zip(values).for_each(|(place, value)| *place = value.to_le_bytes());
    bytes
}
