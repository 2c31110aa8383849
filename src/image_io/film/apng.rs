//! Writes films as animated PNG: <https://www.w3.org/TR/png-3/#apng-frame-based-animation>.

use std::io::{self, Write};

use png::chunk::{ChunkType, IDAT, fcTL, fdAT};

use super::Spool;

/// Compresses a frame; returns the content of a PNG's `IDAT` chunks.
pub(super) fn encode(levels: &[u8], (width, height): (u32, u32)) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(levels)?;
    writer.finish()?;
    pixels(&file).ok_or_else(|| io::Error::other("the PNG encoder made no image data"))
}

/// Joins the `IDAT` chunks of a PNG.
fn pixels(file: &[u8]) -> Option<Vec<u8>> {
    let mut joined = Vec::new();
    let mut rest = file.get(8..)?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if after.get(..4)? == &IDAT.0[..] {
            joined.extend(after.get(4..4 + length)?);
        }
        // Skip type, content and checksum.
        rest = after.get(4 + length + 4..)?;
    }
    (!joined.is_empty()).then_some(joined)
}

/// Writes the film from its encoded frames.
pub(super) fn assemble(
    out: &mut impl Write,
    (width, height): (u32, u32),
    metadata: &[(String, String)],
    spool: &mut Spool,
) -> io::Result<()> {
    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    let count = u32::try_from(spool.frames.len()).map_err(io::Error::other)?;
    encoder.set_animated(count, 0)?;
    for (key, value) in metadata {
        encoder.add_itxt_chunk(key.clone(), value.clone())?;
    }
    let mut writer = encoder.write_header()?;
    // The chunks of both kinds share one sequence number.
    let mut sequence = 0u32;
    let mut data = Vec::new();
    spool.replay(|pixels, milliseconds| {
        let (numerator, denominator) = delay(milliseconds);
        let mut control = Vec::with_capacity(26);
        for field in [sequence, width, height, 0, 0] {
            control.extend(field.to_be_bytes());
        }
        control.extend(numerator.to_be_bytes());
        control.extend(denominator.to_be_bytes());
        // No disposal and no blending: each frame covers the previous one.
        control.extend([0, 0]);
        writer.write_chunk(fcTL, &control)?;
        let kind: ChunkType = if sequence == 0 { IDAT } else { fdAT };
        sequence += 1;
        data.clear();
        if kind == fdAT {
            data.extend(sequence.to_be_bytes());
            sequence += 1;
        }
        data.extend(pixels);
        Ok(writer.write_chunk(kind, &data)?)
    })?;
    Ok(writer.finish()?)
}

/// Converts a time to a fraction of 16 bit numbers, in seconds.
fn delay(milliseconds: u32) -> (u16, u16) {
    match u16::try_from(milliseconds) {
        Ok(exact) => (exact, 1000),
        // At most 600,000 ms, so this fits.
        Err(_) => (((milliseconds + 5) / 10) as u16, 100),
    }
}
