//! Destination of a log's lines.

use crate::cli::files::disk::{create, is_at};
use crate::cli::files::rescue::rescue;
use crate::cli::output::escape::shown;
use crate::cli::output::streams;
use crate::error::{Error, Result};
use crate::files::is_stream;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Writes each line at once. If a file can't be written any more, the log is rescued to another place, with the lines
/// so far. If the reader of a pipe is gone, the log ends.
#[derive(Debug)]
pub(super) enum LogLines {
    Stdout,
    /// A pipe or a device.
    Stream(PathBuf, File),
    /// A file, and its number of bytes in whole lines.
    File(PathBuf, File, u64),
    /// Nothing can be written any more.
    Ended,
}

impl LogLines {
    /// Opens an empty log. `-` is standard output. An existing file is replaced only with `overwrite`, and only if
    /// `check` accepts the opened file.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; the error of `check`.
    pub(super) fn open(path: &Path, overwrite: bool, check: impl Fn(&File) -> Result<()>) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        let mut options = File::options();
        if is_stream(path) {
            let file = options.write(true).open(path).map_err(Error::io(path, "opening the log"))?;
            return Ok(Self::Stream(path.to_owned(), file));
        }
        let failed = || Error::io(path, "creating the log");
        let file = match overwrite {
            true => options.read(true).write(true).create(true).truncate(false).open(path),
            false => create(path),
        };
        let file = file.map_err(failed())?;
        if overwrite {
            // Before it is emptied: the name may have become a link since it was checked.
            check(&file)?;
            file.set_len(0).map_err(failed())?;
        }
        Ok(Self::File(path.to_owned(), file, 0))
    }

    /// Writes one whole line. Returns a message if that failed.
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
            Some(place) => format!("{error}; the log continues in {}", shown(&place)),
            None => format!("the log ends here: {error}"),
        })
    }

    /// Completes the log. If its file was removed meanwhile, it is rescued. Returns a message if something went wrong.
    pub(super) fn finish(&mut self) -> Option<String> {
        let Self::File(path, file, _) = self else { return None };
        if is_at(file, path) {
            return None;
        }
        let removed = format!("{}: the log was removed", shown(path));
        let place = self.move_on(None);
        Some(place.map_or(removed.clone(), |place| format!("{removed}; it is in {}", shown(&place))))
    }

    /// Continues the log in another place, with all lines so far and perhaps one more, or ends it. Returns the place.
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

/// Appends a line to a file and sets `length` to its bytes. After an error the file is cut to its length before.
fn append(file: &mut File, length: &mut u64, line: &str) -> std::io::Result<()> {
    let line = format!("{line}\n");
    // Another program may have emptied the file, as logrotate does after copying it.
    *length = file.seek(SeekFrom::End(0))?;
    let written = file.write_all(line.as_bytes());
    if written.is_ok() {
        *length += line.len() as u64;
    } else {
        // A partial line would not be valid JSON.
        let _ = file.set_len(*length);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_file_is_kept_without_overwrite() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        std::fs::write(&path, "precious").unwrap();
        assert!(LogLines::open(&path, false, |_| Ok(())).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let mut log = LogLines::open(&path, true, |_| Ok(())).unwrap();
        assert_eq!(log.write("{}"), None);
        assert_eq!(std::fs::read(&path).unwrap(), b"{}\n");
    }

    #[test]
    fn file_that_is_not_accepted_is_not_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        std::fs::write(&path, "precious").unwrap();
        let refuse = |_: &File| Err(Error::usage("the run reads it"));
        assert!(LogLines::open(&path, true, refuse).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn moved_log_keeps_all_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut log = LogLines::open(&path, false, |_| Ok(())).unwrap();
        assert_eq!((log.write("1"), log.write("2")), (None, None));
        assert_eq!(log.finish(), None);
        let place = log.move_on(Some("3")).unwrap();
        assert_eq!(log.write("4"), None);
        assert_eq!(std::fs::read(&place).unwrap(), b"1\n2\n3\n4\n");
    }

    #[test]
    fn emptied_log_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut log = LogLines::open(&path, false, |_| Ok(())).unwrap();
        assert_eq!((log.write("1"), log.write("2")), (None, None));
        std::fs::write(&path, "").unwrap();
        assert_eq!((log.write("3"), log.write("4")), (None, None));
        assert_eq!(std::fs::read(&path).unwrap(), b"3\n4\n");
        let place = log.move_on(Some("5")).unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), b"3\n4\n5\n");
    }

    #[cfg(unix)]
    #[test]
    fn removed_log_is_saved_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut log = LogLines::open(&path, false, |_| Ok(())).unwrap();
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
    fn full_device_ends_the_log_with_a_warning() {
        let mut log = LogLines::open(Path::new("/dev/full"), false, |_| Ok(())).unwrap();
        assert!(log.write("1").is_some_and(|problem| problem.contains("the log ends here: /dev/full")));
        assert_eq!(log.write("2"), None);
    }
}
