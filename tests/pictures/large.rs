//! The built-in JPEG decoder. It decodes at a half, a quarter or an eighth if a much smaller picture is needed (forced
//! here for small files by a test option), and at full size JPEGs that zune-jpeg misreads.

use super::support::{exif, fixture, folder, notes, refusal, worst};
use neural_mirage::Error;
use neural_mirage::image_io::{Decoded, Picture, ReadOptions, read, read_with, resize};
use std::fs;
use std::path::Path;

/// Requested longest sides for 203x149 pixels that lead to reductions by 8, 4 and 2.
const WANTED: [usize; 3] = [6, 12, 25];

/// Largest and mean difference of a stored value, and largest difference in the requested picture. A reduced pixel
/// shared by two stored ones is flat: at an edge of 40 of 255 levels a stored pixel may get a fourth of the step from
/// its neighbour (0.04). Omitted frequencies and interpolated chroma add 0.01.
const TOLERANCES: [f32; 3] = [0.05, 0.006, 0.02];

fn read_small(path: &Path, longest: usize) -> Result<Decoded, Error> {
    read_with(path, &ReadOptions { longest: Some(longest), plain_pixels: 0, ..ReadOptions::default() })
}

/// Reduces a picture by area averaging.
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

/// Returns the mean absolute difference.
fn mean(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
}

/// Compares a JPEG decoded at reduced size with area means of the full picture. The limits are the largest and the mean
/// difference of a value, and the largest difference in the requested picture.
fn check(path: &Path, channels: u64, [largest, usual, wanted]: [f32; 3]) {
    let whole = read(path).unwrap();
    for longest in WANTED {
        let decoded = read_small(path, longest).unwrap();
        let picture = &decoded.picture;
        assert_eq!((decoded.size, &decoded.notes), (whole.size, &whole.notes));
        assert_eq!(picture.width.max(picture.height), 4 * longest);
        // Decoding at full size would also need memory for all pixels.
        let file = fs::metadata(path).unwrap().len();
        let pixels = (whole.size.0 * whole.size.1) as u64;
        let kept = 4 * picture.rgb.len() as u64;
        let turned = whole.notes.iter().any(|note| note.contains("orientation"));
        assert!(decoded.memory < file + kept + channels * pixels || turned, "{longest}: {}", decoded.memory);
        let expected = averaged(&whole.picture, picture.width, picture.height);
        let (found, average) = (worst(&picture.rgb, &expected.rgb), mean(&picture.rgb, &expected.rgb));
        assert!(found <= largest && average <= usual, "{} {longest}: {found}, {average}", path.display());
        // The requested picture.
        let (width, height) = (picture.width.div_ceil(4), picture.height.div_ceil(4));
        let small = |picture: &Picture| resize(picture, width, height).unwrap().rgb;
        let found = worst(&small(picture), &small(&expected));
        assert!(found <= wanted, "{} {longest}, wanted: {found}", path.display());
    }
}

#[test]
fn reduced_jpeg_matches_area_means() {
    for name in ["444", "422", "420", "restart", "baseline", "gray", "rgb", "cmyk"] {
        let channels = match name {
            "gray" => 1,
            "cmyk" => 4,
            _ => 3,
        };
        check(&fixture(&format!("large-{name}.jpg")), channels, TOLERANCES);
    }
}

/// The same pixels with different coding.
#[test]
fn progressive_and_baseline_decode_equally() {
    for longest in WANTED {
        let read = |name: &str| read_small(&fixture(name), longest).unwrap().picture;
        let expected = read("large-420.jpg");
        assert_eq!(read("large-restart.jpg"), expected);
        assert_eq!(read("large-baseline.jpg"), expected);
    }
}

/// Returns the positions of the scans of a JPEG.
fn scans(jpeg: &[u8]) -> Vec<usize> {
    jpeg.windows(2).enumerate().filter(|(_, w)| *w == [0xff, 0xda]).map(|(at, _)| at).collect()
}

/// Compares both decoders at full size. A repeated height in the file selects the built-in one.
#[test]
fn both_jpeg_decoders_agree() {
    let dir = folder();
    let path = dir.path().join("repeated.jpg");
    // Two levels: both round the transform, and zune-jpeg also rounds the colour conversion. Subsampled chroma is
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

/// Components in separate scans, a quantization table after the first scan, and luminance coarser than chroma.
#[test]
fn jpegs_misread_by_zune_jpeg_are_correct() {
    let expected = read(&fixture("large-baseline.jpg")).unwrap().picture;
    for name in ["separate", "pair", "late-table"] {
        let found = read(&fixture(&format!("large-{name}.jpg"))).unwrap().picture;
        let (found, average) = (worst(&found.rgb, &expected.rgb), mean(&found.rgb, &expected.rgb));
        assert!(found <= 0.1 && average <= 0.006, "{name}: {found}, {average}");
        check(&fixture(&format!("large-{name}.jpg")), 3, TOLERANCES);
    }
    // The texture is finer than the subsampled luminance, so compare area means.
    let [expected, found] = ["large-444.jpg", "large-coarse-luma.jpg"]
        .map(|name| resize(&read(&fixture(name)).unwrap().picture, 51, 37).unwrap().rgb);
    assert!(worst(&found, &expected) <= 0.06, "{}", worst(&found, &expected));
    assert!(mean(&found, &expected) <= 0.01, "{}", mean(&found, &expected));
    check(&fixture("large-coarse-luma.jpg"), 3, TOLERANCES);
}

/// JPEGs that no decoder here reads, or that would take too long, are refused by name.
#[test]
fn unsupported_jpegs_are_refused_by_name() {
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
    assert!(later.contains("only after the picture"), "{later}");
    // Thirty scans at 16 megapixels.
    let scans = scans(&whole);
    let many = refused(&|bytes| {
        bytes.splice(end..end, whole[scans[0]..scans[1]].repeat(30));
        bytes[frame + 5..frame + 9].copy_from_slice(&[0x10, 0x04, 0x10, 0x04]);
    });
    assert!(many.contains("more than 30 scans at 4100x4100 pixels"), "{many}");
}

/// YCCK inks, RGB with numbered components, and a rotated photo: only the files' metadata differ.
#[test]
fn reduced_jpeg_keeps_colours_and_orientation() {
    let dir = folder();
    let path = dir.path().join("changed.jpg");
    let mut ycck = fs::read(fixture("large-cmyk.jpg")).unwrap();
    let adobe = ycck.windows(5).position(|w| w == b"Adobe").unwrap();
    assert_eq!(ycck[adobe + 11], 0);
    ycck[adobe + 11] = 2;
    fs::write(&path, ycck).unwrap();
    assert!(notes(&read(&path).unwrap()).contains("CMYK"));
    // Out-of-range colours are clamped before averaging there, and after it here.
    check(&path, 4, [0.12, 0.02, 0.04]);
    // Components named R, G and B there are numbered here: the Adobe marker identifies them.
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
    // The orientation also swaps the sides.
    let decoded = read_small(&path, 12).unwrap();
    assert_eq!((decoded.size, decoded.picture.width), ((149, 203), 35));
}

/// Damaged files give an error or the part decoded before the damage, like the full-size decoder.
#[test]
fn damaged_jpegs_decode_partially_or_fail() {
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
            // With an end marker the complete scans before it give a picture.
            let ended = [&whole[..length], b"\xff\xd9"].concat();
            assert_eq!(attempt(&ended, longest).is_ok(), length > scans[0], "{longest} {length}");
        }
        // An unusable scan ends the decoding.
        for scan in &scans[1..] {
            let mut bytes = whole.clone();
            bytes[scan + 40] ^= 0x55;
            assert!(attempt(&bytes, longest).is_ok(), "{longest} {scan}");
        }
        // The first AC scan, with its table, repeated.
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
    // After the first scan, losing fine detail of one component does not affect the others.
    let first = attempt(&[&whole[..scans[1]], b"\xff\xd9"].concat(), 6).unwrap().picture;
    let expected = read_small(&fixture("large-420.jpg"), 6).unwrap().picture;
    assert!(worst(&first.rgb, &expected.rgb) < 0.1);
}

/// The reported memory includes the coefficients of the full-size decoder.
#[test]
fn memory_includes_jpeg_coefficients() {
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
    // The built-in decoder stores the blocks of all components in MCUs of 16x16 pixels, and the lines of a row of MCUs
    // as f32.
    let parts = 13 * 10;
    assert_eq!(besides("large-separate.jpg"), parts * (4 + 1 + 1) * 128 + 3 * 16 * 13 * 16 * 4);
}
