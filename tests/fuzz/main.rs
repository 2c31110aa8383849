//! Feeds the corpus of the fuzz targets, and deterministic mutations of it, to the readers: no panic, bounded time and
//! memory. Runs on stable Rust with the other tests. README.md describes longer fuzzing.
#![cfg(feature = "cli")]

#[path = "../common/crc.rs"]
mod crc;
mod largest;
mod memory;
mod mutations;
mod readers;

use memory::{Counting, peak_of};
use mutations::Mutator;
use std::fs::File;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[global_allocator]
static MEMORY: Counting = Counting;

/// The time limit for one file, in a barely optimised build.
const LONGEST: Duration = Duration::from_secs(2);

/// The memory limit for one file in bytes, in addition to twice its size.
const MOST: usize = 256 << 20;

/// Returns the CPU time of this thread, which excludes other tests and programs.
#[cfg(unix)]
fn time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock id is valid, and `time` is a local variable.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn time() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// One of [`readers`].
type Reader = fn(&[u8]);

/// Runs a reader on a file's bytes. Errors describe a panic or an exceeded limit.
fn trial(read: Reader, bytes: &[u8]) -> Result<(), String> {
    let start = time();
    let mut outcome = Ok(());
    let peak = peak_of(|| outcome = catch_unwind(AssertUnwindSafe(|| read(bytes))));
    let time = time() - start;
    if let Err(panic) = outcome {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        return Err(format!("panicked: {}", words.unwrap_or_default()));
    }
    if time > LONGEST {
        return Err(format!("took {time:?}"));
    }
    if peak > 2 * bytes.len() + MOST {
        return Err(format!("took {} MiB", peak >> 20));
    }
    Ok(())
}

/// Built-in shaders that are part of the corpus: short and long ones of each kind.
const SHADERS: [&str; 6] = ["add", "border", "channel_moments", "flatten", "softmax", "winograd_output"];

/// Returns the files of a target's corpus, including suitable files of the project, sorted by path.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = all(root.join("tests/fuzz/corpus").join(target)).collect();
    match target {
        "image" => paths.extend(all(root.join("tests/images"))),
        "shader" => paths.extend(SHADERS.map(|name| root.join(format!("shaders/{name}.wgsl")))),
        _ => {}
    }
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Tests a reader on the corpus of a target and mutations of each file.
fn run(target: &str, read: Reader) {
    let files = corpus(target);
    assert!(files.len() > 1, "the corpus of {target} is missing");
    let contents: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    // This file remains if a trial crashes the process.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
    let mut kept_file = File::create(&kept).unwrap();
    for (seed, (path, bytes)) in (0..).zip(&files) {
        let mut mutator = Mutator::new(seed, &contents);
        let count = (1 << 20) / bytes.len().max(1);
        let mutated = (0..count.clamp(4, 400)).map(|_| mutator.mutated(bytes));
        for (number, bytes) in std::iter::once(bytes.clone()).chain(mutated).enumerate() {
            readers::put(&mut kept_file, &bytes).unwrap();
            if let Err(problem) = trial(read, &bytes) {
                panic!("{}, mutation {number}, kept as {}: {problem}", path.display(), kept.display());
            }
        }
    }
    std::fs::remove_file(kept).unwrap();
}

macro_rules! targets {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            run(stringify!($target), readers::$target);
        })*

        /// Targets must be both in `fuzz_targets` and in the list here.
        #[test]
        fn listed_targets_match_fuzz_targets_folder() {
            let mut found: Vec<String> = Vec::new();
            for entry in std::fs::read_dir("tests/fuzz/fuzz_targets").unwrap() {
                found.push(entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
            }
            found.sort();
            let mut listed = vec![$(stringify!($target)),*];
            listed.sort_unstable();
            assert_eq!(found, listed);
        }
    };
}

targets! { weights checkpoint record image configuration shader npy }

#[test]
fn largest_files_stay_within_limits() {
    let file = |target: &str, name: &str| {
        std::fs::read(Path::new("tests/fuzz/corpus").join(target).join(name)).unwrap()
    };
    let mut files: Vec<(&str, Reader, Vec<u8>)> = vec![
        ("checkpoint", readers::checkpoint, largest::checkpoint(&file("checkpoint", "saved.safetensors"))),
        ("record", readers::record, largest::record(&file("record", "options.png"))),
        ("npy", readers::npy, largest::npy()),
    ];
    files.extend(largest::weights().into_iter().map(|bytes| ("weights", readers::weights as Reader, bytes)));
    files.extend(largest::shader().into_iter().map(|bytes| ("shader", readers::shader as Reader, bytes)));
    files.extend(largest::jpeg().into_iter().map(|bytes| ("image", readers::large_image as Reader, bytes)));
    let configuration = largest::configuration().into_iter();
    files.extend(configuration.map(|bytes| ("configuration", readers::configuration as Reader, bytes)));
    let faults: Vec<String> = files
        .iter()
        .filter_map(|(target, read, bytes)| Some(format!("{target}: {}", trial(*read, bytes).err()?)))
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
}

/// Checks that [`trial`] detects each kind of fault.
#[test]
fn trial_detects_panic_time_and_memory() {
    let problem = |read: Reader| trial(read, b"file").unwrap_err();
    assert!(problem(|bytes| assert!(bytes.is_empty(), "words of a panic")).contains("words of a panic"));
    assert!(
        problem(|_| {
            let start = time();
            while time() - start <= LONGEST {}
        })
        .contains("took 2.")
    );
    let memory = problem(|bytes| drop(black_box(Vec::<u8>::with_capacity(MOST + 2 * bytes.len() + 1))));
    assert!(memory.contains("took 256 MiB"), "{memory}");
    trial(|_| drop(black_box(Vec::<u8>::with_capacity(MOST))), b"file").unwrap();
}
