//! Reading the pictures that people have, refusing those that nobody should trust, and writing.

use std::ffi::OsStr;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat};
use moxcms::ColorProfile;
use neural_mirage::Error;
use neural_mirage::image_io::{
    BitDepth, Decoded, MAX_SIDE, Picture, WriteOptions, check_writable, fit, read, read_metadata, resize,
    write,
};
use tempfile::TempDir;

// ---- helpers ----

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes bytes to a new file and reads them as a picture.
fn read_bytes(bytes: &[u8]) -> Result<Decoded, Error> {
    let dir = folder();
    let path = dir.path().join("input");
    fs::write(&path, bytes).unwrap();
    read(&path)
}

/// The message of a refusal, which must be of the right kind, whole, and free of debug dumps.
fn refusal(result: Result<Decoded, Error>) -> String {
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

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A photo-like picture with no symmetry, smooth so that JPEG keeps it.
fn photo(width: u32, height: u32) -> DynamicImage {
    let fx = |x: u32| x as f32 / width as f32;
    image::RgbImage::from_fn(width, height, |x, y| {
        let v = y as f32 / height as f32;
        image::Rgb([(fx(x) * 255.0) as u8, (v * 255.0) as u8, ((fx(x) * 3.0 + v).sin().abs() * 255.0) as u8])
    })
    .into()
}

fn values(image: &DynamicImage) -> Vec<f32> {
    image.to_rgb32f().into_raw()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |worst, (a, b)| {
        assert!(a.is_finite() && b.is_finite());
        worst.max((a - b).abs())
    })
}

fn notes(decoded: &Decoded) -> String {
    decoded.notes.join("; ")
}

/// A minimal EXIF block that holds nothing but an orientation.
fn exif(orientation: u8, big: bool) -> Vec<u8> {
    if big {
        [&b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[orientation], b"\0\0\0\0\0\0"].concat()
    } else {
        [&b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..], &[orientation], b"\0\0\0\0\0\0\0"].concat()
    }
}

fn jpeg_with_exif(image: &DynamicImage, exif: &[u8]) -> Vec<u8> {
    let jpeg = encoded(image, ImageFormat::Jpeg);
    let content = [b"Exif\0\0", exif].concat();
    let length = (content.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], b"\xff\xe1", &length, &content, &jpeg[2..]].concat()
}

/// A PNG with one more chunk after its header.
fn png_with_chunk(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = !0u32;
    for byte in kind.iter().chain(data) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let length = (data.len() as u32).to_be_bytes();
    [&png[..33], &length, kind, data, &(!crc).to_be_bytes(), &png[33..]].concat()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name)
}

// ---- reading ----

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
        // What must be stored for the picture to come out upright: the opposite turn.
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
fn nonsense_orientations_are_no_orientation() {
    for number in [0, 9, 255] {
        assert_eq!(notes(&read_bytes(&jpeg_with_exif(&photo(9, 5), &exif(number, false))).unwrap()), "");
    }
    assert!(read_bytes(&jpeg_with_exif(&photo(9, 5), b"II\x2a\0\xff\xff\xff\xff")).is_ok());
    assert!(read_bytes(&jpeg_with_exif(&photo(9, 5), b"")).is_ok());
}

#[test]
fn sixteen_bits_keep_their_precision() {
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
fn alpha_is_composited_on_white() {
    let rgba = image::RgbaImage::from_fn(3, 1, |x, _| image::Rgba([100, 0, 200, [0, 51, 255][x as usize]]));
    let over = |v: f32, a: f32| v * a + 1.0 - a;
    let expected: Vec<f32> = [0.0, 0.2, 1.0]
        .iter()
        .flat_map(|a| [over(100.0 / 255.0, *a), over(0.0, *a), over(200.0 / 255.0, *a)])
        .collect();
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff] {
        let decoded = read_bytes(&encoded(&rgba.clone().into(), format)).unwrap();
        assert_eq!(notes(&decoded), "alpha composited on white", "{format:?}");
        // WebP may drop the colour of a pixel nobody can see; white it is all the same.
        assert!(worst(&decoded.picture.rgb, &expected) < 1e-6, "{format:?}");
    }
    let sixteen: DynamicImage = DynamicImage::from(rgba).to_rgba16().into();
    let decoded = read_bytes(&encoded(&sixteen, ImageFormat::Png)).unwrap();
    assert_eq!(notes(&decoded), "16 bit; alpha composited on white");
    assert!(worst(&decoded.picture.rgb, &expected) < 1e-6);
    let opaque: DynamicImage = photo(4, 4).to_rgba8().into();
    assert_eq!(notes(&read_bytes(&encoded(&opaque, ImageFormat::Png)).unwrap()), "");
}

#[test]
fn gray_with_and_without_alpha() {
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
        assert_eq!(
            notes(&decoded),
            if format == ImageFormat::Bmp { notes(&decoded) } else { "grayscale expanded".into() }
        );
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
fn palettes_with_transparency_and_few_bits() {
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

/// The four flat quarters of tools/make_test_images.py, judged at their centres.
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
fn pictures_of_other_programs() {
    check_quarters("progressive.jpg", 0.03, "", 1.0);
    check_quarters("restart.jpg", 0.03, "", 1.0);
    check_quarters("cmyk.jpg", 0.03, "CMYK converted to RGB", 1.0);
    check_quarters("cmyk.tif", 0.01, "CMYK converted to RGB", 1.0);
    check_quarters("lossy.webp", 0.05, "", 1.0);
    check_quarters("lossy-alpha.webp", 0.05, "alpha composited on white", 128.0 / 255.0);
    check_quarters("animated.webp", 0.001, "animation: only the first frame is used", 1.0);
    let fax = read(&fixture("fax4.tif")).unwrap();
    let mean = fax.picture.rgb[(12 * 24 + 14) * 3..(12 * 24 + 22) * 3].iter().sum::<f32>() / 24.0;
    assert!(mean > 0.6, "the light quarter is light: {mean}");
    for name in ["orientation6.png", "orientation6.webp"] {
        let decoded = read(&fixture(name)).unwrap();
        assert_eq!(notes(&decoded), "EXIF orientation 6 applied");
        assert_eq!((decoded.picture.width, decoded.picture.height), (16, 24));
        // Turned clockwise, the bottom left quarter (blue) comes to the top left.
        assert!(worst(&decoded.picture.rgb[..3], &[40.0 / 255.0, 60.0 / 255.0, 180.0 / 255.0]) < 1e-3);
    }
}

#[test]
fn further_pages_and_frames_are_noted() {
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
    assert_eq!(notes(&decoded), "animation: only the first frame is used");
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
    assert_eq!(notes(&bad), "embedded colour profile ignored: it is malformed");
    assert!(worst(&bad.picture.rgb[..3], &[0.6, 0.4, 77.0 / 255.0]) < 1e-6);
}

#[test]
fn one_pixel_is_a_picture() {
    let image: DynamicImage = image::RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3])).into();
    for format in
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Bmp]
    {
        let picture = read_bytes(&encoded(&image, format)).unwrap().picture;
        assert_eq!((picture.width, picture.height, picture.rgb.len()), (1, 1, 3));
    }
}

// ---- refusing ----

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
            // `image` writes its TIFFs with the directory at the end, so cutting one loses that.
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
fn what_is_no_picture_is_refused_by_name() {
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
fn a_picture_under_a_wrong_name_is_fine() {
    let dir = folder();
    let path = dir.path().join("really a png.jpg");
    fs::write(&path, encoded(&photo(3, 2), ImageFormat::Png)).unwrap();
    assert!(read(&path).is_ok());
}

#[test]
fn absurd_sizes_are_refused_before_memory_is_taken() {
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

/// Files come from strangers: whatever is in them, there is a picture or a message.
#[test]
fn damaged_files_never_panic() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut seeds: Vec<Vec<u8>> =
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Bmp]
            .iter()
            .map(|format| encoded(&photo(24, 16), *format))
            .collect();
    for entry in fs::read_dir(fixture("")).unwrap() {
        seeds.push(fs::read(entry.unwrap().path()).unwrap());
    }
    let dir = folder();
    let path = dir.path().join("damaged");
    for seed in &seeds {
        for _ in 0..300 {
            let mut bytes = seed.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = [0, 0xff, random(256) as u8][random(3)];
            }
            if random(4) == 0 {
                bytes.truncate(random(bytes.len()).max(1));
            }
            fs::write(&path, &bytes).unwrap();
            if let Ok(decoded) = read(&path) {
                let Picture { width, height, rgb } = decoded.picture;
                assert_eq!(rgb.len(), width * height * 3);
                assert!(rgb.iter().all(|v| v.is_finite()));
            }
            let _ = read_metadata(&path);
        }
    }
}

// ---- writing ----

const FORMATS: [(&str, BitDepth); 9] = [
    ("png", BitDepth::Eight),
    ("png", BitDepth::Sixteen),
    ("jpg", BitDepth::Eight),
    ("jpeg", BitDepth::Eight),
    ("JPG", BitDepth::Eight),
    ("webp", BitDepth::Eight),
    ("tif", BitDepth::Eight),
    ("tiff", BitDepth::Eight),
    ("tiff", BitDepth::Sixteen),
];

fn record() -> Vec<(String, String)> {
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    vec![
        pair("neural-mirage:options", r#"{"size":512,"layer":"fc8","note":"<&>'\""}"#),
        pair("Title", "日本語 Ünïcödé 🦩 \u{202e}rtl\u{0301}\r\n\ttab \u{1}\u{fffe}\u{ffff}"),
        pair("neural-mirage:long", &"0123456789 äöü 🦩 ]]>".repeat(5_000)),
        pair("empty", ""),
    ]
}

fn listing(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn round_trips_in_every_format_and_depth() {
    let dir = folder();
    let image = photo(45, 31);
    let picture = Picture::new(45, 31, values(&image)).unwrap();
    for (extension, bit_depth) in FORMATS {
        for metadata in [record(), Vec::new()] {
            let path = dir.path().join(format!("ein bild ünd 🦩.{extension}"));
            let options = WriteOptions { bit_depth, metadata, overwrite: true, ..WriteOptions::default() };
            check_writable(&path, &options).unwrap();
            write(&path, &picture, &options).unwrap();
            let decoded = read(&path).unwrap();
            let sixteen = bit_depth == BitDepth::Sixteen;
            assert_eq!(notes(&decoded), if sixteen { "16 bit" } else { "" }, "{extension}");
            let tolerance = if extension.to_lowercase().starts_with('j') { 0.1 } else { 1e-6 };
            assert!(worst(&decoded.picture.rgb, &picture.rgb) < tolerance, "{extension} {bit_depth:?}");
            assert_eq!(read_metadata(&path).unwrap(), options.metadata, "{extension}");
        }
    }
    assert!(listing(dir.path()).iter().all(|name| !name.contains("mirage")), "{:?}", listing(dir.path()));
}

#[test]
fn sixteen_bit_output_has_sixteen_bits() {
    let dir = folder();
    let rgb: Vec<f32> = (0..300).map(|i| i as f32 / 65535.0 + 0.3).collect();
    let picture = Picture::new(10, 10, rgb).unwrap();
    for extension in ["png", "tif"] {
        let path = dir.path().join("x").with_extension(extension);
        let options = WriteOptions { bit_depth: BitDepth::Sixteen, ..WriteOptions::default() };
        write(&path, &picture, &options).unwrap();
        assert!(worst(&read(&path).unwrap().picture.rgb, &picture.rgb) < 0.51 / 65535.0);
    }
}

#[test]
fn values_are_clamped_and_rounded_but_nan_is_refused() {
    let dir = folder();
    let path = dir.path().join("x.png");
    let mut picture =
        Picture::new(2, 1, vec![-0.5, 1.5, 0.4999 / 255.0, 0.5001 / 255.0, 254.5 / 255.0, 0.5]).unwrap();
    write(&path, &picture, &WriteOptions::default()).unwrap();
    let levels: Vec<u8> =
        read(&path).unwrap().picture.rgb.iter().map(|v| (v * 255.0).round() as u8).collect();
    assert_eq!(levels, [0, 255, 0, 1, 255, 128]);
    let before = fs::read(&path).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        picture.rgb[4] = bad;
        let options = WriteOptions { overwrite: true, ..WriteOptions::default() };
        let error = write(&path, &picture, &options).unwrap_err();
        assert!(error.to_string().contains("NaN") && error.to_string().contains("1,0"), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
    assert_eq!(fs::read(&path).unwrap(), before, "the old file is untouched");
    assert_eq!(listing(dir.path()), ["x.png"], "no temporary file stays");
}

#[test]
fn overwriting_needs_leave() {
    let dir = folder();
    let path = dir.path().join("x.png");
    fs::write(&path, "precious").unwrap();
    let picture = Picture::new(1, 1, vec![0.5; 3]).unwrap();
    let refuse = WriteOptions::default();
    for result in [check_writable(&path, &refuse), write(&path, &picture, &refuse)] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("exists already") && error.exit_code() == 2, "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let allow = WriteOptions { overwrite: true, ..refuse };
    check_writable(&path, &allow).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"precious", "checking changes nothing");
    write(&path, &picture, &allow).unwrap();
    assert!(read(&path).is_ok());
    assert_eq!(listing(dir.path()), ["x.png"]);
}

#[test]
fn unwritable_places_are_refused_beforehand() {
    let dir = folder();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::create_dir(dir.path().join("folder.png")).unwrap();
    let eight = WriteOptions::default();
    let sixteen = WriteOptions { bit_depth: BitDepth::Sixteen, ..eight.clone() };
    let picture = Picture::new(1, 1, vec![0.5; 3]).unwrap();
    for (name, options, expected) in [
        ("missing/x.png", &eight, "doesn't exist"),
        ("file/x.png", &eight, "is a file, not a folder"),
        ("folder.png", &eight, "it is a folder"),
        ("folder.png/", &eight, "it is a folder"),
        ("..", &eight, "it is a folder"),
        ("x", &eight, "no extension"),
        ("x.gif", &eight, "can't be written as .gif"),
        ("x.jpg", &sixteen, "can't hold 16 bits"),
        ("x.webp", &sixteen, "can't hold 16 bits"),
    ] {
        for result in [
            check_writable(&dir.path().join(name), options),
            write(&dir.path().join(name), &picture, options),
        ] {
            let error = result.unwrap_err();
            assert!(error.to_string().contains(expected), "{name}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
    assert_eq!(listing(dir.path()), ["file", "folder.png"], "nothing was left behind");
    for options in [
        WriteOptions { jpeg_quality: 0, ..eight.clone() },
        WriteOptions { jpeg_quality: 101, ..eight.clone() },
        WriteOptions { metadata: vec![("no\nkey".into(), String::new())], ..eight.clone() },
    ] {
        assert!(matches!(check_writable(&dir.path().join("x.jpg"), &options), Err(Error::Usage(_))));
    }
}

#[test]
fn too_large_for_webp_is_told() {
    let dir = folder();
    let picture = Picture::new(16_384, 1, vec![0.5; 16_384 * 3]).unwrap();
    let error = write(&dir.path().join("x.webp"), &picture, &WriteOptions::default()).unwrap_err();
    assert!(error.to_string().contains("16383"), "{error}");
    write(&dir.path().join("x.jpg"), &picture, &WriteOptions::default()).unwrap();
    let edge = Picture::new(16_383, 1, vec![0.5; 16_383 * 3]).unwrap();
    write(&dir.path().join("x.webp"), &edge, &WriteOptions::default()).unwrap();
    assert_eq!(read(&dir.path().join("x.webp")).unwrap().picture.width, 16_383);
}

#[cfg(unix)]
#[test]
fn new_files_have_the_permissions_of_new_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = folder();
    let (path, plain) = (dir.path().join("x.png"), dir.path().join("plain"));
    fs::write(&plain, "").unwrap();
    write(&path, &Picture::new(1, 1, vec![0.5; 3]).unwrap(), &WriteOptions::default()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), mode(&plain));
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_written_through() {
    let dir = folder();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    let (real, link) = (dir.path().join("elsewhere/real.png"), dir.path().join("link.png"));
    fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let picture = Picture::new(1, 1, vec![0.5; 3]).unwrap();
    assert!(write(&link, &picture, &WriteOptions::default()).is_err(), "it exists");
    write(&link, &picture, &WriteOptions { overwrite: true, ..WriteOptions::default() }).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(read(&real).is_ok());
    // A link to nowhere is something that exists, too.
    let dangling = dir.path().join("dangling.png");
    std::os::unix::fs::symlink(dir.path().join("nowhere.png"), &dangling).unwrap();
    assert!(write(&dangling, &picture, &WriteOptions::default()).is_err());
}

#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_unicode_work() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = folder();
    let path = dir.path().join(OsStr::from_bytes(b"caf\xe9 \xff.png"));
    let picture = Picture::new(1, 1, vec![1.0, 0.0, 1.0]).unwrap();
    write(&path, &picture, &WriteOptions::default()).unwrap();
    assert_eq!(read(&path).unwrap().picture, picture);
    assert!(!refusal(read(&dir.path().join(OsStr::from_bytes(b"\xff\xfe")))).is_empty());
}

#[test]
fn metadata_of_files_without_any_is_empty() {
    let dir = folder();
    for format in
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Bmp]
    {
        let path = dir.path().join("x");
        fs::write(&path, encoded(&photo(5, 4), format)).unwrap();
        assert_eq!(read_metadata(&path).unwrap(), [], "{format:?}");
    }
    assert!(read_metadata(&dir.path().join("missing")).is_err());
}

#[test]
fn png_output_declares_srgb_and_keyed_text() {
    let dir = folder();
    let path = dir.path().join("x.png");
    let options = WriteOptions { metadata: record(), ..WriteOptions::default() };
    write(&path, &Picture::new(1, 1, vec![0.5; 3]).unwrap(), &options).unwrap();
    let bytes = fs::read(&path).unwrap();
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
    assert!(has(b"sRGB") && has(b"iTXtneural-mirage:options\0"));
}

#[test]
fn reading_fitting_resizing_writing_go_together() {
    let dir = folder();
    let decoded = read_bytes(&encoded(&photo(301, 200), ImageFormat::Jpeg)).unwrap();
    let (width, height) = fit(decoded.picture.width, decoded.picture.height, 128);
    assert_eq!((width, height), (128, 85));
    let small = resize(&decoded.picture, width, height).unwrap();
    let path = dir.path().join("small.webp");
    write(&path, &small, &WriteOptions::default()).unwrap();
    let again = read(&path).unwrap().picture;
    let clamped: Vec<f32> = small.rgb.iter().map(|v| v.clamp(0.0, 1.0)).collect();
    assert!(worst(&again.rgb, &clamped) < 0.51 / 255.0);
}
