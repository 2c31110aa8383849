//! Shared helpers for tests of picture files.

use crate::crc::crc;
use image::{DynamicImage, ImageFormat};
use neural_mirage::Error;
use neural_mirage::image_io::{Decoded, read};
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes bytes to a temporary file and reads it as a picture.
pub fn read_bytes(bytes: &[u8]) -> Result<Decoded, Error> {
    let dir = folder();
    let path = dir.path().join("input");
    fs::write(&path, bytes).unwrap();
    read(&path)
}

/// Returns the message of a refusal. Checks its kind and exit code, and that it has no debug output.
pub fn refusal(result: Result<Decoded, Error>) -> String {
    let error = match result {
        Ok(decoded) => panic!("accepted: {}x{}", decoded.picture.width, decoded.picture.height),
        Err(error) => error,
    };
    assert!(matches!(error, Error::File { .. }), "{error}");
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    for dump in ["{", "}", "Some(", "Error(", "\\u", "\n", ".."] {
        assert!(!text.contains(dump), "{dump:?} in {text:?}");
    }
    text
}

pub fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Creates an asymmetric, photo-like picture, smooth enough for JPEG.
pub fn photo(width: u32, height: u32) -> DynamicImage {
    let fx = |x: u32| x as f32 / width as f32;
    image::RgbImage::from_fn(width, height, |x, y| {
        let v = y as f32 / height as f32;
        image::Rgb([(fx(x) * 255.0) as u8, (v * 255.0) as u8, ((fx(x) * 3.0 + v).sin().abs() * 255.0) as u8])
    })
    .into()
}

pub fn values(image: &DynamicImage) -> Vec<f32> {
    image.to_rgb32f().into_raw()
}

pub fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |worst, (a, b)| {
        assert!(a.is_finite() && b.is_finite());
        worst.max((a - b).abs())
    })
}

pub fn notes(decoded: &Decoded) -> String {
    decoded.notes.join("; ")
}

/// Builds a minimal EXIF block with only an orientation.
pub fn exif(orientation: u8, big: bool) -> Vec<u8> {
    if big {
        [&b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[orientation], b"\0\0\0\0\0\0"].concat()
    } else {
        [&b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..], &[orientation], b"\0\0\0\0\0\0\0"].concat()
    }
}

pub fn jpeg_with_exif(image: &DynamicImage, exif: &[u8]) -> Vec<u8> {
    let jpeg = encoded(image, ImageFormat::Jpeg);
    let content = [b"Exif\0\0", exif].concat();
    let length = (content.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], b"\xff\xe1", &length, &content, &jpeg[2..]].concat()
}

/// Inserts a chunk after the header of a PNG.
pub fn png_with_chunk(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    let chunk = [kind, data].concat();
    [&png[..33], &length, &chunk, &crc(&chunk).to_be_bytes(), &png[33..]].concat()
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name)
}

/// Returns the sorted file names of a folder.
pub fn listing(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}
