//! The picture that an optimisation starts from.

use super::request::{Init, Request};
use super::targets::photo_at;
use crate::error::Result;
use crate::image_io::{Picture, resize};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Standard deviation of the grain of [`Init::Noise`], in the picture's unit.
const GRAIN: f32 = 0.01;

/// The start picture of a request at one size.
///
/// # Errors
/// If a picture can't be resized.
pub(super) fn picture(request: &Request, size: [usize; 2]) -> Result<Picture> {
    let [height, width] = size;
    let gray = || vec![0.5; width * height * 3];
    Ok(match &request.init {
        Init::Photo => photo_at(request, size)?,
        Init::Gray => Picture { width, height, rgb: gray() },
        Init::Picture(given) => resize(given, width, height)?,
        Init::Noise => {
            // ChaCha is specified bit for bit, so a seed means the same grain on every machine.
            let mut random = ChaCha8Rng::seed_from_u64(request.seed);
            let mut rgb = gray();
            for value in &mut rgb {
                let grain: f32 = StandardNormal.sample(&mut random);
                *value = (*value + GRAIN * grain).clamp(0.0, 1.0);
            }
            Picture { width, height, rgb }
        }
    })
}
