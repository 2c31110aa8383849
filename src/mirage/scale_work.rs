//! What the iterations of each scale compute, for estimates of time.

use super::objective::{is_measured, losses};
use super::readout::probabilities;
use super::request::{Request, Tiling};
use super::scales::Scale;
use super::tiles::Assembly;
use crate::error::Result;
use crate::vgg::Network;

/// The scales of a request, with the pixels that their iterations compute. A forward pass counts a third, a backward pass
/// two thirds, as their products do.
///
/// # Errors
/// If a layer doesn't exist, or the network can't be computed in tiles.
pub(super) fn plan(network: &Network, request: &Request) -> Result<Vec<Scale>> {
    let mut scales = request.plan(network)?;
    let measured = |group: &&_| request.has_shares() && is_measured(group);
    let groups = request.present().iter().filter(measured).count() as u64;
    for scale in &mut scales {
        match in_tiles(network, request, scale.size)? {
            // The first pass over the tiles is one forward; the second computes each tile forward once more. A group's
            // gradient takes the second.
            Some(pixels) => (scale.pixels, scale.measuring) = (pixels * 4 / 3, pixels * groups),
            // The step is made of the groups' gradients, behind one forward pass.
            None => scale.measuring = scale.pixels * groups.saturating_sub(1) * 2 / 3,
        }
    }
    Ok(scales)
}

/// The pixels of all tiles of a picture of this size together; none if it is not computed in tiles, or that is not known
/// beforehand.
fn in_tiles(network: &Network, request: &Request, size: [usize; 2]) -> Result<Option<u64>> {
    let Tiling::Side(side) = request.tiling else { return Ok(None) };
    let groups = request.present();
    let mut layers: Vec<usize> =
        losses(network, &groups)?.iter().filter_map(|(_, _, item)| item.layer).collect();
    let classes = probabilities(network).and_then(|item| item.layer);
    layers.extend(classes.filter(|_| request.top_classes > 0));
    if layers.is_empty() {
        return Ok(None);
    }
    let assembly = Assembly::new(network, request.view(), &layers, size, side as usize)?;
    Ok(assembly.map(|assembly| assembly.pixels()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_io::Picture;
    use crate::mirage::{ScaleCount, Scales, Strength};
    use std::path::Path;

    #[test]
    fn tiles_and_measurements_count() {
        let network = Network::open(Path::new("weights/vgg16-narrow.safetensors"), None).unwrap();
        let photo = Picture { width: 512, height: 384, rgb: vec![0.5; 512 * 384 * 3] };
        let mut request = Request::new(photo);
        request.scales = Scales { count: ScaleCount::Exactly(2), ..request.scales };
        let plan = |request: &Request| plan(&network, request).unwrap();
        let of_picture = 512 * 384;
        // Of three factors with shares.
        let whole = plan(&request);
        assert_eq!((whole[1].pixels, whole[1].measuring), (of_picture, of_picture * 4 / 3));
        request.tiling = Tiling::Side(512);
        assert_eq!(plan(&request), whole, "the picture is one tile");
        request.tiling = Tiling::Side(64);
        let tiled = plan(&request)[1];
        // Each of 48 tiles takes in 96 pixels on each side, or more on the other at the picture's edge.
        assert_eq!(tiled.pixels, 48 * (64 + 2 * 96) * (64 + 2 * 96) * 4 / 3);
        assert_eq!(tiled.measuring, tiled.pixels / 4 * 9);
        for group in &mut request.groups {
            group.strength = Strength::Weight(1.0);
        }
        assert_eq!(plan(&request)[1], Scale { measuring: 0, ..tiled });
    }
}
