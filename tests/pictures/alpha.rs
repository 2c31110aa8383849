//! Transparency, composited on a colour or kept.

use super::support::{encoded, folder, notes, read_bytes, worst};
use image::{ImageFormat, RgbaImage};
use neural_mirage::image_io::{
    Alpha, BitDepth, Picture, ReadOptions, WriteOptions, check_writable, holds_alpha, read, read_with, write,
};
use std::path::Path;
use std::sync::Arc;

/// Creates a picture with varied alpha over asymmetric colours.
fn cutout(width: u32, height: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        let alpha = [0, 255, 51, 204, 128][((x + 2 * y) % 5) as usize];
        image::Rgba([(x * 11 % 256) as u8, (y * 23 % 256) as u8, 200, alpha])
    })
}

#[test]
fn alpha_is_composited_on_requested_colour() {
    let image = cutout(7, 5);
    let dir = folder();
    let path = dir.path().join("cutout");
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff] {
        std::fs::write(&path, encoded(&image.clone().into(), format)).unwrap();
        for (background, note) in
            [([1.0; 3], "white"), ([0.0; 3], "black"), ([1.0, 0.2, 0.0], "#ff3300"), ([0.5; 3], "#808080")]
        {
            let decoded = read_with(&path, &ReadOptions { background, ..ReadOptions::default() }).unwrap();
            assert_eq!(notes(&decoded), format!("alpha composited on {note}"), "{format:?}");
            let alpha = decoded.alpha.unwrap();
            for (at, pixel) in image.pixels().enumerate() {
                let opacity = f32::from(pixel[3]) / 255.0;
                assert!((alpha.values[at] - opacity).abs() < 1e-6);
                for channel in 0..3 {
                    // WebP may drop the colour of a transparent pixel.
                    let color = f32::from(pixel[channel]) / 255.0;
                    let expected = color * opacity + background[channel] * (1.0 - opacity);
                    assert!(
                        (decoded.picture.rgb[at * 3 + channel] - expected).abs() < 1e-6,
                        "{format:?} {at}"
                    );
                }
            }
        }
    }
    let opaque = RgbaImage::from_pixel(4, 4, image::Rgba([1, 2, 3, 255]));
    let decoded = read_bytes(&encoded(&opaque.into(), ImageFormat::Png)).unwrap();
    assert_eq!((notes(&decoded), decoded.alpha), (String::new(), None));
}

#[test]
fn orientation_applies_to_alpha() {
    let image = cutout(6, 3);
    let png = encoded(&image.clone().into(), ImageFormat::Png);
    let bytes = super::support::png_with_chunk(&png, b"eXIf", &super::support::exif(6, true));
    let decoded = read_bytes(&bytes).unwrap();
    let mut upright = image::DynamicImage::from(image);
    upright.apply_orientation(image::metadata::Orientation::Rotate90);
    let alpha = decoded.alpha.unwrap();
    assert_eq!((alpha.width, alpha.height, decoded.size), (3, 6, (3, 6)));
    let expected: Vec<f32> = upright.to_rgba8().pixels().map(|p| f32::from(p[3]) / 255.0).collect();
    assert!(worst(&alpha.values, &expected) < 1e-6);
}

/// A picture composited on white is stored such that compositing it on white again gives the same.
#[test]
fn picture_with_alpha_is_unchanged_on_white() {
    let (width, height) = (9, 4);
    let values: Vec<f32> = (0..width * height).map(|i| [0.0, 1.0, 0.2, 0.5, 0.8][i % 5]).collect();
    // No darker than possible with white shining through.
    let rgb: Vec<f32> = (0..width * height * 3)
        .map(|i| {
            let a = values[i / 3];
            (i * 37 % 256) as f32 / 255.0 * a + 1.0 - a
        })
        .collect();
    let picture = Picture::new(width, height, rgb).unwrap();
    let alpha = Arc::new(Alpha { width, height, values });
    let dir = folder();
    for (name, bit_depth) in [
        ("a.png", BitDepth::Eight),
        ("b.png", BitDepth::Sixteen),
        ("c.webp", BitDepth::Eight),
        ("d.tif", BitDepth::Eight),
        ("e.tiff", BitDepth::Sixteen),
    ] {
        let path = dir.path().join(name);
        let metadata = vec![("key".to_owned(), "text".to_owned())];
        let options =
            WriteOptions { bit_depth, metadata, alpha: Some(alpha.clone()), ..WriteOptions::default() };
        check_writable(&path, &options).unwrap();
        write(&path, &picture, &options).unwrap();
        let decoded = read(&path).unwrap();
        // Half a level of 255, of alpha and of a colour.
        assert!(worst(&decoded.picture.rgb, &picture.rgb) <= 1.0 / 255.0 + 1e-6, "{name}");
        assert!(worst(&decoded.alpha.unwrap().values, &alpha.values) <= 0.5 / 255.0 + 1e-6, "{name}");
        assert_eq!(neural_mirage::image_io::read_metadata(&path).unwrap(), options.metadata, "{name}");
        assert!(holds_alpha(&path).unwrap());
    }
    let options = WriteOptions { alpha: Some(alpha.clone()), ..WriteOptions::default() };
    let jpeg = dir.path().join("f.jpg");
    assert!(!holds_alpha(&jpeg).unwrap() && holds_alpha(Path::new("f.gif")).is_err());
    assert!(check_writable(&jpeg, &options).unwrap_err().to_string().contains("JPEG can't hold alpha"));
    assert!(write(&jpeg, &picture, &options).is_err() && !jpeg.exists());
    let other = Alpha { width: height, height: width, values: alpha.values.clone() };
    let options = WriteOptions { alpha: Some(Arc::new(other)), ..WriteOptions::default() };
    assert!(write(&dir.path().join("g.png"), &picture, &options).is_err());
}
