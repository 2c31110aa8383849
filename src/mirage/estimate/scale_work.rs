//! Counts the pixels that each scale computes, for estimates of time.

use crate::error::Result;
use crate::mirage::objective::tiling::assembly::Assembly;
use crate::mirage::objective::{class_layer, is_measured, layers, losses};
use crate::mirage::request::{Request, Tiling};
use crate::mirage::scales::Scale;
use crate::vgg::Network;

impl Request {
    /// Returns the scales in order, with the pixels computed at each. A forward pass counts one third of a pixel, a
    /// backward pass two thirds, in proportion to their multiplications.
    ///
    /// # Errors
    /// Same as [`Scales::plan`](crate::mirage::Scales::plan), or if the network lacks a layer or can't be computed in
    /// tiles.
    pub fn plan(&self, network: &Network) -> Result<Vec<Scale>> {
        let mut scales = self.sizes(network)?;
        let measured = |group: &&_| self.has_shares() && is_measured(group);
        let groups = self.present().iter().filter(measured).count() as u64;
        // The photo and the other images, which are scaled to about its size.
        let captured = 1 + self.images().count() as u64;
        for (index, scale) in scales.iter_mut().enumerate() {
            let (forward, measuring) = match in_tiles(network, self, scale.size)? {
                // One pass over the tiles sums up their contributions; the backward pass computes each tile forward
                // again. The gradient of each measured group takes a backward pass of its own.
                Some([tiles, rest]) => {
                    let backward = tiles + rest * 2.0 / 3.0;
                    let forward = (tiles + rest) / 3.0;
                    scale.pixels = (forward + backward).round() as u64;
                    (forward.round() as u64, backward.round() as u64 * groups)
                }
                // The step uses the groups' gradients, which share one forward pass.
                None => (scale.pixels / 3, scale.pixels * groups.saturating_sub(1) * 2 / 3),
            };
            scale.preparing = if index > 0 { captured * forward } else { 0 } + measuring;
            // Spreads the cost of a measurement over the iterations between two of them.
            scale.pixels += measuring.checked_div(u64::from(self.rebalance_every)).unwrap_or(0);
        }
        Ok(scales)
    }
}

/// Returns the pixels that a pass at this size computes in tiles, and those computed after the tiles. `None` if the
/// size is not tiled, or if that is decided only later.
fn in_tiles(network: &Network, request: &Request, size: [usize; 2]) -> Result<Option<[f64; 2]>> {
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
    use crate::mirage::{ScaleCount, Scales, Strength, Target};
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn tiles_and_measurements_are_counted() {
        let network = Network::open(Path::new("weights/vgg16-narrow.safetensors"), None).unwrap();
        let photo = Picture { width: 512, height: 384, rgb: vec![0.5; 512 * 384 * 3] };
        let mut request = Request::new(photo);
        request.scales = Scales { count: ScaleCount::Exactly(2), ..request.scales };
        let plan = |request: &Request| request.plan(&network).unwrap();
        let of_picture = 512 * 384;
        // Three factors have shares. The photo's forward pass at the first scale is before the run.
        let whole = plan(&request);
        assert_eq!((whole[1].pixels, whole[1].preparing), (of_picture, of_picture / 3 + of_picture * 4 / 3));
        assert_eq!(whole[0].preparing, whole[0].pixels * 4 / 3);
        // All style losses share the images, so each runs forward once.
        let mut styled = request.clone();
        let image = || (Picture { width: 4, height: 4, rgb: vec![0.5; 48] }, 1.0);
        let images: Arc<[_]> = Arc::new([image(), image()]);
        for loss in styled.groups.iter_mut().filter(|group| group.name == "style").flat_map(|g| &mut g.losses)
        {
            loss.target = Target::Images(images.clone());
        }
        assert_eq!(styled.images().count(), 2);
        assert_eq!(plan(&styled)[1].preparing, whole[1].preparing + of_picture / 3 * 2);
        request.tiling = Tiling::Side(512);
        assert_eq!(plan(&request), whole, "the picture is one tile");
        let near = |found: u64, expected: f64| {
            assert!((found as f64 / expected - 1.0).abs() < 0.01, "{found}, expected about {expected}");
        };
        // Each of 48 tiles adds 96 pixels on each side, all on one side at the picture's edge. All convolutions are
        // tiled.
        request.tiling = Tiling::Side(64);
        let tiled = plan(&request)[1];
        let tiles = f64::from(48 * (64 + 2 * 96) * (64 + 2 * 96));
        near(tiled.pixels, tiles * 4.0 / 3.0);
        near(tiled.preparing, tiles / 3.0 + tiles * 3.0);
        // With larger tiles only the first three blocks are tiled: 186,048 of 305,856 products per pixel, and 24 extra
        // pixels.
        request.tiling = Tiling::Side(128);
        let share = 186_048.0 / 305_856.0;
        let tiles = share * f64::from(12 * (128 + 2 * 24) * (128 + 2 * 24));
        let tiled = plan(&request)[1];
        near(tiled.pixels, tiles * 4.0 / 3.0 + of_picture as f64 * (1.0 - share));
        for group in &mut request.groups {
            group.strength = Strength::Weight(1.0);
        }
        let given = plan(&request)[1];
        near(given.preparing, (tiles + of_picture as f64 * (1.0 - share)) / 3.0);
        assert_eq!(given.pixels, tiled.pixels);
    }

    #[test]
    fn scale_may_be_too_small_for_classes() {
        let network = Network::open(Path::new("weights/vgg16-narrow.safetensors"), None).unwrap();
        let photo = Picture { width: 128, height: 30, rgb: vec![0.5; 128 * 30 * 3] };
        let mut request = Request::new(photo);
        request.groups.retain(|group| group.name != "abstract");
        request.scales = Scales::single(1);
        request.tiling = Tiling::Side(16);
        assert!(request.plan(&network).unwrap()[0].pixels > 128 * 30);
    }
}
