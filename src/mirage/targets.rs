//! What each loss of an objective is compared with, at one size.

use super::capture::{Captured, Known, Stage, Wanted, capture, prepare, read};
use super::loss::{Loss, Target};
use super::network_graph::{self, View};
use super::readout::probabilities;
use super::request::Request;
use crate::error::Result;
use crate::graph::{Engine, Submission};
use crate::image_io::{Picture, fit, resize};
use crate::ops::Shape;
use crate::vgg::Network;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

/// What the losses are compared with.
#[derive(Debug)]
pub(super) struct Targets {
    /// Of each loss, the tensors that its statistic's distance takes.
    pub losses: Vec<Vec<Captured>>,
    /// Class probabilities of the photo, where they are wanted and the network has them.
    pub classes: Option<Captured>,
    /// The device's last work on them, if there was any.
    pub submission: Option<Submission>,
}

/// Which images a target is of, at which size, and what of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    images: u64,
    size: [usize; 2],
    layer: Option<usize>,
    statistic: String,
}

/// What was captured so far, so that the next objective of the same images need not do it again.
#[derive(Debug, Default)]
pub(super) struct Cache {
    view: Option<View>,
    known: Known<Key>,
}

impl Cache {
    /// Forgets what is of other images than the request's, or of another view of the network.
    fn keep_for(&mut self, request: &Request, view: View) {
        if self.view != Some(view) {
            self.known.clear();
            self.view = Some(view);
        }
        let mut hashes = vec![hash([(&request.photo, 1.0)])];
        let losses = request.groups.iter().flat_map(|group| &group.losses);
        hashes.extend(losses.filter_map(|loss| match &loss.target {
            Target::Images(images) => Some(hash(weighted(images))),
            _ => None,
        }));
        self.known.retain(|key, _| hashes.contains(&key.images));
    }
}

/// The photo at one of a request's sizes.
///
/// # Errors
/// If it can't be resized.
pub(super) fn photo_at(request: &Request, [height, width]: [usize; 2]) -> Result<Picture> {
    at_size(&request.photo, width, height)
}

/// An image in the proportion in which the picture at this size is smaller than the request's.
///
/// # Errors
/// If it can't be resized.
pub(super) fn image_at(request: &Request, image: &Picture, size: [usize; 2]) -> Result<Picture> {
    let whole = request.size();
    if size == whole {
        return Ok(image.clone());
    }
    let longest = image.width.max(image.height) as f64;
    let factor = size[0].max(size[1]) as f64 / whole[0].max(whole[1]) as f64;
    let (width, height) = fit(image.width, image.height, (longest * factor).round().max(1.0) as usize);
    at_size(image, width, height)
}

fn at_size(image: &Picture, width: usize, height: usize) -> Result<Picture> {
    if (image.width, image.height) == (width, height) {
        return Ok(image.clone());
    }
    let mut smaller = resize(image, width, height)?;
    // Next to sharp edges a resized picture overshoots.
    smaller.rgb.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
    Ok(smaller)
}

/// The targets of these losses at one size; those without a target get no tensors. The device may still be at work on
/// them.
///
/// # Errors
/// As [`capture`].
pub(super) fn targets(
    engine: &Arc<Engine>,
    network: &Network,
    request: &Request,
    size: [usize; 2],
    losses: &[(&Loss, Wanted)],
    cache: &mut Cache,
) -> Result<Targets> {
    let view = request.view();
    cache.keep_for(request, view);
    let classes = probabilities(network).filter(|wanted| {
        let reaches = |layer| network_graph::check_size(network, layer, size[0], size[1]).is_ok();
        request.top_classes > 0 && wanted.layer.is_some_and(reaches)
    });
    let of_photo = hash([(&request.photo, 1.0)]);
    let key = |images: u64, wanted: &Wanted| Key {
        images,
        size,
        layer: wanted.layer,
        statistic: wanted.statistic.key(),
    };

    // Everything of the photo in one forward pass.
    let mut missing: Vec<&Wanted> = Vec::new();
    let with_photo =
        losses.iter().filter(|(loss, _)| loss.target == Target::Photo && loss.statistic.has_target());
    for wanted in with_photo.map(|(_, wanted)| wanted).chain(&classes) {
        let key = |wanted: &Wanted| key(of_photo, wanted);
        if !cache.known.contains_key(&key(wanted)) && !missing.iter().any(|other| key(other) == key(wanted)) {
            missing.push(wanted);
        }
    }
    let mut submission = None;
    if !missing.is_empty() {
        let wanted: Vec<Wanted> = missing.iter().map(|wanted| (*wanted).clone()).collect();
        let photo = photo_at(request, size)?;
        let (found, last) = capture(engine, network, view, &photo, &wanted, Stage::Target)?;
        let keys = wanted.iter().map(|wanted| key(of_photo, wanted));
        cache.known.extend(keys.zip(found));
        submission = Some(last);
    }

    // The images of all losses that share them in one forward pass each.
    for (at, (loss, _)) in losses.iter().enumerate() {
        let Target::Images(images) = &loss.target else { continue };
        if losses[..at].iter().any(|(earlier, _)| earlier.target == loss.target) {
            continue;
        }
        let of_images = hash(weighted(images));
        let mut missing: Vec<Wanted> = Vec::new();
        for (_, wanted) in losses.iter().filter(|(other, _)| other.target == loss.target) {
            let key = |wanted: &Wanted| key(of_images, wanted);
            let known = cache.known.contains_key(&key(wanted));
            if wanted.statistic.has_target()
                && !known
                && !missing.iter().any(|other| key(other) == key(wanted))
            {
                missing.push(wanted.clone());
            }
        }
        if !missing.is_empty() {
            let found = blended(engine, network, request, size, images, &missing)?;
            cache.known.extend(missing.iter().map(|wanted| key(of_images, wanted)).zip(found));
        }
    }

    let target = |(loss, wanted): &(&Loss, Wanted)| -> Result<Vec<Captured>> {
        if !loss.statistic.has_target() {
            return Ok(Vec::new());
        }
        let images = match &loss.target {
            Target::Photo => of_photo,
            Target::Images(images) => hash(weighted(images)),
            Target::Classes(classes) => return Ok(vec![distribution(engine, network, classes)?]),
        };
        Ok(cache.known.get(&key(images, wanted)).cloned().unwrap_or_default())
    };
    let of_losses = losses.iter().map(target).collect::<Result<_>>()?;
    let known_classes = classes.and_then(|wanted| cache.known.get(&key(of_photo, &wanted)).cloned());
    let classes = known_classes.and_then(|parts| parts.into_iter().next());
    Ok(Targets { losses: of_losses, classes, submission })
}

/// The targets of several images, blended with weights that sum to 1.
fn blended(
    engine: &Arc<Engine>,
    network: &Network,
    request: &Request,
    size: [usize; 2],
    images: &[(Picture, f32)],
    wanted: &[Wanted],
) -> Result<Vec<Vec<Captured>>> {
    let view = request.view();
    if let [(image, _)] = images {
        let image = image_at(request, image, size)?;
        return Ok(capture(engine, network, view, &image, wanted, Stage::Target)?.0);
    }
    let total: f32 = images.iter().map(|(_, weight)| weight).sum();
    // For each statistic its tensors' shapes, and for each image its weight and values.
    let mut shapes: Vec<Vec<Shape>> = vec![Vec::new(); wanted.len()];
    let mut summaries: Vec<Vec<(f32, Vec<Vec<f32>>)>> = vec![Vec::new(); wanted.len()];
    for (image, weight) in images.iter().filter(|(_, weight)| *weight > 0.0) {
        let image = image_at(request, image, size)?;
        let (found, _) = capture(engine, network, view, &image, wanted, Stage::Summary)?;
        for (at, parts) in found.iter().enumerate() {
            let parts = read(engine, parts, "statistic of an image")?;
            shapes[at] = parts.iter().map(|(shape, _)| *shape).collect();
            summaries[at].push((weight / total, parts.into_iter().map(|(_, values)| values).collect()));
        }
    }
    let mut parts = Vec::new();
    for ((wanted, shapes), summaries) in wanted.iter().zip(shapes).zip(summaries) {
        let values = wanted.statistic.blend(&summaries)?;
        parts.push((wanted, shapes.into_iter().zip(values).collect()));
    }
    prepare(engine, network, &parts)
}

/// Probabilities of the network's classes, of which only some are given.
fn distribution(engine: &Engine, network: &Network, classes: &[(usize, f32)]) -> Result<Captured> {
    let mut values = vec![0.0; network.classes().unwrap_or(0)];
    let total: f32 = classes.iter().map(|(_, weight)| weight).sum();
    for (class, weight) in classes {
        if let Some(value) = values.get_mut(*class) {
            *value += weight / total;
        }
    }
    let shape = Shape::Vector(values.len());
    Ok(Captured { shape, memory: engine.tensor_with("class probabilities", shape, &values)? })
}

fn weighted(images: &[(Picture, f32)]) -> impl Iterator<Item = (&Picture, f32)> {
    images.iter().map(|(image, weight)| (image, *weight))
}

/// Images and weights as a number, to tell them from others.
fn hash<'a>(images: impl IntoIterator<Item = (&'a Picture, f32)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (image, weight) in images {
        (image.width, image.height, weight.to_bits()).hash(&mut hasher);
        hasher.write(bytemuck::cast_slice(&image.rgb));
    }
    hasher.finish()
}
