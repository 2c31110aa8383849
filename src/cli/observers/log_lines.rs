//! Where the lines of a log go.

use crate::cli::files::disk::{create, is_at};
use crate::cli::files::rescue::rescue;
use crate::cli::output::escape::shown;
use crate::cli::output::streams;
use crate::error::{Error, Result};
use crate::files::is_stream;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Writes each line at once. A file that can't be written any more is rescued, with the lines so far; a pipe whose reader
/// is gone ends the log.
#[derive(Debug)]
pub(super) enum LogLines {
    Stdout,
    /// A pipe or a device.
    Stream(PathBuf, File),
    /// A file with this many bytes of whole lines.
    File(PathBuf, File, u64),
    /// Nothing can be written any more.
    Ended,
}

impl LogLines {
    /// Opens the log, empty. `-` is standard output. What exists is replaced only with `overwrite`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(super) fn open(path: &Path, overwrite: bool) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        let mut options = File::options();
        if is_stream(path) {
            let file = options.write(true).open(path).map_err(Error::io(path, "opening the log"))?;
            return Ok(Self::Stream(path.to_owned(), file));
        }
        let file = match overwrite {
            true => options.read(true).write(true).create(true).truncate(true).open(path),
            false => create(path),
        };
        let file = file.map_err(Error::io(path, "creating the log"))?;
        Ok(Self::File(path.to_owned(), file, 0))
    }

    /// Writes one line, whole. Returns what went wrong, if something did.
    pub(super) fn write(&mut self, line: &str) -> Option<String> {
        let written = match self {
            Self::Ended => return None,
            Self::Stdout => streams::print(line),
            Self::Stream(path, file) => {
                file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io(path, "writing the log"))
            }
            Self::File(path, file, length) => {
                append(file, length, line).map_err(Error::io(path, "writing the log"))
            }
        };
        let error = written.err()?;
        Some(match self.move_on(Some(line)) {
            Some(place) => format!("{error}; the log goes on in {}", shown(&place)),
            None => format!("the log ends here: {error}"),
        })
    }

    /// The log is complete. One whose file was removed meanwhile is rescued; returns what went wrong, if something did.
    pub(super) fn finish(&mut self) -> Option<String> {
        let Self::File(path, file, _) = self else { return None };
        if is_at(file, path) {
            return None;
        }
        let removed = format!("{}: the log was removed", shown(path));
        let place = self.move_on(None);
        Some(place.map_or(removed.clone(), |place| format!("{removed}; it is in {}", shown(&place))))
    }

    /// Goes on in another place, with all lines so far and perhaps one more, or ends. Returns the place.
    fn move_on(&mut self, line: Option<&str>) -> Option<PathBuf> {
        let Self::File(path, mut file, length) = std::mem::replace(self, Self::Ended) else { return None };
        let mut moved = None;
        let place = rescue(&path, |place| {
            let failed = || Error::io(place, "writing the log");
            let mut copy =
                File::options().read(true).write(true).create_new(true).open(place).map_err(failed())?;
            file.seek(SeekFrom::Start(0)).map_err(failed())?;
            let mut copied = std::io::copy(&mut (&mut file).take(length), &mut copy).map_err(failed())?;
            line.map_or(Ok(()), |line| append(&mut copy, &mut copied, line)).map_err(failed())?;
            moved = Some((copy, copied));
            Ok(())
        })?;
        let (file, length) = moved?;
        *self = Self::File(place.clone(), file, length);
        Some(place)
    }
}

/// Adds a line to a file of `length` bytes. After an error the file has that length again.
fn append(file: &mut File, length: &mut u64, line: &str) -> std::io::Result<()> {
    let line = format!("{line}\n");
    let written = file.write_all(line.as_bytes());
    if written.is_ok() {
        *length += line.len() as u64;
    } else {
        // A part of a line would be no line of JSON.
        let _ = file.set_len(*length);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_not_replaced_without_leave() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        std::fs::write(&path, "precious").unwrap();
        assert!(LogLines::open(&path, false).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let mut log = LogLines::open(&path, true).unwrap();
        assert_eq!(log.write("{}"), None);
        assert_eq!(std::fs::read(&path).unwrap(), b"{}\n");
    }

    #[test]
    fn a_log_moves_with_all_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut log = LogLines::open(&path, false).unwrap();
        assert_eq!((log.write("1"), log.write("2")), (None, None));
        assert_eq!(log.finish(), None);
        let place = log.move_on(Some("3")).unwrap();
        assert_eq!(log.write("4"), None);
        assert_eq!(std::fs::read(&place).unwrap(), b"1\n2\n3\n4\n");
    }

    #[cfg(unix)]
    #[test]
    fn a_log_that_was_removed_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut log = LogLines::open(&path, false).unwrap();
        assert_eq!(log.write("1"), None);
        // Replaced by another file, as by an editor.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another").unwrap();
        assert_eq!(log.write("2"), None);
        assert!(log.finish().is_some_and(|problem| problem.contains("the log was removed; it is in ")));
        let LogLines::File(place, ..) = log else { panic!() };
        assert_eq!(std::fs::read(place).unwrap(), b"1\n2\n");
        assert_eq!(std::fs::read(path).unwrap(), b"another");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_that_takes_nothing_ends_the_log_with_a_word() {
        let mut log = LogLines::open(Path::new("/dev/full"), false).unwrap();
        assert!(log.write("1").is_some_and(|problem| problem.contains("the log ends here: /dev/full")));
        assert_eq!(log.write("2"), None);
    }
}
