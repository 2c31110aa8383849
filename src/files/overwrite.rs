//! Which existing file may be replaced, and replacing it.

use crate::escape::shown;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;
use tempfile::{NamedTempFile, PathPersistError, TempPath};

/// Whether a file may be replaced if its name is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// It may not.
    #[default]
    Never,
    /// Only this version of this file, and no other that has taken its name since.
    Only(FileVersion),
    /// Whatever has the name.
    Always,
}

impl Overwrite {
    /// True if the existing file at this path may be replaced.
    pub(crate) fn allows(self, path: &Path) -> bool {
        match self {
            Self::Never => false,
            Self::Only(version) => FileVersion::of(path) == Some(version),
            Self::Always => true,
        }
    }
}

impl From<bool> for Overwrite {
    /// Returns [`Overwrite::Always`] or [`Overwrite::Never`].
    fn from(always: bool) -> Self {
        if always { Self::Always } else { Self::Never }
    }
}

/// Identifies a version of a file. Any other file has another one, and so has the file after a change, also of its
/// permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
    /// Device and inode number.
    #[cfg(unix)]
    number: (u64, u64),
    length: u64,
    modified: Option<SystemTime>,
    /// Seconds and nanoseconds of the last change of content, permissions or name.
    #[cfg(unix)]
    changed: (i64, i64),
}

impl FileVersion {
    /// Returns the version of an ordinary file, and `None` for anything else: links may lead anywhere.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = path.symlink_metadata().ok().filter(Metadata::is_file)?;
        Some(Self::from(&found))
    }

    /// True if this is the same version under another name.
    fn is_renamed(self, before: Self) -> bool {
        let renamed = Self {
            #[cfg(unix)]
            changed: self.changed,
            ..before
        };
        renamed == self
    }

    /// True if both are versions of one file.
    #[cfg(all(unix, feature = "cli"))]
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        self.number == other.number
    }

    /// Always true: these systems don't number files.
    #[cfg(all(not(unix), feature = "cli"))]
    pub(super) fn is_same_file(&self, _: &Self) -> bool {
        true
    }

    /// Returns the file's length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl From<&Metadata> for FileVersion {
    fn from(found: &Metadata) -> Self {
        Self {
            #[cfg(unix)]
            number: number(found),
            length: found.len(),
            modified: found.modified().ok(),
            #[cfg(unix)]
            changed: {
                use std::os::unix::fs::MetadataExt as _;
                (found.ctime(), found.ctime_nsec())
            },
        }
    }
}

/// Returns device and inode number of a file.
#[cfg(unix)]
pub(crate) fn number(found: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino())
}

/// Gives a finished file its name. Returns [`Overwrite::Only`] for it. It keeps the permissions of a file that it
/// replaces.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if the name belongs to a file that may not be replaced; the system's errors.
pub(super) fn publish(file: NamedTempFile, target: &Path, overwrite: Overwrite) -> io::Result<Overwrite> {
    if overwrite != Overwrite::Never
        && let Ok(found) = target.symlink_metadata()
        && found.is_file()
    {
        // Not every file system has permissions.
        let _ = file.as_file().set_permissions(found.permissions());
    }
    let (handle, file) = file.into_parts();
    let version = || handle.metadata().ok().map(|found| FileVersion::from(&found));
    let new = version();
    match overwrite {
        Overwrite::Never => publish_new(file, target).map_err(|error| error.error),
        Overwrite::Only(version) => replace(file, new, target, version),
        Overwrite::Always => file.persist(target).map_err(|error| error.error),
    }?;
    // Its name is a change.
    Ok(version().map_or(Overwrite::Never, Overwrite::Only))
}

/// Removes this version of a file, and no other that has taken its name since. Returns whether it did.
///
/// # Errors
/// The system's errors.
#[cfg(any(feature = "cli", test))]
pub(crate) fn remove(path: &Path, version: FileVersion) -> io::Result<bool> {
    if FileVersion::of(path).is_some_and(|found| found != version) {
        return Ok(false);
    }
    // Under a new name, for another file could take the name between looking at it and removing it.
    let folder = tempfile::Builder::new().prefix(".mirage-").tempdir_in(super::parent(path))?;
    let moved = folder.path().join("removed");
    std::fs::rename(path, &moved)?;
    if FileVersion::of(&moved).is_some_and(|found| found.is_renamed(version)) {
        return Ok(true);
    }
    // It was another file, which gets its name back. From here on dropping the folder must not remove it.
    let folder = folder.keep();
    let back = publish_new(TempPath::try_from_path(&moved)?, path);
    if let Err(error) = back {
        let place = error.path.keep().map_err(|error| error.error)?;
        return Err(io::Error::other(format!("two other files had this name; one is now {}", shown(&place))));
    }
    std::fs::remove_dir(folder)?;
    Ok(false)
}

/// Gives a finished file a name that must be free.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if the name is taken; the system's errors. Each has the file, which is removed on drop.
pub(crate) fn publish_new(file: TempPath, target: &Path) -> Result<(), PathPersistError> {
    // Some file systems can't rename without replacing. There, check first, then rename: that is better than losing
    // finished work.
    match file.persist_noclobber(target) {
        Ok(()) => Ok(()),
        Err(PathPersistError { error, path }) => {
            if error.kind() == ErrorKind::AlreadyExists || target.symlink_metadata().is_ok() {
                return Err(PathPersistError { error: ErrorKind::AlreadyExists.into(), path });
            }
            path.persist(target)
        }
    }
}

/// Replaces this version of a file by a finished file, whose own version is `new`.
fn replace(file: TempPath, new: Option<FileVersion>, target: &Path, version: FileVersion) -> io::Result<()> {
    let publish_new = |file, target| publish_new(file, target).map_err(|error| error.error);
    if target.symlink_metadata().is_ok() && FileVersion::of(target) != Some(version) {
        return Err(ErrorKind::AlreadyExists.into());
    }
    // Renaming now would leave time for another file to take the name. So exchange both, and look again at what had the
    // name.
    match exchange(&file, target) {
        // Dropping the temporary file removes the old version.
        Ok(()) if FileVersion::of(&file).is_some_and(|found| found.is_renamed(version)) => return Ok(()),
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return publish_new(file, target),
        // Not every system and file system can exchange files.
        Err(_) => {
            return match target.symlink_metadata() {
                Ok(_) if FileVersion::of(target) == Some(version) => {
                    file.persist(target).map_err(|error| error.error)
                }
                Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                Err(_) => publish_new(file, target),
            };
        }
    }
    give_back(file, new, target)
}

/// Gives a name back to another program's file, `held`. Its name is taken by the file whose version is `new`, which is
/// removed, unless yet another file has taken the name in the meantime.
fn give_back(mut held: TempPath, new: Option<FileVersion>, target: &Path) -> io::Result<()> {
    // Links and folders count too.
    let version = |path: &Path| path.symlink_metadata().ok().map(|found| FileVersion::from(&found));
    let mut taken_by = new;
    // A file that took the name later keeps it, as if it had replaced the earlier one. So exchange until nothing happened
    // between two exchanges. The limit is for programs that never stop.
    for _ in 0..100 {
        let given = version(&held);
        match exchange(&held, target) {
            Ok(()) if version(&held).zip(taken_by).is_some_and(|(one, other)| one.is_renamed(other)) => break,
            Ok(()) => taken_by = given,
            // The name is free, or else the file stays where it is.
            Err(_) => match held.persist_noclobber(target) {
                Ok(_) => return Err(ErrorKind::AlreadyExists.into()),
                Err(error) => {
                    held = error.path;
                    taken_by = None;
                    break;
                }
            },
        }
    }
    if taken_by.is_some() && taken_by == new {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let place = held.keep().map_err(|error| error.error)?;
    Err(io::Error::other(format!("two other files had this name; one is now {}", shown(&place))))
}

/// Exchanges the names of two files in one step.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    #[cfg(unix)]
    use std::fs::File;

    #[test]
    fn only_the_stated_version_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        let write = |overwrite| {
            let file = NamedTempFile::new_in(folder.path()).unwrap();
            fs::write(file.path(), "new").unwrap();
            publish(file, &path, overwrite).map_err(|error| error.kind())
        };
        let holds = |text: &str| {
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
        };
        fs::write(&path, "old").unwrap();
        let old = FileVersion::of(&path).unwrap();
        write(Overwrite::Only(old)).unwrap();
        holds("new");
        // The file has the same length now, but is another one.
        assert_eq!(write(Overwrite::Only(old)), Err(ErrorKind::AlreadyExists));
        let new = FileVersion::of(&path).unwrap();
        fs::write(&path, "longer").unwrap();
        assert_eq!(write(Overwrite::Only(new)), Err(ErrorKind::AlreadyExists));
        holds("longer");
        fs::remove_file(&path).unwrap();
        write(Overwrite::Only(new)).unwrap();
        holds("new");
        assert_eq!(write(Overwrite::Never), Err(ErrorKind::AlreadyExists));
        write(Overwrite::Always).unwrap();
        holds("new");
        #[cfg(unix)]
        {
            // Changed without a trace in length and time.
            let version = FileVersion::of(&path).unwrap();
            fs::write(&path, "old").unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(version.modified.unwrap()).unwrap();
            assert_eq!(write(Overwrite::Only(version)), Err(ErrorKind::AlreadyExists));
            assert!(!remove(&path, version).unwrap());
            holds("old");
        }
        // A folder, and a link.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(
            (FileVersion::of(&path), write(Overwrite::Only(new))),
            (None, Err(ErrorKind::AlreadyExists))
        );
        assert!(path.is_dir());
        #[cfg(unix)]
        {
            fs::remove_dir(&path).unwrap();
            std::os::unix::fs::symlink("nowhere", &path).unwrap();
            assert_eq!(write(Overwrite::Only(new)), Err(ErrorKind::AlreadyExists));
            assert!(FileVersion::of(&path).is_none() && path.is_symlink());
        }
    }

    #[test]
    fn only_the_stated_version_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        fs::write(&path, "old").unwrap();
        let old = FileVersion::of(&path).unwrap();
        fs::write(&path, "of another program").unwrap();
        assert!(!remove(&path, old).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "of another program");
        assert!(remove(&path, FileVersion::of(&path).unwrap()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(remove(&path, old).is_err());
    }

    #[test]
    fn written_version_can_be_replaced_and_keeps_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        let write = |overwrite| publish(NamedTempFile::new_in(folder.path()).unwrap(), &path, overwrite);
        let mut first = write(Overwrite::Never).unwrap();
        #[cfg(unix)]
        {
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
            assert_eq!(write(first).unwrap_err().kind(), ErrorKind::AlreadyExists);
            first = Overwrite::Only(FileVersion::of(&path).unwrap());
        }
        let second = write(first).unwrap();
        assert_ne!(first, second);
        assert_eq!(write(first).unwrap_err().kind(), ErrorKind::AlreadyExists);
        write(second).unwrap();
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777,
            0o640
        );
    }

    /// The earlier of two files of other programs gets its name back while the later one already has it.
    #[cfg(target_os = "linux")]
    #[test]
    fn latest_file_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        let temporary = |text: &str| {
            let file = NamedTempFile::new_in(folder.path()).unwrap();
            fs::write(file.path(), text).unwrap();
            file.into_temp_path()
        };
        let own = temporary("own");
        let new = FileVersion::of(&own);
        own.persist(&path).unwrap();
        let given = |text: &str| give_back(temporary(text), new, &path).unwrap_err();
        let files = || {
            let mut texts: Vec<String> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
                .collect();
            texts.sort();
            texts
        };
        assert_eq!(given("first").kind(), ErrorKind::AlreadyExists);
        assert_eq!(files(), ["first"]);
        // The later one is at its name.
        let error = given("earlier");
        assert!(error.to_string().starts_with("two other files had this name; one is now "), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(files(), ["earlier", "first"]);
        // A link is no file of ours either.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        given("earlier than the link");
        assert!(path.is_symlink());
        // The name is free.
        fs::remove_file(&path).unwrap();
        assert_eq!(given("alone").kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "alone");
    }

    /// Runs where two files can be exchanged.
    #[cfg(target_os = "linux")]
    #[test]
    fn file_that_takes_the_name_at_any_time_stays() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Replaces its own file over and over.
            let run = scope.spawn(|| {
                let (mut own, mut replaced) = (Overwrite::Never, 0);
                while !done.load(Ordering::Relaxed) {
                    let file = NamedTempFile::new_in(folder.path()).unwrap();
                    fs::write(file.path(), "own").unwrap();
                    let published = publish(file, &path, own);
                    replaced += u32::from(own != Overwrite::Never && published.is_ok());
                    own = published.unwrap_or(Overwrite::Never);
                }
                replaced
            });
            // Waits until the file has this text. With `remove`, it makes room: any file of the other program is removed,
            // for an earlier one may get its name back when a later one is gone.
            let wait_for = |text: &str, remove: bool| {
                let started = std::time::Instant::now();
                loop {
                    match fs::read_to_string(&path).unwrap_or_default() {
                        found if found == text => return true,
                        found if remove && found.starts_with("file ") => drop(fs::remove_file(&path)),
                        _ => {}
                    }
                    if started.elapsed().as_secs() > 10 {
                        return false;
                    }
                }
            };
            let lost = (0..300).find(|round| {
                let text = format!("file {round} of another program");
                let started = wait_for("own", true);
                let new = folder.path().join("new");
                fs::write(&new, &text).unwrap();
                fs::rename(&new, &path).unwrap();
                !(started && wait_for(&text, false))
            });
            done.store(true, Ordering::Relaxed);
            let replaced = run.join().unwrap();
            assert_eq!(lost, None, "this file is lost");
            assert!(replaced > 0, "nothing was replaced");
        });
    }
}
