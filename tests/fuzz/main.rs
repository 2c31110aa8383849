//! The corpus of the fuzz targets and deterministic mutations of it, through the same readers: no panic, and bounded time
//! and memory. It runs on stable Rust with the other tests; README.md says how to fuzz for longer.
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

/// The longest that one file may take, in a build that is hardly optimised.
const LONGEST: Duration = Duration::from_secs(2);

/// The most memory that one file may take besides twice its size, in bytes.
const MOST: usize = 256 << 20;

/// The time that this thread has computed: other tests, and other programs, don't count.
#[cfg(unix)]
fn time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is one of the system's, and the place is this function's own.
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

/// Reads a file, and says what is wrong with how it was read.
fn trial(read: Reader, bytes: &[u8]) -> Result<(), String> {
    let begun = time();
    let mut outcome = Ok(());
    let peak = peak_of(|| outcome = catch_unwind(AssertUnwindSafe(|| read(bytes))));
    let time = time() - begun;
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

/// Shaders of the program that are a part of the corpus: short and long ones, of each kind.
const SHADERS: [&str; 6] = ["add", "border", "channel_moments", "flatten", "softmax", "winograd_output"];

/// The files of a target's corpus, in the order of their paths, with those that the project has anyway.
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

/// Reads the corpus of a target, and mutations of each of its files.
fn run(target: &str, read: Reader) {
    let files = corpus(target);
    assert!(files.len() > 1, "the corpus of {target} is missing");
    let contents: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    // Still there if a trial ends the process.
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

        /// A target that is added to one of the two has to be in the other.
        #[test]
        fn each_target_has_its_corpus_and_the_other_way_round() {
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
fn the_largest_files_are_within_the_limits() {
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

/// The trial itself finds what it is for.
#[test]
fn a_fault_of_each_kind_is_found() {
    let problem = |read: Reader| trial(read, b"file").unwrap_err();
    assert!(problem(|bytes| assert!(bytes.is_empty(), "words of a panic")).contains("words of a panic"));
    assert!(
        problem(|_| {
            let begun = time();
            while time() - begun <= LONGEST {}
        })
        .contains("took 2.")
    );
    let memory = problem(|bytes| drop(black_box(Vec::<u8>::with_capacity(MOST + 2 * bytes.len() + 1))));
    assert!(memory.contains("took 256 MiB"), "{memory}");
    trial(|_| drop(black_box(Vec::<u8>::with_capacity(MOST))), b"file").unwrap();
}
