//! Reads the pictures of a run, names its files, and writes its output.

use super::disk::{ReadFile, is_same};
use super::rescue::{not_saved, rescue};
use crate::cli::args::FileArgs;
use crate::cli::output::escape::shown;
use crate::cli::own_files::{Owner, owner, owner_of_picture};
use crate::cli::values::AlphaArg;
use crate::error::{Error, Result};
use crate::files::{self, Overwrite, check_is_no_folder, check_name, parent};
use crate::image_io::{self, Alpha, Decoded, Picture, ReadOptions, WriteOptions};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Minimum length of a photo's shorter side, in pixels.
const SMALLEST_PHOTO: usize = 16;
/// Minimum number of digits in snapshot names, so that they sort by iteration.
const DIGITS: usize = 4;

/// Returns the options for reading a picture that is needed with at most `longest` pixels a side.
pub(in crate::cli) fn reading(longest: usize, alpha: AlphaArg) -> ReadOptions {
    ReadOptions { longest: Some(longest), background: alpha.background(), ..ReadOptions::default() }
}

/// A picture that was read.
#[derive(Debug)]
pub(in crate::cli) struct Loaded {
    /// The picture, at the size of the run.
    pub picture: Picture,
    /// Its alpha, if it is not opaque everywhere.
    pub alpha: Option<Alpha>,
    /// Width and height in its file, in pixels.
    pub stored: (usize, usize),
    /// Peak memory of reading it, in bytes.
    pub memory: u64,
}

/// Reads a photo and fits it to the size of the run. Adds notes on changes to `notes`.
pub(in crate::cli) fn load(path: &Path, options: &ReadOptions, notes: &mut Vec<String>) -> Result<Loaded> {
    let Decoded { picture, alpha, size: stored, memory, .. } = read(path, options, notes)?;
    let (width, height) = stored;
    if width.min(height) < SMALLEST_PHOTO {
        return Err(Error::file(
            path,
            format!("the picture is only {width}x{height} pixels"),
            format!("Use one with at least {SMALLEST_PHOTO} pixels a side"),
        ));
    }
    let (width, height) = image_io::fit(width, height, options.longest.unwrap_or(width.max(height)));
    let alpha = alpha.map(|alpha| alpha.resize(width, height)).transpose()?;
    // Width is resized before height: beside the picture there is one with the new width and the old height.
    let resized = (picture.rgb.len() + 3 * width * picture.height + 3 * width * height) as u64 * 4;
    let picture = image_io::resize(&picture, width, height)?;
    Ok(Loaded { picture, alpha, stored, memory: memory.max(resized) })
}

/// Reads a picture to start from and fits it to the photo's shape, at most at the size of the run. A smaller one is not
/// enlarged: it may have been painted at the size of a scale.
pub(in crate::cli) fn load_start(
    path: &Path,
    (width, height): (usize, usize),
    alpha: AlphaArg,
    notes: &mut Vec<String>,
) -> Result<Picture> {
    let Decoded { picture, size, .. } = read(path, &reading(width.max(height), alpha), notes)?;
    let (width, height) = image_io::fit(width, height, width.max(height).min(size.0.max(size.1)));
    if size == (width, height) {
        return Ok(picture);
    }
    notes.push(format!("{}: resized from {}x{} to {width}x{height}", shown(&path), size.0, size.1));
    image_io::resize(&picture, width, height)
}

fn read(path: &Path, options: &ReadOptions, notes: &mut Vec<String>) -> Result<Decoded> {
    let decoded = image_io::read_with(path, options)?;
    notes.extend(decoded.notes.iter().map(|note| format!("{}: {note}", shown(&path))));
    Ok(decoded)
}

/// Output files of a run.
#[derive(Debug)]
pub(in crate::cli) struct Files {
    /// Path of the finished picture.
    pub output: PathBuf,
    digits: usize,
    options: WriteOptions,
    /// True if pictures keep the photo's alpha, if it has any.
    keeps_alpha: bool,
    /// Identifier of the run. Its own files may be replaced: when it is resumed, or goes back to an earlier picture.
    run: String,
    /// Files that the run reads, and never replaces.
    read: Vec<ReadFile>,
}

/// A picture that could not be written where it should be.
#[derive(Debug)]
pub(in crate::cli) struct Unsaved {
    pub error: Error,
    /// Path of the rescued picture, if any.
    pub rescued: Option<PathBuf>,
}

impl Files {
    /// Derives names from the arguments; touches no file. `alpha` is the photo's; `read` lists the files that the run
    /// reads.
    pub(in crate::cli) fn new(
        args: &FileArgs,
        photo: &Path,
        alpha: Option<Alpha>,
        iterations: u32,
        run: &str,
        read: Vec<PathBuf>,
    ) -> Self {
        let keeps_alpha = args.alpha == AlphaArg::Keep;
        let output = args.output.clone().unwrap_or_else(|| {
            let mut name = photo.file_stem().map_or_else(|| OsString::from("photo"), ToOwned::to_owned);
            name.push("-mirage.png");
            name.into()
        });
        let options = WriteOptions {
            bit_depth: args.bit_depth.bits(),
            overwrite: args.overwrite.into(),
            alpha: alpha.filter(|_| keeps_alpha).map(Arc::new),
            ..WriteOptions::default()
        };
        let digits = iterations.to_string().len().max(DIGITS);
        let read = read.into_iter().map(ReadFile::new).collect();
        Self { output, digits, options, keeps_alpha, run: run.to_owned(), read }
    }

    /// Returns the alpha that pictures are saved with.
    pub(in crate::cli) fn alpha(&self) -> Option<Arc<Alpha>> {
        self.options.alpha.clone()
    }

    /// Returns the path of a snapshot: the picture's name with the iteration, e.g. `out-0010.png`.
    pub(in crate::cli) fn snapshot(&self, iteration: u32) -> PathBuf {
        let mut name = self.output.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{iteration:0width$}", width = self.digits));
        if let Some(extension) = self.output.extension() {
            name.push(".");
            name.push(extension);
        }
        self.output.with_file_name(name)
    }

    /// Returns [`Files::snapshot`], or another name if that is taken: the names of snapshots that the live page
    /// requests are not checked before the run.
    pub(in crate::cli) fn free_snapshot(&self, iteration: u32) -> PathBuf {
        let path = self.snapshot(iteration);
        let is_free = path.symlink_metadata().is_err() || self.overwrite(&path) != Overwrite::Never;
        if is_free { path } else { free_name(&path) }
    }

    /// Returns the path of the checkpoint, beside the picture, e.g. `out-checkpoint.safetensors`.
    pub(in crate::cli) fn checkpoint(&self) -> PathBuf {
        let mut name = self.output.file_stem().unwrap_or_default().to_owned();
        name.push("-checkpoint.safetensors");
        self.output.with_file_name(name)
    }

    /// Checks that all pictures and the checkpoint can be written, and that none replaces a file that the run reads.
    /// `is_due` returns true for iterations with a snapshot.
    ///
    /// # Errors
    /// [`Error::File`] for the first that fails.
    pub(in crate::cli) fn check(&self, is_due: impl Fn(u32) -> bool) -> Result<()> {
        self.check_picture(&self.output)?;
        if self.keeps_alpha && !image_io::holds_alpha(&self.output)? {
            return Err(Error::file(
                &self.output,
                "a JPEG can't keep the photo's transparency (--alpha keep)",
                "Choose .png, .webp or .tiff with -o, or a colour to put behind the photo, such as --alpha white",
            ));
        }
        image_io::check_writable(&self.output, &self.options_for(&self.output))?;
        let checkpoint = self.checkpoint();
        match owner(&checkpoint, &self.run) {
            // A resumed run replaces the checkpoint that it has read.
            Owner::Run(_) => {}
            Owner::Edited if self.reads(&checkpoint) => {
                return Err(Error::file(
                    &checkpoint,
                    "this checkpoint was made read-only, and the run would replace it",
                    "Choose another name with -o, or make it writable",
                ));
            }
            found => self.check_replaceable(&checkpoint, found)?,
        }
        check_name(&checkpoint)?;
        if checkpoint.symlink_metadata().is_ok() {
            files::check_place(&checkpoint, true)?;
        }
        if checkpoint.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(Error::file(
                &checkpoint,
                "it exists and is not an ordinary file",
                "Choose another name with -o",
            ));
        }
        // Snapshots share the folder, extension and depth of the output: only their names are left to check. Existing
        // files are compared, because there can be millions of snapshots.
        let mut taken: Vec<u32> = std::fs::read_dir(parent(&self.output))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| self.iteration(&entry.file_name()))
            .filter(|iteration| is_due(*iteration))
            .collect();
        taken.sort_unstable();
        taken.into_iter().try_for_each(|iteration| {
            let path = self.snapshot(iteration);
            self.check_picture(&path)?;
            files::check_place(&path, true).map(drop)
        })
    }

    /// Returns the iteration whose snapshot has this path, if any.
    pub(in crate::cli) fn iteration_of(&self, path: &Path) -> Option<u32> {
        let iteration = self.iteration(path.file_name()?)?;
        is_same(path, &self.snapshot(iteration)).then_some(iteration)
    }

    /// Returns the iteration whose snapshot has this file name, if any.
    fn iteration(&self, name: &OsStr) -> Option<u32> {
        let name_without = Path::new(name).file_stem()?.to_string_lossy();
        let iteration = name_without.rsplit_once('-')?.1.parse().ok()?;
        (self.snapshot(iteration).file_name()? == name).then_some(iteration)
    }

    fn check_picture(&self, path: &Path) -> Result<()> {
        self.check_replaceable(path, owner_of_picture(path, &self.run))
    }

    fn check_replaceable(&self, path: &Path, owner: Owner) -> Result<()> {
        self.check_not_read(path, "-o")?;
        if self.options.overwrite == Overwrite::Always {
            return Ok(());
        }
        match owner {
            Owner::Run(_) => Ok(()),
            Owner::Edited => Err(Error::file(
                path,
                "this file was changed since the run saved it, or made read-only",
                "Choose another name with -o, or replace it with --overwrite",
            )),
            Owner::Other => check_free(path, false, "-o"),
        }
    }

    /// Returns an error if the run reads this file; `option` is named in the message.
    pub(in crate::cli) fn check_not_read(&self, path: &Path, option: &str) -> Result<()> {
        self.read
            .iter()
            .find(|read| read.is(path))
            .map_or(Ok(()), |read| Err(would_replace(path, read, option)))
    }

    /// Same as [`Files::check_not_read`], for a file that was opened by this path.
    pub(in crate::cli) fn check_opened(&self, path: &Path, file: &File, option: &str) -> Result<()> {
        let found = self.read.iter().find(|read| read.is_open_as(file));
        found.map_or(Ok(()), |read| Err(would_replace(path, read, option)))
    }

    /// True if the run reads this file. Where a link leads can change during the run, and the file can be moved.
    pub(in crate::cli) fn reads(&self, path: &Path) -> bool {
        self.read.iter().any(|read| read.is(path))
    }

    /// Returns whether this file may be replaced.
    fn overwrite(&self, path: &Path) -> Overwrite {
        match self.options.overwrite {
            Overwrite::Always if !self.reads(path) => Overwrite::Always,
            _ => owner_of_picture(path, &self.run).overwrite(),
        }
    }

    fn options_for(&self, path: &Path) -> WriteOptions {
        WriteOptions { overwrite: self.overwrite(path), ..self.options.clone() }
    }

    /// Writes a picture with its record.
    pub(in crate::cli) fn write(
        &self,
        path: &Path,
        picture: &Picture,
        record: Vec<(String, String)>,
    ) -> Result<()> {
        image_io::write(path, picture, &WriteOptions { metadata: record, ..self.options_for(path) }).map(drop)
    }

    /// Writes the finished picture. If that fails (the folder was removed, the disk is full), it is rescued to another
    /// place, so the work is not lost.
    ///
    /// # Errors
    /// The reason of the failure, with the path of the rescued picture, if any.
    pub(in crate::cli) fn write_output(
        &self,
        picture: &Picture,
        record: &[(String, String)],
    ) -> std::result::Result<(), Unsaved> {
        let Err(error) = self.write(&self.output, picture, record.to_vec()) else { return Ok(()) };
        let options =
            WriteOptions { overwrite: Overwrite::Never, metadata: record.to_vec(), ..self.options.clone() };
        let rescued = rescue(&self.output, |place| image_io::write(place, picture, &options).map(drop));
        Err(Unsaved { error: not_saved(&self.output, &error, rescued.as_deref()), rescued })
    }
}

/// Returns the error for a path that leads to a file that the run reads.
fn would_replace(path: &Path, read: &ReadFile, option: &str) -> Error {
    Error::file(
        path,
        format!("this would replace {}, which the run reads", shown(&read.path)),
        format!("Choose another name with {option}"),
    )
}

/// Returns the first free name after this one: `out-2.png` after `out.png`.
pub(in crate::cli) fn free_name(path: &Path) -> PathBuf {
    let name = |number: u32| {
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{number}"));
        if let Some(extension) = path.extension() {
            name.push(".");
            name.push(extension);
        }
        path.with_file_name(name)
    };
    let free = |path: &PathBuf| path.symlink_metadata().is_err();
    (2..1000).map(name).find(free).unwrap_or_else(|| name(1000))
}

/// Returns an error if the file exists and may not be replaced.
pub(in crate::cli) fn check_free(path: &Path, overwrite: bool, option: &str) -> Result<()> {
    // Not `exists`: that follows links, and a dangling link is not free either.
    let found = path.symlink_metadata().is_ok_and(|found| !found.is_dir());
    if overwrite || !found {
        return Ok(());
    }
    Err(Error::file(
        path,
        "the file exists already",
        format!("Choose another name with {option}, or replace it with --overwrite"),
    ))
}

/// Checks that a file can be written; leaves nothing behind. `what` and `option` name it in messages.
///
/// # Errors
/// [`Error::File`] if it can't.
pub(in crate::cli) fn check_place(path: &Path, what: &str, option: &str) -> Result<()> {
    check_is_no_folder(path)?;
    let unusable = |error: std::io::Error| {
        let problem = format!("{what} can't be written there ({error})");
        Err(Error::file(path, problem, format!("Choose a file that can be written with {option}")))
    };
    match path.metadata() {
        Ok(found) if found.is_dir() => {
            Err(Error::file(path, "it is a folder", "Add a file name to the path, such as run.jsonl"))
        }
        Ok(found) if !found.is_file() => {
            Err(Error::file(path, "it is a disk, not a file", format!("Choose another name with {option}")))
        }
        // The superuser could open it.
        Ok(found) if found.permissions().readonly() => {
            unusable(std::io::Error::new(ErrorKind::PermissionDenied, "the file is read-only"))
        }
        Ok(_) => OpenOptions::new().append(true).open(path).map(drop).or_else(unusable),
        Err(_) => {
            tempfile::tempfile_in(parent(path)).map(drop).or_else(unusable)?;
            check_name(path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::{Depth, SizeArg};

    fn files(output: Option<&str>, iterations: u32) -> Files {
        let args = FileArgs {
            output: output.map(PathBuf::from),
            size: SizeArg::Pixels(64),
            memory: None,
            alpha: AlphaArg::On([255; 3]),
            bit_depth: Depth::Eight,
            overwrite: false,
        };
        Files::new(&args, Path::new("holidays/my photo.v2.jpeg"), None, iterations, "", Vec::new())
    }

    #[test]
    fn output_and_snapshot_names() {
        assert_eq!(files(None, 150).output, Path::new("my photo.v2-mirage.png"));
        assert_eq!(files(Some("a/b.tiff"), 150).snapshot(10), Path::new("a/b-0010.tiff"));
        assert_eq!(files(Some("ü.x.png"), 20_000).snapshot(10), Path::new("ü.x-00010.png"));
        assert_eq!(files(Some("out.png"), 1_234_567).snapshot(1_234_567), Path::new("out-1234567.png"));
    }

    #[test]
    fn input_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let photo = folder.path().join("photo.png");
        std::fs::write(&photo, "x").unwrap();
        let detour = folder.path().join("../").join(folder.path().file_name().unwrap()).join("photo.png");
        let mut files = files(detour.to_str(), 10);
        files.options.overwrite = Overwrite::Always;
        files.check(|_| false).unwrap();
        files.read = vec![ReadFile::new(photo)];
        let error = files.check(|_| false).unwrap_err();
        assert!(error.to_string().contains("which the run reads"), "{error}");
        // Nor by a snapshot that the live page asks for.
        std::fs::write(files.snapshot(7), "x").unwrap();
        assert_eq!(files.free_snapshot(7), files.snapshot(7));
        files.read.push(ReadFile::new(files.snapshot(7)));
        assert_ne!(files.free_snapshot(7), files.snapshot(7));
    }

    #[test]
    fn existing_pictures_and_snapshots_are_found_before_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.png");
        let snapshot = folder.path().join("out-0002.png");
        let mut files = files(output.to_str(), 10);
        files.check(|at| [1, 2].contains(&at)).unwrap();
        std::fs::write(&snapshot, "x").unwrap();
        assert_eq!(files.iteration_of(&snapshot), Some(2));
        assert_eq!(files.iteration_of(&folder.path().join("out-2.png")), None);
        let error = files.check(|at| [1, 2].contains(&at)).unwrap_err().to_string();
        assert!(error.contains("out-0002.png") && error.contains("--overwrite"), "{error}");
        std::fs::write(&output, "x").unwrap();
        let error = files.check(|_| false).unwrap_err().to_string();
        assert!(error.contains("out.png") && error.contains("--overwrite"), "{error}");
        files.options.overwrite = Overwrite::Always;
        files.check(|at| [1, 2].contains(&at)).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn snapshots_with_non_utf8_names_are_found() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(None, 10);
        files.output = folder.path().join(OsStr::from_bytes(b"o\xff-3.png"));
        std::fs::write(files.snapshot(3), "x").unwrap();
        assert_eq!(files.iteration_of(&files.snapshot(3)), Some(3));
        assert!(files.check(|at| at == 3).unwrap_err().to_string().contains("-0003.png"));
        files.check(|at| at == 4).unwrap();
    }

    #[test]
    fn unusable_paths_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let check = |path: &Path| check_place(path, "the log", "--log");
        check(&path).unwrap();
        assert!(!path.exists(), "checking leaves nothing behind");
        for (path, words) in [
            (folder.path().to_owned(), "folder"),
            (folder.path().join("no/run.jsonl"), "--log"),
            (folder.path().join("x".repeat(300)), "name"),
        ] {
            let error = check(&path).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        std::fs::write(&path, "precious").unwrap();
        assert!(check_free(&path, false, "--log").is_err());
        check_free(&path, true, "--log").unwrap();
        check(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
