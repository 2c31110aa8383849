//! Checkpoints: a run's [`State`] in one safetensors file, with texts that say which run it is of.
//!
//! | tensor | shape | holds |
//! | --- | --- | --- |
//! | `picture`, `first_moment`, `second_moment` | 3, height, width | as in [`State`] |
//! | `optimiser` | 4 | Adam's counters |
//! | `weights` | factors | raw weight of each of `state:factors` |
//! | `measured` | factors, 2 | raw weight and gradient norm of each of `state:measured`, if measured |
//! | `balance` | 3 | shares of the spatial, abstract and style factor, if there are any |
//! | `looked` | height, width, 3 | the picture that the change is measured from, if it may end the run |
//!
//! The counters are texts (`state:iteration`, `state:seconds`, `state:balanced`, `state:looked`), and so is a SHA-256 of all tensors.
//! All is little-endian f32, so a checkpoint can be taken to another machine.

use super::request::{Balance, FactorKind};
use super::state::State;
use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::hex::hex;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// What the text `format` of a checkpoint says.
const FORMAT: &str = "neural-mirage checkpoint 1";
/// What a person can do about a file that is no checkpoint.
const REMEDY: &str = "Give a file that `mirage render` saved after Ctrl-C or with --checkpoint-every";

/// A run between two iterations, as it lies on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// All numbers.
    pub state: State,
    /// Texts that the program keeps with it, such as the run's options. Keys that begin with `state:` and `format`
    /// are the file's own.
    pub texts: HashMap<String, String>,
}

impl Checkpoint {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        let state = &self.state;
        let [height, width] = state.size;
        let map = vec![3, height, width];
        let numbers =
            |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let weights: Vec<f32> = state.weights.iter().map(|(_, weight)| *weight).collect();
        let measured: Vec<f32> =
            state.measured.iter().flat_map(|(_, weight, norm)| [*weight, *norm]).collect();
        let mut tensors = vec![
            ("picture", map.clone(), numbers(&state.picture)),
            ("first_moment", map.clone(), numbers(&state.first_moment)),
            ("second_moment", map, numbers(&state.second_moment)),
            ("optimiser", vec![4], numbers(&state.optimiser)),
            ("weights", vec![weights.len()], numbers(&weights)),
            ("measured", vec![state.measured.len(), 2], numbers(&measured)),
        ];
        if let Some(balance) = &state.balance {
            let shares = [balance.spatial, balance.abstracted, balance.style];
            tensors.push(("balance", vec![3], numbers(&shares)));
        }
        if let Some((_, looked)) = &state.looked {
            tensors.push(("looked", vec![height, width, 3], numbers(looked)));
        }
        let list = |kinds: Vec<String>| kinds.join(",");
        let mut texts = self.texts.clone();
        let own = [
            ("format", FORMAT.to_owned()),
            ("state:iteration", state.iteration.to_string()),
            ("state:seconds", state.seconds.to_string()),
            ("state:factors", list(state.weights.iter().map(|(kind, _)| kind.to_string()).collect())),
            ("state:measured", list(state.measured.iter().map(|(kind, ..)| kind.to_string()).collect())),
            ("state:balanced", state.balanced.to_string()),
            ("state:looked", state.looked.as_ref().map_or(String::new(), |(at, _)| at.to_string())),
            ("state:sha256", hash(tensors.iter().map(|(name, _, bytes)| (*name, bytes.as_slice())))),
        ];
        texts.extend(own.map(|(key, value)| (key.to_owned(), value)));

        let refused = |error: safetensors::SafeTensorError| {
            Error::io(path, "writing the checkpoint")(std::io::Error::other(error.to_string()))
        };
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(refused)?;
        let bytes = safetensors::serialize(views, Some(texts)).map_err(refused)?;
        write_whole(path, &bytes, "writing the checkpoint")
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read, is no checkpoint, or is damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let wrong = |problem: String| Error::file(path, problem, REMEDY);
        let bytes = std::fs::read(path).map_err(|error| wrong(format!("it can't be read: {error}")))?;
        let no_tensors =
            |error: safetensors::SafeTensorError| wrong(format!("it is no checkpoint, or damaged ({error})"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(no_tensors)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(no_tensors)?;
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
            _ => return Err(wrong("it is no checkpoint".to_owned())),
        }

        let damaged = |what: &str| wrong(format!("the checkpoint is damaged: {what}"));
        let tensor = |name: &str| -> Result<Option<(Vec<usize>, Vec<f32>)>> {
            let Ok(view) = tensors.tensor(name) else { return Ok(None) };
            if view.dtype() != Dtype::F32 {
                return Err(damaged(&format!("`{name}` is not F32")));
            }
            let (values, _) = view.data().as_chunks::<4>();
            Ok(Some((view.shape().to_vec(), values.iter().map(|value| f32::from_le_bytes(*value)).collect())))
        };
        let needed = |name: &str| tensor(name)?.ok_or_else(|| damaged(&format!("`{name}` is missing")));
        let mut text = |name: &str| {
            texts.remove(&format!("state:{name}")).ok_or_else(|| damaged(&format!("{name} is missing")))
        };

        let mut names = tensors.names();
        names.sort_unstable_by_key(|name| ORDER.iter().position(|other| other == name));
        let whole = names.iter().filter_map(|name| Some((*name, tensors.tensor(name).ok()?.data())));
        if text("sha256")? != hash(whole) {
            return Err(damaged("its numbers are not those that were written"));
        }
        let (shape, picture) = needed("picture")?;
        let [3, height, width] = shape[..] else { return Err(damaged("`picture` has another shape")) };
        let (_, optimiser) = needed("optimiser")?;
        let kinds = |list: &str| {
            list.split(',')
                .filter(|name| !name.is_empty())
                .map(|name| kind(name).ok_or_else(|| damaged(&format!("`{name}` is no factor"))))
                .collect::<Result<Vec<_>>>()
        };
        let (factors, weights) = (kinds(&text("factors")?)?, needed("weights")?.1);
        let (measured_kinds, measured) = (kinds(&text("measured")?)?, needed("measured")?.1);
        if factors.len() != weights.len() || 2 * measured_kinds.len() != measured.len() {
            return Err(damaged("weights and factors differ in number"));
        }
        let balance = match tensor("balance")? {
            None => None,
            Some((_, shares)) => {
                let [spatial, abstracted, style] = shares[..] else { return Err(damaged("`balance`")) };
                Some(Balance { spatial, abstracted, style })
            }
        };
        let looked_at = text("looked")?;
        let looked = match tensor("looked")? {
            None => None,
            Some((_, values)) => Some((looked_at.parse().map_err(|_| damaged("looked"))?, values)),
        };
        let state = State {
            balanced: text("balanced")? == "true",
            iteration: text("iteration")?.parse().map_err(|_| damaged("iteration"))?,
            seconds: text("seconds")?.parse().map_err(|_| damaged("seconds"))?,
            size: [height, width],
            picture,
            first_moment: needed("first_moment")?.1,
            second_moment: needed("second_moment")?.1,
            optimiser: *optimiser.first_chunk().ok_or_else(|| damaged("`optimiser` is too short"))?,
            balance,
            weights: factors.into_iter().zip(weights).collect(),
            measured: measured_kinds
                .into_iter()
                .zip(measured.as_chunks::<2>().0)
                .map(|(kind, [weight, norm])| (kind, *weight, *norm))
                .collect(),
            looked,
        };
        state.check(state.size).map_err(|error| damaged(&error.to_string()))?;
        Ok(Self { state, texts })
    }
}

/// The order in which tensors are hashed; a file may hold them in another.
const ORDER: [&str; 8] =
    ["picture", "first_moment", "second_moment", "optimiser", "weights", "measured", "balance", "looked"];

fn hash<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in tensors {
        hash.update(name);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    hex(&hash.finalize())
}

fn kind(name: &str) -> Option<FactorKind> {
    FactorKind::ALL.into_iter().find(|kind| kind.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let values =
            |start: f32| (0..3 * 5 * 7).map(|at| (start + at as f32).sin() / 3.0).collect::<Vec<f32>>();
        let state = State {
            iteration: 37,
            seconds: 12.345_678_9,
            size: [5, 7],
            picture: values(1.0),
            first_moment: values(2.0),
            second_moment: values(3.0),
            optimiser: [37.0, 0.979, 0.036_4, 0.0],
            balance: Some(Balance { spatial: 20.1, abstracted: 0.0, style: 1e-9 }),
            weights: vec![(FactorKind::Spatial, 0.1), (FactorKind::Smooth, f32::MIN_POSITIVE)],
            measured: vec![(FactorKind::Spatial, 0.1, 0.3)],
            balanced: true,
            looked: Some((30, values(4.0))),
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
        bare.state.balance = None;
        bare.state.measured.clear();
        bare.state.looked = None;
        for checkpoint in [full, bare] {
            checkpoint.save(&path).unwrap();
            assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint);
        }
    }

    #[test]
    fn damage_is_always_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.safetensors");
        checkpoint().save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(Checkpoint::load(&path).unwrap_err().exit_code(), 2, "{length} bytes");
        }
        // Any flipped bit of a number; the header's own letters may be harmless blanks.
        let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
        for at in (header..whole.len()).step_by(41) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            let message = Checkpoint::load(&path).unwrap_err().to_string();
            assert!(message.contains("not those that were written"), "byte {at}: {message}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let bytes = [0_u8; 8];
        let view = TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
        for (metadata, words) in [
            (None, "no checkpoint"),
            (Some([("format".to_owned(), "pt".to_owned())].into()), "no checkpoint"),
            (Some([("format".to_owned(), "neural-mirage checkpoint 9".to_owned())].into()), "version"),
            (Some([("format".to_owned(), FORMAT.to_owned())].into()), "missing"),
        ] {
            std::fs::write(&path, safetensors::serialize([("a", view.clone())], metadata).unwrap()).unwrap();
            let message = Checkpoint::load(&path).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
