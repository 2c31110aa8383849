//! Text metadata in picture files.
//!
//! PNG has a chunk for it (iTXt: keyword and UTF-8 text), which every PNG tool shows. The other formats
//! carry one XMP packet with one property, `mirage:record`, whose value is the list of pairs as JSON: JSON
//! can hold characters that XML 1.0 can't (control characters), and it preserves order and repeated keys.

use std::io::Cursor;

use image::ImageFormat;
use md5::{Digest, Md5};

use super::{checksum, structure};

/// Prefix of this program's own keys.
const KEY: &str = "neural-mirage:";
/// Namespace of the one property.
const NAMESPACE: &str = "https://docs.rs/neural-mirage/xmp/1.0/";
const OPEN: &str = "<mirage:record>";
const CLOSE: &str = "</mirage:record>";
/// The property in attribute form, as Adobe's toolkit and exiv2 rewrite it.
const ATTRIBUTE: &str = "mirage:record=";

/// Prefixes of a JPEG segment with XMP, and of one with a part of extended XMP, which is too long for a segment.
const STANDARD: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const EXTENSION: &[u8] = b"http://ns.adobe.com/xmp/extension/\0";

/// Longest content of a JPEG segment in bytes: a 16 bit length that counts itself.
const SEGMENT: usize = 65_533;

/// Limit in bytes for the decompressed text of a PNG and for the text of a GIF. A record has a few kilobytes.
const MAX_TEXT: usize = 1 << 26;

/// Maximum number of text chunks in a PNG. A record has about ten. In memory each is many times larger than in the
/// file.
pub(super) const MAX_TEXTS: usize = 4096;

/// Longest record accepted from XMP, in bytes.
const MAX_RECORD: usize = 1 << 24;

/// Longest character reference after its `&`: `#x0010ffff;`.
const LONGEST_REFERENCE: usize = 11;

/// The TIFF tag for XMP.
pub(super) const TIFF_XMP: u16 = 700;

/// Checks that a key can be stored. PNG keywords are the most restricted of all formats, and a key that works
/// in one format should work in all.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    let printable = key.bytes().all(|b| (0x20..0x7f).contains(&b));
    if !(1..=79).contains(&key.len()) || !printable || key.trim() != key || key.contains("  ") {
        return Err(format!(
            "the metadata key {key:?} can't be stored: keys are 1 to 79 ASCII characters without outer or double spaces"
        ));
    }
    Ok(())
}

/// Returns the XMP packet for key/value pairs.
pub(super) fn packet(pairs: &[(String, String)]) -> String {
    wrap(&format!("{OPEN}{}{CLOSE}", escape(&json(pairs))), "")
}

/// Returns the JPEG segments, markers included, for key/value pairs: one with the packet or, above 64 KiB, as
/// the XMP specification requires, a stub with the MD5 of the full packet, which follows in parts.
pub(super) fn jpeg_segments(pairs: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut segment = |parts: &[&[u8]]| {
        let length = 2 + parts.iter().map(|p| p.len()).sum::<usize>();
        // Callers keep to SEGMENT, so the length fits.
        out.extend([0xff, 0xe1, (length >> 8) as u8, length as u8]);
        parts.iter().for_each(|p| out.extend(*p));
    };
    let whole = packet(pairs);
    if STANDARD.len() + whole.len() <= SEGMENT {
        segment(&[STANDARD, whole.as_bytes()]);
        return out;
    }
    let digest: String = Md5::digest(&whole).iter().map(|b| format!("{b:02X}")).collect();
    let stub = wrap(
        "",
        &format!(r#" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{digest}""#),
    );
    segment(&[STANDARD, stub.as_bytes()]);
    // The format has 32 bits; memory limits the length to far less.
    let total = (whole.len() as u32).to_be_bytes();
    let step = SEGMENT - EXTENSION.len() - digest.len() - 8;
    for (index, part) in whole.as_bytes().chunks(step).enumerate() {
        let offset = ((index * step) as u32).to_be_bytes();
        segment(&[EXTENSION, digest.as_bytes(), &total, &offset, part]);
    }
    out
}

/// Returns the key/value pairs in a file, or an error message.
pub(super) fn extract(bytes: &[u8], format: ImageFormat) -> Result<Vec<(String, String)>, String> {
    let damaged = |what: &str| format!("its metadata is damaged ({what})");
    let xmp = match format {
        ImageFormat::Png => {
            let png = structure::png(bytes).map_err(|_| damaged("the file is cut short"))?;
            if png.texts > MAX_TEXTS {
                return Err(damaged(&format!("it has {} texts", png.texts)));
            }
            let limits = png::Limits { bytes: bytes.len() + MAX_TEXT };
            let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
            decoder.set_ignore_iccp_chunk(true);
            let reader = decoder.read_info().map_err(|e| damaged(&e.to_string()))?;
            let mut left = MAX_TEXT;
            let mut pairs = Vec::new();
            for chunk in &reader.info().utf8_text {
                if chunk.keyword == "XML:com.adobe.xmp" || chunk.keyword == checksum::KEY {
                    continue;
                }
                // One limit for all chunks: many small ones can expand as much as a large one.
                let mut chunk = chunk.clone();
                let text = chunk.decompress_text_with_limit(left).and_then(|()| chunk.get_text());
                let text = text.map_err(|e| damaged(&e.to_string()))?;
                left = left.saturating_sub(text.len());
                pairs.push((chunk.keyword, text));
            }
            // Another program may have rewritten them in these chunks.
            let is_ours = |key: &str| key.starts_with(KEY) && key != checksum::KEY;
            for pair in latin1_texts(reader.info(), is_ours, left) {
                pairs.push(pair.map_err(|e| damaged(&e.to_string()))?);
            }
            return Ok(pairs);
        }
        ImageFormat::Jpeg => {
            let jpeg = structure::jpeg(bytes).map_err(|_| damaged("the file is cut short"))?;
            jpeg_xmp(&jpeg.app1).map_err(damaged)?
        }
        ImageFormat::WebP => image_webp::WebPDecoder::new(Cursor::new(bytes))
            .and_then(|mut decoder| {
                // A chunk header may contain any length.
                decoder.set_memory_limit(bytes.len());
                decoder.xmp_metadata()
            })
            .map_err(|e| damaged(&e.to_string()))?,
        ImageFormat::Gif => gif_xmp(bytes).map_err(|e| damaged(&e.to_string()))?,
        ImageFormat::Tiff => {
            let mut decoder =
                tiff::decoder::Decoder::new(Cursor::new(bytes)).map_err(|e| damaged(&e.to_string()))?;
            decoder.get_tag_u8_vec(tiff::tags::Tag::Unknown(TIFF_XMP)).ok()
        }
        _ => None,
    };
    let Some(xmp) = xmp else { return Ok(Vec::new()) };
    let text = std::str::from_utf8(&xmp).map_err(|_| damaged("it isn't UTF-8"))?;
    unwrap_record(text).map_err(damaged)
}

/// Returns the Latin-1 texts (tEXt and zTXt) of a PNG whose keyword is `wanted`, as (keyword, text). All texts together
/// may have `limit` bytes after decompression.
pub(super) fn latin1_texts(
    info: &png::Info<'_>,
    wanted: impl Fn(&str) -> bool + Copy,
    limit: usize,
) -> impl Iterator<Item = Result<(String, String), png::DecodingError>> {
    let plain = info.uncompressed_latin1_text.iter().filter(move |chunk| wanted(&chunk.keyword));
    let mut left = limit.saturating_sub(plain.clone().map(|chunk| chunk.text.len()).sum());
    let compressed = info.compressed_latin1_text.iter().filter(move |chunk| wanted(&chunk.keyword));
    let expanded = compressed.map(move |chunk| {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(left)?;
        let text = chunk.get_text()?;
        left = left.saturating_sub(text.len());
        Ok((chunk.keyword, text))
    });
    plain.map(|chunk| Ok((chunk.keyword.clone(), chunk.text.clone()))).chain(expanded)
}

/// Returns the XMP of a GIF, if it comes before the first frame.
fn gif_xmp(bytes: &[u8]) -> Result<Option<Vec<u8>>, gif::DecodingError> {
    let mut options = gif::DecodeOptions::new();
    options.set_memory_limit(
        std::num::NonZeroU64::new(MAX_TEXT as u64)
            .map_or(gif::MemoryLimit::Unlimited, gif::MemoryLimit::Bytes),
    );
    options.skip_frame_decoding(true);
    let decoder = options.read_info(bytes)?;
    // The packet may be followed by the trailer for other readers (see film/gif.rs), which begins with the byte 1.
    // XML can't contain that byte.
    Ok(decoder.xmp_metadata().and_then(|xmp| xmp.split(|b| *b == 1).next()).map(<[u8]>::to_vec))
}

/// Returns the XMP of a JPEG, reassembled if it is extended.
fn jpeg_xmp(segments: &[&[u8]]) -> Result<Option<Vec<u8>>, &'static str> {
    let Some(standard) = segments.iter().find_map(|s| s.strip_prefix(STANDARD)) else { return Ok(None) };
    let Some(digest_of_all) = extended_digest(standard) else { return Ok(Some(standard.to_vec())) };
    let mut parts: Vec<(u32, &[u8])> = Vec::new();
    for segment in segments.iter().filter_map(|s| s.strip_prefix(EXTENSION)) {
        let (Some((digest, rest)), true) = (segment.split_at_checked(32), segment.len() >= 40) else {
            return Err("an extended XMP segment is too short");
        };
        // Ignore parts of a packet other than the one that the standard packet refers to.
        if digest == digest_of_all {
            parts.push((u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]), &rest[8..]));
        }
    }
    if parts.is_empty() {
        return Ok(Some(standard.to_vec()));
    }
    parts.sort_by_key(|(offset, _)| *offset);
    let mut whole = Vec::new();
    for (offset, part) in parts {
        if offset as usize != whole.len() {
            return Err("a part of it is missing");
        }
        whole.extend(part);
    }
    let digest: String = Md5::digest(&whole).iter().map(|b| format!("{b:02X}")).collect();
    if digest.as_bytes() != digest_of_all {
        return Err("its checksum doesn't match");
    }
    Ok(Some(whole))
}

/// Returns the hexadecimal digest of the extended packet that a standard packet refers to, if any.
fn extended_digest(standard: &[u8]) -> Option<&[u8]> {
    let key = b"HasExtendedXMP";
    let at = standard.windows(key.len()).position(|w| w == key)?;
    let is_digest = |w: &&[u8]| w.iter().all(u8::is_ascii_hexdigit);
    standard[at + key.len()..].windows(32).find(is_digest)
}

/// Builds a packet with one description, from its properties and attributes.
fn wrap(properties: &str, attributes: &str) -> String {
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         <rdf:Description rdf:about=\"\" xmlns:mirage=\"{NAMESPACE}\" \
         xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" xmp:CreatorTool=\"neural-mirage {version}\"{attributes}>\
         {properties}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// Returns the pairs in a packet; empty if this program didn't write it.
fn unwrap_record(xmp: &str) -> Result<Vec<(String, String)>, &'static str> {
    let (rest, close) = if let Some((_, rest)) = xmp.split_once(OPEN) {
        (rest, CLOSE)
    } else if let Some((_, rest)) = xmp.split_once(ATTRIBUTE) {
        match rest.split_at_checked(1) {
            Some((quote @ ("\"" | "'"), rest)) => (rest, quote),
            _ => return Err("the record isn't quoted"),
        }
    } else {
        return Ok(Vec::new());
    };
    let (record, _) = rest.split_once(close).ok_or("the record isn't closed")?;
    if record.len() > MAX_RECORD {
        return Err("the record is too long");
    }
    serde_json::from_str(&unescape(record)).map_err(|_| "the record isn't valid JSON")
}

/// Encodes pairs as a JSON list of lists without characters that XML 1.0 forbids: serde_json escapes those
/// below U+0020, and the two non-characters at the end of the first plane are escaped here.
fn json(pairs: &[(String, String)]) -> String {
    let list = pairs.iter().map(|(k, v)| serde_json::json!([k, v])).collect::<serde_json::Value>();
    list.to_string().replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

/// Escapes text for the content of an XML element.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Reverses [`escape`], and resolves XML's other predefined and numeric references, in case a tool has rewritten the
/// packet. Leaves everything else unchanged.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let end = after.bytes().take(LONGEST_REFERENCE).position(|byte| byte == b';');
        let reference = end.and_then(|end| Some((character(&after[..end])?, &after[end + 1..])));
        (out, rest) = match reference {
            Some((character, behind)) => (out + character.encode_utf8(&mut [0; 4]), behind),
            None => (out + "&", after),
        };
    }
    out + rest
}

/// Returns the character for the name or number of a reference.
fn character(name: &str) -> Option<char> {
    Some(match name {
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "amp" => '&',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(key: &str, value: &str) -> Vec<(String, String)> {
        vec![(key.to_owned(), value.to_owned())]
    }

    #[test]
    fn packets_round_trip_any_text() {
        let everything: String =
            (0..=0x0010_ffff).step_by(7).chain(0..0x300).filter_map(char::from_u32).collect();
        for value in [
            "",
            "plain",
            "<mirage:record>]]></mirage:record>&amp;&lt;",
            "a\0b\r\n\t\u{1b}\u{7f}\u{85}\u{fffe}\u{ffff}\u{feff}",
            "\"quoted\" \\ud800 \\",
            &everything,
        ] {
            let pairs = [pairs("k", value), pairs("k", value)].concat();
            let packet = packet(&pairs);
            assert_eq!(unwrap_record(&packet).unwrap(), pairs);
            let forbidden = |c: char| c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}');
            assert!(!packet.contains(forbidden), "not XML 1.0");
        }
    }

    #[test]
    fn record_rewritten_as_attribute_is_found() {
        let pairs = pairs("neural-mirage:options", "a \"quoted\" <text> & 'more' é\n");
        let quoted =
            escape(&json(&pairs)).replace('"', "&quot;").replace('\'', "&#39;").replace('é', "&#xE9;");
        for value in [format!("\"{quoted}\""), format!("'{quoted}'")] {
            let xmp = format!("<rdf:Description xmp:Rating=\"4\" mirage:record={value} xmp:Label='x'/>");
            assert_eq!(unwrap_record(&xmp).unwrap(), pairs);
        }
        for broken in ["mirage:record=", "mirage:record=x", "mirage:record=\"[[&quot;"] {
            assert!(unwrap_record(broken).is_err(), "{broken}");
        }
        assert_eq!(
            unescape("&lt;&amp;amp;&#x110000;&#xD800;&none; & &"),
            "<&amp;&#x110000;&#xD800;&none; & &"
        );
    }

    /// A PNG with these chunks before its end.
    fn png_with(chunks: impl Fn(&mut png::Writer<&mut Vec<u8>>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = png::Encoder::new(&mut bytes, 1, 1).write_header().unwrap();
        chunks(&mut writer);
        writer.write_image_data(&[0]).unwrap();
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn texts_rewritten_as_latin_1_are_found() {
        let key = "neural-mirage:options";
        let bytes = png_with(|writer| {
            let plain = png::text_metadata::TEXtChunk::new(key, "{\"a\": 1}");
            let packed = png::text_metadata::ZTXtChunk::new("neural-mirage:report", "{}");
            let other = png::text_metadata::TEXtChunk::new("Comment", "mine");
            writer.write_text_chunk(&plain).unwrap();
            writer.write_text_chunk(&packed).unwrap();
            writer.write_text_chunk(&other).unwrap();
        });
        let found = extract(&bytes, ImageFormat::Png).unwrap();
        assert_eq!(found, [pairs(key, "{\"a\": 1}"), pairs("neural-mirage:report", "{}")].concat());
    }

    #[test]
    fn long_packets_are_split_and_checked() {
        let pairs = pairs("k", &"0123456789é".repeat(20_000));
        let jpeg = [&b"\xff\xd8"[..], &jpeg_segments(&pairs), b"\xff\xd9"].concat();
        assert_eq!(extract(&jpeg, ImageFormat::Jpeg).unwrap(), pairs);
        let app1 = structure::jpeg(&jpeg).unwrap().app1;
        assert!(app1.len() > 3);
        assert!(jpeg_xmp(&[&app1[..2], &app1[3..]].concat()).is_err(), "a part is missing");
        let mut shuffled = app1.clone();
        shuffled[1..].reverse();
        assert!(jpeg_xmp(&shuffled).unwrap().is_some(), "order is no matter");
        let mut altered = app1[2].to_vec();
        *altered.last_mut().unwrap() ^= 1;
        let mut with_altered = app1.clone();
        with_altered[2] = &altered;
        assert!(jpeg_xmp(&with_altered).is_err(), "altered");
    }

    #[test]
    fn foreign_xmp_has_no_record() {
        assert_eq!(unwrap_record("<x:xmpmeta/>").unwrap(), []);
        assert!(unwrap_record("<mirage:record>[").is_err());
        assert!(unwrap_record("<mirage:record>[1]</mirage:record>").is_err());
    }

    #[test]
    fn keys_are_checked() {
        for good in ["neural-mirage:options", "a", "Creation Time", &"k".repeat(79)] {
            assert!(check_key(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a ", "a  b", "é", "a\nb", "a\0", &"k".repeat(80)] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
    }
}
