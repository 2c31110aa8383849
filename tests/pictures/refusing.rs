//! Refusing unusable picture files. `tests/fuzz` covers damaged ones.

use super::support::{encoded, fixture, folder, photo, png_with_chunk, read_bytes, refusal};
use image::ImageFormat;
use neural_mirage::image_io::{MAX_SIDE, read};
use std::fs;
use std::path::Path;

#[test]
fn truncated_files_are_refused() {
    let image = photo(200, 150);
    for (format, name) in [
        (ImageFormat::Jpeg, "JPEG"),
        (ImageFormat::Png, "PNG"),
        (ImageFormat::WebP, "WebP"),
        (ImageFormat::Tiff, "TIFF"),
        (ImageFormat::Bmp, "BMP"),
    ] {
        let whole = encoded(&image, format);
        let n = whole.len();
        for length in [16, n * 3 / 10, n / 2, n * 9 / 10, n - 2, n - 1] {
            // The `image` crate writes the TIFF directory at the end, so truncation removes it.
            let text = refusal(read_bytes(&whole[..length]));
            assert!(text.contains(name), "{format:?} {length} of {n}: {text}");
        }
    }
    for name in ["progressive.jpg", "restart.jpg", "cmyk.jpg"] {
        let whole = fs::read(fixture(name)).unwrap();
        for length in [whole.len() / 2, whole.len() - 20, whole.len() - 2] {
            assert!(refusal(read_bytes(&whole[..length])).contains("cut short"));
        }
    }
}

#[test]
fn files_that_are_not_pictures_are_refused() {
    let dir = folder();
    let refuse = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let text = refusal(read(&path));
        assert!(text.contains(name), "{text}");
        text
    };
    assert!(refuse("text.png", b"hello, this is text\n").contains("holds text"));
    assert!(refuse("empty.jpg", b"").contains("empty"));
    assert!(refuse("page.jpg", b"<!DOCTYPE html><html></html>").contains("web page"));
    assert!(refuse("a.gif", b"GIF89a\x01\0\x01\0\0\0\0;").contains("GIF"));
    assert!(refuse("noise.bin", &[7, 0, 200, 255, 31, 2]).contains("isn't a picture"));
    assert!(refuse("magic.png", b"\x89PNG\r\n\x1a\n").contains("cut short"));
    assert!(refuse("magic.jpg", b"\xff\xd8\xff").contains("cut short"));
    assert!(refusal(read(dir.path())).contains("folder"));
    assert!(refusal(read(&dir.path().join("missing.png"))).contains("no such file"));
    assert!(refusal(read(&dir.path().join("text.png/below.png"))).contains("text.png"));
    assert!(refusal(read(Path::new(""))).contains("no such file"));
}

#[test]
fn wrong_extension_is_accepted() {
    let dir = folder();
    let path = dir.path().join("really a png.jpg");
    fs::write(&path, encoded(&photo(3, 2), ImageFormat::Png)).unwrap();
    assert!(read(&path).is_ok());
}

#[test]
fn oversized_pictures_are_refused_before_allocation() {
    for (width, height) in
        [(65_535u32, 65_535u32), (u32::MAX >> 1, 1), (1, MAX_SIDE as u32 + 1), (20_000, 20_000)]
    {
        let tiny = encoded(&photo(1, 1), ImageFormat::Png);
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        let mut png = png_with_chunk(&tiny, b"IHDR", &header);
        png.drain(8..33);
        let text = refusal(read_bytes(&png));
        assert!(text.contains("too large") && text.contains(&MAX_SIDE.to_string()), "{text}");
    }
    let mut jpeg = encoded(&photo(8, 8), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xff);
    assert!(refusal(read_bytes(&jpeg)).contains("too large"));
    let mut bmp = encoded(&photo(8, 8), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&60_000i32.to_le_bytes());
    refusal(read_bytes(&bmp));
}

#[test]
fn a_gif_without_pixels_is_not_to_be_scaled_down() {
    let mut gif = b"GIF89a\0\0\0\0\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    gif.extend(b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;");
    let text = refusal(read_bytes(&gif));
    assert!(text.contains("no pixels: 0x0. Get an intact copy of the file"), "{text}");
    assert!(!text.contains("Scale"), "{text}");
}
