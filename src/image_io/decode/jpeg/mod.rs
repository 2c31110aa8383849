//! Reads JPEG.

mod bits;
mod own;
mod planes;
mod scans;

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::super::rows::{Colors, Layout, Opacity, Rows, Sample};
use super::super::{MAX_SIDE, structure};
use super::failure::Failure;
use super::reading::{ReadOptions, Reading, Stored, orientation};
use planes::Planes;

/// Marker of a progressive frame.
const PROGRESSIVE: u8 = 0xc2;

/// Maximum number of scans. Programs write up to twenty.
const MOST_SCANS: usize = 100;
/// Maximum number of scans of a picture of more than 16 Mi pixels that is read at full size.
const MOST_SCANS_OF_LARGE: usize = 30;

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<Stored, Failure> {
    let found = structure::jpeg(bytes)?;
    if let Some(size) = found.size {
        check_kind(&found)?;
        reading.check_whole(size)?;
    }
    // Not strict: accept what other programs can show.
    let options =
        DecoderOptions::default().set_strict_mode(false).set_max_width(MAX_SIDE).set_max_height(MAX_SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    let stated = || Failure::Damaged("it has no size".to_owned());
    let size = decoder.info().map(|info| (info.width.into(), info.height.into())).ok_or_else(stated)?;
    let stated_space = decoder.input_colorspace().unwrap_or(ColorSpace::YCbCr);
    let space = match (stated_space, found.components) {
        // Adobe's marker only means that the colours were not converted.
        (ColorSpace::CMYK, 3) => ColorSpace::RGB,
        (ColorSpace::YCCK, 3) => ColorSpace::YCbCr,
        (ColorSpace::YCbCr, 4) => ColorSpace::CMYK,
        (space, _) => space,
    };
    let (colors, wanted) = match space {
        ColorSpace::Luma => (Colors::Gray, ColorSpace::Luma),
        four @ (ColorSpace::CMYK | ColorSpace::YCCK) => (Colors::Cmyk, four),
        _ => (Colors::Rgb, ColorSpace::RGB),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(wanted));
    let layout = Layout { sample: Sample::U8, colors, opacity: Opacity::Opaque };
    let orientation = orientation(decoder.exif().map(Vec::as_slice));
    let step = reading.step(size);
    check_scans(&found, size, step)?;
    // zune-jpeg follows Adobe's marker even if the number of components contradicts it, except from RGB to RGB.
    let is_read_right = is_read_right(&found) && (space == stated_space || space == ColorSpace::RGB);
    if step > 1 || !is_read_right {
        let planes = own::decode(bytes, step)?;
        let fits = |side: usize, stated: u32| side == (stated as usize).div_ceil(step);
        let is_ours = |planes: &Planes| {
            planes.components.len() == space.num_components()
                && fits(planes.size.0, size.0)
                && fits(planes.size.1, size.1)
        };
        if let Some(planes) = planes.filter(is_ours) {
            reading.note_buffer(planes.bytes());
            let mut rows = reading.start_reduced(size, step, layout, decoder.icc_profile().into())?;
            push(planes, space, &mut rows)?;
            return Ok(Stored { rows, orientation });
        }
        check_scans(&found, size, 1)?;
    }
    if !is_read_right {
        return Err(Failure::Unsupported("components whose resolutions don't divide each other".to_owned()));
    }
    let mut rows = reading.start(size, layout, decoder.icc_profile().into())?;
    let row_bytes = rows.row_bytes();
    let mut all = reading.buffer(row_bytes * size.1 as usize)?;
    if found.coding == PROGRESSIVE {
        reading.note_buffer(all.len() + coefficients(&found.sampling, size) * size_of::<i16>());
    }
    decoder.decode_into(&mut all)?;
    for row in all.chunks_exact_mut(row_bytes) {
        if colors == Colors::Cmyk {
            row.as_chunks_mut()
                .0
                .iter_mut()
                .for_each(|pixel| *pixel = inks(*pixel, wanted == ColorSpace::YCCK));
        }
        rows.push(row)?;
    }
    Ok(Stored { rows, orientation })
}

/// Adds the rows of a picture from our own decoder.
fn push(mut planes: Planes, space: ColorSpace, rows: &mut Rows) -> Result<(), Failure> {
    let (width, height) = planes.size;
    let channels = space.num_components();
    let mut row = vec![0.0; width * channels];
    for y in 0..height {
        let lines = planes.row(y);
        for (x, to) in row.chunks_exact_mut(channels).enumerate() {
            let mut samples = [0.0; 4];
            samples.iter_mut().zip(lines.clone()).for_each(|(to, line)| *to = line[x]);
            to.copy_from_slice(&own::color(space, samples)[..channels]);
        }
        rows.push_samples(row.iter().copied())?;
    }
    Ok(())
}

/// Returns the number of coefficients that zune-jpeg keeps for a progressive JPEG.
fn coefficients(sampling: &[u8], (width, height): (u32, u32)) -> usize {
    let each = || sampling.iter().map(|both| (usize::from(both >> 4), usize::from(both & 15)));
    let most = each().fold((1, 1), |most, own| (most.0.max(own.0), most.1.max(own.1)));
    let samples: usize = each().map(|own| own.0 * own.1).sum();
    width as usize * height as usize * samples / (most.0 * most.1)
}

/// Returns true if zune-jpeg decodes such a file correctly. Version 0.5.15 misplaces blocks if components are in
/// separate scans (its issues 422 and 449, fixed since) or if luminance is not the finest component. It ignores
/// quantization tables after the first scan, and fails at a DNL segment and at chroma with two rows where luminance has
/// four.
fn is_read_right(found: &structure::Jpeg<'_>) -> bool {
    let is_in_one_scan = found.scans == 1 && found.first_scan == found.components;
    if found.height_again || found.late_tables || !is_in_one_scan && found.coding != PROGRESSIVE {
        return false;
    }
    match *found.sampling {
        [first, second, third, ref fourth @ ..] if second != first || third != first => {
            let divides = |fine: u8, coarse: u8| coarse != 0 && fine.is_multiple_of(coarse);
            let is_finest = divides(first >> 4, second >> 4) && divides(first & 15, second & 15);
            let is_refused = second & 15 > 1 && first & 15 != second & 15;
            is_finest && !is_refused && second == third && fourth.iter().all(|fourth| *fourth == first)
        }
        [first, .., fourth] => fourth == first,
        _ => true,
    }
}

/// Rejects an implausible number of scans: each takes only a few bytes, but may cover the whole picture.
///
/// # Errors
/// [`Failure::Unsupported`] with the limit.
fn check_scans(found: &structure::Jpeg<'_>, (width, height): (u32, u32), step: usize) -> Result<(), Failure> {
    let is_large = step == 1 && width as usize * height as usize > ReadOptions::default().plain_pixels;
    let most = if is_large { MOST_SCANS_OF_LARGE } else { MOST_SCANS };
    if found.scans > most {
        let size = if is_large { format!(" at {width}x{height} pixels") } else { String::new() };
        return Err(Failure::Unsupported(format!("more than {most} scans{size}")));
    }
    Ok(())
}

/// Rejects kinds of JPEG that no decoder here supports.
fn check_kind(found: &structure::Jpeg<'_>) -> Result<(), Failure> {
    let kind = match found.coding {
        0xc3 | 0xc7 | 0xcb | 0xcf => "lossless coding",
        0xc9 | 0xca | 0xcd | 0xce => "arithmetic coding",
        0xc5 | 0xc6 => "hierarchical coding",
        _ if found.precision != 8 => {
            return Err(Failure::Unsupported(format!("{} bits per channel", found.precision)));
        }
        _ if found.height_again && found.size.is_some_and(|(_, height)| height == 0) => {
            "a height that is given only after the picture"
        }
        _ if found.sampling.iter().any(|both| both >> 4 == 3) => "a sampling factor of 3",
        _ if !matches!(found.components, 1 | 3 | 4) => {
            return Err(Failure::Unsupported(format!("{} colour components", found.components)));
        }
        _ => return Ok(()),
    };
    Err(Failure::Unsupported(kind.to_owned()))
}

/// Returns the amounts of ink of a CMYK or YCCK pixel. JPEG stores CMYK inverted, as all programs have done since
/// Photoshop.
fn inks([a, b, c, k]: [u8; 4], is_ycck: bool) -> [u8; 4] {
    if !is_ycck {
        return [255 - a, 255 - b, 255 - c, 255 - k];
    }
    let [red, green, blue] = own::rgb([a, b, c].map(f32::from)).map(|v| v.round() as u8);
    [red, green, blue, 255 - k]
}

impl From<DecodeErrors> for Failure {
    fn from(error: DecodeErrors) -> Self {
        match error {
            DecodeErrors::ExhaustedData => Self::CutShort,
            DecodeErrors::LargeDimensions(_) => Self::limits(),
            error => Self::damaged(&error),
        }
    }
}
