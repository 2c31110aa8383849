//! Writes films as lossy animated WebP: <https://developers.google.com/speed/webp/docs/riff_container>.
//!
//! libwebp encodes each frame as a still; the container is assembled here. libwebp's animation encoder would search for
//! the rectangle that changed since the previous frame, but in a run every pixel changes, and it would keep the whole
//! film in memory.

use std::io::{self, Write};

use super::{Spool, metadata};

/// Longest side, in pixels, that libwebp can encode.
pub(super) const LONGEST: usize = 16_383;

/// Bytes of an `ANMF` chunk before the frame data: chunk header, then position, size, time and flags.
const FRAME_HEADER: u64 = 8 + 16;

/// Encodes a frame as a `VP8 ` chunk, including the chunk header.
pub(super) fn encode(levels: &[u8], (width, height): (u32, u32), quality: u8) -> io::Result<Vec<u8>> {
    let still = libwebp_still(levels, width, height, quality)
        .ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, "libwebp could not encode it"))?;
    // A still without alpha or metadata consists of a file header of 12 bytes and that chunk.
    match still.get(12..) {
        Some(chunk) if chunk.starts_with(b"VP8 ") && chunk.len() % 2 == 0 => Ok(chunk.to_vec()),
        _ => Err(io::Error::other("libwebp didn't return a lossy still")),
    }
}

/// Encodes 8 bit RGB levels as a still WebP file. Returns `None` if libwebp fails; for a supported size this means that
/// there was not enough memory.
#[allow(unsafe_code, reason = "a library in C")]
fn libwebp_still(levels: &[u8], width: u32, height: u32, quality: u8) -> Option<Vec<u8>> {
    let stride = i32::try_from(width).ok()?.checked_mul(3)?;
    let rows = i32::try_from(height).ok()?;
    if levels.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        return None;
    }
    let mut still = std::ptr::null_mut();
    // SAFETY: `levels` holds `rows` rows of `stride` bytes, as just checked, and is only read; `still` is where
    // libwebp stores the address of a buffer of its own, or null.
    let length = unsafe {
        libwebp_sys::WebPEncodeRGB(
            levels.as_ptr(),
            stride / 3,
            rows,
            stride,
            f32::from(quality),
            &raw mut still,
        )
    };
    let copy = (length > 0 && !still.is_null()).then(|| {
        // SAFETY: on success libwebp has stored the address of `length` bytes that it wrote; nothing else owns it.
        unsafe { std::slice::from_raw_parts(still, length) }.to_vec()
    });
    // SAFETY: the buffer is libwebp's, isn't used after this, and null is allowed.
    unsafe { libwebp_sys::WebPFree(still.cast()) };
    copy
}

/// Writes the film from its encoded frames.
pub(super) fn assemble(
    out: &mut impl Write,
    (width, height): (u32, u32),
    metadata: &[(String, String)],
    spool: &mut Spool,
) -> io::Result<()> {
    let xmp = if metadata.is_empty() { Vec::new() } else { metadata::packet(metadata).into_bytes() };
    let xmp_chunk = if xmp.is_empty() { 0 } else { 8 + xmp.len() + xmp.len() % 2 };
    let total = 4 + (8 + 10) + (8 + 6) + spool.length + spool.frames.len() as u64 * FRAME_HEADER;
    let total = u32::try_from(total + xmp_chunk as u64)
        .map_err(|_| io::Error::other("the film is larger than the 4 GiB that WebP can hold"))?;

    out.write_all(b"RIFF")?;
    out.write_all(&total.to_le_bytes())?;
    out.write_all(b"WEBPVP8X\x0a\0\0\0")?;
    // Bit 1: animation, bit 2: XMP.
    out.write_all(&[2 | if xmp.is_empty() { 0 } else { 4 }, 0, 0, 0])?;
    out.write_all(&u24(width - 1))?;
    out.write_all(&u24(height - 1))?;
    // Background white and opaque (never visible); loop count 0 is infinite.
    out.write_all(b"ANIM\x06\0\0\0\xff\xff\xff\xff\0\0")?;
    spool.replay(|chunk, milliseconds| {
        out.write_all(b"ANMF")?;
        out.write_all(&(chunk.len() as u32 + 16).to_le_bytes())?;
        // Position 0,0.
        out.write_all(&[0; 6])?;
        for field in [width - 1, height - 1, milliseconds] {
            out.write_all(&u24(field))?;
        }
        // Bit 1: no blending.
        out.write_all(&[2])?;
        out.write_all(chunk)
    })?;
    if !xmp.is_empty() {
        out.write_all(b"XMP ")?;
        out.write_all(&(xmp.len() as u32).to_le_bytes())?;
        out.write_all(&xmp)?;
        out.write_all(&[0][..xmp.len() % 2])?;
    }
    Ok(())
}

/// Returns a number as 24 bits, little-endian.
fn u24(number: u32) -> [u8; 3] {
    let [a, b, c, _] = number.to_le_bytes();
    [a, b, c]
}
