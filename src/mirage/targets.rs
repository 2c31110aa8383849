//! What each term of an objective is compared with.

use super::capture::{Target, Wanted, capture};
use super::network_graph;
use super::objective::Term;
use super::readout::probability_layer;
use super::request::{FactorKind, Request};
use crate::error::Result;
use crate::graph::Engine;
use crate::ops::Shape;
use crate::vgg::Network;
use std::sync::Arc;

/// What the terms are compared with.
pub(super) struct Targets {
    /// Of each term.
    pub terms: Vec<Target>,
    /// Class probabilities of the photo, where they are wanted and the network has them.
    pub classes: Option<Target>,
    /// The device's last work on them.
    pub submission: wgpu::SubmissionIndex,
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
) -> Result<Targets> {
    let own_style = request.style_images.is_empty();
    let of_photo = |term: &Term| own_style || term.kind != FactorKind::Style;
    let mut wanted: Vec<Wanted> =
        terms.iter().filter(|(term, _)| of_photo(term)).map(|(_, wanted)| *wanted).collect();
    let classes = probability_layer(network).filter(|layer| {
        request.top_classes > 0
            && network_graph::check_size(network, *layer, request.photo.height, request.photo.width).is_ok()
    });
    wanted.extend(classes.map(|layer| Wanted { layer, gram: false }));
    let (mut captured, submission) = capture(engine, network, &request.photo, request.pooling, &wanted)?;
    let classes = classes.and_then(|_| captured.pop());
    let style: Vec<Wanted> =
        terms.iter().filter(|(term, _)| !of_photo(term)).map(|(_, wanted)| *wanted).collect();
    let mut blended = blend(engine, network, request, &style)?.into_iter();
    let mut captured = captured.into_iter();
    let next = |(term, _): &(Term, Wanted)| if of_photo(term) { captured.next() } else { blended.next() };
    Ok(Targets { terms: terms.iter().filter_map(next).collect(), classes, submission })
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
