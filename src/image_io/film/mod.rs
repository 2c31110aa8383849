//! Animations that are encoded during a run. The file appears only when it is complete.
//!
//! Each frame is encoded immediately, into an unnamed file in the target's folder: memory holds only one frame at a
//! time, and no partial file remains, however the process ends. [`Film::finish`] then writes the container, which needs
//! the number of frames and their times.

mod apng;
mod gif;
mod palette;
mod webp;

use crate::escape::shown;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::encode::{check_finite, check_no_folder, levels8};
use super::{Picture, metadata};
use crate::files::{Overwrite, check_name, check_place, complete, parent, temporary};
use crate::{Error, Result};
use tempfile::NamedTempFile;

/// Longest time of a frame, in milliseconds: 5 minutes. With [`FilmOptions::hold_last`] added it still fits the 16 bits
/// of GIF and APNG.
pub const MAX_FRAME_MILLISECONDS: u32 = 300_000;

/// Largest film, in bytes; also the largest file that [`read_metadata`](super::read_metadata) reads.
const MAX_FILM: u64 = 1 << 31;

/// Reserve for the container and the metadata, in bytes.
const CONTAINER: u64 = 1 << 26;

/// Options of a [`Film`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilmOptions {
    /// Replace an existing file.
    pub overwrite: Overwrite,
    /// Extra time of the last frame in milliseconds, before the film repeats; at most [`MAX_FRAME_MILLISECONDS`].
    pub hold_last: u32,
    /// Quality of lossy WebP films, 1 to 100, as for JPEG. GIF has 256 colours per frame; APNG is lossless.
    pub webp_quality: u8,
}

impl Default for FilmOptions {
    fn default() -> Self {
        Self { overwrite: Overwrite::Never, hold_last: 2000, webp_quality: 80 }
    }
}

/// A point in a film, see [`Film::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilmMark {
    frames: usize,
    /// Time of the last frame.
    milliseconds: u32,
}

/// Film formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    WebP,
    Gif,
    Apng,
}

impl Format {
    /// Returns the format for the extension of a file name.
    fn of(path: &Path) -> Result<Self> {
        const REMEDY: &str =
            "End the name in .webp (small files), .gif (opens everywhere) or .apng (lossless)";
        let Some(extension) = path.extension() else {
            return Err(Error::file(path, "the name has no extension, which selects the format", REMEDY));
        };
        match extension.to_string_lossy().to_ascii_lowercase().as_str() {
            "webp" => Ok(Self::WebP),
            "gif" => Ok(Self::Gif),
            "apng" => Ok(Self::Apng),
            "png" => Err(Error::file(
                path,
                "a film isn't written as .png, the extension of still pictures",
                "End the name in .apng: it is animated PNG, and may be renamed afterwards",
            )),
            other => Err(Error::file(path, format!("films can't be written as .{other}"), REMEDY)),
        }
    }

    /// Returns the format's name and its longest side in pixels.
    fn limit(self) -> (&'static str, usize) {
        match self {
            Self::WebP => ("WebP", webp::LONGEST),
            Self::Gif => ("GIF", super::MAX_SIDE),
            Self::Apng => ("APNG", super::MAX_SIDE),
        }
    }
}

/// An animation that is being written: WebP, GIF or APNG.
///
/// It loops forever, and each frame has its own time. [`finish`](Self::finish) creates the file. A film that is
/// dropped without it leaves no file, nor does a process that crashes: until then the frames are in an unnamed file
/// (on systems without them, e.g. Windows, in one that the system deletes when it is closed).
///
/// | | colours | times |
/// |---|---|---|
/// | `.webp` | lossy, [`FilmOptions::webp_quality`] | exact |
/// | `.gif` | palette of 256 for each frame, dithered | to 10 ms, at least 20 ms; rounding doesn't accumulate |
/// | `.apng` | exact, 8 bits | exact up to 65,535 ms, then to 10 ms |
pub struct Film {
    path: PathBuf,
    target: PathBuf,
    format: Format,
    options: FilmOptions,
    /// Width and height, once a frame was added.
    size: Option<(usize, usize)>,
    /// Levels of the last frame, to detect repeated frames.
    last: Vec<u8>,
    spool: Spool,
}

/// Omits the pixels of the last frame.
impl fmt::Debug for Film {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Film")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("options", &self.options)
            .field("size", &self.size)
            .field("frames", &self.frames())
            .finish_non_exhaustive()
    }
}

/// Checks, before any work is done, that a [`Film`] can be written here: the extension is `webp`, `gif` or `apng`, the
/// folder exists and is writable (a temporary file is created and removed), the path is not a folder, and an existing
/// file may be replaced. The frame size is not checked: WebP is limited to 16,383 pixels a side.
///
/// # Errors
/// [`Error::File`] for problems with the path.
pub fn check_film(path: &Path, overwrite: impl Into<Overwrite>) -> Result<()> {
    let (_, target) = check(path, overwrite)?;
    check_name(path)?;
    temporary(path, &target).map(drop)
}

/// Does the checks that don't write to disk. Returns the format and the path to write to, symbolic links resolved.
fn check(path: &Path, overwrite: impl Into<Overwrite>) -> Result<(Format, PathBuf)> {
    check_no_folder(path, "film.webp")?;
    Ok((Format::of(path)?, check_place(path, overwrite)?))
}

impl Film {
    /// Creates a film. The extension of `path` selects the format: `webp`, `gif` or `apng`.
    ///
    /// # Errors
    /// The errors of [`check_film`]; [`Error::Usage`] if an option is out of range.
    pub fn create(path: &Path, options: FilmOptions) -> Result<Self> {
        if !(1..=100).contains(&options.webp_quality) {
            return Err(Error::usage(format!(
                "WebP quality {} is out of range: choose 1 to 100",
                options.webp_quality
            )));
        }
        check_time("hold_last", 0, options.hold_last)?;
        let (format, target) = check(path, options.overwrite)?;
        let file = tempfile::tempfile_in(parent(&target)).map_err(|e| {
            let problem = format!("no file can be created in its folder ({})", e.kind());
            Error::file(path, problem, "Choose a folder that you may write to, on a disk with free space")
        })?;
        let spool = Spool { file, length: 0, frames: Vec::new() };
        Ok(Self { path: path.to_owned(), target, format, options, size: None, last: Vec::new(), spool })
    }

    /// Adds a frame that is shown for `milliseconds`, 1 to [`MAX_FRAME_MILLISECONDS`]. Values are clamped to
    /// [0, 1] and rounded to 8 bits. If the result equals the previous frame, that frame's time is extended instead,
    /// up to the limit.
    ///
    /// # Errors
    /// [`Error::Usage`] if the time is out of range, or the picture is malformed or differs in size from the first
    /// frame; [`Error::File`] if it is too large for the format, or the film would exceed 2 GiB; [`Error::Io`] if it
    /// holds NaN or infinite values, or on an I/O error. After an error the film is unchanged and can be continued or
    /// finished.
    pub fn frame(&mut self, picture: &Picture, milliseconds: u32) -> Result<()> {
        check_time("a frame's time", 1, milliseconds)?;
        picture.check()?;
        let (width, height) = (picture.width, picture.height);
        if let Some((w, h)) = self.size.filter(|size| *size != (width, height)) {
            return Err(Error::usage(format!(
                "frame {} of the film {} has {width}x{height} pixels, but the film has {w}x{h}. All frames of a film must have one size",
                self.spool.frames.len() + 1,
                shown(&self.path)
            )));
        }
        let (name, longest) = self.format.limit();
        if width.max(height) > longest {
            return Err(Error::file(
                &self.path,
                format!("{width}x{height} pixels are too many for {name}; the limit is {longest} a side"),
                "Write an .apng instead, or smaller frames",
            ));
        }
        check_finite(&self.path, picture)?;
        let levels = levels8(&picture.rgb);
        if let Some(last) = self.spool.frames.last_mut()
            && last.milliseconds + milliseconds <= MAX_FRAME_MILLISECONDS
            && levels == self.last
        {
            last.milliseconds += milliseconds;
            return Ok(());
        }
        // check_size has limited both.
        let size = (width as u32, height as u32);
        let bytes = match self.format {
            Format::WebP => webp::encode(&levels, size, self.options.webp_quality),
            Format::Gif => Ok(gif::encode(&levels, size)),
            Format::Apng => apng::encode(&levels, size),
        }
        .map_err(Error::io(&self.path, "encoding a frame"))?;
        if self.spool.length + bytes.len() as u64 > MAX_FILM - CONTAINER {
            return Err(Error::file(
                &self.path,
                "the film would become larger than 2 GiB",
                "Use fewer or smaller frames, or write a .webp",
            ));
        }
        self.spool.push(&bytes, milliseconds).map_err(Error::io(&self.path, "writing a frame"))?;
        self.size = Some((width, height));
        self.last = levels;
        Ok(())
    }

    /// Returns the path that is written to: the film's, with symbolic links resolved when it was created.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Returns the number of frames. Equal consecutive frames count as one.
    pub fn frames(&self) -> usize {
        self.spool.frames.len()
    }

    /// Returns a mark of the film as it is, for [`return_to`](Self::return_to).
    pub fn mark(&self) -> FilmMark {
        let frames = self.spool.frames.len();
        FilmMark { frames, milliseconds: self.spool.frames.last().map_or(0, |last| last.milliseconds) }
    }

    /// Drops everything that was added after a mark of this film.
    pub fn return_to(&mut self, mark: FilmMark) {
        if mark.frames < self.frames() {
            let dropped: usize = self.spool.frames.drain(mark.frames..).map(|frame| frame.length).sum();
            self.spool.length -= dropped as u64;
            // The levels of the frame that is now the last one are not known.
            self.last.clear();
        }
        if let Some(last) = self.spool.frames.last_mut().filter(|_| mark.frames > 0) {
            last.milliseconds = last.milliseconds.min(mark.milliseconds);
        }
    }

    /// Creates the file, with embedded metadata: keys and values as in
    /// [`WriteOptions::metadata`](super::WriteOptions::metadata), which [`read_metadata`](super::read_metadata) reads.
    /// They are stored as iTXt chunks in APNG and as XMP in WebP and GIF.
    ///
    /// As with [`write()`](super::write()), a reader sees the old file or the new one, never a partial one, even after
    /// a crash.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no frame, or a key can't be stored; [`Error::File`] if the file exists by now
    /// and may not be replaced; [`Error::Io`] on an I/O error such as a full disk. The temporary file is removed, and
    /// the film can still be written with [`finish_at`](Self::finish_at).
    pub fn finish(&mut self, metadata: Vec<(String, String)>) -> Result<()> {
        let (path, target) = (self.path.clone(), self.target.clone());
        self.write(&path, &target, self.options.overwrite, &metadata)
    }

    /// Like [`finish`](Self::finish), at another path, without replacing an existing file.
    ///
    /// # Errors
    /// The errors of [`finish`](Self::finish).
    pub fn finish_at(&mut self, path: &Path, metadata: Vec<(String, String)>) -> Result<()> {
        let target = check_place(path, false)?;
        self.write(path, &target, Overwrite::Never, &metadata)
    }

    fn write(
        &mut self,
        path: &Path,
        target: &Path,
        overwrite: Overwrite,
        metadata: &[(String, String)],
    ) -> Result<()> {
        for (key, _) in metadata {
            metadata::check_key(key).map_err(Error::Usage)?;
        }
        let (Some((width, height)), Some(last)) = (self.size, self.spool.frames.last_mut()) else {
            return Err(Error::usage(format!("the film {} has no frame. Add at least one", shown(path))));
        };
        let own_time = last.milliseconds;
        last.milliseconds += self.options.hold_last;
        let size = (width as u32, height as u32);
        let mut file = temporary(path, target);
        let write = |file: &mut NamedTempFile| {
            let mut out = BufWriter::with_capacity(1 << 16, file.as_file_mut());
            match self.format {
                Format::WebP => webp::assemble(&mut out, size, metadata, &mut self.spool),
                Format::Gif => gif::assemble(&mut out, size, metadata, &mut self.spool),
                Format::Apng => apng::assemble(&mut out, size, metadata, &mut self.spool),
            }?;
            out.flush()
        };
        let written = file.as_mut().map_or(Ok(()), write).map_err(Error::io(path, "writing the film"));
        if let Some(last) = self.spool.frames.last_mut() {
            last.milliseconds = own_time;
        }
        let file = file?;
        written?;
        complete(path, file, target, overwrite).map(drop)
    }
}

/// Rejects a time that not all formats can store.
fn check_time(what: &str, least: u32, milliseconds: u32) -> Result<()> {
    if !(least..=MAX_FRAME_MILLISECONDS).contains(&milliseconds) {
        return Err(Error::usage(format!(
            "{what} of {milliseconds} ms is out of range: choose {least} to {MAX_FRAME_MILLISECONDS}"
        )));
    }
    Ok(())
}

/// A frame in the [`Spool`].
#[derive(Debug, Clone, Copy)]
struct Entry {
    length: usize,
    milliseconds: u32,
}

/// Encoded frames, concatenated in an unnamed file.
#[derive(Debug)]
struct Spool {
    file: File,
    /// Bytes of all frames. Any further bytes in the file are from a failed write.
    length: u64,
    frames: Vec<Entry>,
}

impl Spool {
    fn push(&mut self, bytes: &[u8], milliseconds: u32) -> io::Result<()> {
        self.file.seek(io::SeekFrom::Start(self.length))?;
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        self.frames.push(Entry { length: bytes.len(), milliseconds });
        Ok(())
    }

    /// Calls `each` with every frame and its time, in order; one frame is in memory at a time.
    fn replay(&mut self, mut each: impl FnMut(&[u8], u32) -> io::Result<()>) -> io::Result<()> {
        self.file.rewind()?;
        let mut bytes = Vec::new();
        for frame in &self.frames {
            bytes.resize(frame.length, 0);
            self.file.read_exact(&mut bytes)?;
            each(&bytes, frame.milliseconds)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(value: f32) -> Picture {
        Picture { width: 3, height: 2, rgb: vec![value; 18] }
    }

    /// A real film of 2 GiB would take minutes, so only the spool's byte count is set.
    #[test]
    fn films_are_limited_to_2_gib() {
        for ending in ["webp", "gif", "apng"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a").with_extension(ending);
            let mut film = Film::create(&path, FilmOptions::default()).unwrap();
            film.frame(&picture(0.1), 50).unwrap();
            let length = std::mem::replace(&mut film.spool.length, MAX_FILM - CONTAINER);
            let error = film.frame(&picture(0.2), 50).unwrap_err();
            assert!(error.to_string().contains("larger than 2 GiB"), "{error}");
            // The frames so far can still be written.
            film.spool.length = length;
            film.finish(Vec::new()).unwrap();
            assert!(path.metadata().unwrap().len() > 0);
        }
    }

    #[test]
    fn partially_written_frame_is_discarded() {
        let file = tempfile::tempfile().unwrap();
        let mut spool = Spool { file, length: 0, frames: Vec::new() };
        spool.push(b"first", 1).unwrap();
        // Simulates a disk that was full in the middle of a frame.
        spool.file.write_all(b"half of a fra").unwrap();
        spool.push(b"second", 2).unwrap();
        let mut found = Vec::new();
        spool
            .replay(|bytes, time| {
                found.push((bytes.to_vec(), time));
                Ok(())
            })
            .unwrap();
        assert_eq!(found, [(b"first".to_vec(), 1), (b"second".to_vec(), 2)]);
    }

    #[test]
    fn debug_output_omits_pixels() {
        let dir = tempfile::tempdir().unwrap();
        let mut film = Film::create(&dir.path().join("a.gif"), FilmOptions::default()).unwrap();
        film.frame(&Picture { width: 100, height: 100, rgb: vec![0.5; 30_000] }, 50).unwrap();
        assert!(format!("{film:?}").len() < 400);
    }
}
