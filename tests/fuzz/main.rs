//! The corpus of the fuzz targets and deterministic mutations of it, through the same readers: no panic, and bounded time
//! and memory. It runs on stable Rust with the other tests; README.md says how to fuzz for longer.
#![cfg(feature = "cli")]

mod memory;
mod mutations;
mod readers;

use memory::{Counting, peak_of};
use mutations::Mutator;
use std::fs::File;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[global_allocator]
static MEMORY: Counting = Counting;

/// The longest that one file may take, in a build that is hardly optimised.
const LONGEST: Duration = Duration::from_secs(2);

/// The most memory that one file may take besides twice its size, in bytes.
const MOST: usize = 256 << 20;

/// Reads a file, and says what is wrong with how it was read.
fn trial(read: fn(&[u8]), bytes: &[u8]) -> Result<(), String> {
    let begun = Instant::now();
    let mut outcome = Ok(());
    let peak = peak_of(|| outcome = catch_unwind(AssertUnwindSafe(|| read(bytes))));
    let time = begun.elapsed();
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

/// The files of a target's corpus, in the order of their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let paths = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    files.sort();
    files
}

/// Reads the corpus of a target, and mutations of each of its files.
fn run(target: &str, read: fn(&[u8])) {
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

/// The trial itself finds what it is for.
#[test]
fn a_fault_of_each_kind_is_found() {
    let problem = |read: fn(&[u8])| trial(read, b"file").unwrap_err();
    assert!(problem(|bytes| assert!(bytes.is_empty(), "words of a panic")).contains("words of a panic"));
    assert!(problem(|_| std::thread::sleep(LONGEST + Duration::from_millis(1))).contains("took 2."));
    let memory = problem(|bytes| drop(black_box(Vec::<u8>::with_capacity(MOST + 2 * bytes.len() + 1))));
    assert!(memory.contains("took 256 MiB"), "{memory}");
    trial(|_| drop(black_box(Vec::<u8>::with_capacity(MOST))), b"file").unwrap();
}
