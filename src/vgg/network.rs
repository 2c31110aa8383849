//! A network whose weights stay in their file.

use crate::escape::shown;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::builder::Builder;
use super::layer::{Conv, Layer, LayerKind, Linear};
use super::layout::{KeyLayout, sort};
use super::locate::{Location, NARROW, find_weights};
use super::preprocessing::{Preprocessing, PreprocessingSource};
use super::tensor::{DType, Tensor, WeightFile};
use crate::hex::hex;
use crate::{Error, Result};

/// A VGG-shaped network: a sequence of named layers whose weights stay in the file.
///
/// The sequence is `conv1_1, relu1_1, ..., pool1, conv2_1, ..., poolN`, and where the file has fully
/// connected layers, `poolN_HxW` (adaptive pooling to the size that the first of them expects),
/// `fc6, relu6, fc7, relu7, fc8, prob`. Only names and shapes in the file decide how many there are.
#[non_exhaustive]
pub struct Network {
    /// The layers in the order they run.
    pub layers: Vec<Layer>,
    /// What the network expects of its input.
    pub preprocessing: Preprocessing,
    /// Where [`Network::preprocessing`] comes from.
    pub preprocessing_source: PreprocessingSource,
    /// How the file names its tensors.
    pub layout: KeyLayout,
    /// How most of the weights are stored.
    pub dtype: DType,
    /// The file, as given; of a network inside the program its short name.
    pub path: PathBuf,
    /// Keys of the file that no layer uses.
    pub unused: Vec<String>,
    pub(super) file: WeightFile,
    sha256: OnceLock<String>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("path", &self.path)
            .field("layout", &self.layout)
            .field("layers", &self.layer_names())
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Opens a safetensors file of a VGG-shaped network.
    ///
    /// `preprocessing` overrides what the file's metadata state under `preprocessing` and, where
    /// they say nothing, what is customary for its key layout.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read, is no safetensors file or no VGG-shaped network,
    /// lacks a tensor or has one of a wrong shape. Values are not read: see
    /// [`Network::check_finite`].
    pub fn open(path: &Path, preprocessing: Option<Preprocessing>) -> Result<Self> {
        Self::read(WeightFile::open(path)?, preprocessing)
    }

    /// Opens a network wherever it is. [`Network::open`] says what `preprocessing` does.
    ///
    /// # Errors
    /// As for [`Network::open`].
    pub fn open_at(location: &Location, preprocessing: Option<Preprocessing>) -> Result<Self> {
        let file = match location {
            Location::File(path) => WeightFile::open(path)?,
            Location::Embedded(bytes) => WeightFile::of_bytes(NARROW, bytes)?,
        };
        Self::read(file, preprocessing)
    }

    /// Opens what [`find_weights`] finds for `option`: a path, a short name, or without either the default network.
    ///
    /// # Errors
    /// As for [`find_weights`] and [`Network::open`].
    pub fn find(option: Option<&Path>, preprocessing: Option<Preprocessing>) -> Result<Self> {
        Self::open_at(&find_weights(option)?, preprocessing)
    }

    fn read(file: WeightFile, preprocessing: Option<Preprocessing>) -> Result<Self> {
        let sorted = sort(&file)?;
        let layers = Builder::new(&file, sorted.layout)?.layers(&sorted)?;
        let (preprocessing, preprocessing_source) =
            choose_preprocessing(&file, sorted.layout, preprocessing)?;
        let dtype = main_dtype(&layers);
        Ok(Self {
            layers,
            preprocessing,
            preprocessing_source,
            layout: sorted.layout,
            dtype,
            path: file.path().to_owned(),
            unused: sorted.unused,
            file,
            sha256: OnceLock::new(),
        })
    }

    /// Whether the network has fully connected layers.
    pub fn has_head(&self) -> bool {
        self.linears().next().is_some()
    }

    /// The number of classes: the length of the last fully connected layer's output.
    pub fn classes(&self) -> Option<usize> {
        self.linears().last().map(|linear| linear.out_features)
    }

    /// The position of a layer in [`Network::layers`].
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such layer; it lists all there are, and the likeliest one.
    pub fn index_of(&self, layer: &str) -> Result<usize> {
        if let Some(index) = self.layers.iter().position(|l| l.name == layer) {
            return Ok(index);
        }
        let mut message = format!("there is no layer '{layer}' in {}", shown(&self.path));
        let nearest = self.layers.iter().map(|l| (edit_distance(layer, &l.name), l.name.as_str())).min();
        if let Some((distance, name)) = nearest
            && distance <= 2.max(name.len() / 3)
        {
            // Writing to a String can't fail.
            let _ = write!(message, "; did you mean {name}?");
        } else {
            message.push('.');
        }
        let _ = write!(message, " Its layers: {}", self.layer_names().join(", "));
        Err(Error::Usage(message))
    }

    /// The names of all layers, in order.
    pub fn layer_names(&self) -> Vec<&str> {
        self.layers.iter().map(|layer| layer.name.as_str()).collect()
    }

    /// How many convolutions each block has: `[2, 2, 3, 3, 3]` for VGG-16.
    pub fn convs_per_block(&self) -> Vec<usize> {
        let mut counts = vec![0];
        for layer in &self.layers {
            match (&layer.kind, counts.last_mut()) {
                (LayerKind::Conv(_), Some(count)) => *count += 1,
                (LayerKind::Pool { .. }, _) => counts.push(0),
                _ => {}
            }
        }
        counts.pop();
        counts
    }

    /// The convolutions, in order.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Conv(conv) => Some(conv),
            _ => None,
        })
    }

    /// The fully connected layers, in order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Linear(linear) => Some(linear),
            _ => None,
        })
    }

    /// Names the file's content: another text for another file, and for one that was replaced.
    pub(crate) fn identity(&self) -> String {
        self.file.identity()
    }

    /// SHA-256 of the whole file, 64 hexadecimal digits. The first call reads all of it.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read.
    pub fn sha256(&self) -> Result<String> {
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let mut hash = Sha256::new();
        self.file.read(|piece| hash.update(piece))?;
        Ok(self.sha256.get_or_init(|| hex(&hash.finalize())).clone())
    }

    /// Checks that every weight is finite. Reads them all.
    ///
    /// # Errors
    /// [`Error::File`] that names the first tensor with a NaN or an infinity.
    pub fn check_finite(&self) -> Result<()> {
        self.tensors().try_for_each(Tensor::check_finite)
    }

    /// How many trained numbers the network has, as stored.
    pub fn parameters(&self) -> usize {
        self.tensors().map(Tensor::elements).sum()
    }

    /// Bytes of the network that are in memory besides what is made of it: all, where it is a part of the program.
    pub fn resident_bytes(&self) -> usize {
        self.file.resident()
    }

    /// Size of the file, bytes.
    pub fn file_len(&self) -> usize {
        self.file.length()
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        tensors(&self.layers)
    }
}

/// Every tensor of `layers`, in order.
fn tensors(layers: &[Layer]) -> impl Iterator<Item = &Tensor> {
    layers.iter().flat_map(|layer| -> Vec<&Tensor> {
        match &layer.kind {
            LayerKind::Conv(conv) => conv.tensors().collect(),
            LayerKind::Linear(linear) => vec![&linear.weight, &linear.bias],
            _ => Vec::new(),
        }
    })
}

/// The format that most numbers are stored in.
fn main_dtype(layers: &[Layer]) -> DType {
    let count = |dtype| tensors(layers).filter(|t| t.dtype() == dtype).map(Tensor::elements).sum::<usize>();
    [DType::Bf16, DType::F16, DType::F32].into_iter().max_by_key(|dtype| count(*dtype)).unwrap_or(DType::F32)
}

fn choose_preprocessing(
    file: &WeightFile,
    layout: KeyLayout,
    option: Option<Preprocessing>,
) -> Result<(Preprocessing, PreprocessingSource)> {
    if let Some(preprocessing) = option {
        return Ok((preprocessing, PreprocessingSource::Option));
    }
    if let Some(text) = file.metadata("preprocessing") {
        let stated = text.parse().map_err(|_| {
            file.error(
                format!("its metadata state the unknown preprocessing '{text}'"),
                "Say which to use: caffe or torchvision",
            )
        })?;
        return Ok((stated, PreprocessingSource::Metadata));
    }
    let custom = match layout {
        KeyLayout::Torchvision | KeyLayout::Timm => Preprocessing::Torchvision,
        KeyLayout::Caffe | KeyLayout::Keras => Preprocessing::Caffe,
    };
    Ok((custom, PreprocessingSource::Layout))
}

/// Insertions, deletions and replacements of characters that turn `a` into `b`; ASCII case is free.
pub(super) fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!from.eq_ignore_ascii_case(to));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::edit_distance;

    #[test]
    fn edit_distance_counts_single_changes() {
        for (a, b, distance) in [
            ("relu4_2", "relu4_2", 0),
            ("RELU4_2", "relu4_2", 0),
            ("relu42", "relu4_2", 1),
            ("rleu4_2", "relu4_2", 2),
            ("", "fc6", 3),
            ("conv", "fc6", 4),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }
}
