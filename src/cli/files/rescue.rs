//! Saves finished work that can't be written to its place.

use crate::cli::output::escape::shown;
use crate::error::{Error, Result};
use crate::files::parent;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Writes a file elsewhere than at `path`: under the same name in a new folder with a random name, beside the path or
/// else in the system's folder for temporary files. Returns its path, if that succeeds.
pub(in crate::cli) fn rescue(path: &Path, mut write: impl FnMut(&Path) -> Result<()>) -> Option<PathBuf> {
    let name = path.file_name().unwrap_or(OsStr::new("rescued"));
    let mut builder = tempfile::Builder::new();
    builder.prefix("mirage-rescued-").rand_bytes(12);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    [parent(path), &std::env::temp_dir()].into_iter().find_map(|base| {
        // The folder is removed if writing fails.
        let folder = builder.tempdir_in(base).ok()?;
        let place = folder.path().join(name);
        write(&place).ok()?;
        let _ = folder.keep();
        Some(place)
    })
}

/// Returns the error for a picture that couldn't be written to its place, saying where it is instead, if anywhere. The
/// request was valid and the work was done, so this is not a usage error.
pub(in crate::cli) fn not_saved(path: &Path, error: &Error, rescued: Option<&Path>) -> Error {
    let outcome = match rescued {
        Some(place) => format!("the picture is in {}", shown(place)),
        None => "no other folder could be written either, so the picture is not saved".to_owned(),
    };
    Error::io(path, "saving")(std::io::Error::other(format!("{error}; {outcome}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_rescued_beside_target_or_in_temp_folder() {
        let folder = tempfile::tempdir().unwrap();
        let write = |place: &Path| std::fs::write(place, "work").map_err(Error::io(place, "writing"));
        for (path, beside) in
            [(folder.path().join("out.png"), true), (folder.path().join("gone/out.png"), false)]
        {
            let place = rescue(&path, write).unwrap();
            assert_eq!(std::fs::read(&place).unwrap(), b"work");
            assert_eq!((place.file_name(), place.starts_with(folder.path())), (path.file_name(), beside));
            let again = rescue(&path, write).unwrap();
            assert_ne!(place, again);
            for place in [place, again] {
                std::fs::remove_dir_all(place.parent().unwrap()).unwrap();
            }
        }
        assert!(rescue(&folder.path().join("out.png"), |_| Err(Error::usage("no"))).is_none());
        // The work was done: whatever the reason is, this is not a usage error.
        let reason = Error::file(folder.path(), "it can't be written", "Choose another");
        for (rescued, outcome) in [(None, "is not saved"), (Some(Path::new("x/out.png")), "is in x/out.png")]
        {
            let error = not_saved(&folder.path().join("out.png"), &reason, rescued);
            assert!(error.exit_code() == 1 && error.to_string().ends_with(outcome), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    }
}
