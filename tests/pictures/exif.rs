//! Orientations in EXIF as programs write them.

use super::support::{
    encoded, exif, jpeg_with_exif, notes, photo, png_with_chunk, read_bytes, values, worst,
};
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat};
use std::fmt::Write;

/// A minimal EXIF block whose orientation is a 32 bit number.
fn long_exif(orientation: u32, is_big_endian: bool) -> Vec<u8> {
    let mut block = exif(1, is_big_endian);
    block[if is_big_endian { 13 } else { 12 }] = 4;
    let value = if is_big_endian { orientation.to_be_bytes() } else { orientation.to_le_bytes() };
    block[18..22].copy_from_slice(&value);
    block
}

/// EXIF in hexadecimal digits, as the text of a PNG.
fn exif_text(exif: &[u8]) -> Vec<u8> {
    let mut text = format!("Raw profile type exif\0\nexif\n{:8}\n", exif.len());
    exif.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
    text.push('\n');
    text.into_bytes()
}

/// A PNG with one more chunk after its pixels.
fn png_with_late_chunk(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let with_chunk = png_with_chunk(png, kind, data);
    let chunk = &with_chunk[33..33 + 12 + data.len()];
    let (front, end) = png.split_at(png.len() - 12);
    [front, chunk, end].concat()
}

/// Checks that a picture, stored as [`photo`], was turned clockwise.
fn check_turned(name: &str, bytes: &[u8], tolerance: f32) {
    let decoded = read_bytes(bytes).unwrap();
    assert_eq!(notes(&decoded), "EXIF orientation 6 applied", "{name}");
    let expected = values(&photo(32, 16).rotate90());
    assert!(worst(&decoded.picture.rgb, &expected) < tolerance, "{name}");
}

#[test]
fn orientations_of_32_bits_are_applied() {
    let image = photo(32, 16);
    let png = encoded(&image, ImageFormat::Png);
    for is_big_endian in [false, true] {
        let exif = long_exif(6, is_big_endian);
        let mut webp = Vec::new();
        let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
        encoder.set_exif_metadata(exif.clone()).unwrap();
        encoder.write_image(image.as_bytes(), 32, 16, ExtendedColorType::Rgb8).unwrap();
        check_turned("jpeg", &jpeg_with_exif(&image, &exif), 0.15);
        check_turned("png", &png_with_chunk(&png, b"eXIf", &exif), 1e-6);
        check_turned("webp", &webp, 1e-6);
        for number in [0, 9, 256 + 6, 6 << 16, 6 << 24] {
            let bytes = png_with_chunk(&png, b"eXIf", &long_exif(number, is_big_endian));
            assert_eq!(notes(&read_bytes(&bytes).unwrap()), "", "{number}");
        }
        for length in 0..exif.len() {
            assert!(read_bytes(&png_with_chunk(&png, b"eXIf", &exif[..length])).is_ok(), "{length}");
        }
    }
}

#[test]
fn exif_after_the_pixels_of_a_png_is_applied() {
    let png = encoded(&photo(32, 16), ImageFormat::Png);
    let exif = exif(6, true);
    let with_prefix = [b"Exif\0\0", &exif[..]].concat();
    check_turned("chunk", &png_with_late_chunk(&png, b"eXIf", &exif), 1e-6);
    check_turned("chunk with prefix", &png_with_late_chunk(&png, b"eXIf", &with_prefix), 1e-6);
    check_turned("text", &png_with_late_chunk(&png, b"tEXt", &exif_text(&with_prefix)), 1e-6);
    check_turned("text before", &png_with_chunk(&png, b"tEXt", &exif_text(&with_prefix)), 1e-6);
    // The chunk takes precedence over the text, and what comes before the pixels over both.
    let upright = exif_text(&super::support::exif(1, true));
    let both = png_with_late_chunk(&png_with_late_chunk(&png, b"tEXt", &upright), b"eXIf", &exif);
    check_turned("text and chunk", &both, 1e-6);
    let both = png_with_late_chunk(&png_with_late_chunk(&png, b"eXIf", &exif), b"tEXt", &upright);
    check_turned("chunk and text", &both, 1e-6);
    let early = png_with_chunk(&png, b"eXIf", &super::support::exif(1, true));
    assert_eq!(notes(&read_bytes(&png_with_late_chunk(&early, b"eXIf", &exif)).unwrap()), "");
    // A palette.
    let palette = {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(&[255, 0, 0, 0, 0, 255][..]);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0, 1]).unwrap();
        writer.finish().unwrap();
        bytes
    };
    let decoded = read_bytes(&png_with_late_chunk(&palette, b"eXIf", &exif)).unwrap();
    assert_eq!((decoded.picture.width, decoded.picture.height), (1, 2));
}

#[test]
fn damaged_or_huge_exif_after_the_pixels_is_ignored() {
    let png = encoded(&DynamicImage::new_rgb8(2, 1), ImageFormat::Png);
    let exif = exif(6, false);
    let upright = |bytes: &[u8], what: &str| {
        let decoded = read_bytes(bytes).unwrap();
        assert_eq!((decoded.picture.width, decoded.notes.len()), (2, 0), "{what}");
    };
    let mut damaged = png_with_late_chunk(&png, b"eXIf", &exif);
    let checksum = damaged.len() - 13;
    damaged[checksum] ^= 1;
    upright(&damaged, "a wrong checksum");
    let huge = [&exif[..], &vec![0; 17 << 20]].concat();
    upright(&png_with_late_chunk(&png, b"eXIf", &huge), "a large chunk");
    // A text of 16 MB that takes some kilobytes.
    let mut bytes = Vec::new();
    let mut writer = png::Encoder::new(&mut bytes, 2, 1);
    writer.set_color(png::ColorType::Rgb);
    let mut writer = writer.write_header().unwrap();
    writer.write_image_data(&[0; 6]).unwrap();
    let text = format!("\nexif\n8388608\n{}\n", "0".repeat(1 << 24));
    writer.write_text_chunk(&png::text_metadata::ZTXtChunk::new("Raw profile type exif", text)).unwrap();
    writer.finish().unwrap();
    upright(&bytes, "a text that expands");
}
