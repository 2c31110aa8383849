//! Detects networks that are read with the wrong preprocessing, because their files don't state it.
//!
//! By convention, a file with torchvision's tensor names is read with torchvision's preprocessing. A Caffe network
//! converted to these names then recognises hardly anything: its layers get the colour channels in the wrong order, at
//! a fiftieth of their range.

use super::output::escape::shown;
use super::output::format::percent;
use crate::error::Result;
use crate::graph::Engine;
use crate::image_io::{self, ReadOptions};
use crate::mirage;
use crate::ops::PoolKind;
use crate::vgg::{Network, Preprocessing, PreprocessingSource};
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

/// Returns a warning if an ImageNet network, whose preprocessing was guessed from its tensor names, recognises a cat
/// only with the other preprocessing.
///
/// # Errors
/// If the device fails, or the network's file can't be read any more.
pub(super) fn doubt(engine: &Arc<Engine>, network: &Network) -> Result<Option<String>> {
    if network.preprocessing_source != PreprocessingSource::Layout || network.classes() != Some(IMAGENET) {
        return Ok(None);
    }
    let picture = image_io::read_bytes("the sample photo", PHOTO, &ReadOptions::default())?.picture;
    let cats = |network: &Network| -> Result<f32> {
        Ok(mirage::classify(engine, network, &picture, PoolKind::Max.into())?[CATS].iter().sum())
    };
    let found = cats(network)?;
    if found >= SEEN {
        return Ok(None);
    }
    let other = match network.preprocessing {
        Preprocessing::Caffe => Preprocessing::Torchvision,
        Preprocessing::Torchvision => Preprocessing::Caffe,
    };
    let with_other = cats(&Network::open(&network.path, Some(other))?)?;
    // The factor of 3 excludes chance: with the wrong preprocessing, inputs that are far too large can make a network
    // confident of any class.
    let warns = with_other >= SEEN && with_other > 3.0 * found;
    Ok(warns.then(|| {
        format!(
            "{} does not state its preprocessing. With {}, the convention for its tensor names, the network recognises a photo of a cat with {} %; \
             with {other}, with {} %. Use --preprocessing {other}",
            shown(&network.path),
            network.preprocessing,
            percent(found),
            percent(with_other)
        )
    }))
}
