//! Films written by the library and read back by other decoders.

use super::support::{folder, listing};
use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::AnimationDecoder;
use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::LoopCount;
use neural_mirage::Error;
use neural_mirage::Overwrite;
use neural_mirage::image_io::{Film, FilmOptions, MAX_FRAME_MILLISECONDS, Picture, read, read_metadata};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const ENDINGS: [&str; 3] = ["webp", "gif", "apng"];
pub const SIZES: [(usize, usize); 3] = [(1, 1), (17, 31), (320, 213)];

pub fn noise(seed: u64, (width, height): (usize, usize)) -> Picture {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let rgb = (0..width * height * 3).map(|_| random.random_range(-0.1f32..1.1)).collect();
    Picture::new(width, height, rgb).unwrap()
}

/// Creates a smooth, asymmetric picture of many colours that depends on the seed.
pub fn gradient(seed: u64, (width, height): (usize, usize)) -> Picture {
    let phase = seed as f32 * 0.23;
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let (u, v) = ((x as f32 + 0.5) / width as f32, (y as f32 + 0.5) / height as f32);
            rgb.extend([
                0.5 + 0.5 * (2.0 * u + v + phase).sin(),
                0.5 + 0.4 * (3.0 * v - u + 2.0 * phase).cos(),
                0.9 * u * (1.0 - v) + 0.05,
            ]);
        }
    }
    Picture::new(width, height, rgb).unwrap()
}

/// Returns the expected 8-bit levels.
fn levels(picture: &Picture) -> Vec<u8> {
    picture.rgb.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect()
}

pub struct Shown {
    size: (usize, usize),
    milliseconds: u32,
    levels: Vec<u8>,
}

/// Decodes the frames of a film, composed as a viewer would, and its loop count.
pub fn play(path: &Path) -> (Vec<Shown>, LoopCount) {
    let bytes = Cursor::new(fs::read(path).unwrap());
    let (frames, count) = match path.extension().unwrap().to_str().unwrap() {
        "webp" => {
            let decoder = WebPDecoder::new(bytes).unwrap();
            let count = decoder.loop_count();
            (decoder.into_frames().collect_frames(), count)
        }
        "gif" => {
            let decoder = GifDecoder::new(bytes).unwrap();
            let count = decoder.loop_count();
            (decoder.into_frames().collect_frames(), count)
        }
        _ => {
            let decoder = PngDecoder::new(bytes).unwrap().apng().unwrap();
            let count = decoder.loop_count();
            (decoder.into_frames().collect_frames(), count)
        }
    };
    let shown = frames.unwrap().into_iter().map(|frame| {
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        assert_eq!((frame.left(), frame.top()), (0, 0));
        let buffer = frame.into_buffer();
        assert!(buffer.pixels().all(|p| p[3] == 255), "transparent");
        Shown {
            size: (buffer.width() as usize, buffer.height() as usize),
            milliseconds: numerator / denominator,
            levels: buffer.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        }
    });
    (shown.collect(), count)
}

/// Returns the peak signal-to-noise ratio in dB; infinite for equal pictures.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.len() as f64 / squares).log10()
}

/// Returns means of 4x4 pixels. Dithering is correct on average over a neighbourhood, as perceived by the eye.
fn blurred(levels: &[u8], (width, height): (usize, usize)) -> Vec<u8> {
    let mut out = Vec::new();
    for y in 0..height.saturating_sub(3) {
        for x in 0..width.saturating_sub(3) {
            for c in 0..3 {
                let at = |i: usize| usize::from(levels[((y + i / 4) * width + x + i % 4) * 3 + c]);
                out.push(((0..16).map(at).sum::<usize>() as f64 / 16.0).round() as u8);
            }
        }
    }
    out
}

fn record() -> Vec<(String, String)> {
    vec![
        ("neural-mirage:options".to_owned(), "{\"spatial\":5,\"photo\":\"Tübingen <&>.jpg\"}".to_owned()),
        ("neural-mirage:version".to_owned(), "0.1.0 \u{7f} \"x\" \0 ]]>".to_owned()),
        ("Long".to_owned(), "0123456789é\n".repeat(20_000)),
        ("Empty".to_owned(), String::new()),
    ]
}

pub fn film(path: &Path) -> Film {
    Film::create(path, FilmOptions::default()).unwrap()
}

/// Writes `count` frames and compares them with the frames that a viewer sees.
fn round_trip(
    ending: &str,
    size: (usize, usize),
    count: usize,
    make: fn(u64, (usize, usize)) -> Picture,
) -> f64 {
    let dir = folder();
    let path = dir.path().join(format!("film.{ending}"));
    let options = FilmOptions { hold_last: 1500, ..FilmOptions::default() };
    let mut film = Film::create(&path, options).unwrap();
    let pictures: Vec<Picture> = (0..count as u64).map(|seed| make(seed, size)).collect();
    let times: Vec<u32> = (0..count as u32).map(|i| 40 + 7 * (i % 5)).collect();
    for (picture, time) in pictures.iter().zip(&times) {
        film.frame(picture, *time).unwrap();
        assert!(listing(dir.path()).is_empty(), "no file is visible until the film is finished");
    }
    assert_eq!(film.frames(), count);
    film.finish(record()).unwrap();
    assert_eq!(listing(dir.path()), [format!("film.{ending}")]);

    let context = format!("{ending} {size:?} x{count}");
    let (shown, rounds) = play(&path);
    assert!(matches!(rounds, LoopCount::Infinite), "{context}");
    assert_eq!(shown.len(), count, "{context}");
    assert_eq!(read_metadata(&path).unwrap(), record(), "{context}");
    let originals: Vec<Vec<u8>> = pictures.iter().map(levels).collect();
    let (mut wanted, mut seen) = (0, 0);
    let mut worst = f64::INFINITY;
    for (i, frame) in shown.iter().enumerate() {
        assert_eq!(frame.size, size, "{context}");
        let time = times[i] + if i + 1 == count { 1500 } else { 0 };
        // GIF durations are multiples of 10 ms. The sum is rounded, so a frame's duration is off by less than
        // 10 ms, and the end of every frame by at most 5 ms.
        let (off, off_sum) = if ending == "gif" { (9, 5) } else { (0, 0) };
        (wanted, seen) = (wanted + time, seen + frame.milliseconds);
        assert!(frame.milliseconds.abs_diff(time) <= off, "{context}: {} for {time}", frame.milliseconds);
        assert!(seen.abs_diff(wanted) <= off_sum, "{context}: {seen} for {wanted}");
        let original = &originals[i];
        let here = psnr(&frame.levels, original);
        worst = worst.min(here);
        // Checks the order: no other frame fits better unless it is nearly equal, as single pixels may be.
        for (j, other) in originals.iter().enumerate().filter(|(j, _)| *j != i) {
            let alike = size == (1, 1) && psnr(original, other) > 25.0;
            assert!(alike || psnr(&frame.levels, other) < here, "{context}: frame {i} looks like frame {j}");
        }
    }
    worst
}

/// The bounds are measured values less 0.5 dB for other machines' arithmetic. Lossy WebP at quality 80 halves the
/// colour resolution, which reduces noise of independent colours to 11.3 dB, as in any JPEG-like format; photos are not
/// like that. GIF has 256 colours and dithering, which lowers the signal-to-noise ratio but keeps tones (see
/// `dithering_keeps_tones`).
#[test]
fn every_format_keeps_frames_durations_and_metadata() {
    for (ending, size, noisy, smooth) in [
        ("webp", SIZES[0], 41.2, 42.4),
        ("webp", SIZES[1], 10.8, 34.9),
        ("webp", SIZES[2], 10.9, 42.4),
        ("gif", SIZES[0], f64::INFINITY, f64::INFINITY),
        ("gif", SIZES[1], 29.2, 37.4),
        ("gif", SIZES[2], 24.7, 33.3),
        ("apng", SIZES[0], f64::INFINITY, f64::INFINITY),
        ("apng", SIZES[1], f64::INFINITY, f64::INFINITY),
        ("apng", SIZES[2], f64::INFINITY, f64::INFINITY),
    ] {
        // Durations repeat after five frames.
        for count in [1, 2, if size == SIZES[2] { 7 } else { 23 }] {
            for (name, bound, make) in
                [("noise", noisy, noise as fn(u64, _) -> _), ("gradient", smooth, gradient)]
            {
                let worst = round_trip(ending, size, count, make);
                assert!(worst >= bound, "{ending} {size:?} x{count} {name}: {worst:.2} dB < {bound} dB");
            }
        }
    }
}

#[test]
fn dithering_keeps_tones() {
    let dir = folder();
    let path = dir.path().join("a.gif");
    let picture = gradient(1, SIZES[2]);
    let mut film = film(&path);
    film.frame(&picture, 100).unwrap();
    film.finish(vec![]).unwrap();
    let shown = play(&path).0.remove(0);
    let found = psnr(&blurred(&shown.levels, SIZES[2]), &blurred(&levels(&picture), SIZES[2]));
    // Measured: 47.8 dB, against 35.6 dB pixel by pixel.
    assert!(found >= 46.0, "{found:.2} dB");
}

/// A reader that skips blocks without knowing XMP must reach exactly the end of the file.
#[test]
fn gif_blocks_parse_to_the_end() {
    let dir = folder();
    let path = dir.path().join("a.gif");
    let texts = [vec![], record(), vec![("k".to_owned(), "ÿ\u{10ffff}~".repeat(300))]];
    for (texts, extensions) in texts.into_iter().zip([1, 2, 2]) {
        let options = FilmOptions { overwrite: Overwrite::Always, ..FilmOptions::default() };
        let mut film = Film::create(&path, options).unwrap();
        for seed in 0..3 {
            film.frame(&noise(seed, SIZES[1]), 50).unwrap();
        }
        film.finish(texts).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"GIF89a\x11\0\x1f\0"));
        let palette = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
        let mut at = 13 + palette(bytes[10]);
        let (mut frames, mut application) = (0, 0);
        loop {
            let kind = bytes[at];
            match kind {
                0x21 => {
                    application += usize::from(bytes[at + 1] == 0xff);
                    at += 2;
                }
                0x2c => {
                    frames += 1;
                    at += 10 + palette(bytes[at + 9]) + 1;
                }
                0x3b => break,
                other => panic!("a block of kind {other} at {at}"),
            }
            while bytes[at] != 0 {
                at += 1 + usize::from(bytes[at]);
            }
            at += 1;
        }
        assert_eq!((at + 1, frames, application), (bytes.len(), 3, extensions));
    }
}

#[test]
fn gif_with_few_colours_is_exact() {
    let dir = folder();
    let path = dir.path().join("a.gif");
    for colours in [2usize, 3, 255, 256] {
        let rgb = (0..40 * 30)
            .flat_map(|i| {
                let n = i * 7 % colours;
                [n as f32 / 255.0, (n * 3 % 256) as f32 / 255.0, (n / 2) as f32 / 255.0]
            })
            .collect();
        let picture = Picture::new(40, 30, rgb).unwrap();
        let options = FilmOptions { overwrite: Overwrite::Always, ..FilmOptions::default() };
        let mut film = Film::create(&path, options).unwrap();
        film.frame(&picture, 100).unwrap();
        film.finish(vec![]).unwrap();
        assert_eq!(play(&path).0[0].levels, levels(&picture), "{colours} colours");
    }
}

#[test]
fn equal_consecutive_frames_are_merged() {
    for ending in ENDINGS {
        let dir = folder();
        let path = dir.path().join(format!("a.{ending}"));
        let mut film = Film::create(&path, FilmOptions { hold_last: 0, ..FilmOptions::default() }).unwrap();
        let (a, b) = (gradient(0, (12, 9)), gradient(5, (12, 9)));
        // Frames equal in 8 bits count as equal.
        let mut nearly = a.clone();
        nearly.rgb.iter_mut().for_each(|v| *v = (*v * 255.0).round() / 255.0);
        for picture in [&a, &nearly, &a, &b, &a] {
            film.frame(picture, 50).unwrap();
        }
        // Longer than the maximum duration of a frame: two frames.
        film.frame(&a, MAX_FRAME_MILLISECONDS).unwrap();
        assert_eq!(film.frames(), 4);
        film.finish(vec![]).unwrap();
        let times: Vec<u32> = play(&path).0.iter().map(|f| f.milliseconds).collect();
        assert_eq!(times, [150, 50, 50, MAX_FRAME_MILLISECONDS], "{ending}");
    }
}

#[test]
fn dropped_frames_leave_no_trace() {
    for ending in ENDINGS {
        let dir = folder();
        let pictures: Vec<_> = (0..5).map(|seed| gradient(seed, (12, 9))).collect();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(format!("{name}.{ending}")));
        let mut film = Film::create(&one, FilmOptions::default()).unwrap();
        let mut marks = vec![film.mark()];
        // The second picture is repeated, which extends its time.
        for picture in [0, 1, 1, 2, 3].map(|index: usize| &pictures[index]) {
            film.frame(picture, 50).unwrap();
            marks.push(film.mark());
        }
        assert_eq!(film.frames(), 4);
        film.return_to(marks[5]);
        assert_eq!(film.frames(), 4);
        film.return_to(marks[2]);
        assert_eq!(film.frames(), 2);
        // The dropped frame may be added again.
        film.frame(&pictures[4], 70).unwrap();
        film.finish(vec![]).unwrap();
        let mut film = Film::create(&other, FilmOptions::default()).unwrap();
        for (picture, time) in [(0, 50), (1, 50), (4, 70)] {
            film.frame(&pictures[picture], time).unwrap();
        }
        film.finish(vec![]).unwrap();
        assert!(std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap(), "{ending}");
        // A film of which all frames were dropped can go on.
        let mut film =
            Film::create(&dir.path().join(format!("none.{ending}")), FilmOptions::default()).unwrap();
        let empty = film.mark();
        film.frame(&pictures[0], 50).unwrap();
        film.return_to(empty);
        film.frame(&pictures[1], 50).unwrap();
        film.finish(vec![]).unwrap();
    }
}

#[test]
fn longest_durations_fit_every_format() {
    for ending in ENDINGS {
        let dir = folder();
        let path = dir.path().join(format!("a.{ending}"));
        let options = FilmOptions { hold_last: MAX_FRAME_MILLISECONDS, ..FilmOptions::default() };
        let mut film = Film::create(&path, options).unwrap();
        film.frame(&gradient(0, (5, 4)), 1).unwrap();
        film.frame(&gradient(5, (5, 4)), MAX_FRAME_MILLISECONDS).unwrap();
        film.finish(vec![]).unwrap();
        let times: Vec<u32> = play(&path).0.iter().map(|f| f.milliseconds).collect();
        // GIF: at least 20 ms, because browsers treat less as 100 ms. The next frame compensates.
        let expected = if ending == "gif" {
            [20, 2 * MAX_FRAME_MILLISECONDS - 20]
        } else {
            [1, 2 * MAX_FRAME_MILLISECONDS]
        };
        assert_eq!(times, expected, "{ending}");
    }
}

#[test]
fn films_can_be_read_as_pictures() {
    let dir = folder();
    for ending in ENDINGS {
        let path = dir.path().join(format!("a.{ending}"));
        let mut film = film(&path);
        film.frame(&gradient(0, (12, 9)), 50).unwrap();
        film.frame(&gradient(5, (12, 9)), 50).unwrap();
        film.finish(vec![]).unwrap();
        assert_eq!(read_metadata(&path).unwrap(), [], "{ending}");
        let decoded = read(&path).unwrap();
        assert_eq!(decoded.notes, ["animation: only the first of 2 frames is used"], "{ending}");
        let found = psnr(&levels(&decoded.picture), &levels(&gradient(0, (12, 9))));
        assert!(found > 30.0, "{ending}: {found:.2} dB");
    }
}

#[test]
fn damaged_gifs_are_reported() {
    let dir = folder();
    let path = dir.path().join("a.gif");
    let mut film = film(&path);
    film.frame(&gradient(0, (12, 9)), 50).unwrap();
    film.finish(record()).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in [6, 10, 13, 40, 60, 500] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = read_metadata(&path).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{length}: {error}");
    }
}
