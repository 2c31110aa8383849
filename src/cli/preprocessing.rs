//! Networks whose files don't say how pictures have to be prepared for them.
//!
//! A converted Caffe network under torchvision's names is read with torchvision's preprocessing, by custom, and then
//! recognises hardly anything: the layers see colours in the wrong order at a fiftieth of their range.

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

/// A cat.
const PHOTO: &[u8] = include_bytes!("../../docs/photos/cat-224.jpg");
/// ImageNet's cats.
const CATS: RangeInclusive<usize> = 281..=285;
/// Number of classes of ImageNet.
const IMAGENET: usize = 1000;
/// A network that sees a cat with at least this probability is taken for one that is read rightly. VGGs give 0.5 and more.
const SEEN: f32 = 0.1;

/// A warning if a network that names ImageNet's classes recognises a cat only with the other preprocessing than the
/// custom of its file.
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
    // Not by chance: the other way round, much too large values can make a network sure of anything.
    let warns = with_other >= SEEN && with_other > 3.0 * found;
    Ok(warns.then(|| {
        format!(
            "{} does not say its preprocessing. With {}, the custom for its names, the network takes the photo of a cat for one at {} %; \
             with {other} at {} %. Give --preprocessing {other}",
            shown(&network.path),
            network.preprocessing,
            percent(found),
            percent(with_other)
        )
    }))
}
