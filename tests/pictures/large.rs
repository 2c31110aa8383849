//! What our own decoder reads: JPEGs of which so much less is wanted that they are decoded at a half, a quarter or an eighth of
//! their size (here small ones are, by the option for tests), and in their own size those that zune-jpeg reads wrongly.

use super::support::{exif, fixture, folder, notes, refusal, worst};
use neural_mirage::Error;
use neural_mirage::image_io::{Decoded, Picture, ReadOptions, read, read_with, resize};
use std::fs;
use std::path::Path;

/// Sides that are wanted of 203x149 pixels, for steps of 8, 4 and 2, each of the size that is kept with the most of it.
const WANTED: [usize; 3] = [6, 12, 25];

/// The worst and the mean difference of a value that is kept, and the worst of what is wanted. A reduced pixel that two kept
/// ones share is flat: at the edge of 40 of 255 levels a kept one may get a fourth of these that belong to its neighbour
/// (0.04). Frequencies that are left out and colours between those that are stored add 0.01.
const TOLERANCES: [f32; 3] = [0.05, 0.006, 0.02];

fn read_small(path: &Path, longest: usize) -> Result<Decoded, Error> {
    read_with(path, &ReadOptions { longest: Some(longest), plain_pixels: 0, ..ReadOptions::default() })
}

/// Each pixel the mean of an area of the picture.
fn averaged(picture: &Picture, width: usize, height: usize) -> Picture {
    let areas = |from: usize, to: usize| -> Vec<Vec<(usize, f64)>> {
        let side = from as f64 / to as f64;
        let share = |at: usize, index: usize| {
            (at as f64 + 1.0).min((index + 1) as f64 * side) - (at as f64).max(index as f64 * side)
        };
        let of =
            |index| (0..from).map(|at| (at, share(at, index))).filter(|(_, share)| *share > 0.0).collect();
        (0..to).map(of).collect()
    };
    let (columns, rows) = (areas(picture.width, width), areas(picture.height, height));
    let mut rgb = Vec::new();
    for row in &rows {
        for column in &columns {
            for channel in 0..3 {
                let (mut sum, mut area) = (0.0, 0.0);
                for (y, down) in row {
                    for (x, across) in column {
                        let value = picture.rgb[(y * picture.width + x) * 3 + channel];
                        sum += f64::from(value) * across * down;
                        area += across * down;
                    }
                }
                rgb.push((sum / area) as f32);
            }
        }
    }
    Picture::new(width, height, rgb).unwrap()
}

/// The mean of the differences.
fn mean(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

/// Compares a JPEG, decoded reduced, with the means of all its pixels: the worst and the mean difference of a value, and the
/// worst of the picture that is wanted of it.
fn check(path: &Path, channels: u64, [largest, usual, wanted]: [f32; 3]) {
    let whole = read(path).unwrap();
    for longest in WANTED {
        let decoded = read_small(path, longest).unwrap();
        let picture = &decoded.picture;
        assert_eq!((decoded.size, &decoded.notes), (whole.size, &whole.notes));
        assert_eq!(picture.width.max(picture.height), 4 * longest);
        // Decoded as a whole it would take its pixels besides.
        let file = fs::metadata(path).unwrap().len();
        let pixels = (whole.size.0 * whole.size.1) as u64;
        let kept = 4 * picture.rgb.len() as u64;
        let turned = whole.notes.iter().any(|note| note.contains("orientation"));
        assert!(decoded.memory < file + kept + channels * pixels || turned, "{longest}: {}", decoded.memory);
        let expected = averaged(&whole.picture, picture.width, picture.height);
        let (found, average) = (worst(&picture.rgb, &expected.rgb), mean(&picture.rgb, &expected.rgb));
        assert!(found <= largest && average <= usual, "{} {longest}: {found}, {average}", path.display());
        // What is wanted itself.
        let (width, height) = (picture.width.div_ceil(4), picture.height.div_ceil(4));
        let small = |picture: &Picture| resize(picture, width, height).unwrap().rgb;
        let found = worst(&small(picture), &small(&expected));
        assert!(found <= wanted, "{} {longest}, wanted: {found}", path.display());
    }
}

#[test]
fn reduced_pixels_are_means_of_the_whole() {
    for name in ["444", "422", "420", "restart", "baseline", "gray", "rgb", "cmyk"] {
        let channels = match name {
            "gray" => 1,
            "cmyk" => 4,
            _ => 3,
        };
        check(&fixture(&format!("large-{name}.jpg")), channels, TOLERANCES);
    }
}

/// The same pixels, coded otherwise.
#[test]
fn progressive_and_baseline_are_the_same() {
    for longest in WANTED {
        let read = |name: &str| read_small(&fixture(name), longest).unwrap().picture;
        let expected = read("large-420.jpg");
        assert_eq!(read("large-restart.jpg"), expected);
        assert_eq!(read("large-baseline.jpg"), expected);
    }
}

/// Where the scans of a JPEG begin.
fn scans(jpeg: &[u8]) -> Vec<usize> {
    jpeg.windows(2).enumerate().filter(|(_, w)| *w == [0xff, 0xda]).map(|(at, _)| at).collect()
}

/// The same pixels in their own size: a repeated height in the file leaves them to our decoder.
#[test]
fn both_decoders_read_the_same() {
    let dir = folder();
    let path = dir.path().join("repeated.jpg");
    // Two levels: each rounds the transform, and zune-jpeg the conversion of colours, too. Colours of half the resolution are
    // repeated here and interpolated there: a part of the edge of 40 levels.
    let tolerances = [
        ("444", 2.0 / 255.0),
        ("gray", 2.0 / 255.0),
        ("rgb", 2.0 / 255.0),
        ("cmyk", 2.0 / 255.0),
        ("422", 0.1),
        ("420", 0.1),
        ("restart", 0.1),
        ("baseline", 0.1),
    ];
    for (name, tolerance) in tolerances {
        let whole = fs::read(fixture(&format!("large-{name}.jpg"))).unwrap();
        let (pixels, end) = whole.split_at(whole.len() - 2);
        fs::write(&path, [pixels, &[0xff, 0xdc, 0, 4, 0, 149], end].concat()).unwrap();
        let expected = read(&fixture(&format!("large-{name}.jpg"))).unwrap();
        let found = read(&path).unwrap();
        assert_eq!((found.size, &found.notes), (expected.size, &expected.notes));
        // Only one of them rounds to levels.
        assert_ne!(found.picture, expected.picture);
        let (found, average) = (
            worst(&found.picture.rgb, &expected.picture.rgb),
            mean(&found.picture.rgb, &expected.picture.rgb),
        );
        assert!(found <= tolerance && average <= 0.006, "{name}: {found}, {average}");
    }
}

/// Components in scans of their own, a quantization table behind the first scan, and luminance that is coarser than the colours.
#[test]
fn kinds_that_zune_jpeg_reads_wrongly() {
    let expected = read(&fixture("large-baseline.jpg")).unwrap().picture;
    for name in ["separate", "pair", "late-table"] {
        let found = read(&fixture(&format!("large-{name}.jpg"))).unwrap().picture;
        let (found, average) = (worst(&found.rgb, &expected.rgb), mean(&found.rgb, &expected.rgb));
        assert!(found <= 0.1 && average <= 0.006, "{name}: {found}, {average}");
        check(&fixture(&format!("large-{name}.jpg")), 3, TOLERANCES);
    }
    // The texture is finer than such luminance, so areas are compared.
    let [expected, found] = ["large-444.jpg", "large-coarse-luma.jpg"]
        .map(|name| resize(&read(&fixture(name)).unwrap().picture, 51, 37).unwrap().rgb);
    assert!(worst(&found, &expected) <= 0.06, "{}", worst(&found, &expected));
    assert!(mean(&found, &expected) <= 0.01, "{}", mean(&found, &expected));
    check(&fixture("large-coarse-luma.jpg"), 3, TOLERANCES);
}

/// What no decoder here reads, and what would take too long, by its name.
#[test]
fn other_kinds_are_refused_by_name() {
    let dir = folder();
    let path = dir.path().join("refused.jpg");
    let whole = fs::read(fixture("large-444.jpg")).unwrap();
    let frame = whole.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        refusal(read(&path))
    };
    let sampled = |sampling: [u8; 3]| {
        refused(&|bytes| sampling.iter().enumerate().for_each(|(i, both)| bytes[frame + 11 + 3 * i] = *both))
    };
    assert!(sampled([0x31, 0x11, 0x11]).contains("sampling factor of 3"));
    assert!(sampled([0x13, 0x12, 0x11]).contains("don't divide each other"));
    let end = whole.len() - 2;
    let without_height = |bytes: &mut Vec<u8>| bytes[frame + 5..frame + 7].fill(0);
    assert!(refused(&without_height).contains("no pixels"));
    let later = refused(&|bytes| {
        without_height(bytes);
        bytes.splice(end..end, [0xff, 0xdc, 0, 4, 0, 149]);
    });
    assert!(later.contains("stated after the picture"), "{later}");
    // Thirty scans at 16 megapixels.
    let scans = scans(&whole);
    let many = refused(&|bytes| {
        bytes.splice(end..end, whole[scans[0]..scans[1]].repeat(30));
        bytes[frame + 5..frame + 9].copy_from_slice(&[0x10, 0x04, 0x10, 0x04]);
    });
    assert!(many.contains("more than 30 scans at 4100x4100 pixels"), "{many}");
}

/// Luminance and chrominance of inks, RGB under numbers, and a photo on its side: only what the file says of itself is other.
#[test]
fn colours_and_orientation_are_as_of_the_whole() {
    let dir = folder();
    let path = dir.path().join("changed.jpg");
    let mut ycck = fs::read(fixture("large-cmyk.jpg")).unwrap();
    let adobe = ycck.windows(5).position(|w| w == b"Adobe").unwrap();
    assert_eq!(ycck[adobe + 11], 0);
    ycck[adobe + 11] = 2;
    fs::write(&path, ycck).unwrap();
    assert!(notes(&read(&path).unwrap()).contains("CMYK"));
    // Colours out of the range are cut off before the mean there, and after it here.
    check(&path, 4, [0.12, 0.02, 0.04]);
    // Components that are called R, G and B, and are numbered here: Adobe's marker says what they are.
    let mut rgb = fs::read(fixture("large-rgb.jpg")).unwrap();
    for marker in [0xc2, 0xda] {
        for at in (0..rgb.len() - 1).filter(|at| rgb[*at..*at + 2] == [0xff, marker]).collect::<Vec<_>>() {
            let (count, first, each) =
                if marker == 0xc2 { (3, at + 10, 3) } else { (rgb[at + 4], at + 5, 2) };
            for id in rgb[first..].iter_mut().step_by(each).take(count.into()) {
                *id = b"RGB".iter().position(|name| name == id).unwrap() as u8 + 1;
            }
        }
    }
    fs::write(&path, rgb).unwrap();
    assert_eq!(read(&path).unwrap().picture, read(&fixture("large-rgb.jpg")).unwrap().picture);
    check(&path, 3, TOLERANCES);
    let plain = fs::read(fixture("large-422.jpg")).unwrap();
    for orientation in 2..=8 {
        let content = [b"Exif\0\0", &exif(orientation, true)[..]].concat();
        let length = (content.len() as u16 + 2).to_be_bytes();
        let turned = [&plain[..2], b"\xff\xe1", &length, &content, &plain[2..]].concat();
        fs::write(&path, turned).unwrap();
        check(&path, 3, TOLERANCES);
    }
    // Swaps the size too.
    let decoded = read_small(&path, 12).unwrap();
    assert_eq!((decoded.size, decoded.picture.width), ((149, 203), 35));
}

/// What the whole decoder says or shows of damaged files.
#[test]
fn damage_is_no_surprise() {
    let dir = folder();
    let path = dir.path().join("damaged.jpg");
    let whole = fs::read(fixture("large-420.jpg")).unwrap();
    let scans = scans(&whole);
    assert!(scans.len() > 8);
    let attempt = |bytes: &[u8], longest: usize| {
        fs::write(&path, bytes).unwrap();
        read_small(&path, longest)
    };
    for longest in WANTED {
        for length in [scans[0], scans[3], whole.len() / 2, whole.len() - 2] {
            assert!(refusal(attempt(&whole[..length], longest)).contains("cut short"));
            // With an end after all, the scans before are a picture.
            let ended = [&whole[..length], b"\xff\xd9"].concat();
            assert_eq!(attempt(&ended, longest).is_ok(), length > scans[0], "{longest} {length}");
        }
        // A scan that is no use is the last.
        for scan in &scans[1..] {
            let mut bytes = whole.clone();
            bytes[scan + 40] ^= 0x55;
            assert!(attempt(&bytes, longest).is_ok(), "{longest} {scan}");
        }
        // The first scan of frequencies, with its table, over and over.
        let table = |from: usize| from + whole[from..].windows(2).position(|w| w == [0xff, 0xc4]).unwrap();
        let (start, end) = (table(scans[0]), table(scans[1]));
        let again = [&whole[..end], &whole[start..end].repeat(100), &whole[end..]].concat();
        assert!(refusal(attempt(&again, longest)).contains("100 scans"));
        assert!(refusal(read(&path)).contains("100 scans"));
        let mut tables = whole.clone();
        let quantization = whole.windows(2).position(|w| w == [0xff, 0xdb]).unwrap();
        tables[quantization + 4] = 3;
        assert!(refusal(attempt(&tables, longest)).contains("quantization table is missing"));
    }
    let mut baseline = fs::read(fixture("large-baseline.jpg")).unwrap();
    let scan = baseline.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    baseline[scan + 6] = 0x33;
    assert!(refusal(attempt(&baseline, 6)).contains("Huffman table is missing"));
    // From the first scan on, each chroma with as much of its own: the fine detail of one that is lost changes no other.
    let first = attempt(&[&whole[..scans[1]], b"\xff\xd9"].concat(), 6).unwrap().picture;
    let expected = read_small(&fixture("large-420.jpg"), 6).unwrap().picture;
    assert!(worst(&first.rgb, &expected.rgb) < 0.1);
}

/// The whole decoder's coefficients are a part of what reading took.
#[test]
fn coefficients_are_counted() {
    let pixels = 203 * 149;
    let besides = |name: &str| {
        let path = fixture(name);
        read(&path).unwrap().memory - fs::metadata(&path).unwrap().len() - pixels * 12
    };
    assert_eq!(besides("large-baseline.jpg"), pixels * 3);
    assert_eq!(besides("large-444.jpg"), pixels * 9);
    assert_eq!(besides("large-420.jpg"), pixels * 3 + pixels * 6 / 4 * 2);
    assert_eq!(besides("large-gray.jpg"), pixels * 3);
    assert_eq!(besides("large-cmyk.jpg"), pixels * 12);
    // Our own: blocks of all components in parts of 16x16 pixels, and the lines of a row of parts as f32.
    let parts = 13 * 10;
    assert_eq!(besides("large-separate.jpg"), parts * (4 + 1 + 1) * 128 + 3 * 16 * 13 * 16 * 4);
}
