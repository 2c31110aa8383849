//! Recognises the naming scheme of a weights file and groups its tensors into convolutions and fully
//! connected layers.

use std::collections::BTreeMap;
use std::fmt;

use super::tensor::{CONVERT, FETCH_AGAIN, WeightFile};
use crate::{Error, Result};

/// The naming scheme of a weights file's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyLayout {
    /// `features.N.weight`, `classifier.N.weight`: indices in torchvision's two sequences.
    Torchvision,
    /// `features.N.weight`, `pre_logits.fc1.weight` (a 7x7 convolution), `head.fc.weight`.
    Timm,
    /// `conv1_1.weight`, `fc6.weight`: the layer names of the Caffe models.
    Caffe,
    /// `block1_conv1/kernel`, `fc1/kernel`, `predictions/kernel`, with Keras's dimension order.
    Keras,
}

/// Supported layouts, for the error about an unknown file.
const LAYOUTS: &str = "torchvision (features.0.weight, classifier.0.weight), timm (features.0.weight, \
                       pre_logits.fc1.weight, head.fc.weight), Caffe (conv1_1.weight, fc6.weight) and \
                       Keras (block1_conv1/kernel, fc1/kernel)";

impl fmt::Display for KeyLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Torchvision => "torchvision",
            Self::Timm => "timm",
            Self::Caffe => "Caffe",
            Self::Keras => "Keras",
        })
    }
}

/// The layer that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    /// Index in torchvision's and timm's `features`: a convolution or a batch norm.
    Feature(u32),
    /// Convolution: block and number within it.
    Conv(u32, u32),
    /// Batch norm after the convolution with these numbers.
    Norm(u32, u32),
    /// Fully connected layer; the number only defines the order.
    Linear(u32),
}

/// The kind of a unit's tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ParameterKind {
    /// Filter or matrix; gamma of a batch norm.
    Weight,
    /// Bias; beta of a batch norm.
    Bias,
    /// Running mean of a batch norm.
    Mean,
    /// Running variance of a batch norm.
    Variance,
}

/// The keys of one unit.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    by_kind: BTreeMap<ParameterKind, String>,
    /// Name of the unit, for messages about a missing key.
    label: String,
}

impl Keys {
    /// Returns the key of `kind`, if the file has it.
    pub fn get(&self, kind: ParameterKind) -> Option<&str> {
        self.by_kind.get(&kind).map(String::as_str)
    }

    /// Returns the key of `kind`.
    ///
    /// # Errors
    /// [`Error::File`] with the missing tensor.
    pub fn require(&self, file: &WeightFile, kind: ParameterKind) -> Result<&str> {
        self.get(kind).ok_or_else(|| {
            let kind = match kind {
                ParameterKind::Weight => "weight",
                ParameterKind::Bias => "bias",
                ParameterKind::Mean => "running mean",
                ParameterKind::Variance => "running variance",
            };
            let found: Vec<&str> = self.by_kind.values().map(String::as_str).collect();
            missing(file, format!("the {kind} of {} is missing (found {})", self.label, found.join(", ")))
        })
    }
}

/// The keys of a convolution and of the batch norm after it.
#[derive(Debug, Clone)]
pub(super) struct ConvKeys {
    pub conv: Keys,
    pub norm: Option<Keys>,
}

/// A file's keys, grouped by layer.
#[derive(Debug)]
pub(super) struct Sorted {
    pub layout: KeyLayout,
    /// Convolutions of each block. A block ends with pooling and is never empty.
    pub blocks: Vec<Vec<ConvKeys>>,
    /// Fully connected layers in order.
    pub linears: Vec<Keys>,
    /// Keys that the network doesn't use.
    pub unused: Vec<String>,
}

/// Groups the file's tensors by layer.
///
/// # Errors
/// [`Error::File`] if the layout isn't one of [`KeyLayout`], or its numbering has gaps.
pub(super) fn sort(file: &WeightFile) -> Result<Sorted> {
    let layout = recognise(file)?;
    let mut units: BTreeMap<Unit, Keys> = BTreeMap::new();
    let mut unused = Vec::new();
    for key in file.keys() {
        match parse(layout, key) {
            Some((unit, label, kind)) => {
                let keys = units.entry(unit).or_default();
                keys.label = label;
                if let Some(other) = keys.by_kind.insert(kind, key.to_owned()) {
                    return Err(
                        file.error(format!("tensors {other} and {key} are the same weights twice"), CONVERT)
                    );
                }
            }
            None if claims(layout, key) => {
                return Err(file.error(
                    format!(
                        "tensor {key} doesn't belong in a VGG network, which is a plain sequence of convolutions"
                    ),
                    CONVERT,
                ));
            }
            None => unused.push(key.to_owned()),
        }
    }
    let blocks = match layout {
        KeyLayout::Torchvision | KeyLayout::Timm => numbered_blocks(file, &units)?,
        KeyLayout::Caffe | KeyLayout::Keras => named_blocks(file, layout, &units)?,
    };
    let linears = linears(file, layout, &units)?;
    Ok(Sorted { layout, blocks, linears, unused })
}

/// Determines the layout from the names of convolutions.
fn recognise(file: &WeightFile) -> Result<KeyLayout> {
    let has_conv = |layout| {
        file.keys().any(|key| {
            let conv = matches!(
                parse(layout, key),
                Some((Unit::Feature(_) | Unit::Conv(..), _, ParameterKind::Weight))
            );
            conv && file.rank(key) == Some(4)
        })
    };
    if let Some(layout) = [KeyLayout::Caffe, KeyLayout::Keras].into_iter().find(|l| has_conv(*l)) {
        return Ok(layout);
    }
    if has_conv(KeyLayout::Torchvision) {
        let timm = file.keys().any(|key| key.starts_with("pre_logits.") || key.starts_with("head."));
        return Ok(if timm { KeyLayout::Timm } else { KeyLayout::Torchvision });
    }
    const SHOWN: usize = 4;
    let keys: Vec<&str> = file.keys().take(SHOWN).collect();
    let more = file.keys().count().saturating_sub(SHOWN);
    let found = match (keys.len(), more) {
        (0, _) => "it holds no tensors".to_owned(),
        (_, 0) => format!("it holds {}", keys.join(", ")),
        _ => format!("it holds {} and {more} more", keys.join(", ")),
    };
    Err(file.error(
        format!("the tensors are not named like those of a VGG network: {found}"),
        format!("Supported layouts: {LAYOUTS}"),
    ))
}

/// Returns true if a key that [`parse`] doesn't recognise has a prefix reserved for the network's layers.
fn claims(layout: KeyLayout, key: &str) -> bool {
    let counter = key.ends_with(".num_batches_tracked");
    let prefixes: &[&str] = match layout {
        KeyLayout::Torchvision => &["features.", "classifier."],
        KeyLayout::Timm => &["features.", "pre_logits.", "head."],
        KeyLayout::Caffe => &["conv", "fc"],
        KeyLayout::Keras => &["block", "fc", "predictions"],
    };
    !counter && prefixes.iter().any(|prefix| key.starts_with(prefix))
}

/// Parses a key into unit, name of the unit, and kind.
fn parse(layout: KeyLayout, key: &str) -> Option<(Unit, String, ParameterKind)> {
    if layout == KeyLayout::Keras {
        return parse_keras(key);
    }
    let (owner, kind) = key.rsplit_once('.')?;
    let kind = match kind {
        "weight" => ParameterKind::Weight,
        "bias" => ParameterKind::Bias,
        "running_mean" => ParameterKind::Mean,
        "running_var" => ParameterKind::Variance,
        _ => return None,
    };
    let unit = match layout {
        KeyLayout::Caffe => named_unit(owner, "conv", "bn")
            .or_else(|| owner.strip_prefix("fc").and_then(number).map(Unit::Linear))?,
        _ => match owner.split_once('.')? {
            ("features", n) => Unit::Feature(number(n)?),
            ("classifier", n) if layout == KeyLayout::Torchvision => Unit::Linear(number(n)?),
            ("pre_logits", fc) if layout == KeyLayout::Timm => Unit::Linear(number(fc.strip_prefix("fc")?)?),
            ("head", "fc") if layout == KeyLayout::Timm => Unit::Linear(u32::MAX),
            _ => return None,
        },
    };
    Some((unit, owner.to_owned(), kind))
}

/// Parses a Keras path like [`parse`]: `block1_conv1/kernel`, with or without `:0`, a repeated group
/// (`block1_conv1/block1_conv1/kernel:0`) or the old variable names (`block1_conv1_W_1:0`).
fn parse_keras(key: &str) -> Option<(Unit, String, ParameterKind)> {
    let path = key.strip_suffix(":0").unwrap_or(key);
    let (owners, variable) = path.rsplit_once('/')?;
    let owner = owners.rsplit('/').next()?;
    // Old variables repeat the owner and may end in a counter: block1_conv1_W_1.
    let variable = variable.strip_prefix(owner).map_or(variable, |rest| rest.trim_start_matches('_'));
    let variable = match variable.split_once('_') {
        Some((name, counter)) if number(counter).is_some() => name,
        _ => variable,
    };
    let kind = match variable {
        "kernel" | "W" | "gamma" => ParameterKind::Weight,
        "bias" | "b" | "beta" => ParameterKind::Bias,
        "moving_mean" => ParameterKind::Mean,
        "moving_variance" => ParameterKind::Variance,
        _ => return None,
    };
    let unit = if owner == "predictions" {
        Unit::Linear(u32::MAX)
    } else if let Some(fc) = owner.strip_prefix("fc") {
        Unit::Linear(number(fc)?)
    } else {
        let (block, rest) = owner.strip_prefix("block")?.split_once('_')?;
        let block = number(block)?;
        match (rest.strip_prefix("conv"), rest.strip_prefix("bn")) {
            (Some(n), _) => Unit::Conv(block, number(n)?),
            (_, Some(n)) => Unit::Norm(block, number(n)?),
            _ => return None,
        }
    };
    Some((unit, owner.to_owned(), kind))
}

/// Parses names such as `conv3_2` and `bn3_2`.
fn named_unit(owner: &str, conv: &str, norm: &str) -> Option<Unit> {
    let pair = |text: &str| {
        let (block, index) = text.split_once('_')?;
        Some((number(block)?, number(index)?))
    };
    if let Some(rest) = owner.strip_prefix(conv) {
        return pair(rest).map(|(block, index)| Unit::Conv(block, index));
    }
    owner.strip_prefix(norm).and_then(pair).map(|(block, index)| Unit::Norm(block, index))
}

/// Parses a number that consists of digits only.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Derives blocks from indices in a sequence: the gap between two convolutions shows which layers are between them.
fn numbered_blocks(file: &WeightFile, units: &BTreeMap<Unit, Keys>) -> Result<Vec<Vec<ConvKeys>>> {
    let mut blocks: Vec<Vec<ConvKeys>> = Vec::new();
    let mut last: Option<u32> = None;
    for (unit, keys) in units {
        let Unit::Feature(position) = *unit else { continue };
        let weight = keys.require(file, ParameterKind::Weight)?;
        if file.rank(weight) == Some(1) {
            let conv = blocks.last_mut().and_then(|block| block.last_mut());
            match conv {
                Some(conv) if last.and_then(|l| l.checked_add(1)) == Some(position) => {
                    conv.norm = Some(keys.clone())
                }
                _ => {
                    return Err(missing(
                        file,
                        format!("there is no convolution before the batch norm {}", keys.label),
                    ));
                }
            }
            continue;
        }
        let normed = blocks.last().and_then(|block| block.last()).is_some_and(|conv| conv.norm.is_some());
        let conv = ConvKeys { conv: keys.clone(), norm: None };
        match last.map(|last| (position - last, normed)) {
            None if position == 0 => blocks.push(vec![conv]),
            None => {
                return Err(missing(
                    file,
                    format!("the first convolution is {weight}, not features.0.weight"),
                ));
            }
            Some((2, false) | (3, true)) => {
                if let Some(block) = blocks.last_mut() {
                    block.push(conv);
                }
            }
            Some((3, false) | (4, true)) => blocks.push(vec![conv]),
            Some((gap, _)) => {
                return Err(missing(
                    file,
                    format!(
                        "between the convolutions features.{} and features.{position} there should be a ReLU, or a \
                         ReLU and a pooling, but their numbers differ by {gap}",
                        position - gap
                    ),
                ));
            }
        }
        last = Some(position);
    }
    Ok(blocks)
}

/// Derives blocks from names, which must count up from 1 without gaps.
fn named_blocks(
    file: &WeightFile,
    layout: KeyLayout,
    units: &BTreeMap<Unit, Keys>,
) -> Result<Vec<Vec<ConvKeys>>> {
    let mut blocks: Vec<Vec<ConvKeys>> = Vec::new();
    for (unit, keys) in units {
        let Unit::Conv(block, index) = *unit else { continue };
        let norm = units.get(&Unit::Norm(block, index)).cloned();
        let conv = ConvKeys { conv: keys.clone(), norm };
        let count = blocks.len() as u64;
        let in_block = blocks.last().map_or(0, |b| b.len() as u64);
        match (u64::from(block), u64::from(index)) {
            (b, 1) if b == count + 1 => blocks.push(vec![conv]),
            (b, i) if b == count && count > 0 && i == in_block + 1 => {
                if let Some(last) = blocks.last_mut() {
                    last.push(conv);
                }
            }
            (b, _) => {
                let (block, index) =
                    if b == count && count > 0 { (count, in_block + 1) } else { (count + 1, 1) };
                let name = match layout {
                    KeyLayout::Keras => format!("block{block}_conv{index}"),
                    _ => format!("conv{block}_{index}"),
                };
                return Err(missing(
                    file,
                    format!("the weights of {name} are missing, though {} is there", keys.label),
                ));
            }
        }
    }
    let stray = units.iter().find_map(|(unit, keys)| match unit {
        Unit::Norm(block, index) if !units.contains_key(&Unit::Conv(*block, *index)) => Some(keys),
        _ => None,
    });
    match stray {
        Some(keys) => {
            Err(missing(file, format!("there is no convolution before the batch norm {}", keys.label)))
        }
        None => Ok(blocks),
    }
}

/// Returns the fully connected layers in order; checks for gaps if their names are numbered.
fn linears(file: &WeightFile, layout: KeyLayout, units: &BTreeMap<Unit, Keys>) -> Result<Vec<Keys>> {
    let found: Vec<(u32, &Keys)> = units
        .iter()
        .filter_map(|(unit, keys)| match unit {
            Unit::Linear(n) => Some((*n, keys)),
            _ => None,
        })
        .collect();
    let first = match layout {
        KeyLayout::Torchvision => None,
        KeyLayout::Caffe => Some(("fc", 6)),
        KeyLayout::Timm => Some(("pre_logits.fc", 1)),
        KeyLayout::Keras => Some(("fc", 1)),
    };
    if let Some((prefix, first)) = first {
        for ((n, keys), expected) in found.iter().zip(first..) {
            if *n != expected && *n != u32::MAX {
                return Err(missing(
                    file,
                    format!("the weights of {prefix}{expected} are missing, though {} is there", keys.label),
                ));
            }
        }
    }
    let headless = found.last().is_some_and(|(n, _)| *n != u32::MAX);
    if layout == KeyLayout::Timm && headless {
        return Err(missing(file, "head.fc.weight is missing, though pre_logits is there".to_owned()));
    }
    Ok(found.into_iter().map(|(_, keys)| keys.clone()).collect())
}

/// Creates an error about a missing tensor.
fn missing(file: &WeightFile, problem: String) -> Error {
    file.error(problem, format!("The file may be incomplete. {FETCH_AGAIN}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(layout: KeyLayout, key: &str) -> Option<(Unit, ParameterKind)> {
        parse(layout, key).map(|(unit, _, kind)| (unit, kind))
    }

    #[test]
    fn all_keras_key_spellings_are_recognised() {
        for key in [
            "block3_conv2/kernel",
            "block3_conv2/kernel:0",
            "block3_conv2/block3_conv2/kernel:0",
            "block3_conv2/block3_conv2_W:0",
            "block3_conv2/block3_conv2_W_1:0",
            "model_weights/block3_conv2/block3_conv2_W_12:0",
        ] {
            assert_eq!(unit(KeyLayout::Keras, key), Some((Unit::Conv(3, 2), ParameterKind::Weight)), "{key}");
        }
        for (key, kind) in [
            ("predictions/predictions_b_1:0", ParameterKind::Bias),
            ("predictions/bias:0", ParameterKind::Bias),
            ("predictions/kernel", ParameterKind::Weight),
        ] {
            assert_eq!(unit(KeyLayout::Keras, key), Some((Unit::Linear(u32::MAX), kind)), "{key}");
        }
        assert_eq!(
            unit(KeyLayout::Keras, "block1_bn1/moving_variance"),
            Some((Unit::Norm(1, 1), ParameterKind::Variance))
        );
        for key in ["kernel", "block1/kernel", "block1_conv/kernel", "block1_conv1/other", "input/kernel"] {
            assert_eq!(unit(KeyLayout::Keras, key), None, "{key}");
        }
    }

    #[test]
    fn only_digit_strings_are_numbers() {
        assert_eq!(number("12"), Some(12));
        for text in ["", "+1", "-1", "1.5", "99999999999", "1a"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn keys_of_other_networks_are_not_recognised() {
        for key in
            ["features.0.0.weight", "features.3.squeeze.weight", "layer1.0.conv1.weight", "features.x.weight"]
        {
            assert_eq!(unit(KeyLayout::Torchvision, key), None, "{key}");
        }
        assert_eq!(unit(KeyLayout::Caffe, "conv1.weight"), None);
        assert_eq!(unit(KeyLayout::Caffe, "conv1_1.weight"), Some((Unit::Conv(1, 1), ParameterKind::Weight)));
        assert_eq!(
            unit(KeyLayout::Timm, "head.fc.bias"),
            Some((Unit::Linear(u32::MAX), ParameterKind::Bias))
        );
    }
}
