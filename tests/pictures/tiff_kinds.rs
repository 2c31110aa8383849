//! TIFFs with palettes, extra channels or reversed bits, and kinds of TIFF that are refused.

use super::support::{fixture, notes, photo, read_bytes, refusal, values, worst};
use neural_mirage::image_io::{Decoded, read};
use std::fs;
use std::io::Cursor;
use tiff::encoder::colortype::{Gray8, RGB8};
use tiff::encoder::{Compression, TiffEncoder};
use tiff::tags::Tag;

/// A TIFF with a single strip, unless the tags state others. Its values are all 16 bit numbers.
fn tiff_of(size: (u16, u16), tags: &[(u16, &[u16])], data: &[u8], is_big_endian: bool) -> Vec<u8> {
    let short = |value: u16| if is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let long = |value: usize| {
        let value = value as u32;
        if is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    };
    let mut blob = data.to_vec();
    let (width, height, length) = ([size.0], [size.1], [data.len() as u16]);
    let mut all: Vec<(u16, &[u16])> = vec![(256, &width), (257, &height), (273, &[8]), (279, &length)];
    all.retain(|tag| !tags.iter().any(|other| other.0 == tag.0));
    all.extend(tags);
    all.sort_by_key(|tag| tag.0);
    let mut directory = short(all.len() as u16).to_vec();
    for (tag, values) in all {
        let mut value: Vec<u8> = values.iter().flat_map(|value| short(*value)).collect();
        if value.len() > 4 {
            blob.resize(blob.len().next_multiple_of(2), 0);
            let at = long(8 + blob.len());
            blob.extend(&value);
            value = at.to_vec();
        }
        value.resize(4, 0);
        directory.extend([&short(tag)[..], &short(3), &long(values.len()), &value].concat());
    }
    blob.resize(blob.len().next_multiple_of(2), 0);
    let start: &[u8] = if is_big_endian { b"MM\0*" } else { b"II*\0" };
    [start, &long(8 + blob.len()), &blob, &directory, &[0; 4]].concat()
}

/// Reads a TIFF of one row of pixels in both byte orders.
fn row(width: u16, tags: &[(u16, &[u16])], data: &[u8]) -> Decoded {
    let [little, big] = [false, true].map(|is_big| read_bytes(&tiff_of((width, 1), tags, data, is_big)));
    let little = little.unwrap();
    assert_eq!(little, big.unwrap());
    little
}

fn reason(width: u16, tags: &[(u16, &[u16])], data: &[u8]) -> String {
    refusal(read_bytes(&tiff_of((width, 1), tags, data, false)))
}

/// Reverses the bits of all strips of a TIFF.
fn with_reversed_strips(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut file = tiff::decoder::Decoder::new(Cursor::new(bytes.clone())).unwrap();
    let starts = file.get_tag_u64_vec(Tag::StripOffsets).unwrap();
    let lengths = file.get_tag_u64_vec(Tag::StripByteCounts).unwrap();
    for (start, length) in starts.into_iter().zip(lengths) {
        let strip = &mut bytes[start as usize..(start + length) as usize];
        strip.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
    }
    bytes
}

#[test]
fn reversed_bits_are_read_for_every_compression() {
    let image = photo(67, 41);
    for (name, compression) in [
        ("none", Compression::Uncompressed),
        ("LZW", Compression::Lzw),
        ("PackBits", Compression::Packbits),
        ("Deflate", Compression::Deflate(tiff::encoder::DeflateLevel::Fast)),
    ] {
        let mut file = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut file).unwrap().with_compression(compression);
        let mut page = encoder.new_image::<RGB8>(67, 41).unwrap();
        page.rows_per_strip(8).unwrap();
        page.encoder().write_tag(Tag::FillOrder, 2u16).unwrap();
        page.write_data(image.as_bytes()).unwrap();
        let decoded = read_bytes(&with_reversed_strips(file.into_inner())).unwrap();
        assert_eq!(notes(&decoded), "", "{name}");
        assert_eq!(decoded.picture.rgb, values(&image), "{name}");
    }
    // Planar configuration 1, which is the default, becomes fill order 2.
    let with_fill_order = |name: &str| {
        let mut bytes = fs::read(fixture(name)).unwrap();
        let tag = bytes.windows(10).position(|w| w == [0x1c, 1, 3, 0, 1, 0, 0, 0, 1, 0]).unwrap();
        (bytes[tag], bytes[tag + 8]) = (10, 2);
        bytes
    };
    let group_4 = read_bytes(&with_reversed_strips(with_fill_order("fax4.tif"))).unwrap();
    assert_eq!(group_4, read(&fixture("fax4.tif")).unwrap());
    // As in libtiff, JPEG data aren't reversed.
    let jpeg = read_bytes(&with_fill_order("jpeg-strips.tif")).unwrap();
    assert_eq!(jpeg, read(&fixture("jpeg-strips.tif")).unwrap());
    for (bits, levels) in [(1, [1.0, 0.0, 1.0]), (2, [2.0 / 3.0, 0.0, 1.0]), (4, [0.2, 0.8, 1.0])] {
        let packed = match bits {
            1 => [0b1010_0000u8, 0],
            2 => [0b1000_1100, 0],
            _ => [0b0011_1100, 0b1111_0000],
        };
        let data = packed.map(u8::reverse_bits);
        let decoded = row(3, &[(262, &[1]), (258, &[bits]), (266, &[2])], &data);
        let expected: Vec<f32> = levels.iter().flat_map(|level| [*level; 3]).collect();
        assert!(worst(&decoded.picture.rgb, &expected) < 1e-6, "{bits}: {:?}", decoded.picture.rgb);
    }
    let deep = row(1, &[(262, &[1]), (258, &[16]), (266, &[2])], &[0x7f, 0x7f].map(u8::reverse_bits));
    assert!(worst(&deep.picture.rgb, &[0x7f7f as f32 / 65535.0; 3]) < 1e-6);
}

#[test]
fn palettes_are_expanded() {
    // Red, then the green and the blue levels of four colours.
    let map = [0u16, 255, 16, 1, 0, 0, 32, 2, 255, 128, 48, 3];
    let expected = [0, 0, 255, 255, 0, 128, 16, 32, 48, 1, 2, 3].map(|level| level as f32 / 255.0);
    // Levels of 16 bits, as the specification has it, with zeros behind them, and of 8 bits.
    for scale in [257, 256, 1] {
        let map = map.map(|level| level * scale);
        let tags: [(u16, &[u16]); 3] = [(262, &[3]), (258, &[2]), (320, &map)];
        let decoded = row(4, &tags, &[0b0001_1011]);
        assert_eq!(notes(&decoded), "palette expanded");
        assert!(worst(&decoded.picture.rgb, &expected) < 1e-6, "{scale}: {:?}", decoded.picture.rgb);
    }
    // The first and the last colour of palettes whose other colours are black.
    for (bits, data) in [(1, &[0b0100_0000u8][..]), (4, &[0x0f]), (8, &[0, 255])] {
        let colors = 1 << bits;
        let mut map = vec![0; 3 * colors];
        (map[0], map[2 * colors - 1]) = (0xffff, 0xffff);
        let decoded = row(2, &[(262, &[3]), (258, &[bits]), (320, &map)], data);
        assert_eq!(decoded.picture.rgb, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "{bits}");
    }
    // With alpha.
    let map = vec![0x8000; 768];
    let tags: &[(u16, &[u16])] = &[(262, &[3]), (258, &[8, 8]), (277, &[2]), (338, &[2]), (320, &map)];
    let decoded = row(2, tags, &[7, 255, 9, 0]);
    assert_eq!(notes(&decoded), "palette expanded; alpha composited on white");
    assert_eq!(decoded.alpha.unwrap().values, [1.0, 0.0]);
    // Each value needs its colour.
    for count in [1, 3, 767, 769] {
        let text = reason(1, &[(262, &[3]), (258, &[8]), (320, &vec![0; count])], &[0]);
        assert!(text.contains("palette doesn't have a colour"), "{text}");
    }
    assert!(reason(1, &[(262, &[3]), (258, &[8])], &[0]).contains("palette doesn't have a colour"));
    assert!(
        reason(1, &[(262, &[3]), (258, &[16]), (320, &[0; 9])], &[0, 0]).contains("(a palette of 16 bits)")
    );
}

#[test]
fn palettes_of_classic_and_big_tiffs_are_read() {
    let map: Vec<u16> = (0..768u16).map(|i| i % 256 * if i < 256 { 257 } else { 0 }).collect();
    let mut classic = Cursor::new(Vec::new());
    let mut page_of_classic = TiffEncoder::new(&mut classic).unwrap().with_compression(Compression::Lzw);
    let mut page = page_of_classic.new_image::<Gray8>(3, 2).unwrap();
    page.encoder().write_tag(Tag::PhotometricInterpretation, 3u16).unwrap();
    page.encoder().write_tag(Tag::ColorMap, &map[..]).unwrap();
    page.write_data(&[0, 51, 102, 153, 204, 255]).unwrap();
    let mut big = Cursor::new(Vec::new());
    let mut page_of_big = TiffEncoder::new_big(&mut big).unwrap();
    let mut page = page_of_big.new_image::<Gray8>(3, 2).unwrap();
    page.encoder().write_tag(Tag::PhotometricInterpretation, 3u16).unwrap();
    page.encoder().write_tag(Tag::ColorMap, &map[..]).unwrap();
    page.write_data(&[0, 51, 102, 153, 204, 255]).unwrap();
    let expected: Vec<f32> = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0].iter().flat_map(|red| [*red, 0.0, 0.0]).collect();
    for bytes in [classic.into_inner(), big.into_inner()] {
        assert!(worst(&read_bytes(&bytes).unwrap().picture.rgb, &expected) < 1e-6);
    }
}

#[test]
fn extra_channels_are_ignored_and_alpha_is_found_among_them() {
    let pixels = [100u8, 150, 200, 7, 51, 0, 255, 10, 99, 255];
    let over = |level: u8, alpha: f32| level as f32 / 255.0 * alpha + 1.0 - alpha;
    let expected = [over(100, 0.2), over(150, 0.2), over(200, 0.2), 0.0, 1.0, 10.0 / 255.0];
    let ignored = "one extra channel ignored; alpha composited on white";
    let decoded = row(2, &[(262, &[2]), (258, &[8; 5]), (277, &[5]), (338, &[0, 2])], &pixels);
    assert_eq!(notes(&decoded), ignored);
    assert!(worst(&decoded.picture.rgb, &expected) < 1e-6, "{:?}", decoded.picture.rgb);
    let alpha_first = [100u8, 150, 200, 51, 7, 0, 255, 10, 255, 99];
    let decoded = row(2, &[(262, &[2]), (258, &[8; 5]), (277, &[5]), (338, &[2, 0])], &alpha_first);
    assert_eq!(notes(&decoded), ignored);
    assert!(worst(&decoded.picture.rgb, &expected) < 1e-6, "{:?}", decoded.picture.rgb);
    // A plane, and thus a strip, for each channel.
    let planes: Vec<u8> = (0..5).flat_map(|channel| [pixels[channel], pixels[channel + 5]]).collect();
    let tags: &[(u16, &[u16])] = &[
        (262, &[2]),
        (258, &[8; 5]),
        (277, &[5]),
        (284, &[2]),
        (338, &[0, 2]),
        (273, &[8, 10, 12, 14, 16]),
        (279, &[2; 5]),
    ];
    let decoded = row(2, tags, &planes);
    assert_eq!(notes(&decoded), ignored);
    assert!(worst(&decoded.picture.rgb, &expected) < 1e-6, "{:?}", decoded.picture.rgb);

    // Differences between neighbours, among them those of a channel that isn't used.
    let differences = [100u8, 150, 200, 7, 156, 105, 66, 92];
    let decoded = row(2, &[(262, &[2]), (258, &[8; 4]), (277, &[4]), (317, &[2]), (338, &[0])], &differences);
    assert_eq!(notes(&decoded), "one extra channel ignored");
    let expected = [100, 150, 200, 0, 255, 10].map(|level| level as f32 / 255.0);
    assert!(worst(&decoded.picture.rgb, &expected) < 1e-6, "{:?}", decoded.picture.rgb);
    let decoded = row(1, &[(262, &[5]), (258, &[8; 6]), (277, &[6]), (338, &[0, 0])], &[255, 0, 0, 0, 1, 2]);
    assert_eq!(notes(&decoded), "2 extra channels ignored; CMYK converted to RGB");
    assert!(worst(&decoded.picture.rgb, &[0.0, 1.0, 1.0]) < 1e-6);

    let decoded = row(2, &[(262, &[1]), (258, &[8; 2]), (277, &[2]), (338, &[0])], &[51, 1, 204, 2]);
    assert_eq!(notes(&decoded), "one extra channel ignored; grayscale expanded");
    assert!(worst(&decoded.picture.rgb, &[0.2, 0.2, 0.2, 0.8, 0.8, 0.8]) < 1e-6);
    let decoded = row(2, &[(262, &[0]), (258, &[8; 2]), (277, &[2]), (338, &[2])], &[51, 255, 0, 51]);
    assert_eq!(notes(&decoded), "grayscale expanded; alpha composited on white");
    assert!(worst(&decoded.picture.rgb, &[0.8, 0.8, 0.8, 1.0, 1.0, 1.0]) < 1e-6);
}

#[test]
fn kinds_of_tiff_that_are_not_read_are_named() {
    let pixel = [0; 100];
    for (tags, words) in [
        (&[(262, &[6u16][..]), (258, &[8; 3]), (277, &[3])][..], "(YCbCr with colours of lower resolution"),
        (&[(262, &[8]), (258, &[8; 3]), (277, &[3])], "(CIE L*a*b*)"),
        (&[(262, &[9]), (258, &[8; 3]), (277, &[3])], "(CIE L*a*b*)"),
        (&[(262, &[4]), (258, &[1])], "(a transparency mask)"),
        (&[(262, &[32_803]), (258, &[8])], "(colours of no known kind)"),
        (&[(262, &[1]), (258, &[1]), (259, &[3])], "(CCITT Group 3 compression)"),
        (&[(262, &[1]), (258, &[8]), (259, &[34_712])], "(compression of kind 34712)"),
        (&[(262, &[2]), (258, &[8; 2]), (277, &[2])], "(2 channels of RGB)"),
        (&[(262, &[2]), (258, &[5, 6, 5]), (277, &[3])], "(channels with different numbers of bits)"),
        (&[(262, &[1]), (258, &[4; 2]), (277, &[2]), (338, &[0])], "(2 channels of 4 bits)"),
        (&[(262, &[2]), (258, &[8; 40]), (277, &[40]), (338, &[0; 37])], "(40 channels of 8 bits)"),
        (&[(262, &[5]), (258, &[8; 6]), (277, &[6]), (338, &[0, 2])], "(CMYK with alpha)"),
        (&[(262, &[1]), (258, &[4]), (317, &[2])], "(a predictor of 4 bit values)"),
    ] {
        let text = reason(1, tags, &pixel);
        assert!(text.contains("this kind of TIFF isn't") && text.contains(words), "{words}: {text}");
    }
}
