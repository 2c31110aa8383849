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
/// The sequence is `conv1_1, relu1_1, ..., pool1, conv2_1, ..., poolN`. If the file has fully connected
/// layers, it continues with `poolN_HxW` (adaptive pooling to the size that the first of them expects),
/// `fc6, relu6, fc7, relu7, fc8, prob`. Their number follows from the names and shapes in the file.
#[non_exhaustive]
pub struct Network {
    /// The layers in the order they run.
    pub layers: Vec<Layer>,
    /// Preprocessing of the network's input.
    pub preprocessing: Preprocessing,
    /// Source of [`Network::preprocessing`].
    pub preprocessing_source: PreprocessingSource,
    /// Naming scheme of the file's tensors.
    pub layout: KeyLayout,
    /// Number format of most of the weights.
    pub dtype: DType,
    /// Path of the file as given; for the embedded network its short name.
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
    /// `preprocessing` overrides the file's metadata key `preprocessing` and the default for its key layout.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read, is not a safetensors file or not a VGG-shaped network, or
    /// a tensor is missing or has a wrong shape. Values are not checked, see [`Network::check_finite`].
    pub fn open(path: &Path, preprocessing: Option<Preprocessing>) -> Result<Self> {
        Self::read(WeightFile::open(path)?, preprocessing)
    }

    /// Opens a network at a [`Location`]. For `preprocessing` see [`Network::open`].
    ///
    /// # Errors
    /// The errors of [`Network::open`].
    pub fn open_at(location: &Location, preprocessing: Option<Preprocessing>) -> Result<Self> {
        let file = match location {
            Location::File(path) => WeightFile::open(path)?,
            Location::Embedded(bytes) => WeightFile::of_bytes(NARROW, bytes)?,
        };
        Self::read(file, preprocessing)
    }

    /// Opens the network that [`find_weights`] finds for `option`: a path, a short name, or the default for `None`.
    ///
    /// # Errors
    /// The errors of [`find_weights`] and [`Network::open`].
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

    /// Returns true if the network has fully connected layers.
    pub fn has_head(&self) -> bool {
        self.linears().next().is_some()
    }

    /// Returns the number of classes, which is the output length of the last fully connected layer.
    pub fn classes(&self) -> Option<usize> {
        self.linears().last().map(|linear| linear.out_features)
    }

    /// Returns the index of a layer in [`Network::layers`].
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such layer; the message suggests a similar name and lists all layers.
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

    /// Returns the names of all layers, in order.
    pub fn layer_names(&self) -> Vec<&str> {
        self.layers.iter().map(|layer| layer.name.as_str()).collect()
    }

    /// Returns the number of convolutions in each block: `[2, 2, 3, 3, 3]` for VGG-16.
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

    /// Returns the convolutions, in order.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Conv(conv) => Some(conv),
            _ => None,
        })
    }

    /// Returns the fully connected layers, in order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Linear(linear) => Some(linear),
            _ => None,
        })
    }

    /// Returns a text that identifies the file's content; it changes if the file is replaced.
    pub(crate) fn identity(&self) -> String {
        self.file.identity()
    }

    /// Returns the SHA-256 of the whole file as 64 hexadecimal digits. The first call reads the file.
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

    /// Checks that every weight is finite. Reads all weights.
    ///
    /// # Errors
    /// [`Error::File`] with the first tensor that holds a NaN or infinite value.
    pub fn check_finite(&self) -> Result<()> {
        self.tensors().try_for_each(Tensor::check_finite)
    }

    /// Returns the number of stored parameters.
    pub fn parameters(&self) -> usize {
        self.tensors().map(Tensor::elements).sum()
    }

    /// Returns the bytes of the file that stay in memory: all of it for the embedded network, else 0.
    pub fn resident_bytes(&self) -> usize {
        self.file.resident()
    }

    /// Returns the size of the file in bytes.
    pub fn file_len(&self) -> usize {
        self.file.length()
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        tensors(&self.layers)
    }
}

/// Returns all tensors of `layers`, in order.
fn tensors(layers: &[Layer]) -> impl Iterator<Item = &Tensor> {
    layers.iter().flat_map(|layer| -> Vec<&Tensor> {
        match &layer.kind {
            LayerKind::Conv(conv) => conv.tensors().collect(),
            LayerKind::Linear(linear) => vec![&linear.weight, &linear.bias],
            _ => Vec::new(),
        }
    })
}

/// Returns the number format of most parameters.
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
                format!("its metadata hold the unknown preprocessing '{text}'"),
                "Choose one: caffe or torchvision",
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

/// Returns the number of insertions, deletions and replacements that turn `a` into `b`, ignoring ASCII case.
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
