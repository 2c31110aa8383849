//! Files: reads are bounded, and writes are atomic and never replace a file without permission.

mod overwrite;

pub use overwrite::{FileVersion, Overwrite};

#[cfg(all(unix, feature = "cli"))]
pub(crate) use overwrite::number;
#[cfg(feature = "fetch")]
pub(crate) use overwrite::publish_new;
#[cfg(feature = "cli")]
pub(crate) use overwrite::remove;

use crate::allocation::with_capacity;
use crate::error::{Error, Result};
use crate::escape::shown;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::NamedTempFile;

/// Opens an ordinary file and returns it with its length in bytes. Nothing else is opened: reading a pipe may block
/// forever, and a device may have no end.
///
/// # Errors
/// The system's errors; [`ErrorKind::InvalidInput`], saying what it is, if it is not an ordinary file.
pub(crate) fn open_ordinary(path: &Path) -> io::Result<(File, u64)> {
    let found = path.metadata()?;
    if !found.is_file() {
        let what =
            if found.is_dir() { "it is a folder" } else { "it is a pipe or a device, not an ordinary file" };
        return Err(io::Error::new(ErrorKind::InvalidInput, what));
    }
    Ok((File::open(path)?, found.len()))
}

/// Number of bytes before the header of a safetensors file, which contain the header's length.
pub(crate) const LENGTH_BYTES: usize = 8;

/// Maximum bytes of the header of a safetensors file. Networks and checkpoints have some kilobytes; parsing takes up to
/// a hundred times the memory.
pub(crate) const LONGEST_HEADER: u64 = 1 << 21;

/// Reads an ordinary file.
///
/// # Errors
/// As [`open_ordinary`]; [`ErrorKind::FileTooLarge`] if it has more than `most` bytes. It is not read then.
pub(crate) fn read_up_to(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, length) = open_ordinary(path)?;
    if length > most {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    let mut bytes =
        with_capacity(length as usize).map_err(|problem| io::Error::new(ErrorKind::OutOfMemory, problem))?;
    // Read no more than the reported length: the file may grow, and files of /proc, which report no length, may have no
    // end.
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file under a temporary name in the same folder, then renames it, so a reader sees the old file or the new
/// one, never a part. An existing file is replaced only as `overwrite` says; for a symbolic link, its target. A
/// character device, pipe or socket is written to directly. `action` names the step for errors, e.g. "writing the
/// tuning cache".
///
/// Returns [`Overwrite::Only`] for the version that was written, for writing the file once more.
///
/// # Errors
/// [`Error::File`] if the file may not be replaced or can't be created, [`Error::Io`] if writing fails.
pub(crate) fn write_whole(
    path: &Path,
    bytes: &[u8],
    action: &'static str,
    overwrite: impl Into<Overwrite>,
) -> Result<Overwrite> {
    write_whole_with(path, |file| file.write_all(bytes), action, overwrite)
}

/// Writes a file like [`write_whole`], with content produced by `write`, so it need not be in memory at once.
///
/// # Errors
/// As [`write_whole`].
pub(crate) fn write_whole_with(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    action: &'static str,
    overwrite: impl Into<Overwrite>,
) -> Result<Overwrite> {
    let overwrite = overwrite.into();
    if is_stream(path) {
        open_stream(path).and_then(|mut stream| write(&mut stream)).map_err(Error::io(path, action))?;
        return Ok(overwrite);
    }
    let target = check_place(path, overwrite)?;
    let mut file = temporary(path, &target)?;
    write(file.as_file_mut()).map_err(Error::io(path, action))?;
    complete(path, file, &target, overwrite)
}

/// Returns the path to write to, with symbolic links resolved. Fails if its folder does not exist or the path is taken.
pub(crate) fn check_place(path: &Path, overwrite: impl Into<Overwrite>) -> Result<PathBuf> {
    check_is_no_folder(path)?;
    let folder = parent(path);
    match folder.metadata() {
        Ok(found) if !found.is_dir() => {
            return Err(Error::file(
                path,
                format!("{} is a file, not a folder", shown(folder)),
                "Choose another place",
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let problem = format!("the folder {} doesn't exist", shown(folder));
            return Err(Error::file(path, problem, "Create it first, or choose another place"));
        }
        Err(error) => {
            let problem = format!("the folder {} can't be used ({error})", shown(folder));
            return Err(Error::file(path, problem, "Choose another place"));
        }
    }
    // Not `exists`, which follows links: a dangling link would be replaced too.
    let Ok(found) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let kind = target.metadata().unwrap_or(found).file_type();
    if kind.is_dir() {
        return Err(Error::file(
            path,
            "it is a folder",
            "Add a file name to the path, or choose another name",
        ));
    }
    if !kind.is_file() && !kind.is_symlink() {
        return Err(Error::file(path, "it exists and is not an ordinary file", "Choose another name"));
    }
    if !overwrite.into().allows(&target) {
        return Err(exists(path));
    }
    if let Ok(found) = target.metadata() {
        if found.permissions().readonly() {
            let problem = "the file is read-only, and this would replace it";
            return Err(Error::file(path, problem, "Make it writable, or choose another name"));
        }
        if belongs_to_another_user(&found, parent(&target)) {
            let problem = "another user's file can't be replaced in this folder (it is sticky)";
            return Err(Error::file(path, problem, "Choose another name"));
        }
    }
    if is_fixed(&target) {
        let problem = "the file has an attribute by which the system refuses to replace it";
        return Err(Error::file(
            path,
            problem,
            "Remove the attribute (lsattr, chattr), or choose another name",
        ));
    }
    Ok(target)
}

/// True if the system allows only another user to replace this file: in a sticky folder only the owner of the file or of
/// the folder may.
#[cfg(unix)]
fn belongs_to_another_user(found: &std::fs::Metadata, folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    const STICKY: u32 = 0o1000;
    let user = rustix::process::geteuid();
    let is_kept = |folder: std::fs::Metadata| {
        folder.mode() & STICKY != 0 && ![folder.uid(), found.uid()].contains(&user.as_raw())
    };
    !user.is_root() && folder.metadata().is_ok_and(is_kept)
}

/// Always false: these systems have no sticky folders.
#[cfg(not(unix))]
fn belongs_to_another_user(_: &std::fs::Metadata, _: &Path) -> bool {
    false
}

/// True for an existing file that is immutable or append-only. Its permissions don't show that.
#[cfg(target_os = "linux")]
fn is_fixed(path: &Path) -> bool {
    use rustix::fs::IFlags;
    let flags = open_ordinary(path).and_then(|(file, _)| Ok(rustix::fs::ioctl_getflags(file)?));
    flags.is_ok_and(|flags| flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND))
}

/// Always false: these systems are not asked.
#[cfg(not(target_os = "linux"))]
fn is_fixed(_: &Path) -> bool {
    false
}

/// Rejects a path that ends like a folder's, in `/`, `/.` or `/..`: the system would reject it only after the file is
/// written.
pub(crate) fn check_is_no_folder(path: &Path) -> Result<()> {
    let text = path.as_os_str().as_encoded_bytes();
    let last = text.rsplit(|byte| std::path::is_separator(char::from(*byte))).next().unwrap_or_default();
    if !text.is_empty() && [&b""[..], b".", b".."].contains(&last) {
        return Err(Error::file(path, "it is the name of a folder", "Add a file name to the path"));
    }
    Ok(())
}

/// Returns the error for a file that may not be replaced.
fn exists(path: &Path) -> Error {
    Error::file(path, "the file exists already", "Choose another name, or allow replacing it (--overwrite)")
}

/// Checks that a file can have this name: that it is short enough and the disk allows its characters.
///
/// # Errors
/// [`Error::File`] if it can't.
pub(crate) fn check_name(path: &Path) -> Result<()> {
    let unusable = |error: std::io::Error| {
        Error::file(path, format!("no file can have this name ({error})"), "Choose another, shorter name")
    };
    match path.symlink_metadata() {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(unusable(error)),
    }
    let name = path.file_name().unwrap_or_default();
    // The probe's name is longer, so long names are not probed; `symlink_metadata` has checked their length.
    if name.len() <= 128 {
        let probe = tempfile::Builder::new().prefix(".mirage-").suffix(name).tempfile_in(parent(path));
        if let Err(error) = probe
            && matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidFilename)
        {
            return Err(unusable(error));
        }
    }
    Ok(())
}

/// Creates a folder and its missing parents.
///
/// # Errors
/// [`Error::File`] if that fails.
#[cfg(any(feature = "fetch", test))]
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| {
        let is_taken = folder.symlink_metadata().is_ok_and(|found| !found.is_dir());
        let problem =
            if is_taken { "it is not a folder".to_owned() } else { format!("it can't be created ({error})") };
        Error::file(folder, problem, "Choose another folder, one that you may write to")
    })
}

/// Returns the folder that a file is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Temporary files of this process, for an exit that runs no destructors.
static TEMPORARY: Mutex<Vec<(PathBuf, FileVersion)>> = Mutex::new(Vec::new());

/// Removes the temporary files of this process, whose end must follow.
#[cfg(feature = "cli")]
pub(crate) fn remove_temporary() {
    let Some(temporary) = locked_soon(&TEMPORARY) else { return };
    temporary.iter().for_each(|(path, own)| remove_if_own(path, own));
    // Locked until the process ends, so that no further file is created.
    std::mem::forget(temporary);
}

/// Locks a mutex that is held for moments only; `None` if it stays locked, as by this very thread or on a disk that hangs.
#[cfg(feature = "cli")]
pub(crate) fn locked_soon<T>(mutex: &Mutex<T>) -> Option<std::sync::MutexGuard<'_, T>> {
    for _ in 0..100 {
        if let Ok(locked) = mutex.try_lock() {
            return Some(locked);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    None
}

/// Removes a file, unless its name has become that of another one.
#[cfg(feature = "cli")]
pub(crate) fn remove_if_own(path: &Path, own: &FileVersion) {
    if FileVersion::of(path).is_some_and(|found| found.is_same_file(own)) {
        let _ = std::fs::remove_file(path);
    }
}

/// Creates a temporary file in the target's folder. It is removed on drop unless it is published.
pub(crate) fn temporary(path: &Path, target: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".mirage-").suffix(".tmp");
    // tempfile's default allows only the owner; this applies the system's umask, as for any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    temporary.retain(|(path, _)| path.symlink_metadata().is_ok());
    let file = builder.tempfile_in(parent(target)).map_err(|error| {
        let problem = format!("no file can be created in its folder ({})", error.kind());
        Error::file(path, problem, "Choose a folder that you may write to, on a disk with free space")
    })?;
    temporary.extend(FileVersion::of(file.path()).map(|version| (file.path().to_owned(), version)));
    Ok(file)
}

/// Flushes a written file to the disk and gives it its name. Returns [`Overwrite::Only`] for it.
pub(crate) fn complete(
    path: &Path,
    file: NamedTempFile,
    target: &Path,
    overwrite: Overwrite,
) -> Result<Overwrite> {
    file.as_file().sync_all().map_err(Error::io(path, "writing to the disk"))?;
    let written = overwrite::publish(file, target, overwrite).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => Error::io(path, "renaming the finished file")(error),
    })?;
    // The rename survives a power failure once the folder is flushed. Not every system can do this (Windows can't open
    // folders) and the file itself is written, so a failure is ignored.
    if let Ok(folder) = File::open(parent(target)) {
        let _ = folder.sync_all();
    }
    Ok(written)
}

/// True for a pipe, a socket or a character device such as a terminal, which are written to directly. Disks are not.
#[cfg(unix)]
pub(crate) fn is_stream(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    let is_stream = |found: std::fs::Metadata| {
        let kind = found.file_type();
        kind.is_char_device() || kind.is_fifo() || kind.is_socket()
    };
    path.metadata().is_ok_and(is_stream)
}

/// False: streams are only supported on Unix.
#[cfg(not(unix))]
pub(crate) fn is_stream(_: &Path) -> bool {
    false
}

/// Opens a stream for writing. A pipe without a reader is an error, because waiting for one could take forever.
#[cfg(unix)]
fn open_stream(path: &Path) -> io::Result<File> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => io::Error::new(error.kind(), "no program reads this pipe"),
        _ => error,
    })?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(not(unix))]
fn open_stream(path: &Path) -> std::io::Result<File> {
    File::options().write(true).open(path)
}

/// Reads a text file like [`read_up_to`].
///
/// # Errors
/// As [`read_up_to`]; [`ErrorKind::InvalidData`] if it is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let bytes = read_up_to(path, most)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(unix, feature = "cli"))]
    #[test]
    fn only_own_temporary_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.png");
        let own = temporary(&path, &path).unwrap();
        let registered = TEMPORARY.lock().unwrap().iter().find(|(path, _)| path == own.path()).cloned();
        let (temporary, version) = registered.unwrap();
        // Another program's file, as after an exchange.
        let held = folder.path().join("held");
        std::fs::rename(&temporary, &held).unwrap();
        std::fs::write(&temporary, "precious").unwrap();
        remove_if_own(&temporary, &version);
        assert_eq!(std::fs::read(&temporary).unwrap(), b"precious");
        std::fs::rename(&held, &temporary).unwrap();
        remove_if_own(&temporary, &version);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// A file that would take gigabytes to read.
    #[cfg(target_os = "linux")]
    #[test]
    fn proc_files_read_as_empty() {
        assert!(read_up_to(Path::new("/proc/self/pagemap"), 1 << 31).unwrap().is_empty());
    }

    #[test]
    fn files_are_replaced_atomically() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file.json");
        write_whole(&path, b"first", "writing", false).unwrap();
        let error = write_whole(&path, b"second", "writing", false).unwrap_err();
        assert!(error.to_string().contains("--overwrite") && error.exit_code() == 2, "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write_whole(&path, b"second", "writing", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_whole(&folder.path().join("none/file"), b"", "writing", true).unwrap_err();
        assert!(error.to_string().contains("doesn't exist"), "{error}");
        assert!(write_whole(folder.path(), b"", "writing", true).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_links_are_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = write_whole(&pipe, b"text", "writing", true).unwrap_err();
        assert!(error.to_string().contains("no program reads this pipe"), "{error}");
        let read = pipe.clone();
        let reader = std::thread::spawn(move || std::fs::read(read).unwrap());
        // Longer than a pipe holds.
        let long = vec![7; 300_000];
        while write_whole(&pipe, &long, "writing", false).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(reader.join().unwrap() == long);
        write_whole(Path::new("/dev/null"), b"text", "writing", false).unwrap();
        assert!(is_stream(&pipe) && is_stream(Path::new("/dev/null")));
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_whole(&link, b"new", "writing", false).unwrap_err();
        write_whole(&link, b"new", "writing", true).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert!(link.symlink_metadata().unwrap().is_symlink());
        // Again and again, if it is still the same file.
        let own = write_whole(&link, b"newer", "writing", true).unwrap();
        write_whole(&link, b"newest", "writing", own).unwrap();
        write_whole(&link, b"too late", "writing", own).unwrap_err();
        assert_eq!(std::fs::read(&file).unwrap(), b"newest");
    }

    #[test]
    fn folders_are_created_or_the_error_has_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        make_folder(&path("a/b")).unwrap();
        make_folder(&path("a/b")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        for (name, words) in [("file", "not a folder"), ("file/inner", "can't be created")] {
            let error = make_folder(&path(name)).unwrap_err();
            assert!(error.to_string().contains(words) && error.exit_code() == 2, "{error}");
        }
    }

    #[test]
    fn names_ending_in_a_separator_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["new.json/", "new.json//", "new.json/.", "new.json/..", "new.json//./"] {
            let path = folder.path().join(name);
            let error = write_whole(&path, b"", "writing", false).unwrap_err();
            assert!(error.to_string().contains("name of a folder") && error.exit_code() == 2, "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn impossible_file_names_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        check_name(&folder.path().join("plain.png")).unwrap();
        check_name(&folder.path().join("x".repeat(200))).unwrap();
        let error = check_name(&folder.path().join("x".repeat(300))).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_ordinary_files_within_the_limit_are_read() {
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
