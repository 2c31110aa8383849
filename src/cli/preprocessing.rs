//! Detects networks that are read with the wrong preprocessing, because their files don't state it.
//!
//! By convention, a file with torchvision's tensor names is read with torchvision's preprocessing. A Caffe network
//! converted to these names then recognises hardly anything: its layers get the colour channels in the wrong order, at
//! a fiftieth of their range. In the opposite case all values are fifty times too large, and the network is confident of
//! any class. docs/networks.md has the measurements behind the limits.

use super::output::escape::shown;
use super::output::format::percent;
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::image_io::{self, Picture, ReadOptions};
use crate::mirage;
use crate::ops::PoolKind;
use crate::vgg::{LayerKind, Network, Preprocessing, PreprocessingSource};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A photo of a cat.
const PHOTO: &[u8] = include_bytes!("../../docs/photos/cat-224.jpg");
/// ImageNet's classes of cats.
const CATS: RangeInclusive<usize> = 281..=285;
/// Number of classes of ImageNet.
const IMAGENET: usize = 1000;
/// Probability of a cat from which the preprocessing counts as right. VGGs give 0.5 and more.
const SEEN: f32 = 0.1;
/// Sides of the photo where its classes don't matter: a fifth of the work.
const SMALL: usize = 96;
/// The mean colour of ImageNet, which both preprocessings turn into about 0.
const GRAY: [f32; 3] = [0.485, 0.456, 0.406];
/// Cosine between the last convolution's responses to the photo and to plain gray above which it hardly depends on the
/// picture, only on its biases.
const ALIKE: f64 = 0.2;
/// Standard deviation of class scores above which they are too large.
const SCORES: f64 = 12.0;
/// Root mean square of the first convolution's output above which it is too large.
const VALUES: f64 = 400.0;
/// Mean cosine between a filter's three channels above which it counts as trained: trained filters respond to gray
/// edges in all channels alike, random ones don't.
const TRAINED: f64 = 0.4;
/// Least number of filters, or of classes, for a statistic.
const FEW: usize = 10;

/// Returns a warning if a network, whose preprocessing was guessed from its tensor names, works only with the other one:
/// with the guessed one it doesn't recognise a cat, or its values are far too large, or too small to distinguish the cat
/// from gray. Returns none when in doubt.
///
/// # Errors
/// If the device fails, or the network's file can't be read any more.
pub(super) fn doubt(engine: &Arc<Engine>, network: &Network) -> Result<Option<String>> {
    if network.preprocessing_source != PreprocessingSource::Layout {
        return Ok(None);
    }
    let cat = image_io::read_bytes("the sample photo", PHOTO, &ReadOptions::default())?.picture;
    let verdict = match by_classes(engine, network, &cat)? {
        Verdict::Undecided => by_values(engine, network, &cat)?,
        decided => decided,
    };
    let Verdict::Wrong(with, with_other) = verdict else { return Ok(None) };
    let other = other(network.preprocessing);
    Ok(Some(format!(
        "{} does not state its preprocessing. With {}, the convention for its tensor names, {with}; with {other}, {with_other}. \
         Use --preprocessing {other}",
        shown(&network.path),
        network.preprocessing,
    )))
}

/// Result of a test of the guessed preprocessing.
enum Verdict {
    Right,
    Undecided,
    /// The fault, and the same with the other preprocessing, as parts of a sentence.
    Wrong(String, String),
}

/// Tests whether a network with ImageNet's classes recognises the cat.
fn by_classes(engine: &Arc<Engine>, network: &Network, cat: &Picture) -> Result<Verdict> {
    let Some(last) = last_linear(network).filter(|_| network.classes() == Some(IMAGENET)) else {
        return Ok(Verdict::Undecided);
    };
    let Some(scores) = values(engine, network, cat, last)? else { return Ok(Verdict::Undecided) };
    let found = cats(&scores);
    if found >= SEEN {
        // Values that are too large, which only Caffe's preprocessing gives, can make a network confident of any class.
        let sure = network.preprocessing == Preprocessing::Caffe && deviation(&scores) > SCORES;
        return Ok(if sure { Verdict::Undecided } else { Verdict::Right });
    }
    let Some(scores) = values(engine, &reopened(network)?, cat, last)? else { return Ok(Verdict::Undecided) };
    let with_other = cats(&scores);
    if with_other < SEEN || with_other <= 3.0 * found || deviation(&scores) > SCORES {
        return Ok(Verdict::Undecided);
    }
    Ok(Verdict::Wrong(
        format!("the network recognises a photo of a cat with {} %", percent(found)),
        format!("with {} %", percent(with_other)),
    ))
}

/// Tests whether the values of a trained network are far too large or too small, whatever its classes.
fn by_values(engine: &Arc<Engine>, network: &Network, cat: &Picture) -> Result<Verdict> {
    let Some(first) = trained(network)? else { return Ok(Verdict::Undecided) };
    let cat = image_io::resize(cat, SMALL, SMALL)?;
    let other = reopened(network)?;
    if network.preprocessing == Preprocessing::Torchvision {
        let hardly = |cosine: &f64| *cosine > ALIKE;
        let Some(here) = alike(engine, network, &cat)?.filter(hardly) else { return Ok(Verdict::Undecided) };
        let Some(there) = alike(engine, &other, &cat)?.filter(|cosine| !hardly(cosine)) else {
            return Ok(Verdict::Undecided);
        };
        let percent = |cosine: f64| percent(cosine as f32);
        return Ok(Verdict::Wrong(
            format!(
                "its last convolution hardly distinguishes a photo of a cat from plain gray (cosine {} %)",
                percent(here)
            ),
            format!("it does (cosine {} %)", percent(there)),
        ));
    }
    let scores = last_linear(network).filter(|_| network.classes().is_some_and(|classes| classes >= FEW));
    let (layer, limit) = scores.map_or((first, VALUES), |layer| (layer, SCORES));
    let size = |network: &Network| -> Result<Option<f64>> {
        let values = values(engine, network, &cat, layer)?;
        Ok(values.map(|values| if scores.is_some() { deviation(&values) } else { root_mean_square(&values) }))
    };
    let Some(here) = size(network)?.filter(|size| *size > limit) else { return Ok(Verdict::Undecided) };
    let Some(there) = size(&other)?.filter(|size| *size <= limit) else { return Ok(Verdict::Undecided) };
    // A Caffe network with large values would hardly respond with torchvision's.
    if alike(engine, &other, &cat)?.is_some_and(|cosine| cosine > ALIKE) {
        return Ok(Verdict::Undecided);
    }
    Ok(Verdict::Wrong(
        format!("the values of {layer} for a photo of a cat are too large (about {})", rounded(here)),
        format!("about {}", rounded(there)),
    ))
}

fn other(preprocessing: Preprocessing) -> Preprocessing {
    match preprocessing {
        Preprocessing::Caffe => Preprocessing::Torchvision,
        Preprocessing::Torchvision => Preprocessing::Caffe,
    }
}

/// Opens the network with the other preprocessing.
fn reopened(network: &Network) -> Result<Network> {
    Network::open(&network.path, Some(other(network.preprocessing)))
}

fn last_linear(network: &Network) -> Option<&str> {
    let last = network.layers.iter().rfind(|layer| matches!(layer.kind, LayerKind::Linear(_)));
    last.map(|layer| layer.name.as_str())
}

/// Returns the name of the first convolution if its filters look trained on colour photos.
fn trained(network: &Network) -> Result<Option<&str>> {
    let first = network.layers.iter().find_map(|layer| match &layer.kind {
        LayerKind::Conv(conv) => Some((layer.name.as_str(), conv)),
        _ => None,
    });
    let Some((name, conv)) = first.filter(|(_, conv)| conv.in_channels == 3 && conv.out_channels >= FEW)
    else {
        return Ok(None);
    };
    let filter = conv.filter()?;
    let taps = conv.kernel[0] * conv.kernel[1];
    let channel = |k: usize| -> Vec<f64> {
        filter.chunks_exact(taps).skip(k).step_by(3).flatten().map(|weight| f64::from(*weight)).collect()
    };
    let [a, b, c] = [channel(0), channel(1), channel(2)];
    Ok(((cosine(&a, &b) + cosine(&b, &c) + cosine(&a, &c)) / 3.0 > TRAINED).then_some(name))
}

/// Returns the cosine, from 0 to 1, between the last convolution's rectified responses to the photo and to plain gray;
/// none for networks with batch norm, whose biases are large even with the right preprocessing.
fn alike(engine: &Arc<Engine>, network: &Network, cat: &Picture) -> Result<Option<f64>> {
    let last = network.layers.iter().rfind(|layer| matches!(layer.kind, LayerKind::Conv(_)));
    let Some(last) = last.filter(|_| !network.convs().any(|conv| conv.has_batch_norm())) else {
        return Ok(None);
    };
    let gray = Picture::new(cat.width, cat.height, GRAY.repeat(cat.width * cat.height))?;
    let rectified = |picture: &Picture| -> Result<Option<Vec<f64>>> {
        let values = values(engine, network, picture, &last.name)?;
        Ok(values.map(|values| values.into_iter().map(|value| value.max(0.0)).collect()))
    };
    let (cat, gray) = (rectified(cat)?, rectified(&gray)?);
    Ok(cat.zip(gray).map(|(cat, gray)| cosine(&cat, &gray)))
}

/// Returns the output of a layer for a picture; none if the picture is too small for it or a value is not finite.
fn values(
    engine: &Arc<Engine>,
    network: &Network,
    picture: &Picture,
    layer: &str,
) -> Result<Option<Vec<f64>>> {
    let found = match mirage::activations(engine, network, picture, PoolKind::Max.into(), &[layer]) {
        Err(Error::Usage(_)) => return Ok(None),
        found => found?,
    };
    let values: Vec<f64> = found.into_iter().flat_map(|(_, values)| values).map(f64::from).collect();
    Ok(values.iter().all(|value| value.is_finite()).then_some(values))
}

/// Returns the probability of a cat from the scores of ImageNet's classes.
fn cats(scores: &[f64]) -> f32 {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let likely = |scores: &[f64]| scores.iter().map(|score| (score - largest).exp()).sum::<f64>();
    (likely(&scores[CATS]) / likely(scores)) as f32
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    root_mean_square(&values.iter().map(|value| value - mean).collect::<Vec<_>>())
}

/// Returns the cosine of the angle between two vectors; 0 if either is zero.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let lengths = root_mean_square(a) * root_mean_square(b) * a.len() as f64;
    if lengths > 0.0 { product / lengths } else { 0.0 }
}

/// Formats a value for messages.
fn rounded(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
