//! Start pictures.

use crate::error::Result;
use crate::image_io::{Picture, fit, resize};
use crate::mirage::objective::targets::photo_at;
use crate::mirage::request::{Init, Request};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Standard deviation of the grain of [`Init::Noise`], in the picture's unit.
const GRAIN: f32 = 0.01;
/// Standard deviation of the grain of [`Init::Blur`], large enough that different seeds give different pictures.
const BLUR_GRAIN: f32 = 0.05;
/// Number of patches of [`Init::Blur`] along the longer side.
const PATCHES: usize = 8;

/// Returns the start picture of a request at one size.
///
/// # Errors
/// If a picture can't be resized.
pub(in crate::mirage) fn picture(request: &Request, size: [usize; 2]) -> Result<Picture> {
    let [height, width] = size;
    let gray = || vec![0.5; width * height * 3];
    Ok(match &request.init {
        Init::Photo => photo_at(request, size)?.into_owned(),
        Init::Blur => blurred(request, size)?,
        Init::Gray => Picture { width, height, rgb: gray() },
        Init::Picture(given) => resize(given, width, height)?,
        Init::Noise => grained(request, Picture { width, height, rgb: gray() }, GRAIN),
    })
}

/// Returns the photo blurred to a few patches of colour, with grain.
///
/// # Errors
/// If the photo can't be resized.
pub(in crate::mirage) fn blurred(request: &Request, [height, width]: [usize; 2]) -> Result<Picture> {
    let (across, down) = fit(width, height, PATCHES);
    let patches = resize(&request.photo, across, down)?;
    Ok(grained(request, resize(&patches, width, height)?, BLUR_GRAIN))
}

/// Adds random grain of this standard deviation, and clamps the picture to [0, 1].
fn grained(request: &Request, mut picture: Picture, deviation: f32) -> Picture {
    // ChaCha is specified bit for bit, so a seed gives the same grain on every machine.
    let mut random = ChaCha8Rng::seed_from_u64(request.seed);
    for value in &mut picture.rgb {
        let grain: f32 = StandardNormal.sample(&mut random);
        *value = (*value + deviation * grain).clamp(0.0, 1.0);
    }
    picture
}
