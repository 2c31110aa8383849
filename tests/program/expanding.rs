//! Small files that expand to exhaust memory or time, and endless files, are refused quickly.

use crate::support::Place;
use assert_cmd::Command;
use png::text_metadata::ITXtChunk;
use predicates::prelude::*;
use predicates::str::contains as says;
use std::borrow::Cow;
use std::time::Duration;

/// Returns a command that runs the program with limited address space (in MiB), beyond which it would be aborted.
fn within(place: &Place, mebibytes: u32, words: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -v {}; exec \"$0\" \"$@\"", mebibytes * 1024);
    command.args(["-c", &limited]).arg(assert_cmd::cargo::cargo_bin!("mirage")).args(words);
    command.current_dir(place.path("")).env_remove("MIRAGE_WEIGHTS").timeout(Duration::from_secs(20));
    command.env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent");
    command
}

/// Creates a PNG of 60x40 pixels, with metadata added by `fill`.
fn png(fill: impl FnOnce(&mut png::Info<'_>)) -> Vec<u8> {
    let mut info = png::Info::with_size(60, 40);
    (info.color_type, info.bit_depth) = (png::ColorType::Rgb, png::BitDepth::Eight);
    fill(&mut info);
    let mut bytes = Vec::new();
    let mut writer = png::Encoder::with_info(&mut bytes, info).unwrap().write_header().unwrap();
    writer.write_image_data(&[90; 60 * 40 * 3]).unwrap();
    writer.finish().unwrap();
    bytes
}

#[cfg(unix)]
#[test]
fn expanding_texts_and_profiles_are_refused() {
    let place = Place::new();
    let text = |size: usize| {
        let mut chunk = ITXtChunk::new("neural-mirage:options", "1".repeat(size));
        chunk.compressed = true;
        chunk.compress_text().unwrap();
        chunk
    };
    // One chunk of 600 MiB, and twenty of 30 MiB.
    for (name, chunks) in [("one.png", vec![text(600 << 20)]), ("many.png", vec![text(30 << 20); 20])] {
        let bytes = png(|info| info.utf8_text = chunks);
        place.file(name, &bytes);
        within(&place, 450, &["show", name]).assert().code(2).stderr(says("damaged"));
        within(&place, 450, &["sweep", "--continue", name]).assert().code(2).stderr(says("damaged"));
        // The text is ignored when it is read as a photo.
        within(&place, 450, &["render", name, "-o", "no/folder.png"]).assert().code(2).stderr(says("no"));
    }
    let profile = png(|info| info.icc_profile = Some(Cow::Owned(vec![0; 600 << 20])));
    assert!(profile.len() < 8 << 20, "{} bytes", profile.len());
    place.file("profile.png", &profile);
    within(&place, 450, &["render", "profile.png", "-o", "no/folder.png"])
        .assert()
        .code(2)
        .stderr(says("no/folder.png").and(says("abort").not()));
    within(&place, 450, &["show", "profile.png"]).assert().code(2).stderr(says("no record"));
}

/// Even a short text takes many times its size in memory.
#[cfg(unix)]
#[test]
fn million_texts_are_refused() {
    let place = Place::new();
    let plain = png(|_| {});
    let (start, rest) = plain.split_at(33);
    // A chunk of eight bytes with a valid checksum.
    let one = png(|info| info.utf8_text = vec![ITXtChunk::new("k", "x")]);
    let at = one.windows(4).position(|w| w == b"iTXt").unwrap() - 4;
    let length = u32::from_be_bytes(*one[at..].first_chunk().unwrap()) as usize + 12;
    place.file("texts.png", &[start, &one[at..at + length].repeat(1_000_000), rest].concat());
    within(&place, 300, &["show", "texts.png"]).assert().code(2).stderr(says("1000000 texts"));
    // The text is ignored when it is read as a photo.
    within(&place, 450, &["render", "texts.png", "-o", "no/folder.png"])
        .assert()
        .code(2)
        .stderr(says("no/f"));
}

#[cfg(unix)]
#[test]
fn declared_size_beyond_data_is_refused() {
    let place = Place::new();
    let mut jpeg = crate::support::jpeg(64, 64);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x3f, 0xff, 0x3f, 0xff]);
    place.file("claim.jpg", &jpeg);
    within(&place, 450, &["render", "claim.jpg", "-o", "o.png"]).assert().code(2).stderr(says("bytes"));
    // 16383x16383 pixels of one colour, in 40 bytes.
    let webp = [
        &b"RIFF\x1c\0\0\0WEBPVP8L\x0f\0\0\0\x2f"[..],
        &(16_382u32 | 16_382 << 14).to_le_bytes(),
        b"\x07\x10\x11\x11\x88\x88\xfe\x07\0\0\0",
    ]
    .concat();
    place.file("claim.webp", &webp);
    within(&place, 450, &["render", "claim.webp", "-o", "o.png"]).assert().code(2).stderr(says("bytes"));
    // A frame of one pixel on a screen of 16,000.
    let mut gif = Vec::new();
    let mut encoder = gif::Encoder::new(&mut gif, 1, 1, &[0, 0, 0]).unwrap();
    encoder.write_frame(&gif::Frame::from_indexed_pixels(1, 1, vec![0], None)).unwrap();
    drop(encoder);
    gif[6..10].copy_from_slice(&[0x80, 0x3e, 0x80, 0x3e]);
    place.file("claim.gif", &gif);
    within(&place, 450, &["render", "claim.gif", "-o", "o.png"]).assert().code(2).stderr(says("bytes"));
}

#[cfg(unix)]
#[test]
fn pipes_and_endless_files_are_refused() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let weights = place.network();
    let weights = weights.to_str().unwrap();
    place.file("add.wgsl", crate::kernels_run::SAXPY.as_bytes());
    let made = std::process::Command::new("mkfifo").arg(place.path("pipe")).status();
    assert!(made.unwrap().success());
    for path in ["pipe", "/dev/zero", "/"] {
        let mut commands = vec![
            vec!["render", path],
            vec!["render", "photo.png", "--weights", path],
            vec!["render", "photo.png", "--weights", weights, "--labels", path],
            vec!["render", "photo.png", "--weights", weights, "--init", path],
            vec!["render", "photo.png", "--weights", weights, "--style-image", path],
            vec!["classify", path],
            vec!["weights", path],
            vec!["resume", path],
            vec!["show", path],
            vec!["sweep", "--continue", path],
            vec!["kernels", "run", path],
            vec!["kernels", "run", "add.wgsl", "--input", "x=zeros:4"],
        ];
        let (input, tensor) = (format!("x={path}"), format!("x={path}:name"));
        commands.last_mut().unwrap()[4] = &input;
        commands.push(vec!["kernels", "run", "add.wgsl", "--input", &tensor]);
        for words in commands {
            // Unbounded reading would exhaust memory or time.
            let said = within(&place, 1500, &words).assert().code(2);
            assert!(said.get_output().stderr.len() > 20, "{words:?}");
        }
    }
    assert!(!place.path("photo-mirage.png").exists());
}

#[cfg(unix)]
#[test]
fn huge_headers_and_files_are_refused() {
    let place = Place::new();
    let sparse = |name: &str, start: &[u8], length: u64| {
        let path = place.file(name, start);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
    };
    let length = 40u64 << 30;
    sparse("huge.safetensors", &[&(length - 8).to_le_bytes()[..], b"{"].concat(), length);
    sparse("large.safetensors", &[&(20_000_000u64).to_le_bytes()[..], b"{"].concat(), 100_000_000);
    for name in ["huge.safetensors", "large.safetensors"] {
        let too_large = says("header").or(says("4 GiB"));
        within(&place, 450, &["weights", name]).assert().code(2).stderr(too_large);
        within(&place, 450, &["resume", name]).assert().code(2).stderr(says("header"));
    }
    sparse("huge.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", length);
    place.file("add.wgsl", crate::kernels_run::SAXPY.as_bytes());
    for input in ["x=huge.npy", "x=huge.safetensors:a"] {
        within(&place, 450, &["kernels", "run", "add.wgsl", "--input", input])
            .assert()
            .code(2)
            .stderr(says("header"));
    }
    // A short header, followed by all the data that it declares.
    let head = "{'descr': '<f4', 'fortran_order': False, 'shape': (500000000,)}".as_bytes();
    let npy = [&b"\x93NUMPY\x01\x00"[..], &(head.len() as u16).to_le_bytes(), head].concat();
    sparse("much.npy", &npy, npy.len() as u64 + 2_000_000_000);
    let head = br#"{"a":{"dtype":"F32","shape":[500000000],"data_offsets":[0,2000000000]}}"#;
    let tensor = [&(head.len() as u64).to_le_bytes()[..], head].concat();
    sparse("much.safetensors", &tensor, tensor.len() as u64 + 2_000_000_000);
    for input in ["x=much.npy", "x=much.safetensors:a"] {
        within(&place, 450, &["kernels", "run", "add.wgsl", "--input", input])
            .assert()
            .code(2)
            .stderr(says("not enough memory"));
    }
    // A network of 5 GB: its hash alone would take half a minute.
    let head = br#"{"a":{"dtype":"F32","shape":[1250000000],"data_offsets":[0,5000000000]}}"#;
    let network = [&(head.len() as u64).to_le_bytes()[..], head].concat();
    sparse("network.safetensors", &network, network.len() as u64 + 5_000_000_000);
    within(&place, 450, &["weights", "network.safetensors"]).assert().code(2).stderr(says("4 GiB"));
    sparse("huge.png", b"\x89PNG\r\n\x1a\n", length);
    within(&place, 450, &["render", "huge.png"]).assert().code(2).stderr(says("2 GiB"));
    sparse("huge.txt", b"cat", length);
    place.photo("photo.png", 64, 48);
    let weights = place.network();
    let words = ["render", "photo.png", "--weights", weights.to_str().unwrap(), "--labels", "huge.txt"];
    within(&place, 450, &words).assert().code(2).stderr(says("huge.txt"));
    sparse("huge.wgsl", b"// ", length);
    within(&place, 450, &["kernels", "run", "huge.wgsl"]).assert().code(2).stderr(says("huge.wgsl"));
}

/// A run whose memory was available when planned, but can't be allocated.
#[cfg(unix)]
#[test]
fn failed_allocation_is_reported() {
    let place = Place::new();
    place.photo("photo.png", 64, 64);
    place.network();
    let words = "render photo.png --weights net.safetensors --size 2048 --scales 1 --iterations 1 --adapter cpu -o o.png";
    let mut run = within(&place, 400, &words.split(' ').collect::<Vec<_>>());
    run.env("RUST_BACKTRACE", "0").assert().code(1).stderr(says("mirage: there is not enough memory"));
    assert!(!place.path("o.png").exists());
}

/// Shaders that crash compilers or exhaust their memory.
#[cfg(unix)]
#[test]
fn too_deep_or_large_shaders_are_refused() {
    let place = Place::new();
    let body = |inside: &str| {
        format!(
            "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1) fn main() {{ let a = y[0]; {inside} }}"
        )
    };
    let n = 20_000;
    for (name, text, words) in [
        ("sum", body(&format!("y[0] = {}a;", "a+".repeat(n))), "nested too deep"),
        ("minus", body(&format!("y[0] = {}1.0;", "- ".repeat(n))), "nested too deep"),
        ("brackets", body(&format!("y[0] = {}a{};", "(".repeat(n), ")".repeat(n))), "nested too deep"),
        ("blocks", body(&format!("{}{}", "{".repeat(n), "}".repeat(n))), "nested too deep"),
        ("else", body(&format!("if a > 0.0 {{}} {}", "else if a > 1.0 {} ".repeat(n))), "nested too deep"),
        (
            "aliases",
            (1..200).map(|i| format!("alias T{i} = array<T{}, 1>;\n", i - 1)).collect::<String>()
                + "alias T0 = f32;\nvar<private> v: T199;\n"
                + &body("v = T199(); y[0] = 1.0;"),
            "nested more than 60 deep",
        ),
        (
            "private",
            "var<private> v: array<f32, 200000000>;\n".to_owned() + &body("v[u32(a)] = 1.0; y[0] = v[1];"),
            "bytes in each invocation",
        ),
        (
            "local",
            body("var v: array<array<f32, 1000>, 1000>; v[u32(a)][1] = a; y[0] = v[1][2];"),
            "bytes in each invocation",
        ),
        ("value", body("y[0] = array<f32, 100000000>()[u32(a)];"), "bytes in each invocation"),
        (
            "unroll",
            body("\n// unroll\nfor (var i = 0u; i < 4000000000u; i++) { y[0] += 1.0; }\n"),
            "unrolled",
        ),
        ("long", body("y[0] = 1.0;") + &" ".repeat(2 << 20), "bytes"),
    ] {
        let file = format!("{name}.wgsl");
        place.file(&file, text.as_bytes());
        within(&place, 1500, &["kernels", "run", &file, "--output", "o.npy:1", "--unroll"])
            .assert()
            .code(2)
            .stderr(says(words));
    }
    assert!(!place.path("o.npy").exists());
}
