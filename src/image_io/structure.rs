//! Parses the outer structure of picture files without decoding them, mainly to detect truncated files.
//! Decoders are lenient (a JPEG cut in half decodes to a photo with a gray lower half), and a photo that is
//! half gray would only be noticed after the whole computation.

/// The error for a truncated file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CutShort;

/// Properties of a PNG that are known before its pixels are decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Png<'a> {
    /// Width and height in pixels, unless the header is missing.
    pub(super) size: Option<(u32, u32)>,
    /// Whether colours are indices into a palette.
    pub(super) palette: bool,
    /// The code points of the `cICP` chunk.
    pub(super) cicp: Option<[u8; 4]>,
    /// Whether there is an ICC profile.
    pub(super) profile: bool,
    /// Number of text chunks.
    pub(super) texts: usize,
    /// Whether one of them is EXIF in hexadecimal digits.
    pub(super) exif_text: bool,
    /// A chunk with EXIF after the pixels, with its length, name and checksum.
    pub(super) late_exif: Option<&'a [u8]>,
}

/// Keywords of text chunks that hold EXIF, as ImageMagick and exiv2 write them.
pub(super) const EXIF_KEYS: [&str; 2] = ["Raw profile type exif", "Raw profile type APP1"];

/// Properties of a JPEG that are known before its pixels are decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Jpeg<'a> {
    /// Width and height in pixels, unless there is no frame header.
    pub(super) size: Option<(u32, u32)>,
    /// Number of colour components: 1 gray, 3 colour, 4 CMYK.
    pub(super) components: u8,
    /// Bits per sample.
    pub(super) precision: u8,
    /// Marker of the frame header, which identifies the coding process.
    pub(super) coding: u8,
    /// Sampling factors of each component: horizontal in the upper four bits, vertical in the lower.
    pub(super) sampling: Vec<u8>,
    /// Number of scans.
    pub(super) scans: usize,
    /// Number of components of the first scan.
    pub(super) first_scan: u8,
    /// Whether a quantization table follows the first scan.
    pub(super) late_tables: bool,
    /// Whether there is a DNL segment, which gives the height after the first scan.
    pub(super) height_again: bool,
    /// Contents of the application segments (APP1) in order.
    pub(super) app1: Vec<&'a [u8]>,
}

/// Reads a big-endian number of `N` bytes at an offset; None beyond the end.
fn be<const N: usize>(bytes: &[u8], at: usize) -> Option<u32> {
    let field: [u8; N] = bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
    Some(field.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
}

/// Reads an unsigned number of up to 8 bytes at an offset; None beyond the end.
pub(super) fn number(bytes: &[u8], at: usize, length: usize, is_big_endian: bool) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    let push = |n: u64, byte: &u8| n << 8 | u64::from(*byte);
    Some(if is_big_endian { field.iter().fold(0, push) } else { field.iter().rev().fold(0, push) })
}

/// Walks the chunks of a PNG up to its `IEND`.
pub(super) fn png(bytes: &[u8]) -> Result<Png<'_>, CutShort> {
    let mut found = Png::default();
    let mut is_after_pixels = false;
    let mut at = 8;
    loop {
        let length = be::<4>(bytes, at).ok_or(CutShort)? as usize;
        let kind = bytes.get(at + 4..at + 8).ok_or(CutShort)?;
        let end = length.checked_add(at + 12).ok_or(CutShort)?;
        // Without the checksum of the last chunk the file isn't complete.
        if end > bytes.len() {
            return Err(CutShort);
        }
        let data = &bytes[at + 8..end - 4];
        match kind {
            b"IHDR" => {
                found.size = be::<4>(data, 0).zip(be::<4>(data, 4));
                found.palette = data.get(9) == Some(&3);
            }
            b"cICP" => found.cicp = data.try_into().ok(),
            b"iCCP" => found.profile = true,
            b"tEXt" | b"zTXt" | b"iTXt" => {
                found.texts += 1;
                let is_key = |key: &&str| {
                    data.strip_prefix(key.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
                };
                let is_exif = EXIF_KEYS.iter().any(is_key);
                if is_exif && is_after_pixels {
                    found.late_exif.get_or_insert(&bytes[at..end]);
                } else {
                    found.exif_text |= is_exif;
                }
            }
            b"eXIf" if is_after_pixels => found.late_exif = Some(&bytes[at..end]),
            b"IDAT" => is_after_pixels = true,
            b"IEND" => return Ok(found),
            _ => {}
        }
        at = end;
    }
}

/// Returns the position in a JPEG after the start marker and the JFIF segment, if any, which must come first.
pub(super) fn after_jfif(bytes: &[u8]) -> Option<usize> {
    match bytes.get(2..4)? {
        [0xff, 0xe0] => Some(4 + be::<2>(bytes, 4)? as usize),
        _ => Some(2),
    }
}

/// Walks the markers of a JPEG up to its end-of-image marker.
pub(super) fn jpeg(bytes: &[u8]) -> Result<Jpeg<'_>, CutShort> {
    let mut found = Jpeg::default();
    let mut at = 2;
    while let Some((marker, data)) = segment(bytes, &mut at)? {
        note(marker, data, &mut found);
    }
    Ok(found)
}

/// Walks the markers of a JPEG up to its frame header; the rest may be missing.
pub(super) fn jpeg_header(bytes: &[u8]) -> Jpeg<'_> {
    let mut found = Jpeg::default();
    let mut at = 2;
    while let (None, Ok(Some((marker, data)))) = (found.size, segment(bytes, &mut at)) {
        note(marker, data, &mut found);
    }
    found
}

/// Returns marker and content of the next segment of a JPEG after `at`, skipping entropy-coded data; None at the end
/// of the picture.
pub(super) fn segment<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<(u8, &'a [u8])>, CutShort> {
    // Skip to the next marker, over entropy-coded data with its stuffed zeros, restart markers and
    // fill bytes, and over stray bytes between segments, which some cameras write.
    let marker = loop {
        let to = bytes.get(*at..).and_then(|rest| rest.iter().position(|b| *b == 0xff)).ok_or(CutShort)?;
        *at += to + 1;
        match bytes.get(*at).ok_or(CutShort)? {
            0x00 | 0x01 | 0xd0..=0xd8 => *at += 1,
            0xff => {}
            marker => break *marker,
        }
    };
    *at += 1;
    if marker == 0xd9 {
        return Ok(None);
    }
    let length = (be::<2>(bytes, *at).ok_or(CutShort)? as usize).max(2);
    let data = bytes.get(*at + 2..*at + length).ok_or(CutShort)?;
    *at += length;
    Ok(Some((marker, data)))
}

fn note<'a>(marker: u8, data: &'a [u8], found: &mut Jpeg<'a>) {
    match marker {
        0xe1 => found.app1.push(data),
        0xda => {
            if found.scans == 0 {
                found.first_scan = data.first().copied().unwrap_or(0);
            }
            found.scans += 1;
        }
        0xdb if found.scans > 0 => found.late_tables = true,
        0xdc => found.height_again = true,
        // Frame headers are C0 to CF without DHT, JPG and DAC.
        0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) && found.size.is_none() => {
            found.size = be::<2>(data, 3).zip(be::<2>(data, 1));
            found.components = data.get(5).copied().unwrap_or(0);
            found.precision = data.first().copied().unwrap_or(0);
            found.coding = marker;
            found.sampling =
                data.get(6..).unwrap_or_default().as_chunks::<3>().0.iter().map(|c| c[1]).collect();
        }
        _ => {}
    }
}

/// Walks the blocks of a GIF and counts its frames up to the first truncated one.
pub(super) fn gif(bytes: &[u8]) -> Result<usize, CutShort> {
    let byte = |at: usize| bytes.get(at).copied().ok_or(CutShort);
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3usize << ((flags & 7) + 1) };
    let blocks_end = |mut at: usize| -> Result<usize, CutShort> {
        loop {
            match byte(at)? {
                0 => return Ok(at + 1),
                length => at += 1 + usize::from(length),
            }
        }
    };
    let mut frames = 0;
    let mut at = 13 + table(byte(10)?);
    loop {
        let end = match byte(at) {
            Ok(0x21) => blocks_end(at + 2),
            Ok(0x2c) => byte(at + 9).and_then(|flags| blocks_end(at + 11 + table(flags))),
            // The trailer, or something no reader would understand.
            Ok(_) => return Ok(frames),
            Err(cut) => Err(cut),
        };
        match end {
            Ok(end) => {
                frames += usize::from(bytes[at] == 0x2c);
                at = end;
            }
            Err(_) if frames > 0 => return Ok(frames),
            Err(cut) => return Err(cut),
        }
    }
}

/// Returns true for BigTIFF, which has 64-bit offsets.
pub(super) fn is_big_tiff(bytes: &[u8]) -> bool {
    bytes.starts_with(b"II\x2b\0") || bytes.starts_with(b"MM\0\x2b")
}

/// Compares the length in a WebP's header with the length of the file.
pub(super) fn webp(bytes: &[u8]) -> Result<(), CutShort> {
    let stated: [u8; 4] = bytes.get(4..8).and_then(|b| b.try_into().ok()).ok_or(CutShort)?;
    if (u32::from_le_bytes(stated) as usize).saturating_add(8) > bytes.len() { Err(CutShort) } else { Ok(()) }
}

/// Guesses what an unsupported file is: returns problem and remedy for an error message.
pub(super) fn guess(bytes: &[u8]) -> (&'static str, &'static str) {
    const CONVERT: &str = "Convert it to PNG or JPEG and try again";
    let start = &bytes[..bytes.len().min(512)];
    let brand = start.get(4..12).unwrap_or_default();
    match start {
        [b'%', b'P', b'D', b'F', ..] => ("it is a PDF, not a picture", CONVERT),
        [b'P', b'K', 3, 4, ..] => {
            ("it is a ZIP archive, not a picture", "Unpack it and use a picture inside")
        }
        [b'8', b'B', b'P', b'S', ..] => ("it is a Photoshop document, which isn't supported", CONVERT),
        [0x1f, 0x8b, ..] => ("it is gzip data, not a picture", "Unpack it first"),
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', ..] => {
            ("it is a JPEG XL picture, which isn't supported", CONVERT)
        }
        [0, 0, 0, 0x0c, b'j', b'P', ..] => ("it is a JPEG 2000 picture, which isn't supported", CONVERT),
        _ if brand.starts_with(b"ftypavi") => ("it is an AVIF picture, which isn't supported", CONVERT),
        _ if [&b"ftyphei"[..], b"ftyphev", b"ftypmif", b"ftypmsf"].iter().any(|b| brand.starts_with(b)) => {
            ("it is a HEIC picture, which isn't supported", CONVERT)
        }
        _ if brand.starts_with(b"ftyp") => ("it is a video, not a picture", "Extract a still from it first"),
        _ if start.len() > 8 && is_html(start) => (
            "it holds a web page, not a picture",
            "The download probably fetched the page around the picture; fetch the picture itself",
        ),
        _ if start.windows(4).any(|w| w == b"<svg") => {
            ("it is an SVG drawing, which isn't supported", CONVERT)
        }
        _ if is_text(start) => {
            ("it holds text, not a picture", "Use a PNG, JPEG, WebP, TIFF, GIF or BMP file")
        }
        _ => (
            "it isn't a picture in a supported format",
            "Use a PNG, JPEG, WebP, TIFF, GIF or BMP file; the content decides, not the file name",
        ),
    }
}

/// Returns true if the start of a file looks like HTML.
fn is_html(start: &[u8]) -> bool {
    let lower = start.to_ascii_lowercase();
    [&b"<!doctype html"[..], b"<html"].iter().any(|tag| lower.windows(tag.len()).any(|w| w == *tag))
}

/// Returns true if the start of a file is UTF-8 without control characters.
fn is_text(start: &[u8]) -> bool {
    let whole = match std::str::from_utf8(start) {
        Ok(text) => text,
        // A character cut at the end of the sample is fine.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&start[..e.valid_up_to()]).unwrap_or("\0"),
        Err(_) => return false,
    };
    whole.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_files_never_panic() {
        let png_like = [
            &b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x02\0\0\0\x03\x08\x03\0\0\0crc."[..],
            b"\0\0\0\0IENDcrc.",
        ]
        .concat();
        let jpeg_like =
            b"\xff\xd8\xff\xe1\0\x05abc\xff\xc0\0\x09\x08\0\x03\0\x02\x04x\xff\xda\0\x02\x12\xff\0\xff\xd0\x01\xff\xd9";
        for length in 0..png_like.len() {
            assert_eq!(png(&png_like[..length]), Err(CutShort), "{length}");
        }
        for length in 0..jpeg_like.len() {
            assert_eq!(jpeg(&jpeg_like[..length]), Err(CutShort), "{length}");
        }
        let found = png(&png_like).unwrap();
        assert_eq!((found.size, found.palette, found.cicp), (Some((2, 3)), true, None));
        let found = jpeg(jpeg_like).unwrap();
        assert_eq!((found.size, found.components), (Some((2, 3)), 4));
        assert_eq!((found.precision, found.coding), (8, 0xc0));
        assert_eq!(jpeg_header(&jpeg_like[..25]), jpeg_header(jpeg_like));
        assert_eq!(found.app1, [b"abc"]);
        assert_eq!(jpeg(b"\xff\xd8\xff\xe1\0\0\xff\xd9").unwrap().app1, [b""], "a length below 2");
    }

    #[test]
    fn jpeg_thumbnail_end_is_skipped() {
        assert_eq!(jpeg(b"\xff\xd8\xff\xe1\0\x04\xff\xd9"), Err(CutShort));
        assert!(jpeg(b"\xff\xd8\xff\xe1\0\x04\xff\xd9\xff\xd9 and trailing data").is_ok());
    }

    #[test]
    fn gif_frames_are_counted() {
        let frame = b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0";
        let screen = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff";
        let two = [&screen[..], b"\x21\xf9\x01x\0", frame, b"\x21\xfe\0", frame, b";"].concat();
        assert_eq!(gif(&two), Ok(2));
        let first = screen.len() + 5 + frame.len();
        for length in 0..two.len() {
            let expected =
                if length < first { Err(CutShort) } else { Ok(1 + usize::from(length >= two.len() - 1)) };
            assert_eq!(gif(&two[..length]), expected, "{length}");
        }
        assert_eq!(gif(&[screen, &b";"[..]].concat()), Ok(0));
    }

    #[test]
    fn file_kinds_are_guessed() {
        assert!(guess(b"hello, world\n").0.contains("text"));
        assert!(guess("grüße".as_bytes()).0.contains("text"));
        assert!(guess(b"\n<!DOCTYPE HTML><html>").0.contains("web page"));
        assert!(guess(b"\0\0\0\x18ftypheic\0\0").0.contains("HEIC"));
        assert!(guess(&[0, 159, 146, 150]).0.contains("isn't a picture"));
        assert!(guess(b"").0.contains("text"));
    }
}
