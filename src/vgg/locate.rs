//! Finds the network to use: the requested one, a downloaded one, or the default network.

use crate::escape::shown;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::published::{self, FETCH_COMMAND};
pub use super::published::{DEFAULT_NETWORK, DEFAULT_NETWORK_SHA256, NARROW};
use crate::{Error, Result};

/// The program's folder below the user's data folder.
const PROGRAM: &str = "neural-mirage";

/// The default network, if the program was built with it.
#[cfg(feature = "embedded-network")]
static EMBEDDED: Option<&[u8]> = Some(include_bytes!("../../weights/vgg16-narrow.safetensors"));
/// The default network, if the program was built with it.
#[cfg(not(feature = "embedded-network"))]
static EMBEDDED: Option<&[u8]> = None;

/// The location of a network's weights.
#[derive(Clone)]
#[non_exhaustive]
pub enum Location {
    /// A safetensors file.
    File(PathBuf),
    /// The default network inside the program: the bytes of its file.
    Embedded(&'static [u8]),
}

impl Location {
    /// Returns the file's path, or the short name [`NARROW`] for the embedded network. [`find_weights`] accepts both.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Embedded(_) => Path::new(NARROW),
        }
    }
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Embedded(bytes) => write!(f, "Embedded({} bytes)", bytes.len()),
        }
    }
}

/// Returns the location of the weights to open.
///
/// `option` is the user's choice: a path, which is returned unchecked, or a short name: [`NARROW`] for the default
/// network, `vgg16` or `vgg19` for one downloaded with `vgg::fetch`. A file with the same name takes precedence over a
/// short name, a folder doesn't.
///
/// Without `option`, and for [`NARROW`], it is the network embedded in the program (feature `embedded-network`). A
/// program without one searches next to the executable, in the folders of installations and checkouts, in `weights/` of
/// the current folder and in the user's data folder. On Unix it skips places where any user could put a file, such as a
/// `weights/` in the temporary folder.
///
/// # Errors
/// [`Error::Usage`] if the network with a short name hasn't been downloaded, or if the default network isn't found; the
/// message lists the searched places.
pub fn find_weights(option: Option<&Path>) -> Result<Location> {
    let data = data_dir();
    match option.map(|path| (path, path.to_str().filter(|_| !path.is_file()))) {
        None | Some((_, Some(NARROW))) => {
            if let Some(bytes) = EMBEDDED {
                return Ok(Location::Embedded(bytes));
            }
            let executable = std::env::current_exe().ok();
            // Resolve links such as /usr/local/bin/mirage, to find the folder with the weights.
            let executable = executable.map(|path| path.canonicalize().unwrap_or(path));
            first_of(default_places(executable.as_deref(), data.as_deref())).map(Location::File)
        }
        Some((_, Some(name))) if published::is_full_size(name) => {
            fetched(name, data.as_deref()).map(Location::File)
        }
        // A file with the embedded network's name must not be confused with it later.
        Some((path, _)) if path == Path::new(NARROW) => Ok(Location::File(Path::new(".").join(path))),
        Some((path, _)) => Ok(Location::File(path.to_owned())),
    }
}

/// Returns the program's folder for downloaded files: `neural-mirage` in `$XDG_DATA_HOME` if that is an
/// absolute path, else in the system's usual folder (`~/.local/share`, `~/Library/Application Support`,
/// `%LOCALAPPDATA%`). `None` if the environment variables for it are not set.
pub fn data_dir() -> Option<PathBuf> {
    data_dir_from(|name| std::env::var_os(name).map(PathBuf::from))
}

fn data_dir_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| {
        if cfg!(windows) {
            absolute("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            absolute("HOME").map(|home| home.join("Library/Application Support"))
        } else {
            absolute("HOME").map(|home| home.join(".local/share"))
        }
    });
    base.map(|base| base.join(PROGRAM))
}

/// Returns the file of a downloaded network.
fn fetched(name: &str, data: Option<&Path>) -> Result<PathBuf> {
    let path = data.map(|folder| folder.join(published::file_name(name)));
    match path {
        Some(path) if path.is_file() => Ok(path),
        Some(path) => Err(Error::usage(format!(
            "{name} has not been downloaded: there is no {}. Get it with `{FETCH_COMMAND} {name}`",
            shown(&path)
        ))),
        None => Err(Error::usage(format!(
            "can't search for {name}, because the environment has no home folder. Use the file's path instead"
        ))),
    }
}

/// A possible place of the default network.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    /// Folder of the program or the user that contains the place; empty for the current folder.
    base: PathBuf,
    file: PathBuf,
}

impl Place {
    fn new(base: &Path, below: impl AsRef<Path>) -> Self {
        Self { base: base.to_owned(), file: base.join(below).join(DEFAULT_NETWORK) }
    }

    /// Returns the first path that lets any user put another file here: the file itself, or one of its folders up to
    /// the base. File and folder are also checked with symbolic links resolved.
    #[cfg(unix)]
    fn open_to_others(&self) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        const OTHERS_WRITE: u32 = 0o002;
        let open = |path: &&Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            path.metadata().is_ok_and(|found| found.permissions().mode() & OTHERS_WRITE != 0)
        };
        let followed = self.file.canonicalize().unwrap_or_default();
        let written = self.file.ancestors().take_while(|path| path.starts_with(&self.base));
        written
            .chain(followed.ancestors().take(2).filter(|path| path.is_absolute()))
            .find(open)
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// On other systems there are no permission bits, and temporary folders belong to a single user.
    #[cfg(not(unix))]
    fn open_to_others(&self) -> Option<PathBuf> {
        None
    }
}

/// Returns the possible places of the default network, in search order.
fn default_places(executable: Option<&Path>, data: Option<&Path>) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    if let Some(folder) = executable.and_then(Path::parent) {
        places.push(Place::new(folder, ""));
        if let Some(prefix) = folder.parent() {
            places.push(Place::new(prefix, Path::new("share").join(PROGRAM)));
        }
        // target/release/mirage and target/release/deps/test lie below the checkout.
        places.extend(folder.ancestors().map(|ancestor| Place::new(ancestor, "weights")));
    }
    places.push(Place::new(Path::new(""), "weights"));
    places.extend(data.map(|folder| Place::new(folder, "")));
    places.push(Place::new(Path::new(env!("CARGO_MANIFEST_DIR")), "weights"));
    let mut seen = HashSet::new();
    places.retain(|place| seen.insert(place.file.clone()));
    places
}

fn first_of(places: Vec<Place>) -> Result<PathBuf> {
    let mut list = String::new();
    for place in places {
        let open = place.open_to_others();
        if open.is_none() && place.file.is_file() {
            return Ok(place.file);
        }
        list += &format!("\n  {}", shown(&place.file));
        if let Some(open) = open {
            list += &format!(" (not searched: all users may write to {})", shown(&open));
        }
    }
    Err(Error::usage(format!(
        "the default network {DEFAULT_NETWORK} was not found. {}. Put it in one of these places, or use a weights file \
         with --weights:{list}",
        published::where_narrow_is()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::hex;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn explicit_path_is_used_unchanged() {
        let path = Path::new("no/such/file.safetensors");
        assert_eq!(find_weights(Some(path)).unwrap().path(), path);
    }

    #[test]
    fn default_network_is_found_by_short_name() {
        for option in [None, Some(Path::new(NARROW))] {
            let location = find_weights(option).unwrap();
            assert_eq!(matches!(location, Location::Embedded(_)), cfg!(feature = "embedded-network"));
            match location {
                Location::File(path) => {
                    assert_eq!(path.file_name().unwrap(), DEFAULT_NETWORK);
                    assert!(path.is_file());
                }
                Location::Embedded(bytes) => {
                    assert_eq!(hex(&Sha256::digest(bytes)), DEFAULT_NETWORK_SHA256);
                }
            }
        }
        assert_eq!(Location::Embedded(b"x").path(), Path::new(NARROW));
    }

    #[cfg(unix)]
    #[test]
    fn world_writable_folders_are_not_searched() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (above, weights) = (root.join("bin"), root.join("bin/weights"));
        std::fs::create_dir_all(&weights).unwrap();
        std::fs::write(weights.join(DEFAULT_NETWORK), "").unwrap();
        std::os::unix::fs::symlink(&weights, root.join("link")).unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
        };
        // Permissions above the base don't matter: a user who can write there can also replace the program.
        set(&root, 0o1777);
        let written = Place::new(&above, "weights");
        let linked = Place { base: root.join("link"), file: root.join("link").join(DEFAULT_NETWORK) };
        let safe = Place::new(&root.join("safe"), "");
        std::fs::create_dir(&safe.base).unwrap();
        std::fs::write(&safe.file, "").unwrap();
        let found = |place: &Place| first_of(vec![place.clone()]);
        let refused = |place: &Place, because: &Path| {
            let text = found(place).unwrap_err().to_string();
            let said = format!("(not searched: all users may write to {})", because.display());
            assert!(text.contains(&said), "{text}");
            // A safe place further down the list is still found.
            assert_eq!(first_of(vec![place.clone(), safe.clone()]).unwrap(), safe.file);
        };

        for path in [&above, &weights] {
            set(path, 0o775);
        }
        set(&written.file, 0o664);
        assert_eq!(found(&written).unwrap(), written.file, "what a group may write to is searched");
        assert_eq!(found(&linked).unwrap(), linked.file);
        // 1777 is the temporary folder's mode: any user may add a file.
        for (path, open) in [(&above, 0o1777), (&weights, 0o1777), (&weights, 0o757), (&written.file, 0o646)]
        {
            let shut = path.metadata().unwrap().permissions().mode();
            set(path, open);
            refused(&written, path);
            set(path, shut);
            assert_eq!(found(&written).unwrap(), written.file);
        }
        set(&weights, 0o777);
        refused(&linked, &linked.base);
        // Another user could create a missing file.
        set(&above, 0o1777);
        std::fs::remove_dir_all(&weights).unwrap();
        refused(&written, &above);
        // A share/ beside the program's folder.
        let prefix = Place::new(&above, "share/neural-mirage");
        std::fs::create_dir_all(prefix.file.parent().unwrap()).unwrap();
        std::fs::write(&prefix.file, "").unwrap();
        refused(&prefix, &above);
        set(&above, 0o755);
        assert_eq!(found(&prefix).unwrap(), prefix.file);
    }

    #[test]
    fn default_is_searched_beside_the_executable_first() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let executable = root.join("target/release/mirage");
        let places = default_places(Some(&executable), None);
        let expected = [
            "target/release",
            "target/share/neural-mirage",
            "target/release/weights",
            "target/weights",
            "weights",
        ];
        for (place, expected) in places.iter().zip(expected) {
            assert_eq!(place.file, root.join(expected).join(DEFAULT_NETWORK));
        }
        assert!(places.iter().any(|place| place.file == Path::new("weights").join(DEFAULT_NETWORK)));

        std::fs::create_dir_all(root.join("weights")).unwrap();
        std::fs::write(root.join("weights").join(DEFAULT_NETWORK), "").unwrap();
        assert_eq!(first_of(places).unwrap(), root.join("weights").join(DEFAULT_NETWORK));
    }

    #[test]
    fn missing_default_lists_searched_places() {
        let places = ["/nowhere/a", "/nowhere/b"].map(|folder| Place::new(Path::new(folder), ""));
        let error = first_of(places.into()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/nowhere/a") && text.contains("/nowhere/b") && text.contains("--weights"),
            "{text}"
        );
        assert!(
            text.contains(DEFAULT_NETWORK)
                && text.contains(DEFAULT_NETWORK_SHA256)
                && text.contains(if published::narrow_address().is_some() { "/raw/" } else { "weights/ of" }),
            "{text}"
        );
        assert!(!text.contains("not searched"), "{text}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn short_names_resolve_to_fetched_files() {
        let folder = tempfile::tempdir().unwrap();
        let error = fetched("vgg19", Some(folder.path())).unwrap_err();
        assert!(error.to_string().contains("vgg19.safetensors"), "{error}");
        let path = folder.path().join("vgg19.safetensors");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(fetched("vgg19", Some(folder.path())).unwrap(), path);
        assert!(fetched("vgg19", None).is_err());
    }

    #[cfg(all(unix, not(target_os = "macos")))]
    #[test]
    fn data_folder_follows_the_environment() {
        let with = |pairs: &'static [(&str, &str)]| {
            data_dir_from(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.local/share/neural-mirage".into()));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]), Some("/x/neural-mirage".into()));
        assert_eq!(
            with(&[("HOME", "/h"), ("XDG_DATA_HOME", "x")]),
            Some("/h/.local/share/neural-mirage".into())
        );
        assert_eq!(with(&[("HOME", "")]), None);
    }
}
