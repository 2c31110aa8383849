//! Picture formats of cameras, scanners and print software: read correctly, or refused by name.

use super::support::{encoded, fixture, notes, photo, png_with_chunk, read_bytes, refusal, values, worst};
use image::{DynamicImage, ImageFormat};
use moxcms::{
    ColorProfile, DataColorSpace, LutDataType, LutStore, LutType, LutWarehouse, Matrix3d, ProfileClass,
};
use neural_mirage::image_io::{ReadOptions, fit, read, read_with, resize};
use std::fs;
use std::io::Cursor;

#[test]
fn gif_reads_first_frame() {
    let decoded = read(&fixture("animated.gif")).unwrap();
    assert_eq!(notes(&decoded), "animation: only the first of 3 frames is used");
    let colors = [[200, 40, 40], [40, 160, 60], [40, 60, 180], [220; 3]];
    for (at, color) in [(4 * 24 + 6), (4 * 24 + 18), (12 * 24 + 6), (12 * 24 + 18)].into_iter().zip(colors) {
        let expected = color.map(|level| level as f32 / 255.0);
        assert!(worst(&decoded.picture.rgb[at * 3..at * 3 + 3], &expected) < 1e-6, "{at}");
    }
}

/// A 3x3 GIF whose first frame has 2x2 pixels at 1,1, one of them transparent and one beyond the palette.
#[test]
fn gif_pixels_outside_its_frame_are_transparent() {
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, 3, 3, &[255, 0, 0, 0, 0, 255]).unwrap();
    let frame = gif::Frame {
        left: 1,
        top: 1,
        width: 2,
        height: 2,
        transparent: Some(1),
        buffer: vec![0, 1, 0, 3].into(),
        ..gif::Frame::default()
    };
    encoder.write_frame(&frame).unwrap();
    drop(encoder);
    let decoded = read_bytes(&bytes).unwrap();
    assert_eq!(notes(&decoded), "alpha composited on white");
    let (white, red, black) = ([1.0; 3], [1.0, 0.0, 0.0], [0.0; 3]);
    assert_eq!(decoded.picture.rgb, [white, white, white, white, red, white, white, red, black].concat());
    assert_eq!(decoded.alpha.unwrap().values, [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
    for length in 0..bytes.len() - 1 {
        assert!(read_bytes(&bytes[..length.max(1)]).is_err(), "{length}");
    }
}

#[test]
fn jpeg_and_planar_tiffs_are_read() {
    for (name, tolerance) in [("jpeg-strips.tif", 0.03), ("jpeg-tiles.tif", 0.03), ("planar-tiles.tif", 1e-6)]
    {
        let decoded = read(&fixture(name)).unwrap();
        assert_eq!(notes(&decoded), "", "{name}");
        assert_eq!((decoded.picture.width, decoded.picture.height), (24, 16), "{name}");
        let colors = [[200, 40, 40], [40, 160, 60], [40, 60, 180], [220; 3]];
        for ((x, y), color) in [(5, 4), (18, 4), (5, 12), (18, 12)].into_iter().zip(colors) {
            let at = (y * 24 + x) * 3;
            let expected = color.map(|level| level as f32 / 255.0);
            let found = &decoded.picture.rgb[at..at + 3];
            assert!(worst(found, &expected) <= tolerance, "{name} {x},{y}: {found:?}");
        }
    }
}

/// The decoder would need 32 bytes for each value, and abort if the allocation fails.
#[test]
fn overlong_tiff_tag_is_ignored() {
    let mut bytes = fs::read(fixture("jpeg-strips.tif")).unwrap();
    let expected = read(&fixture("jpeg-strips.tif")).unwrap().picture;
    // ReferenceBlackWhite: six fractions that equal the defaults.
    let tag = bytes.windows(8).position(|w| w == [0x14, 2, 5, 0, 6, 0, 0, 0]).unwrap();
    bytes[tag + 4..tag + 8].fill(0xd0);
    assert_eq!(read_bytes(&bytes).unwrap().picture, expected);
}

/// The decoder would allocate memory for the size in the JPEG data.
#[test]
fn jpeg_in_tiff_must_have_its_size() {
    let mut bytes = fs::read(fixture("jpeg-strips.tif")).unwrap();
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x3f, 0xff, 0x3f, 0xff]);
    assert!(refusal(read_bytes(&bytes)).contains("larger than their strip or tile"));
    let mut bytes = fs::read(fixture("jpeg-strips.tif")).unwrap();
    bytes[frame + 4] = 12;
    assert!(refusal(read_bytes(&bytes)).contains("12 bits"));
}

#[test]
fn big_tiff_is_read() {
    let image = photo(33, 21);
    let mut file = Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new_big(&mut file).unwrap();
    encoder.write_image::<tiff::encoder::colortype::RGB8>(33, 21, image.as_bytes()).unwrap();
    let bytes = file.into_inner();
    assert_eq!(bytes[2], 43, "this is BigTIFF");
    let decoded = read_bytes(&bytes).unwrap();
    assert_eq!(notes(&decoded), "");
    assert!(worst(&decoded.picture.rgb, &values(&image)) < 1e-6);
}

#[test]
fn unsupported_tiff_number_types_are_named() {
    // Without the SampleFormat tag, as written by many programs.
    let text = refusal(read(&fixture("u32.tif")));
    assert!(text.contains("this kind of TIFF isn't read (32 bit whole numbers)"), "{text}");
    let mut file = Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).unwrap();
    encoder.write_image::<tiff::encoder::colortype::Gray32>(2, 2, &[1; 4]).unwrap();
    assert!(refusal(read_bytes(&file.into_inner())).contains("32 bit whole numbers"));
    let mut file = Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).unwrap();
    encoder.write_image::<tiff::encoder::colortype::GrayI16>(2, 2, &[-1; 4]).unwrap();
    assert!(refusal(read_bytes(&file.into_inner())).contains("16 bit signed whole numbers"));
    let mut file = Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).unwrap();
    encoder.write_image::<tiff::encoder::colortype::Gray32Float>(2, 1, &[0.25, 0.5]).unwrap();
    let decoded = read_bytes(&file.into_inner()).unwrap();
    assert_eq!(decoded.picture.rgb, [0.25, 0.25, 0.25, 0.5, 0.5, 0.5]);
}

/// Floats outside 0 to 1, such as 16 bit levels or measurements.
#[test]
fn float_tiffs_far_beyond_white_are_refused() {
    for value in [1001.0, -2000.0, 65535.0, 1e30, f32::MAX] {
        let mut file = Cursor::new(Vec::new());
        let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).unwrap();
        encoder.write_image::<tiff::encoder::colortype::Gray32Float>(2, 1, &[0.25, value]).unwrap();
        let text = refusal(read_bytes(&file.into_inner()));
        assert!(text.contains("0 should be black and 1 white"), "{text}");
    }
}

/// Camera raw files are TIFFs whose first page is a small preview.
#[test]
fn camera_raw_files_are_refused() {
    let tiff = |tag: Option<(u16, u32)>| {
        let mut file = Cursor::new(Vec::new());
        let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).unwrap();
        let mut image = encoder.new_image::<tiff::encoder::colortype::Gray8>(2, 2).unwrap();
        if let Some((tag, value)) = tag {
            image.encoder().write_tag(tiff::tags::Tag::Unknown(tag), value).unwrap();
        }
        image.write_data(&[7; 4]).unwrap();
        file.into_inner()
    };
    read_bytes(&tiff(None)).unwrap();
    read_bytes(&tiff(Some((254, 0)))).unwrap();
    for tag in [(254, 1), (50_706, 0x0104)] {
        let text = refusal(read_bytes(&tiff(Some(tag))));
        assert!(text.contains("a camera's raw picture"), "{tag:?}: {text}");
    }
}

#[test]
fn unsupported_jpeg_codings_are_named() {
    let whole = encoded(&photo(32, 16), ImageFormat::Jpeg);
    let frame = whole.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    for (marker, precision, words) in [
        (0xc1, 12, "(12 bits per channel)"),
        (0xc2, 12, "(12 bits per channel)"),
        (0xc3, 8, "(lossless coding)"),
        (0xc9, 8, "(arithmetic coding)"),
        (0xc5, 8, "(hierarchical coding)"),
    ] {
        let mut bytes = whole.clone();
        (bytes[frame + 1], bytes[frame + 4]) = (marker, precision);
        let text = refusal(read_bytes(&bytes));
        assert!(text.contains("this kind of JPEG isn't read") && text.contains(words), "{text}");
    }
}

/// A CMYK profile in which only black ink has an effect.
fn only_black_counts() -> Vec<u8> {
    let mut profile = ColorProfile::new_srgb();
    profile.color_space = DataColorSpace::Cmyk;
    profile.pcs = DataColorSpace::Lab;
    profile.profile_class = ProfileClass::OutputDevice;
    (profile.red_trc, profile.green_trc, profile.blue_trc, profile.cicp) = (None, None, None, None);
    // Lab values in 16 bits: a lightness of 100 is 0xff00, and neutral a and b are 0x8000.
    let corners = (0..16u32).flat_map(|corner| [if corner & 1 == 1 { 0 } else { 0xff00 }, 0x8000, 0x8000]);
    let line = |channels: usize| LutStore::Store16([0, 0xffff].repeat(channels));
    profile.lut_a_to_b_perceptual = Some(LutWarehouse::Lut(LutDataType {
        num_input_channels: 4,
        num_output_channels: 3,
        num_clut_grid_points: 2,
        matrix: Matrix3d::IDENTITY,
        num_input_table_entries: 2,
        num_output_table_entries: 2,
        input_table: line(4),
        clut_table: LutStore::Store16(corners.collect()),
        output_table: line(3),
        lut_type: LutType::Lut16,
    }));
    profile.encode().unwrap()
}

#[test]
fn cmyk_is_converted_with_its_profile() {
    let icc = only_black_counts();
    let note = "CMYK converted to RGB; converted from the embedded colour profile";
    let mut file = Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).unwrap();
    let mut page = encoder.new_image::<tiff::encoder::colortype::CMYK8>(3, 1).unwrap();
    page.encoder().write_tag(tiff::tags::Tag::IccProfile, &icc[..]).unwrap();
    page.write_data(&[255, 0, 0, 0, 9, 99, 199, 255, 0, 255, 0, 128]).unwrap();
    let decoded = read_bytes(&file.into_inner()).unwrap();
    assert!(notes(&decoded).starts_with(note), "{}", notes(&decoded));
    // A lightness of 50 is an sRGB value of 0.466.
    let expected = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.466, 0.466, 0.466];
    assert!(worst(&decoded.picture.rgb, &expected) < 0.01, "{:?}", decoded.picture.rgb);

    // JPEG stores inks inverted. The quarters have no black.
    let plain = fs::read(fixture("cmyk.jpg")).unwrap();
    let content = [b"ICC_PROFILE\0\x01\x01", &icc[..]].concat();
    let length = (content.len() as u16 + 2).to_be_bytes();
    let jpeg = [&plain[..2], b"\xff\xe2", &length, &content, &plain[2..]].concat();
    let decoded = read_bytes(&jpeg).unwrap();
    assert!(notes(&decoded).starts_with(note), "{}", notes(&decoded));
    assert!(decoded.picture.rgb.iter().all(|v| *v > 0.97), "{:?}", decoded.picture.rgb);
    // A profile for a different colour space is ignored.
    let p3 = ColorProfile::new_display_p3().encode().unwrap();
    let content = [b"ICC_PROFILE\0\x01\x01", &p3[..]].concat();
    let length = (content.len() as u16 + 2).to_be_bytes();
    let jpeg = [&plain[..2], b"\xff\xe2", &length, &content, &plain[2..]].concat();
    let decoded = read_bytes(&jpeg).unwrap();
    assert!(
        notes(&decoded).contains("ignored the embedded colour profile: it is for another kind"),
        "{}",
        notes(&decoded)
    );
}

#[test]
fn png_cicp_is_converted_or_refused() {
    let image: DynamicImage = image::RgbImage::from_pixel(2, 1, image::Rgb([153, 102, 77])).into();
    let png = encoded(&image, ImageFormat::Png);
    let with = |points: &[u8]| read_bytes(&png_with_chunk(&png, b"cICP", points));
    assert_eq!(notes(&with(&[1, 13, 0, 1]).unwrap()), "");
    let decoded = with(&[12, 13, 0, 1]).unwrap();
    assert!(notes(&decoded).starts_with("converted from the colours of its cICP"), "{}", notes(&decoded));
    // The same result as with an ICC profile of Display P3.
    assert!(worst(&decoded.picture.rgb[..3], &[0.6345, 0.3887, 0.2825]) < 0.012, "{:?}", decoded.picture.rgb);
    for (points, words) in [([9, 16, 0, 1], "PQ"), ([9, 18, 0, 1], "HLG"), ([12, 13, 0, 0], "range 0")] {
        let text = refusal(with(&points));
        assert!(text.contains("cICP") && text.contains(words), "{text}");
    }
    // RGB has no matrix coefficients; the decoder itself refuses them.
    refusal(with(&[1, 13, 5, 1]));
    let gray = encoded(&image.to_luma8().into(), ImageFormat::Png);
    let level = image.to_luma8().as_raw()[0];
    let decoded = read_bytes(&png_with_chunk(&gray, b"cICP", &[1, 8, 0, 1])).unwrap();
    let linear = f32::from(level) / 255.0;
    let expected = 1.055 * linear.powf(1.0 / 2.4) - 0.055;
    assert!(worst(&decoded.picture.rgb, &[expected; 6]) < 3e-3, "{:?} {expected}", decoded.picture.rgb);
}

/// The content of a `gAMA` or `cHRM` chunk.
fn hundred_thousandths(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

#[test]
fn png_gamma_and_chromaticities_are_converted() {
    const P3: [u32; 8] = [31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000];
    let image: DynamicImage = image::RgbImage::from_pixel(2, 1, image::Rgb([153, 102, 77])).into();
    let png = encoded(&image, ImageFormat::Png);
    let gamma = |png: &[u8], value| png_with_chunk(png, b"gAMA", &hundred_thousandths(&[value]));
    // The value that stands for sRGB changes nothing.
    let plain = read_bytes(&gamma(&png, 45455)).unwrap();
    assert_eq!(plain.picture, read_bytes(&png).unwrap().picture);
    assert_eq!(notes(&plain), "");
    let wide = read_bytes(&png_with_chunk(&png, b"cHRM", &hundred_thousandths(&P3))).unwrap();
    assert_eq!(notes(&wide), "converted from the colours of its gAMA or cHRM to sRGB");
    // The same result as with an ICC profile of Display P3.
    assert!(worst(&wide.picture.rgb[..3], &[0.6345, 0.3887, 0.2825]) < 0.012, "{:?}", wide.picture.rgb);
    // Linear light, in colours of 8 bits and in gray of 16.
    let encode = |linear: f32| 1.055 * linear.powf(1.0 / 2.4) - 0.055;
    let linear = read_bytes(&gamma(&png, 100_000)).unwrap();
    let expected = [153, 102, 77].map(|level| encode(level as f32 / 255.0));
    assert!(worst(&linear.picture.rgb[..3], &expected) < 3e-3, "{:?} {expected:?}", linear.picture.rgb);
    let gray = image::ImageBuffer::from_pixel(1, 1, image::Luma([9000u16]));
    let gray = encoded(&DynamicImage::ImageLuma16(gray), ImageFormat::Png);
    let decoded = read_bytes(&gamma(&gray, 100_000)).unwrap();
    let expected = [encode(9000.0 / 65535.0); 3];
    assert!(worst(&decoded.picture.rgb, &expected) < 3e-3, "{:?} {expected:?}", decoded.picture.rgb);
    // The chunk sRGB takes precedence, and a profile does.
    let both = png_with_chunk(&gamma(&png, 100_000), b"sRGB", &[0]);
    assert_eq!(read_bytes(&both).unwrap().picture, plain.picture);
    // Values that describe no colours are ignored.
    let broken = read_bytes(&gamma(&png, 0)).unwrap();
    assert_eq!(broken.picture, plain.picture);
    let broken = read_bytes(&png_with_chunk(&png, b"cHRM", &hundred_thousandths(&[0; 8]))).unwrap();
    assert_eq!(broken.picture, plain.picture);
    assert_eq!(notes(&broken), "ignored its cHRM: its white isn't a mixture of its red, green and blue");
    // Beside them, gAMA is still used; so it is beside a damaged profile, and one that is compressed correctly.
    for (name, content, note) in [
        (b"cHRM", hundred_thousandths(&[0; 8]), "ignored its cHRM"),
        (b"iCCP", b"name\0\0not zlib".to_vec(), "ignored the embedded colour profile"),
        (
            b"iCCP",
            b"name\0\0x\x01\x01\x0a\x00\xf5\xffno profile\x154\x03\xef".to_vec(),
            "ignored the embedded colour profile",
        ),
    ] {
        let broken = read_bytes(&png_with_chunk(&gamma(&png, 100_000), name, &content)).unwrap();
        assert_eq!(broken.picture, linear.picture, "{note}");
        assert!(notes(&broken).contains(note) && notes(&broken).contains("converted"), "{}", notes(&broken));
    }
}

#[test]
fn large_picture_is_averaged_while_reading() {
    let (width, height) = (5000u32, 3400u32);
    let gray = image::GrayImage::from_fn(width, height, |x, y| {
        image::Luma([((x / 7 % 128) + (y / 11 % 128)) as u8])
    });
    let dir = super::support::folder();
    let options = ReadOptions { longest: Some(400), ..ReadOptions::default() };
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Tiff, ImageFormat::Bmp] {
        let path = dir.path().join("large");
        fs::write(&path, encoded(&gray.clone().into(), format)).unwrap();
        let decoded = read_with(&path, &options).unwrap();
        let picture = &decoded.picture;
        assert_eq!(decoded.size, (5000, 3400));
        assert_eq!((picture.width, picture.height), (1600, 1088), "{format:?}");
        let (w, h) = fit(5000, 3400, 400);
        let small = resize(picture, w, h).unwrap();
        let expected = resize(&read(&path).unwrap().picture, w, h).unwrap();
        let difference = worst(&small.rgb, &expected.rgb);
        // Loss of fine detail by averaging, at the pattern's edges of half the range.
        assert!(difference < 0.02, "{format:?}: {difference}");
    }
    let small = dir.path().join("small");
    fs::write(&small, encoded(&photo(600, 400), ImageFormat::Png)).unwrap();
    assert_eq!(read_with(&small, &options).unwrap(), read(&small).unwrap());
}
