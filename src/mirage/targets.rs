//! What each term of an objective is compared with.

use super::capture::{Target, Wanted, capture};
use super::network_graph;
use super::objective::Term;
use super::readout::probability_layer;
use super::request::{FactorKind, Request};
use crate::error::Result;
use crate::graph::{Engine, Submission};
use crate::image_io::Picture;
use crate::ops::{PoolKind, Shape};
use crate::vgg::Network;
use std::collections::HashMap;
use std::sync::Arc;

/// What the terms are compared with.
pub(super) struct Targets {
    /// Of each term.
    pub terms: Vec<Target>,
    /// Class probabilities of the photo, where they are wanted and the network has them.
    pub classes: Option<Target>,
    /// The device's last work on them, if there was any.
    pub submission: Option<Submission>,
}

/// What was captured so far, so that the next objective of the same pictures need not do it again.
#[derive(Debug, Default)]
pub(super) struct Captured {
    photo: Option<(Picture, PoolKind)>,
    of_photo: HashMap<Wanted, Target>,
    style: Option<(Vec<(Picture, f32)>, PoolKind)>,
    of_style: HashMap<Wanted, Target>,
}

impl Captured {
    /// Forgets what is of other pictures, or of the network with another pooling.
    fn keep_for(&mut self, request: &Request) {
        let photo = (&request.photo, &request.pooling);
        if self.photo.as_ref().map(|(photo, pooling)| (photo, pooling)) != Some(photo) {
            self.of_photo.clear();
            self.photo = Some((request.photo.clone(), request.pooling));
        }
        let style = (&request.style_images, &request.pooling);
        if self.style.as_ref().map(|(images, pooling)| (images, pooling)) != Some(style) {
            self.of_style.clear();
            self.style = Some((request.style_images.clone(), request.pooling));
        }
    }
}

/// Target of each term: of the photo, or for style terms the blend of the style images. The device may still be
/// at work on them.
///
/// # Errors
/// As [`capture`].
pub(super) fn targets(
    engine: &Arc<Engine>,
    network: &Network,
    request: &Request,
    terms: &[(Term, Wanted)],
    captured: &mut Captured,
) -> Result<Targets> {
    captured.keep_for(request);
    let own_style = request.style_images.is_empty();
    let of_photo = |term: &Term| own_style || term.kind != FactorKind::Style;
    let classes = probability_layer(network)
        .filter(|layer| {
            request.top_classes > 0
                && network_graph::check_size(network, *layer, request.photo.height, request.photo.width)
                    .is_ok()
        })
        .map(|layer| Wanted { layer, gram: false });
    let missing = |known: &HashMap<Wanted, Target>, wanted: &mut dyn Iterator<Item = Wanted>| {
        let mut missing = Vec::new();
        for item in wanted {
            if !known.contains_key(&item) && !missing.contains(&item) {
                missing.push(item);
            }
        }
        missing
    };

    let mut wanted =
        terms.iter().filter(|(term, _)| of_photo(term)).map(|(_, wanted)| *wanted).chain(classes);
    let wanted = missing(&captured.of_photo, &mut wanted);
    let mut submission = None;
    if !wanted.is_empty() {
        let (found, last) = capture(engine, network, &request.photo, request.pooling, &wanted)?;
        captured.of_photo.extend(wanted.into_iter().zip(found));
        submission = Some(last);
    }
    let mut style = terms.iter().filter(|(term, _)| !of_photo(term)).map(|(_, wanted)| *wanted);
    let style = missing(&captured.of_style, &mut style);
    let blended = blend(engine, network, request, &style)?;
    captured.of_style.extend(style.into_iter().zip(blended));

    let target = |(term, wanted): &(Term, Wanted)| {
        let known = if of_photo(term) { &captured.of_photo } else { &captured.of_style };
        known.get(wanted).cloned()
    };
    Ok(Targets {
        terms: terms.iter().filter_map(target).collect(),
        classes: classes.and_then(|wanted| captured.of_photo.get(&wanted).cloned()),
        submission,
    })
}

/// Gram matrices of several images, blended linearly with weights that sum to 1.
fn blend(
    engine: &Arc<Engine>,
    network: &Network,
    request: &Request,
    wanted: &[Wanted],
) -> Result<Vec<Target>> {
    let total: f32 = request.style_images.iter().map(|(_, weight)| weight).sum();
    let mut sums: Vec<(Shape, Vec<f32>)> = Vec::new();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    for (picture, weight) in &request.style_images {
        let (captured, _) = capture(engine, network, picture, request.pooling, wanted)?;
        for (index, target) in captured.into_iter().enumerate() {
            let values = engine.read(&target.buffer, target.shape, "Gram matrix of a style image")?;
            if sums.len() <= index {
                sums.push((target.shape, vec![0.0; values.len()]));
            }
            for (sum, value) in sums[index].1.iter_mut().zip(values) {
                *sum += value * weight / total;
            }
        }
    }
    sums.into_iter()
        .map(|(shape, values)| {
            let buffer = engine.tensor_with("blended style target", shape, &values)?;
            Ok(Target { shape, buffer })
        })
        .collect()
}
