//! Files that are read as far as they may be, and files that are written whole or not at all.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::Path;

/// Opens an ordinary file, and returns its length in bytes. Anything else isn't opened: a pipe may keep its reader
/// waiting for ever, and a device may have no end.
///
/// # Errors
/// The system's; [`ErrorKind::InvalidInput`] saying what it is if it is no ordinary file.
pub(crate) fn open_ordinary(path: &Path) -> io::Result<(File, u64)> {
    let found = path.metadata()?;
    if !found.is_file() {
        let what =
            if found.is_dir() { "it is a folder" } else { "it is a pipe or a device, not an ordinary file" };
        return Err(io::Error::new(ErrorKind::InvalidInput, what));
    }
    Ok((File::open(path)?, found.len()))
}

/// The content of an ordinary file.
///
/// # Errors
/// As [`open_ordinary`]; [`ErrorKind::FileTooLarge`] if it has more than `most` bytes, of which none is read.
pub(crate) fn read_up_to(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, length) = open_ordinary(path)?;
    let too_large = || io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {most} bytes"));
    if length > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize).map_err(|_| {
        io::Error::new(ErrorKind::OutOfMemory, format!("there is not enough memory for its {length} bytes"))
    })?;
    // It may have grown since, and files of /proc state no length.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

/// Writes a file under a temporary name beside its place, then renames it: a reader sees the old file or the
/// new one, never a part. `action` says what is done, for the error: "writing the tuning cache".
///
/// # Errors
/// [`Error::Io`] if the system refuses.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], action: &'static str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".mirage-").suffix(".tmp");
    // tempfile's own choice is for the owner only; this is what the system's umask makes of any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let write = || {
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    write().map_err(Error::io(path, action))
}

/// [`read_up_to`] of a text.
///
/// # Errors
/// As [`read_up_to`]; [`ErrorKind::InvalidData`] if it is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let bytes = read_up_to(path, most)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::{read_up_to, write_whole};
    use std::io::ErrorKind;
    use std::path::Path;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file.json");
        write_whole(&path, b"first", "writing").unwrap();
        write_whole(&path, b"second", "writing").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_whole(&folder.path().join("none/file"), b"", "writing the test").unwrap_err();
        assert!(error.to_string().contains("writing the test"), "{error}");
    }

    #[test]
    fn only_ordinary_files_of_the_right_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_up_to(&path, 5).unwrap(), b"12345");
        assert_eq!(read_up_to(&path, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_up_to(folder.path(), 4).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(read_up_to(&folder.path().join("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
        if cfg!(unix) {
            assert_eq!(read_up_to(Path::new("/dev/zero"), 4).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
}
