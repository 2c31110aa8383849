//! Checks of the disk before a run: whether two names are the same file, whether another run writes to a name, how much
//! space is left.

use crate::cli::output::escape::shown;
use crate::error::{Error, Result};
#[cfg(unix)]
use crate::files::number;
use crate::files::{
    FileVersion, check_name, check_place, is_stream, locked_soon, parent, remove_if_own, remove_temporary,
    temporary,
};
use crate::hex::hex;
use sha2::{Digest as _, Sha256};
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Checks, before the work is done, that [`write_whole`](crate::files::write_whole) can write here; leaves nothing
/// behind.
///
/// # Errors
/// [`Error::File`] naming the obstacle.
pub(in crate::cli) fn check_whole(path: &Path, replace: bool) -> Result<()> {
    if is_stream(path) {
        return Ok(());
    }
    let target = check_place(path, replace)?;
    check_name(path)?;
    temporary(path, &target).map(drop)
}

/// True if both paths lead to one file: through links, by another name of the file, or in another case where case does
/// not matter. Files that don't exist yet are the same if they will be.
pub(in crate::cli) fn is_same(one: &Path, other: &Path) -> bool {
    match (identity(one), identity(other)) {
        (Some(first), Some(second)) => first == second || is_other_case(one, other),
        (None, None) => {
            one == other || matches!((place(one), place(other)), (Some(one), Some(other)) if one == other)
        }
        _ => false,
    }
}

/// A file that a run reads, which it never replaces, under whatever name.
#[derive(Debug)]
pub(in crate::cli) struct ReadFile {
    pub path: PathBuf,
    /// Identifies the file when it was read, for it may be moved during the run.
    identity: Option<Identity>,
}

impl ReadFile {
    pub(in crate::cli) fn new(path: PathBuf) -> Self {
        Self { identity: identity(&path), path }
    }

    /// True if this path leads to the file that was read, or to the one that has its name now.
    pub(in crate::cli) fn is(&self, path: &Path) -> bool {
        is_same(&self.path, path) || self.identity.is_some() && self.identity == identity(path)
    }

    /// True if this is the file that was read, or the one that has its name now.
    #[cfg(unix)]
    pub(in crate::cli) fn is_open_as(&self, file: &File) -> bool {
        let opened = file.metadata().ok().map(|found| number(&found));
        opened.is_some() && (opened == self.identity || opened == identity(&self.path))
    }

    /// Always false: these systems don't identify open files.
    #[cfg(not(unix))]
    pub(in crate::cli) fn is_open_as(&self, _: &File) -> bool {
        false
    }
}

/// True if two existing paths differ in case only and their folder has but one such file. Some file systems report another
/// inode number for each spelling.
fn is_other_case(one: &Path, other: &Path) -> bool {
    let (Some(place_of_one), Some(place_of_other)) = (place(one), place(other)) else { return false };
    let names = [one.file_name(), other.file_name()];
    if place_of_one != place_of_other || names[0] == names[1] {
        return false;
    }
    let Ok(entries) = std::fs::read_dir(parent(one)) else { return false };
    entries.flatten().filter(|entry| names.contains(&Some(&entry.file_name()))).count() < 2
}

/// Identifies a file, whatever its name: device and inode number.
#[cfg(unix)]
type Identity = (u64, u64);

/// Identifies a file: its path without links.
#[cfg(not(unix))]
type Identity = PathBuf;

/// Returns what identifies a file; links are followed.
#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    path.metadata().ok().map(|found| number(&found))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    path.canonicalize().ok()
}

/// Returns where a file that doesn't exist will be: its folder without links, and its name in lower case, as some disks
/// ignore case.
fn place(path: &Path) -> Option<(PathBuf, OsString)> {
    let mut path = path.to_owned();
    // Follow dangling links; 40 is the usual limit of systems.
    for _ in 0..40 {
        let Ok(target) = path.read_link() else { break };
        path = parent(&path).join(target);
    }
    let name = path.file_name()?;
    let name = name.to_str().map_or_else(|| name.to_owned(), |name| name.to_lowercase().into());
    Some((parent(&path).canonicalize().ok()?, name))
}

/// Returns the largest possible size of a new file in this folder in bytes, if known: the free space of the disk, or
/// less if the process has a limit of its own.
#[cfg(unix)]
pub(in crate::cli) fn room(folder: &Path) -> Option<u64> {
    // Some network disks report no size.
    let disk = rustix::fs::statvfs(folder).ok().filter(|disk| disk.f_blocks > 0);
    let left = disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let most = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    left.into_iter().chain(most).min()
}

/// Returns the largest possible size of a new file in this folder in bytes, if known.
#[cfg(not(unix))]
pub(in crate::cli) fn room(_: &Path) -> Option<u64> {
    None
}

/// A name reserved for this run, so that no other run writes to it.
///
/// A reservation is a lock on a hidden file beside the name. The system releases it however the process ends. The file
/// is removed at the end; one left by a killed process locks nothing.
#[derive(Debug)]
pub(in crate::cli) struct Reservation {
    path: PathBuf,
    /// Holds the lock.
    file: Arc<File>,
}

/// Lock files of this process, for an exit that runs no destructors.
static TAKEN: Mutex<Vec<(PathBuf, Arc<File>)>> = Mutex::new(Vec::new());

/// New files, which are removed at such an exit if they are empty.
static NEW: Mutex<Vec<(PathBuf, FileVersion)>> = Mutex::new(Vec::new());

/// Removes a file that this process has created, unless it has content or its name is another file's now.
fn remove_if_empty(path: &Path, own: &FileVersion) {
    if FileVersion::of(path).is_some_and(|found| found.length() == 0) {
        remove_if_own(path, own);
    }
}

/// Removes this process's lock files, whose locks hold until it ends, new files that are empty, and temporary files.
pub(in crate::cli) fn remove_leftovers() {
    // Taking a lock takes a moment. If this very thread is doing so, it ran out of memory; lock files left behind lock
    // nothing.
    if let Some(taken) = locked_soon(&TAKEN) {
        taken.iter().for_each(|(path, file)| remove_lock(path, file));
        // Held until the process ends, so that no further lock is taken.
        std::mem::forget(taken);
    }
    // Held until the process ends, so that no further file is created.
    let new = ManuallyDrop::new(NEW.lock().unwrap_or_else(PoisonError::into_inner));
    new.iter().for_each(|(path, own)| remove_if_empty(path, own));
    remove_temporary();
}

/// Creates a file. A signal that ends the program at once removes the file if it is still empty.
///
/// # Errors
/// If the system refuses, or the path exists.
pub(in crate::cli) fn create(path: &Path) -> std::io::Result<File> {
    let mut new = NEW.lock().unwrap_or_else(PoisonError::into_inner);
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    new.extend(FileVersion::of(path).map(|version| (path.to_owned(), version)));
    Ok(file)
}

impl Reservation {
    /// Reserves a name, for the file `written` that `option` names; `None` where locks are not supported, as on some
    /// network disks.
    ///
    /// # Errors
    /// [`Error::File`] if another run has it.
    pub(in crate::cli) fn take(name: &Path, written: &Path, option: &str) -> Result<Option<Self>> {
        let Some((folder, file_name)) = place(name) else { return Ok(None) };
        let hash = hex(&Sha256::digest(file_name.as_encoded_bytes()));
        let path = folder.join(format!(".mirage-{}.lock", &hash[..16]));
        // Held meanwhile, so that no lock file is missed at an exit.
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        // The file may be removed by its owner between opening and locking.
        for _ in 0..100 {
            let (file, is_new) = match open_lock(&path) {
                Ok(Some(opened)) => opened,
                Ok(None) => return Ok(None),
                Err(error) => {
                    let problem = format!(
                        "another user's run may be writing it, whose {} can't be read ({error})",
                        shown(&path)
                    );
                    let remedy = format!("Choose another name with {option}");
                    return Err(Error::file(written, problem, remedy));
                }
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => {
                    let file = Arc::new(file);
                    taken.push((path.clone(), file.clone()));
                    return Ok(Some(Self { path, file }));
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let problem = "another run of this program is writing it";
                    let remedy = format!("Wait for that run or end it, or choose another name with {option}");
                    return Err(Error::file(written, problem, remedy));
                }
                Err(TryLockError::Error(_)) => {
                    if is_new {
                        remove_lock(&path, &file);
                    }
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // Removed while locked, so that a process that has just opened it sees that it is gone.
        remove_lock(&self.path, &self.file);
        TAKEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(_, file)| !Arc::ptr_eq(file, &self.file));
    }
}

/// Removes a lock file, unless its folder was moved and the name is another's now. A leftover file is harmless.
fn remove_lock(path: &Path, file: &File) {
    if is_at(file, path) {
        let _ = std::fs::remove_file(path);
    }
}

/// Opens or creates a lock file, and returns whether it is new; `None` if none can be created there, or the path is not an
/// ordinary file.
///
/// # Errors
/// If there is one that this user may not open.
fn open_lock(path: &Path) -> std::io::Result<Option<(File, bool)>> {
    let mut reading = File::options();
    reading.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut reading, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut creating = reading.clone();
    creating.write(true).create_new(true);
    // Another user's lock file can only be read, which is enough to see whether it is locked.
    let created = creating.open(path);
    let is_new = created.is_ok();
    #[cfg(unix)]
    if let Ok(file) = &created {
        // Whatever the umask: other users must be able to open it.
        let _ = file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    }
    let file = match created.or_else(|_| reading.open(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::PermissionDenied && path.symlink_metadata().is_ok() => {
            return Err(error);
        }
        Err(_) => return Ok(None),
    };
    Ok(file.metadata().is_ok_and(|found| found.is_file()).then_some((file, is_new)))
}

/// True if the file still has this name.
#[cfg(unix)]
pub(in crate::cli) fn is_at(file: &File, path: &Path) -> bool {
    matches!((file.metadata(), path.metadata()), (Ok(file), Ok(named)) if number(&file) == number(&named))
}

/// Always true: open files can't lose their names on these systems.
#[cfg(not(unix))]
pub(in crate::cli) fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn aliases_of_a_file_are_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("inner")).unwrap();
        for name in ["a", "b"] {
            std::fs::write(path(name), "").unwrap();
        }
        std::fs::hard_link(path("a"), path("hard")).unwrap();
        std::os::unix::fs::symlink("a", path("soft")).unwrap();
        std::os::unix::fs::symlink("soft", path("softer")).unwrap();
        std::os::unix::fs::symlink("inner/new", path("dangling")).unwrap();
        for other in ["a", "hard", "soft", "softer", "inner/../a"] {
            assert!(is_same(&path("a"), &path(other)), "{other}");
        }
        assert!(!is_same(&path("a"), &path("b")) && !is_same(&path("a"), &path("new")));
        for other in ["dangling", "inner/../inner/NEW", "inner/new"] {
            assert!(is_same(&path("inner/new"), &path(other)), "{other}");
        }
        assert!(!is_same(&path("inner/new"), &path("new")));
    }

    #[cfg(unix)]
    #[test]
    fn read_files_are_known_under_other_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["photo", "other"] {
            std::fs::write(path(name), name).unwrap();
        }
        let read = ReadFile::new(path("photo"));
        assert!(read.is(&path("photo")) && !read.is(&path("other")));
        std::fs::rename(path("photo"), path("moved")).unwrap();
        assert!(read.is(&path("moved")) && read.is_open_as(&File::open(path("moved")).unwrap()));
        // What has the photo's name now counts too.
        std::os::unix::fs::symlink("other", path("photo")).unwrap();
        assert!(read.is(&path("other")) && read.is_open_as(&File::open(path("other")).unwrap()));
        std::fs::write(path("third"), "").unwrap();
        assert!(!read.is(&path("third")) && !read.is_open_as(&File::open(path("third")).unwrap()));
    }

    #[test]
    fn only_own_empty_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        std::fs::write(&path, "").unwrap();
        let own = FileVersion::of(&path).unwrap();
        #[cfg(unix)]
        {
            std::fs::rename(&path, folder.path().join("moved")).unwrap();
            std::fs::write(&path, "").unwrap();
            remove_if_empty(&path, &own);
            assert!(path.exists(), "another program's file");
            std::fs::rename(folder.path().join("moved"), &path).unwrap();
        }
        std::fs::write(&path, "a line").unwrap();
        remove_if_empty(&path, &own);
        assert!(path.exists());
        std::fs::write(&path, "").unwrap();
        remove_if_empty(&path, &own);
        assert!(!path.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn free_disk_space_is_reported() {
        assert!(room(Path::new(".")).is_some_and(|room| room > 0));
        assert!(room(Path::new("/nonexistent/folder")).is_none_or(|room| room > 0));
    }

    #[test]
    fn reservation_is_exclusive_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("out");
        let first = Reservation::take(&name, &name, "-o").unwrap();
        assert!(first.is_some());
        for other in ["out", "OUT", "./out"] {
            let other = folder.path().join(other);
            let error = Reservation::take(&other, &other, "-o").unwrap_err();
            assert!(error.to_string().contains("another run") && error.exit_code() == 2, "{error}");
        }
        let other = Reservation::take(&folder.path().join("other"), &name, "-o").unwrap();
        assert!(other.is_some());
        drop((first, other));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        // In a folder that takes the place of the first one, the name can be reserved again, and stays so.
        let inner = |name: &str| folder.path().join(name);
        std::fs::create_dir(inner("inner")).unwrap();
        let take = || Reservation::take(&inner("inner/out"), &inner("inner/out"), "-o");
        let moved = take().unwrap();
        std::fs::rename(inner("inner"), inner("moved")).unwrap();
        std::fs::create_dir(inner("inner")).unwrap();
        let second = take().unwrap();
        drop(moved);
        take().unwrap_err();
        drop(second);
        assert!(Reservation::take(&name, &name, "-o").unwrap().is_some());
        assert!(Reservation::take(&folder.path().join("none/out"), &name, "-o").unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf8_are_reserved_separately() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        let take = |name: &[u8]| {
            let name = folder.path().join(std::ffi::OsStr::from_bytes(name));
            Reservation::take(&name, &name, "-o")
        };
        let _first = take(b"x\xff.png").unwrap();
        take(b"x\xfe.png").unwrap();
        take(b"x\xff.png").unwrap_err();
    }

    #[cfg(unix)]
    #[test]
    fn stale_lock_is_ignored_and_symlink_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("out");
        let lock = Reservation::take(&name, &name, "-o").unwrap().unwrap().path.clone();
        std::fs::write(&lock, "").unwrap();
        assert!(Reservation::take(&name, &name, "-o").unwrap().is_some());
        std::os::unix::fs::symlink("victim", &lock).unwrap();
        assert!(Reservation::take(&name, &name, "-o").unwrap().is_none());
        assert!(!folder.path().join("victim").exists());
    }
}
