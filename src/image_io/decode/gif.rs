//! Reads the first frame of a GIF.

use std::num::NonZeroU64;

use gif::{DecodeOptions, DecodingError, MemoryLimit};
use image::metadata::Orientation;

use super::super::rows::{Colors, Layout, Opacity, Sample};
use super::super::structure;
use super::failure::Failure;
use super::reading::{Reading, Stored};

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<Stored, Failure> {
    let frames = structure::gif(bytes)?;
    let mut options = DecodeOptions::new();
    // For extensions and palettes; the pixels have a limit of their own.
    if let Some(limit) = NonZeroU64::new(bytes.len() as u64 + (1 << 20)) {
        options.set_memory_limit(MemoryLimit::Bytes(limit));
    }
    let mut decoder = options.read_info(bytes)?;
    let size = (u32::from(decoder.width()), u32::from(decoder.height()));
    // Areas that no frame covers take time too.
    reading.check_whole(size)?;
    let frame = decoder.next_frame_info()?.ok_or(Failure::Damaged("it has no picture".to_owned()))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent.map(usize::from);
    reading.check_whole((u32::from(frame.width), u32::from(frame.height)))?;
    reading.note_frames(frames);
    let icc = decoder.icc_profile().map(<[u8]>::to_vec);
    let palette = decoder.palette()?.to_vec();
    let mut indices = reading.buffer(width * height)?;
    decoder.read_into_buffer(&mut indices)?;

    let covers = left == 0 && top == 0 && width >= size.0 as usize && height >= size.1 as usize;
    let opacity = if covers && transparent.is_none() { Opacity::Opaque } else { Opacity::Straight };
    let layout = Layout { sample: Sample::U8, colors: Colors::Rgb, opacity };
    let mut rows = reading.start(size, layout, icc.into())?;
    let channels = layout.channels();
    let mut row = vec![0; rows.row_bytes()];
    for y in 0..size.1 as usize {
        // Pixels outside the frame are transparent, as in browsers.
        row.fill(0);
        let line =
            y.checked_sub(top).and_then(|y| indices.get(y * width..(y + 1) * width)).unwrap_or_default();
        for (index, pixel) in line.iter().zip(row.chunks_exact_mut(channels).skip(left)) {
            let index = usize::from(*index);
            // An index beyond the palette is black.
            pixel[..3].copy_from_slice(palette.get(index * 3..index * 3 + 3).unwrap_or(&[0; 3]));
            pixel[3..].fill(if transparent == Some(index) { 0 } else { 255 });
        }
        rows.push(&row)?;
    }
    Ok(Stored { rows, orientation: Orientation::NoTransforms })
}

impl From<DecodingError> for Failure {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::Io(error) => Self::of_io(&error),
            DecodingError::UnexpectedEof => Self::CutShort,
            DecodingError::OutOfMemory | DecodingError::MemoryLimit => Self::limits(),
            error => Self::damaged(&error),
        }
    }
}
