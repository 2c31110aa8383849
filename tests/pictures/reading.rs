//! Reading common picture files.

use super::support::{
    encoded, exif, fixture, jpeg_with_exif, notes, photo, png_with_chunk, read_bytes, refusal, values, worst,
};
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat};
use moxcms::ColorProfile;
use neural_mirage::image_io::read;
use std::io::Cursor;

#[test]
fn plain_photos_of_every_format_read_without_notes() {
    let image = photo(37, 23);
    for (format, tolerance) in [
        (ImageFormat::Png, 1e-6),
        (ImageFormat::Bmp, 1e-6),
        (ImageFormat::Tiff, 1e-6),
        (ImageFormat::WebP, 1e-6),
        (ImageFormat::Jpeg, 0.2),
    ] {
        let decoded = read_bytes(&encoded(&image, format)).unwrap();
        assert_eq!(decoded.notes, Vec::<String>::new(), "{format:?}");
        assert_eq!((decoded.picture.width, decoded.picture.height), (37, 23));
        assert!(worst(&decoded.picture.rgb, &values(&image)) <= tolerance, "{format:?}");
    }
}

#[test]
fn every_exif_orientation_is_applied_in_every_format() {
    let upright = photo(32, 16);
    for number in 1..=8u8 {
        // The stored picture must have the inverse rotation to come out upright.
        let opposite = match number {
            6 => 8,
            8 => 6,
            other => other,
        };
        let mut stored = upright.clone();
        stored.apply_orientation(image::metadata::Orientation::from_exif(opposite).unwrap());
        for big in [false, true] {
            let exif = exif(number, big);
            let mut webp = Vec::new();
            let mut encoder = image_webp_encoder(&mut webp);
            encoder.set_exif_metadata(exif.clone()).unwrap();
            encoder
                .write_image(stored.as_bytes(), stored.width(), stored.height(), ExtendedColorType::Rgb8)
                .unwrap();
            let png = encoded(&stored, ImageFormat::Png);
            let mut tiff = Cursor::new(Vec::new());
            let mut encoder = tiff::encoder::TiffEncoder::new(&mut tiff).unwrap();
            let mut page =
                encoder.new_image::<tiff::encoder::colortype::RGB8>(stored.width(), stored.height()).unwrap();
            page.encoder().write_tag(tiff::tags::Tag::Orientation, u16::from(number)).unwrap();
            page.write_data(stored.as_bytes()).unwrap();
            for (name, bytes, tolerance) in [
                ("jpeg", jpeg_with_exif(&stored, &exif), 0.15),
                ("png", png_with_chunk(&png, b"eXIf", &exif), 1e-6),
                ("png with prefix", png_with_chunk(&png, b"eXIf", &[b"Exif\0\0", &exif[..]].concat()), 1e-6),
                ("webp", webp, 1e-6),
                ("tiff", tiff.into_inner(), 1e-6),
            ] {
                let decoded = read_bytes(&bytes).unwrap();
                assert_eq!((decoded.picture.width, decoded.picture.height), (32, 16), "{name} {number}");
                assert!(worst(&decoded.picture.rgb, &values(&upright)) <= tolerance, "{name} {number}");
                let expected =
                    if number == 1 { String::new() } else { format!("EXIF orientation {number} applied") };
                assert_eq!(notes(&decoded), expected, "{name}");
            }
        }
    }
}

fn image_webp_encoder(out: &mut Vec<u8>) -> image::codecs::webp::WebPEncoder<&mut Vec<u8>> {
    image::codecs::webp::WebPEncoder::new_lossless(out)
}

#[test]
fn invalid_exif_orientations_are_ignored() {
    for number in [0, 9, 255] {
        assert_eq!(notes(&read_bytes(&jpeg_with_exif(&photo(9, 5), &exif(number, false))).unwrap()), "");
    }
    assert!(read_bytes(&jpeg_with_exif(&photo(9, 5), b"II\x2a\0\xff\xff\xff\xff")).is_ok());
    assert!(read_bytes(&jpeg_with_exif(&photo(9, 5), b"")).is_ok());
}

#[test]
fn sixteen_bit_values_are_exact() {
    let image: DynamicImage = image::ImageBuffer::<image::Rgb<u16>, _>::from_fn(64, 8, |x, y| {
        image::Rgb([(x * 1021 + y) as u16, (30_000 + x) as u16, 65_535 - (y * 64 + x) as u16])
    })
    .into();
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        let decoded = read_bytes(&encoded(&image, format)).unwrap();
        assert_eq!(notes(&decoded), "16 bit");
        let raw = image.as_rgb16().unwrap().as_raw();
        for (value, level) in decoded.picture.rgb.iter().zip(raw) {
            assert_eq!((value * 65535.0).round() as u16, *level);
            assert!((f64::from(*value) - f64::from(*level) / 65535.0).abs() < 1e-7);
        }
    }
}

#[test]
fn sixteen_bit_alpha_is_composited() {
    let rgba = image::RgbaImage::from_fn(3, 1, |x, _| image::Rgba([100, 0, 200, [0, 51, 255][x as usize]]));
    let over = |v: f32, a: f32| v * a + 1.0 - a;
    let expected: Vec<f32> = [0.0, 0.2, 1.0]
        .iter()
        .flat_map(|a| [over(100.0 / 255.0, *a), over(0.0, *a), over(200.0 / 255.0, *a)])
        .collect();
    let sixteen: DynamicImage = DynamicImage::from(rgba).to_rgba16().into();
    let decoded = read_bytes(&encoded(&sixteen, ImageFormat::Png)).unwrap();
    assert_eq!(notes(&decoded), "16 bit; alpha composited on white");
    assert!(worst(&decoded.picture.rgb, &expected) < 1e-6);
}

#[test]
fn gray_is_expanded_with_and_without_alpha() {
    let gray = image::GrayAlphaImage::from_fn(2, 1, |x, _| image::LumaA([100, [255, 102][x as usize]]));
    let decoded = read_bytes(&encoded(&gray.clone().into(), ImageFormat::Png)).unwrap();
    assert_eq!(notes(&decoded), "grayscale expanded; alpha composited on white");
    let (a, b) = (100.0 / 255.0, 100.0 / 255.0 * 0.4 + 0.6);
    assert!(worst(&decoded.picture.rgb, &[a, a, a, b, b, b]) < 1e-6);
    let decoded =
        read_bytes(&encoded(&DynamicImage::from(gray).to_luma_alpha16().into(), ImageFormat::Png)).unwrap();
    assert_eq!(notes(&decoded), "grayscale expanded; 16 bit; alpha composited on white");
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Tiff, ImageFormat::Bmp] {
        let decoded = read_bytes(&encoded(&photo(20, 10).to_luma8().into(), format)).unwrap();
        // `image` writes gray to a BMP as a palette, and reads any palette of one as RGB.
        let expected = if format == ImageFormat::Bmp { "" } else { "grayscale expanded" };
        assert_eq!(notes(&decoded), expected, "{format:?}");
        assert!(decoded.picture.rgb.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]));
        assert!(worst(&decoded.picture.rgb, &values(&photo(20, 10).to_luma8().into())) < 0.03);
    }
}

fn small_png(
    width: u32,
    height: u32,
    color: png::ColorType,
    depth: png::BitDepth,
    set: impl FnOnce(&mut png::Encoder<'_, &mut Vec<u8>>),
    data: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    set(&mut encoder);
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    out
}

#[test]
fn palettes_are_expanded() {
    static PALETTE: [u8; 6] = [255, 0, 0, 0, 0, 255];
    let opaque = small_png(
        2,
        1,
        png::ColorType::Indexed,
        png::BitDepth::One,
        |e| e.set_palette(&PALETTE[..]),
        &[0x40],
    );
    let decoded = read_bytes(&opaque).unwrap();
    assert_eq!(notes(&decoded), "palette expanded");
    assert_eq!(decoded.picture.rgb, [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let clear = small_png(
        2,
        1,
        png::ColorType::Indexed,
        png::BitDepth::Four,
        |e| {
            e.set_palette(&PALETTE[..]);
            e.set_trns(&[255u8, 0][..]);
        },
        &[0x01],
    );
    let decoded = read_bytes(&clear).unwrap();
    assert_eq!(notes(&decoded), "palette expanded; alpha composited on white");
    assert_eq!(decoded.picture.rgb, [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    for (depth, byte) in [(png::BitDepth::One, 0x40), (png::BitDepth::Two, 0x30), (png::BitDepth::Four, 0x0f)]
    {
        let bits = small_png(2, 1, png::ColorType::Grayscale, depth, |_| {}, &[byte]);
        assert_eq!(read_bytes(&bits).unwrap().picture.rgb, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }
    let keyed = small_png(
        2,
        1,
        png::ColorType::Grayscale,
        png::BitDepth::Sixteen,
        |e| e.set_trns(&[0u8, 7][..]),
        &[0, 7, 0x80, 0],
    );
    let decoded = read_bytes(&keyed).unwrap();
    assert!(worst(&decoded.picture.rgb, &[1.0, 1.0, 1.0, 0.500_008, 0.500_008, 0.500_008]) < 1e-6);
}

/// Checks the four flat quarters of tools/make_test_images.py at their centres.
fn check_quarters(name: &str, tolerance: f32, expected_notes: &str, opacity: f32) {
    let decoded = read(&fixture(name)).unwrap();
    assert_eq!(notes(&decoded), expected_notes, "{name}");
    let picture = decoded.picture;
    assert_eq!((picture.width, picture.height), (24, 16), "{name}");
    let quarters =
        [(6, 4, [200, 40, 40]), (18, 4, [40, 160, 60]), (6, 12, [40, 60, 180]), (18, 12, [220; 3])];
    for (x, y, color) in quarters {
        for (channel, level) in color.iter().enumerate() {
            let value = picture.rgb[(y * 24 + x) * 3 + channel];
            let expected = *level as f32 / 255.0 * opacity + 1.0 - opacity;
            assert!(
                (value - expected).abs() <= tolerance,
                "{name} {x},{y} channel {channel}: {value} {expected}"
            );
        }
    }
}

#[test]
fn pictures_from_other_programs_are_read() {
    check_quarters("progressive.jpg", 0.03, "", 1.0);
    check_quarters("restart.jpg", 0.03, "", 1.0);
    check_quarters("cmyk.jpg", 0.03, "CMYK converted to RGB", 1.0);
    check_quarters("cmyk.tif", 0.01, "CMYK converted to RGB", 1.0);
    check_quarters("lossy.webp", 0.05, "", 1.0);
    check_quarters("lossy-alpha.webp", 0.05, "alpha composited on white", 128.0 / 255.0);
    check_quarters("animated.webp", 0.001, "animation: only the first of 2 frames is used", 1.0);
    let fax = read(&fixture("fax4.tif")).unwrap();
    let mean = fax.picture.rgb[(12 * 24 + 14) * 3..(12 * 24 + 22) * 3].iter().sum::<f32>() / 24.0;
    assert!(mean > 0.6, "the light quarter is dark: {mean}");
    for name in ["orientation6.png", "orientation6.webp"] {
        let decoded = read(&fixture(name)).unwrap();
        assert_eq!(notes(&decoded), "EXIF orientation 6 applied");
        assert_eq!((decoded.picture.width, decoded.picture.height), (16, 24));
        // Rotated clockwise, the bottom left quarter (blue) moves to the top left.
        assert!(worst(&decoded.picture.rgb[..3], &[40.0 / 255.0, 60.0 / 255.0, 180.0 / 255.0]) < 1e-3);
    }
}

#[test]
fn extra_pages_and_frames_are_noted() {
    let mut tiff = Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut tiff).unwrap();
    for shade in [10u8, 200] {
        encoder.write_image::<tiff::encoder::colortype::Gray8>(2, 2, &[shade; 4]).unwrap();
    }
    let decoded = read_bytes(&tiff.into_inner()).unwrap();
    assert_eq!(notes(&decoded), "several pages: only the first is used; grayscale expanded");
    assert!(worst(&decoded.picture.rgb, &[10.0 / 255.0; 12]) < 1e-6);

    let mut apng = Vec::new();
    let mut encoder = png::Encoder::new(&mut apng, 1, 1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[255, 0, 0]).unwrap();
    writer.write_image_data(&[0, 255, 0]).unwrap();
    writer.finish().unwrap();
    let decoded = read_bytes(&apng).unwrap();
    assert_eq!(notes(&decoded), "animation: only the first of 2 frames is used");
    assert_eq!(decoded.picture.rgb, [1.0, 0.0, 0.0]);
}

#[test]
fn premultiplied_tiff_alpha_is_undone() {
    let mut tiff = Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut tiff).unwrap();
    let mut page = encoder.new_image::<tiff::encoder::colortype::RGBA8>(1, 1).unwrap();
    page.encoder().write_tag(tiff::tags::Tag::ExtraSamples, 1u16).unwrap();
    page.write_data(&[51, 0, 51, 51]).unwrap();
    let decoded = read_bytes(&tiff.into_inner()).unwrap();
    assert!(worst(&decoded.picture.rgb, &[1.0, 0.8, 1.0]) < 1e-6, "{:?}", decoded.picture.rgb);
}

#[test]
fn float_tiffs_are_read_unless_they_hold_nan() {
    let make = |values: &[f32]| {
        let mut tiff = Cursor::new(Vec::new());
        let mut encoder = tiff::encoder::TiffEncoder::new(&mut tiff).unwrap();
        encoder.write_image::<tiff::encoder::colortype::RGB32Float>(1, 1, values).unwrap();
        tiff.into_inner()
    };
    assert_eq!(read_bytes(&make(&[0.1, 0.25, 1.5])).unwrap().picture.rgb, [0.1, 0.25, 1.5]);
    assert!(refusal(read_bytes(&make(&[0.1, f32::NAN, 0.2]))).contains("not finite"));
}

#[test]
fn colour_profiles_are_converted_and_bad_ones_noted() {
    let p3 = ColorProfile::new_display_p3().encode().unwrap();
    let png = |icc: &[u8]| {
        let mut out = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut out);
        encoder.set_icc_profile(icc.to_vec()).unwrap();
        encoder.write_image(&[153, 102, 77, 255, 255, 255], 2, 1, ExtendedColorType::Rgb8).unwrap();
        out
    };
    let jpeg = |icc: &[u8]| {
        let mut out = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 100);
        encoder.set_icc_profile(icc.to_vec()).unwrap();
        encoder.write_image(&[153, 102, 77].repeat(256), 16, 16, ExtendedColorType::Rgb8).unwrap();
        out
    };
    for bytes in [png(&p3), jpeg(&p3)] {
        let decoded = read_bytes(&bytes).unwrap();
        assert!(
            notes(&decoded).starts_with("converted from the embedded colour profile \""),
            "{}",
            notes(&decoded)
        );
        assert!(
            worst(&decoded.picture.rgb[..3], &[0.6345, 0.3887, 0.2825]) < 0.012,
            "{:?}",
            &decoded.picture.rgb[..3]
        );
    }
    let srgb = ColorProfile::new_srgb().encode().unwrap();
    assert_eq!(notes(&read_bytes(&png(&srgb)).unwrap()), "");
    let bad = read_bytes(&png(b"this is no profile")).unwrap();
    assert_eq!(notes(&bad), "ignored the embedded colour profile: it is malformed");
    assert!(worst(&bad.picture.rgb[..3], &[0.6, 0.4, 77.0 / 255.0]) < 1e-6);
}

#[test]
fn single_pixel_picture_is_read() {
    let image: DynamicImage = image::RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3])).into();
    for format in
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Bmp]
    {
        let picture = read_bytes(&encoded(&image, format)).unwrap().picture;
        assert_eq!((picture.width, picture.height, picture.rgb.len()), (1, 1, 3));
    }
}
