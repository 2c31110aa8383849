//! Targets of an objective's losses at one size.

use super::capture::{Stage, capture, prepare, read};
use super::layer_statistic::{Captured, LayerStatistic, TargetPlace};
use super::readout::probabilities;
use crate::error::Result;
use crate::graph::{Engine, Submission};
use crate::image_io::{Picture, fit, resize};
use crate::mirage::loss::{Loss, Target};
use crate::mirage::network_graph::{self, View};
use crate::mirage::request::Request;
use crate::ops::Shape;
use crate::vgg::Network;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, PoisonError};

/// Targets of an objective.
#[derive(Debug)]
pub(in crate::mirage) struct Targets {
    /// For each loss, the target tensors of its statistic's distance.
    pub losses: Vec<Vec<Captured>>,
    /// Class probabilities of the photo, if reports list classes and the network has a classifier.
    pub classes: Option<Captured>,
    /// Last submission that computes targets of the photo, if any.
    pub submission: Option<Submission>,
}

/// Key of a captured target: images, size, layer and statistic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    images: u64,
    size: [usize; 2],
    layer: Option<usize>,
    statistic: String,
}

/// Captured targets, kept for the next objective with the same images.
#[derive(Debug, Default)]
pub(in crate::mirage) struct Cache {
    view: Option<View>,
    captured: HashMap<Key, Vec<Captured>>,
}

impl Cache {
    /// Returns the bytes of all captured targets: on the device, and in host memory.
    pub(in crate::mirage) fn bytes(&self) -> [u64; 2] {
        let mut bytes = [0, 0];
        for part in self.captured.values().flatten() {
            match &part.place {
                TargetPlace::Device(memory) => bytes[0] += memory.bytes(),
                TargetPlace::Host(map) => {
                    bytes[1] += map.lock().unwrap_or_else(PoisonError::into_inner).bytes()
                }
            }
        }
        bytes
    }

    /// Drops targets of other images than these, or of another view of the network. In the tiled case also drops those
    /// of other sizes, because memory then matters more than the time to capture them again in the next run.
    fn keep_for(&mut self, sets: &[ImageSet<'_>], view: View, (size, tile): ([usize; 2], Option<usize>)) {
        if self.view != Some(view) {
            self.captured.clear();
            self.view = Some(view);
        }
        let of_size = |key: &Key| tile.is_none() || key.size == size;
        self.captured.retain(|key, _| of_size(key) && sets.iter().any(|set| set.hash == key.images));
    }
}

/// Returns the photo at one of a request's sizes.
///
/// # Errors
/// If it can't be resized.
pub(in crate::mirage) fn photo_at(
    request: &Request,
    [height, width]: [usize; 2],
) -> Result<Cow<'_, Picture>> {
    at_size(&request.photo, width, height)
}

/// Returns an image, scaled by the ratio of this size to the request's.
///
/// # Errors
/// If it can't be resized.
pub(in crate::mirage) fn image_at<'a>(
    request: &Request,
    image: &'a Picture,
    size: [usize; 2],
) -> Result<Cow<'a, Picture>> {
    let whole = request.size();
    if size == whole {
        return Ok(Cow::Borrowed(image));
    }
    let longest = image.width.max(image.height) as f64;
    let factor = size[0].max(size[1]) as f64 / whole[0].max(whole[1]) as f64;
    let (width, height) = fit(image.width, image.height, (longest * factor).round().max(1.0) as usize);
    at_size(image, width, height)
}

fn at_size(image: &Picture, width: usize, height: usize) -> Result<Cow<'_, Picture>> {
    if (image.width, image.height) == (width, height) {
        return Ok(Cow::Borrowed(image));
    }
    let mut smaller = resize(image, width, height)?;
    // Resizing overshoots next to sharp edges.
    smaller.rgb.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
    Ok(Cow::Owned(smaller))
}

/// Returns the statistic of the class probabilities, if the request lists classes and the network has a classifier that
/// accepts this size.
pub(in crate::mirage) fn classes(
    network: &Network,
    request: &Request,
    size: [usize; 2],
) -> Option<LayerStatistic> {
    probabilities(network).filter(|item| {
        let reaches = |layer| network_graph::check_size(network, layer, size[0], size[1]).is_ok();
        request.top_classes > 0 && item.layer.is_some_and(reaches)
    })
}

/// Returns the targets of these losses at one size, computed in tiles if `tile` is given. Losses without a target get
/// no tensors. The device may still be computing them.
///
/// # Errors
/// Same as [`capture`].
pub(in crate::mirage) fn targets(
    engine: &Arc<Engine>,
    network: &Network,
    request: &Request,
    (size, tile): ([usize; 2], Option<usize>),
    losses: &[(&Loss, LayerStatistic)],
    cache: &mut Cache,
) -> Result<Targets> {
    let view = request.view();
    let mut sets = image_sets(request);
    cache.keep_for(&sets, view, (size, tile));
    let classes = classes(network, request, size);

    // Statistics to capture, grouped by the images that they are captured from.
    sets[0].statistics.extend(classes.clone());
    let mut set_of_loss = Vec::new();
    for (loss, item) in losses {
        let images = Images::of(&loss.target, request).filter(|_| loss.statistic.has_target());
        let set = images.and_then(|images| sets.iter().position(|set| set.images == images));
        if let Some(set) = set {
            sets[set].statistics.push(item.clone());
        }
        set_of_loss.push(set);
    }

    // One forward pass of each image captures everything that is missing from its set.
    let mut submission = None;
    for set in &sets {
        let mut missing: Vec<LayerStatistic> = Vec::new();
        for item in &set.statistics {
            let key = set.key(size, item);
            if !cache.captured.contains_key(&key) && missing.iter().all(|other| set.key(size, other) != key) {
                missing.push(item.clone());
            }
        }
        if missing.is_empty() {
            continue;
        }
        let found = match set.images {
            Images::Photo(_) => {
                let photo = photo_at(request, size)?;
                let (found, last) = capture(engine, network, (view, tile), &photo, &missing, Stage::Target)?;
                submission = Some(last);
                found
            }
            Images::Blended(images) => blended(engine, network, request, (size, tile), images, &missing)?,
        };
        cache.captured.extend(missing.iter().map(|item| set.key(size, item)).zip(found));
    }

    let cached =
        |set: usize, statistic: &LayerStatistic| cache.captured.get(&sets[set].key(size, statistic)).cloned();
    let target = |((loss, item), set): (&(&Loss, LayerStatistic), &Option<usize>)| match (&loss.target, set) {
        (_, Some(set)) => Ok(cached(*set, item).unwrap_or_default()),
        (Target::Classes(classes), None) if loss.statistic.has_target() => {
            Ok(vec![distribution(engine, network, classes)?])
        }
        _ => Ok(Vec::new()),
    };
    let of_losses = losses.iter().zip(&set_of_loss).map(target).collect::<Result<_>>()?;
    let of_photo = classes.and_then(|statistic| cached(0, &statistic));
    let classes = of_photo.and_then(|parts| parts.into_iter().next());
    Ok(Targets { losses: of_losses, classes, submission })
}

/// Images that targets are captured from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Images<'a> {
    Photo(&'a Picture),
    Blended(&'a [(Picture, f32)]),
}

impl<'a> Images<'a> {
    /// Returns the images of a loss's target, if it has any.
    fn of(target: &'a Target, request: &'a Request) -> Option<Self> {
        match target {
            Target::Photo => Some(Self::Photo(&request.photo)),
            Target::Images(images) => Some(Self::Blended(images)),
            Target::Classes(_) => None,
        }
    }

    /// Returns a hash of these images and their weights.
    fn hash(self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut add = |image: &Picture, weight: f32| {
            (image.width, image.height, weight.to_bits()).hash(&mut hasher);
            hasher.write(bytemuck::cast_slice(&image.rgb));
        };
        match self {
            Self::Photo(photo) => add(photo, 1.0),
            Self::Blended(images) => images.iter().for_each(|(image, weight)| add(image, *weight)),
        }
        hasher.finish()
    }
}

/// Images, and the statistics to capture from them.
struct ImageSet<'a> {
    images: Images<'a>,
    hash: u64,
    statistics: Vec<LayerStatistic>,
}

/// Returns the distinct image sets of a request's targets, the photo first.
fn image_sets(request: &Request) -> Vec<ImageSet<'_>> {
    let mut sets = vec![ImageSet::of(Images::Photo(&request.photo))];
    for loss in request.groups.iter().flat_map(|group| &group.losses) {
        if let Some(images) = Images::of(&loss.target, request)
            && sets.iter().all(|set| set.images != images)
        {
            sets.push(ImageSet::of(images));
        }
    }
    sets
}

impl<'a> ImageSet<'a> {
    fn of(images: Images<'a>) -> Self {
        Self { images, hash: images.hash(), statistics: Vec::new() }
    }

    fn key(&self, size: [usize; 2], item: &LayerStatistic) -> Key {
        Key { images: self.hash, size, layer: item.layer, statistic: item.statistic.key() }
    }
}

/// Returns the targets of several images, blended with weights normalised to sum 1.
fn blended(
    engine: &Arc<Engine>,
    network: &Network,
    request: &Request,
    (size, tile): ([usize; 2], Option<usize>),
    images: &[(Picture, f32)],
    statistics: &[LayerStatistic],
) -> Result<Vec<Vec<Captured>>> {
    let view = (request.view(), tile);
    if let [(image, _)] = images {
        let image = image_at(request, image, size)?;
        return Ok(capture(engine, network, view, &image, statistics, Stage::Target)?.0);
    }
    let total: f32 = images.iter().map(|(_, weight)| weight).sum();
    // Shapes of each statistic's tensors; weight and values of each image.
    let mut shapes: Vec<Vec<Shape>> = vec![Vec::new(); statistics.len()];
    let mut summaries: Vec<Vec<(f32, Vec<Vec<f32>>)>> = vec![Vec::new(); statistics.len()];
    for (image, weight) in images.iter().filter(|(_, weight)| *weight > 0.0) {
        let image = image_at(request, image, size)?;
        let (found, _) = capture(engine, network, view, &image, statistics, Stage::Summary)?;
        for (at, parts) in found.iter().enumerate() {
            let parts = read(engine, parts, "statistic of an image")?;
            shapes[at] = parts.iter().map(|(shape, _)| *shape).collect();
            summaries[at].push((weight / total, parts.into_iter().map(|(_, values)| values).collect()));
        }
    }
    let mut parts = Vec::new();
    for ((item, shapes), summaries) in statistics.iter().zip(shapes).zip(summaries) {
        let values = item.statistic.blend(&summaries)?;
        parts.push((item, shapes.into_iter().zip(values).collect()));
    }
    prepare(engine, network, &parts)
}

/// Returns the probabilities of all classes, given those of some, normalised to sum 1.
fn distribution(engine: &Engine, network: &Network, classes: &[(usize, f32)]) -> Result<Captured> {
    let mut values = vec![0.0; network.classes().unwrap_or(0)];
    let total: f32 = classes.iter().map(|(_, weight)| weight).sum();
    for (class, weight) in classes {
        if let Some(value) = values.get_mut(*class) {
            *value += weight / total;
        }
    }
    let shape = Shape::Vector(values.len());
    let memory = engine.tensor_with("class probabilities", shape, &values)?;
    Ok(Captured { shape, place: TargetPlace::Device(memory) })
}
