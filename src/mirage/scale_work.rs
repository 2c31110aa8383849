//! What the iterations of each scale compute, for estimates of time.

use super::objective::{class_layer, is_measured, layers, losses};
use super::request::{Request, Tiling};
use super::scales::Scale;
use super::tiles::Assembly;
use crate::error::Result;
use crate::vgg::Network;

impl Request {
    /// The sizes at which the picture is painted, in order, with the pixels that their iterations compute. A forward pass
    /// counts a third, a backward pass two thirds, as their products do.
    ///
    /// # Errors
    /// As [`Scales::plan`](super::Scales::plan), if the network lacks a layer, or if it can't be computed in tiles.
    pub fn plan(&self, network: &Network) -> Result<Vec<Scale>> {
        let mut scales = self.sizes(network)?;
        let measured = |group: &&_| self.has_shares() && is_measured(group);
        let groups = self.present().iter().filter(measured).count() as u64;
        for scale in &mut scales {
            match in_tiles(network, self, scale.size)? {
                // The first pass over the tiles is one forward; the second computes each tile forward once more. A group's
                // gradient takes the second.
                Some(pixels) => (scale.pixels, scale.measuring) = (pixels * 4 / 3, pixels * groups),
                // The step is made of the groups' gradients, behind one forward pass.
                None => scale.measuring = scale.pixels * groups.saturating_sub(1) * 2 / 3,
            }
            // Spread over the iterations from one measurement to the next.
            scale.pixels += scale.measuring.checked_div(u64::from(self.rebalance_every)).unwrap_or(0);
        }
        Ok(scales)
    }
}

/// The pixels of all tiles of a picture of this size together; none if it is not computed in tiles, or that is not known
/// beforehand.
fn in_tiles(network: &Network, request: &Request, size: [usize; 2]) -> Result<Option<u64>> {
    let Tiling::Side(side) = request.tiling else { return Ok(None) };
    let groups = request.present();
    let layers = layers(&losses(network, &groups)?, class_layer(network, request, size));
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
        let plan = |request: &Request| request.plan(&network).unwrap();
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

    #[test]
    fn a_scale_may_be_too_small_for_classes() {
        let network = Network::open(Path::new("weights/vgg16-narrow.safetensors"), None).unwrap();
        let photo = Picture { width: 128, height: 30, rgb: vec![0.5; 128 * 30 * 3] };
        let mut request = Request::new(photo);
        request.groups.retain(|group| group.name != "abstract");
        request.scales = Scales::single(1);
        request.tiling = Tiling::Side(16);
        assert!(request.plan(&network).unwrap()[0].pixels > 128 * 30);
    }
}
