//! Which weights file to use: the one asked for, one fetched earlier, or the default network.

use std::path::{Path, PathBuf};

use super::published::{self, FETCH_COMMAND};
use crate::{Error, Result};

/// File name of the network that comes with the program.
pub const DEFAULT_NETWORK: &str = "vgg16-narrow.safetensors";
/// The program's folder below the user's data folder.
const PROGRAM: &str = "neural-mirage";

/// The weights file to open.
///
/// `option` is what the user asked for: a path, which is returned as it is (opening it shows whether
/// it can be used), or the short name of a network that `vgg::fetch` has
/// downloaded, `vgg16` or `vgg19`. Without it, the default network is looked for next to the
/// executable, in the folders where installations and checkouts keep it, in the current folder's
/// `weights/` and in the user's data folder.
///
/// # Errors
/// [`Error::Usage`] if a short name hasn't been fetched, or if the default network is nowhere; the
/// message lists the places.
pub fn find_weights(option: Option<&Path>) -> Result<PathBuf> {
    let data = data_dir();
    let Some(path) = option else {
        let executable = std::env::current_exe().ok();
        // Links such as /usr/local/bin/mirage lead to the folder that holds the weights.
        let executable = executable.map(|path| path.canonicalize().unwrap_or(path));
        return first_of(default_places(executable.as_deref(), data.as_deref()));
    };
    match path.to_str().filter(|name| published::is_known(name) && !path.exists()) {
        Some(name) => fetched(name, data.as_deref()),
        None => Ok(path.to_owned()),
    }
}

/// The program's folder for downloaded files: `neural-mirage` below `$XDG_DATA_HOME` where that is
/// an absolute path, else below the system's usual folder (`~/.local/share`,
/// `~/Library/Application Support`, `%LOCALAPPDATA%`). `None` where the environment names no home.
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

/// The file of a network downloaded earlier.
fn fetched(name: &str, data: Option<&Path>) -> Result<PathBuf> {
    let path = data.map(|folder| folder.join(published::file_name(name)));
    match path {
        Some(path) if path.is_file() => Ok(path),
        Some(path) => Err(Error::usage(format!(
            "{name} has not been downloaded: there is no {}. Get it with `{FETCH_COMMAND} {name}`",
            path.display()
        ))),
        None => Err(Error::usage(format!(
            "{name} can't be looked up, because the environment names no home folder. Give the file's path"
        ))),
    }
}

/// Where the default network may be, in the order to look.
fn default_places(executable: Option<&Path>, data: Option<&Path>) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    let mut add = |folder: PathBuf| {
        let place = folder.join(DEFAULT_NETWORK);
        if !places.contains(&place) {
            places.push(place);
        }
    };
    if let Some(folder) = executable.and_then(Path::parent) {
        add(folder.to_owned());
        if let Some(prefix) = folder.parent() {
            add(prefix.join("share").join(PROGRAM));
        }
        // target/release/mirage and target/release/deps/test lie below the checkout.
        folder.ancestors().for_each(|ancestor| add(ancestor.join("weights")));
    }
    add(PathBuf::from("weights"));
    data.into_iter().for_each(|folder| add(folder.to_owned()));
    add(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights"));
    places
}

fn first_of(places: Vec<PathBuf>) -> Result<PathBuf> {
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    let places: Vec<String> = places.iter().map(|place| format!("\n  {}", place.display())).collect();
    Err(Error::usage(format!(
        "the default network {DEFAULT_NETWORK} was not found. Put it in one of these places, or name a weights file \
         with --weights:{}",
        places.concat()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_as_it_is() {
        let path = Path::new("no/such/file.safetensors");
        assert_eq!(find_weights(Some(path)).unwrap(), path);
    }

    #[test]
    fn the_default_network_of_the_checkout_is_found() {
        let found = find_weights(None).unwrap();
        assert_eq!(found.file_name().unwrap(), DEFAULT_NETWORK);
        assert!(found.is_file());
    }

    #[test]
    fn the_default_is_looked_for_beside_the_executable_first() {
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
            assert_eq!(*place, root.join(expected).join(DEFAULT_NETWORK));
        }
        assert!(places.contains(&Path::new("weights").join(DEFAULT_NETWORK)));

        std::fs::create_dir_all(root.join("weights")).unwrap();
        std::fs::write(root.join("weights").join(DEFAULT_NETWORK), "").unwrap();
        assert_eq!(first_of(places).unwrap(), root.join("weights").join(DEFAULT_NETWORK));
    }

    #[test]
    fn a_default_that_is_nowhere_lists_the_places() {
        let error = first_of(vec!["/nowhere/a".into(), "/nowhere/b".into()]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/nowhere/a") && text.contains("/nowhere/b") && text.contains("--weights"),
            "{text}"
        );
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn short_names_lead_to_fetched_files() {
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
    fn the_data_folder_follows_the_environment() {
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
