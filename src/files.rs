//! Files that are written whole or not at all.

use crate::error::{Error, Result};
use std::io::Write as _;
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::write_whole;

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
}
