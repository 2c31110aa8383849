//! Writing picture files.

use super::support::{encoded, folder, listing, notes, photo, read_bytes, refusal, values, worst};
use image::ImageFormat;
use neural_mirage::Error;
use neural_mirage::Overwrite;
use neural_mirage::image_io::{
    BitDepth, Picture, WriteOptions, check_writable, fit, read, read_metadata, resize, write,
};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

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

#[test]
fn round_trips_in_every_format_and_depth() {
    let dir = folder();
    let image = photo(45, 31);
    let picture = Picture::new(45, 31, values(&image)).unwrap();
    for (extension, bit_depth) in FORMATS {
        for metadata in [record(), Vec::new()] {
            let path = dir.path().join(format!("ein bild ünd 🦩.{extension}"));
            let options =
                WriteOptions { bit_depth, metadata, overwrite: Overwrite::Always, ..WriteOptions::default() };
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
        let options = WriteOptions { overwrite: Overwrite::Always, ..WriteOptions::default() };
        let error = write(&path, &picture, &options).unwrap_err();
        assert!(error.to_string().contains("NaN") && error.to_string().contains("1,0"), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
    assert_eq!(fs::read(&path).unwrap(), before, "the old file was changed");
    assert_eq!(listing(dir.path()), ["x.png"], "a temporary file was left behind");
}

#[test]
fn existing_file_is_kept_without_overwrite() {
    let dir = folder();
    let path = dir.path().join("x.png");
    fs::write(&path, "precious").unwrap();
    let picture = Picture::new(1, 1, vec![0.5; 3]).unwrap();
    let refuse = WriteOptions::default();
    for result in [check_writable(&path, &refuse), write(&path, &picture, &refuse).map(drop)] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("exists already") && error.exit_code() == 2, "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let allow = WriteOptions { overwrite: Overwrite::Always, ..refuse };
    check_writable(&path, &allow).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"precious", "the check changed the file");
    write(&path, &picture, &allow).unwrap();
    assert!(read(&path).is_ok());
    assert_eq!(listing(dir.path()), ["x.png"]);
}

#[test]
fn unwritable_paths_are_refused() {
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
            write(&dir.path().join(name), &picture, options).map(drop),
        ] {
            let error = result.unwrap_err();
            assert!(error.to_string().contains(expected), "{name}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
    assert_eq!(listing(dir.path()), ["file", "folder.png"], "a file was left behind");
    for options in [
        WriteOptions { jpeg_quality: 0, ..eight.clone() },
        WriteOptions { jpeg_quality: 101, ..eight.clone() },
        WriteOptions { metadata: vec![("no\nkey".into(), String::new())], ..eight.clone() },
    ] {
        assert!(matches!(check_writable(&dir.path().join("x.jpg"), &options), Err(Error::Usage(_))));
    }
}

#[test]
fn webp_size_limit_is_enforced() {
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
fn new_files_have_default_permissions() {
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
fn symbolic_links_are_followed() {
    let dir = folder();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    let (real, link) = (dir.path().join("elsewhere/real.png"), dir.path().join("link.png"));
    fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let picture = Picture::new(1, 1, vec![0.5; 3]).unwrap();
    assert!(write(&link, &picture, &WriteOptions::default()).is_err(), "it exists");
    write(&link, &picture, &WriteOptions { overwrite: Overwrite::Always, ..WriteOptions::default() })
        .unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(read(&real).is_ok());
    // A dangling link counts as existing.
    let dangling = dir.path().join("dangling.png");
    std::os::unix::fs::symlink(dir.path().join("nowhere.png"), &dangling).unwrap();
    assert!(write(&dangling, &picture, &WriteOptions::default()).is_err());
}

#[cfg(target_os = "linux")]
#[test]
fn non_unicode_paths_work() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = folder();
    let path = dir.path().join(OsStr::from_bytes(b"caf\xe9 \xff.png"));
    let picture = Picture::new(1, 1, vec![1.0, 0.0, 1.0]).unwrap();
    write(&path, &picture, &WriteOptions::default()).unwrap();
    assert_eq!(read(&path).unwrap().picture, picture);
    assert!(!refusal(read(&dir.path().join(OsStr::from_bytes(b"\xff\xfe")))).is_empty());
}

#[test]
fn missing_metadata_reads_as_empty() {
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
fn read_resize_write_round_trip() {
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
