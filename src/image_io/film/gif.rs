//! Writes films as GIF: <https://www.w3.org/Graphics/GIF/spec-gif89a.txt>.
//!
//! Each frame has its own palette. A frame of more than 256 colours is dithered by error diffusion (Floyd and
//! Steinberg 1976), every other row from right to left, so the error doesn't drift to one side.

use std::collections::BTreeSet;
use std::io::{self, Write};

use gif::{AnyExtension, EncodingError, Extension, Frame, Repeat};

use super::palette::palette;
use super::{Spool, metadata};

/// Encodes a frame for the spool: the number of palette colours minus one, the palette, and the pixels as LZW-coded
/// indices.
pub(super) fn encode(levels: &[u8], (width, height): (u32, u32)) -> Vec<u8> {
    let (palette, indices) = match few_colours(levels) {
        Some(exact) => exact,
        None => many_colours(levels, width as usize),
    };
    let mut frame = Frame { buffer: indices.into(), ..Frame::default() };
    (frame.width, frame.height) = (width as u16, height as u16);
    frame.make_lzw_pre_encoded();
    let mut bytes = Vec::with_capacity(1 + palette.len() + frame.buffer.len());
    bytes.push((palette.len() / 3 - 1) as u8);
    bytes.extend(palette);
    bytes.extend(&*frame.buffer);
    bytes
}

/// Returns palette and indices if 256 colours are enough for all pixels.
fn few_colours(levels: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut colours = BTreeSet::new();
    for pixel in levels.chunks_exact(3) {
        colours.insert(pixel);
        if colours.len() > 256 {
            return None;
        }
    }
    let colours: Vec<&[u8]> = colours.into_iter().collect();
    // Every pixel is among them, and there are no more than 256.
    let indices = levels.chunks_exact(3).map(|p| colours.partition_point(|c| *c < p) as u8).collect();
    Some((colours.concat(), indices))
}

/// Returns a palette of 256 colours and the indices of the dithered pixels.
fn many_colours(levels: &[u8], width: usize) -> (Vec<u8>, Vec<u8>) {
    let palette = palette(levels);
    let indices = dither(levels, width, &palette);
    (palette, indices)
}

/// Floyd and Steinberg's error diffusion, in both directions in turn.
fn dither(levels: &[u8], width: usize, palette: &[u8]) -> Vec<u8> {
    let mut nearest = Nearest::new(palette);
    let mut indices = vec![0; levels.len() / 3];
    // Errors diffused to this row and the next, with one more pixel at both ends.
    let mut carried = vec![[0f32; 3]; width + 2];
    let mut next = carried.clone();
    for (y, (row, out)) in levels.chunks_exact(width * 3).zip(indices.chunks_exact_mut(width)).enumerate() {
        next.fill([0.0; 3]);
        let forth = y % 2 == 0;
        for step in 0..width {
            let x = if forth { step } else { width - 1 - step };
            // Clamped, because errors of colours outside of the palette would accumulate and spread far.
            let wanted: [f32; 3] =
                std::array::from_fn(|c| (f32::from(row[x * 3 + c]) + carried[x + 1][c]).clamp(0.0, 255.0));
            let index = nearest.index(wanted);
            out[x] = index;
            let (ahead, behind) = if forth { (x + 2, x) } else { (x, x + 2) };
            for c in 0..3 {
                let error = wanted[c] - f32::from(palette[usize::from(index) * 3 + c]);
                carried[ahead][c] += error * (7.0 / 16.0);
                next[behind][c] += error * (3.0 / 16.0);
                next[x + 1][c] += error * (5.0 / 16.0);
                next[ahead][c] += error * (1.0 / 16.0);
            }
        }
        std::mem::swap(&mut carried, &mut next);
    }
    indices
}

/// Finds the nearest palette entry for a colour, cached for cells of 4x4x4 levels. All colours of a cell get the entry
/// of its centre; dithering compensates the error.
struct Nearest<'a> {
    palette: &'a [u8],
    /// Palette index of each cell; `UNKNOWN` until first used.
    cells: Vec<u16>,
}

const UNKNOWN: u16 = u16::MAX;

impl<'a> Nearest<'a> {
    fn new(palette: &'a [u8]) -> Self {
        Self { palette, cells: vec![UNKNOWN; 1 << 18] }
    }

    /// Returns the index of the palette entry for a colour with values in [0, 255].
    fn index(&mut self, colour: [f32; 3]) -> u8 {
        let cell = colour.map(|v| v as usize >> 2);
        let at = cell[0] << 12 | cell[1] << 6 | cell[2];
        if self.cells[at] == UNKNOWN {
            let middle = cell.map(|v| (v << 2 | 2) as i32);
            let distance = |entry: &[u8]| -> i32 {
                entry.iter().zip(middle).map(|(e, m)| (i32::from(*e) - m).pow(2)).sum()
            };
            let best = self.palette.chunks_exact(3).enumerate().min_by_key(|(_, entry)| distance(entry));
            self.cells[at] = best.map_or(0, |(index, _)| index as u16);
        }
        self.cells[at] as u8
    }
}

/// Writes the film from its encoded frames.
pub(super) fn assemble(
    out: &mut impl Write,
    (width, height): (u32, u32),
    metadata: &[(String, String)],
    spool: &mut Spool,
) -> io::Result<()> {
    let (width, height) = (width as u16, height as u16);
    let mut encoder = gif::Encoder::new(out, width, height, &[]).map_err(io_error)?;
    encoder.set_repeat(Repeat::Infinite).map_err(io_error)?;
    if !metadata.is_empty() {
        write_xmp(encoder.get_mut(), metadata::packet(metadata).as_bytes())?;
    }
    // GIF's times are in hundredths of a second. The sum is rounded, not each time, so a film of many frames has the
    // right length. Browsers treat less than two hundredths as ten.
    let (mut milliseconds_before, mut hundredths_before) = (0u64, 0u64);
    spool.replay(|bytes, milliseconds| {
        milliseconds_before += u64::from(milliseconds);
        let end = (milliseconds_before + 5) / 10;
        let delay = end.saturating_sub(hundredths_before).clamp(2, u64::from(u16::MAX));
        hundredths_before += delay;
        let damaged = || io::Error::other("a stored frame is damaged");
        let (last, rest) = bytes.split_first().ok_or_else(damaged)?;
        let (palette, buffer) = rest.split_at_checked((usize::from(*last) + 1) * 3).ok_or_else(damaged)?;
        let frame = Frame {
            width,
            height,
            delay: delay as u16,
            palette: Some(palette.to_vec()),
            buffer: buffer.into(),
            ..Frame::default()
        };
        encoder.write_lzw_pre_encoded_frame(&frame).map_err(io_error)
    })?;
    encoder.into_inner().map(drop).map_err(io_error)
}

/// Writes the application extension for XMP. Its text isn't divided into sub-blocks, unlike all other GIF data, so
/// programs can find it by searching. A descending ramp of bytes after it leads readers that interpret the text as
/// sub-blocks to the end (Adobe, XMP Specification Part 3, 2020, 1.1.2). This requires text without zero bytes, such
/// as XML.
fn write_xmp(out: &mut impl Write, packet: &[u8]) -> io::Result<()> {
    out.write_all(&[0x21, AnyExtension::from(Extension::Application).0, 11])?;
    out.write_all(b"XMP DataXMP")?;
    out.write_all(packet)?;
    let ramp: Vec<u8> = std::iter::once(1).chain((0..=255).rev()).collect();
    out.write_all(&ramp)?;
    out.write_all(&[0])
}

/// Converts an encoder error, keeping the system's error if it is one.
fn io_error(error: EncodingError) -> io::Error {
    match error {
        EncodingError::Io(error) => error,
        other => io::Error::other(other),
    }
}
