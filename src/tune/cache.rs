//! The tuning cache: a file of measured choices.

use crate::error::{Error, Result};
use crate::escape::shown;
use crate::files::{FileVersion, Overwrite, read_text, write_whole};
use crate::gpu::{Context, Precision};
use crate::graph::{Choice, Choices, KernelUse};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Version of the file's format; files of other versions are ignored.
const FORMAT: u32 = 3;
/// Maximum size of the file in bytes; an entry has some hundred.
const MAX_FILE: u64 = 1 << 22;
/// End of every note on a cache that is not used.
const REMEDY: &str = "kernels are chosen without it. Run `mirage tune` to measure again";

/// The device and driver that a measurement applies to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// Graphics API.
    pub backend: String,
    /// PCI id of the vendor.
    pub vendor: u32,
    /// PCI id of the device.
    pub device: u32,
    /// Name of the device.
    pub name: String,
    /// Driver and its version.
    pub driver: String,
}

impl Adapter {
    /// Describes an open device.
    pub fn of(context: &Context) -> Self {
        let info = context.info();
        Self {
            backend: info.backend.to_string(),
            vendor: info.vendor,
            device: info.device,
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info),
        }
    }
}

impl Adapter {
    /// True for the same device, under the same name, with another driver.
    fn has_other_driver(&self, other: &Self) -> bool {
        self.driver != other.driver && Self { driver: other.driver.clone(), ..self.clone() } == *other
    }
}

/// One choice with its measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Device and driver.
    pub adapter: Adapter,
    /// True if kernels that trade accuracy for speed were excluded.
    pub exact: bool,
    /// Precision, which determines the candidates.
    pub precision: Precision,
    /// Use of the op.
    #[serde(flatten)]
    pub of: KernelUse,
    /// Hash of the candidates; see [`crate::graph::content`].
    pub content: String,
    /// Chosen variant.
    pub variant: String,
    /// Minimum seconds of each candidate that took part; informative.
    pub seconds: Vec<(String, f64)>,
}

/// All measured choices, on any device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    format: u32,
    /// Version of the program that wrote it; informative.
    program: String,
    entries: Vec<Entry>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { format: FORMAT, program: env!("CARGO_PKG_VERSION").to_owned(), entries: Vec::new() }
    }
}

impl Cache {
    /// Returns the default path of the cache: `neural-mirage/tuning.json` in the user's cache folder. `None` if the
    /// environment defines no home folder.
    pub fn default_path() -> Option<PathBuf> {
        default_path_from(|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// Reads a cache. An unusable file counts as empty, with a note that says why; a missing file is empty without a
    /// note.
    pub fn load(path: &Path) -> (Self, Option<String>) {
        let problem = match read_text(path, MAX_FILE) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (Self::default(), None),
            Err(error) => format!("can't be read ({error})"),
            Ok(text) => match serde_json::from_str::<Self>(&text) {
                Ok(cache) if cache.format == FORMAT => return (cache, None),
                Ok(cache) => format!("has format {}, not {FORMAT}", cache.format),
                Err(error) => format!("is damaged ({error})"),
            },
        };
        (Self::default(), Some(format!("the tuning cache {} {problem}: {REMEDY}", shown(&path))))
    }

    /// Returns the choices for a device, exactness and precision, and a note if the cache has entries for other devices
    /// only.
    pub fn choices(&self, adapter: &Adapter, exact: bool, precision: Precision) -> (Choices, Option<String>) {
        let choices: Choices = self
            .entries
            .iter()
            .filter(|entry| entry.adapter == *adapter)
            .filter(|entry| (entry.exact, entry.precision) == (exact, precision))
            .map(|entry| {
                let choice = Choice { variant: entry.variant.clone(), content: entry.content.clone() };
                (entry.of.clone(), choice)
            })
            .collect();
        let foreign = choices.is_empty() && !self.entries.iter().any(|entry| entry.adapter == *adapter);
        let note = (foreign && !self.entries.is_empty())
            .then(|| format!("the tuning cache is for another device or driver: {REMEDY}"));
        (choices, note)
    }

    /// Adds an entry. It replaces an earlier one for the same use and those of an earlier driver.
    pub fn insert(&mut self, entry: Entry) {
        let kind = |entry: &Entry| (entry.exact, entry.precision);
        self.entries.retain(|old| !old.adapter.has_other_driver(&entry.adapter));
        self.entries
            .retain(|old| !(old.adapter == entry.adapter && kind(old) == kind(&entry) && old.of == entry.of));
        self.entries.push(entry);
    }

    /// Adds these entries to those of a file, which another `mirage tune` may have changed in the meantime. Drops
    /// entries of the same device with another driver. In the user's [cache folder](Self::default_path) any file with
    /// this name is replaced, elsewhere only a tuning cache.
    ///
    /// # Errors
    /// As [`Cache::save`].
    pub fn add_to(&self, path: &Path) -> Result<()> {
        let is_default = Self::default_path().as_deref() == Some(path);
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        // The version first: the file may change.
        let version = FileVersion::of(&path);
        let (mut all, problem) = Self::load(&path);
        for entry in &self.entries {
            all.insert(entry.clone());
        }
        let version = version.filter(|_| is_default || problem.is_none());
        all.save(&path, version.map_or(Overwrite::Never, Overwrite::Only))
    }

    /// Writes the cache atomically. Creates its folder if necessary.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails, [`Error::File`] if an existing file may not be replaced.
    pub fn save(&self, path: &Path, overwrite: impl Into<Overwrite>) -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let failed = || Error::io(path, "writing the tuning cache");
        std::fs::create_dir_all(folder).map_err(failed())?;
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from).map_err(failed())?;
        write_whole(path, text.as_bytes(), "writing the tuning cache", overwrite).map(drop)
    }
}

fn default_path_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| {
        if cfg!(windows) {
            absolute("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            absolute("HOME").map(|home| home.join("Library/Caches"))
        } else {
            absolute("HOME").map(|home| home.join(".cache"))
        }
    });
    base.map(|base| base.join("neural-mirage").join("tuning.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> Adapter {
        Adapter {
            backend: "vulkan".into(),
            vendor: 1,
            device: 2,
            name: "a device".into(),
            driver: "driver 1.0".into(),
        }
    }

    fn entry(size: u32, variant: &str) -> Entry {
        Entry {
            adapter: adapter(),
            exact: false,
            precision: Precision::Single,
            of: KernelUse {
                op: "conv".into(),
                form: vec!["conv/forward RELU=1".into()],
                channels: vec![[3, 0], [64, 0]],
                sizes: vec![size; 2],
            },
            content: "abc".into(),
            variant: variant.into(),
            seconds: vec![(variant.into(), 0.5)],
        }
    }

    #[test]
    fn saved_entries_are_found_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/tuning.json");
        let mut cache = Cache::default();
        cache.insert(entry(10, "one"));
        cache.insert(entry(11, "two"));
        cache.insert(entry(10, "three"));
        cache.save(&path, true).unwrap();
        let (loaded, note) = Cache::load(&path);
        assert_eq!((&loaded, note), (&cache, None));
        let (choices, note) = loaded.choices(&adapter(), false, Precision::Single);
        assert_eq!((choices.len(), note), (2, None));
        assert_eq!(choices[&entry(10, "").of], Choice { variant: "three".into(), content: "abc".into() });
        // Overwritten, and no other file remains.
        loaded.save(&path, true).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn entries_are_merged_with_the_current_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuning.json");
        let of = |entries: &[Entry]| {
            let mut cache = Cache::default();
            entries.iter().for_each(|entry| cache.insert(entry.clone()));
            cache
        };
        let on = |entry: Entry, change: fn(&mut Adapter)| {
            let mut adapter = adapter();
            change(&mut adapter);
            Entry { adapter, ..entry }
        };
        let other = on(entry(10, "other"), |adapter| adapter.device = 9);
        let outdated = on(entry(12, "outdated"), |adapter| adapter.driver = "driver 0.9".into());
        // Two processes that tune at the same time, and earlier entries.
        of(&[outdated, other.clone()]).save(&path, true).unwrap();
        of(&[entry(10, "one")]).add_to(&path).unwrap();
        of(&[entry(11, "two"), entry(10, "three")]).add_to(&path).unwrap();
        // Not to a file that has taken the name.
        let other_file = path.with_extension("txt");
        std::fs::write(&other_file, "precious").unwrap();
        of(&[entry(11, "two")]).add_to(&other_file).unwrap_err();
        assert_eq!(std::fs::read(&other_file).unwrap(), b"precious");
        assert_eq!(Cache::load(&path).0, of(&[other, entry(11, "two"), entry(10, "three")]));
    }

    #[test]
    fn cache_of_different_device_or_driver_is_ignored() {
        let mut cache = Cache::default();
        assert_eq!(cache.choices(&adapter(), false, Precision::Single), (Choices::new(), None));
        cache.insert(entry(10, "one"));
        let changes: [fn(&mut Adapter); 5] = [
            |adapter| adapter.backend = "metal".into(),
            |adapter| adapter.vendor = 9,
            |adapter| adapter.device = 9,
            |adapter| adapter.name = "another".into(),
            |adapter| adapter.driver = "driver 1.1".into(),
        ];
        for change in changes {
            let mut other = adapter();
            change(&mut other);
            let (choices, note) = cache.choices(&other, false, Precision::Single);
            assert!(choices.is_empty());
            assert!(note.unwrap().contains("another device or driver"));
        }
        // Entries of this device for exact kernels only: no note.
        assert_eq!(cache.choices(&adapter(), true, Precision::Single), (Choices::new(), None));
        assert_eq!(cache.choices(&adapter(), false, Precision::Half), (Choices::new(), None));
    }

    #[test]
    fn damaged_cache_is_ignored_and_replaceable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuning.json");
        assert_eq!(Cache::load(&path), (Cache::default(), None));
        let mut cache = Cache::default();
        cache.insert(entry(10, "one"));
        cache.save(&path, true).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let future = whole.replace("\"format\": 3", "\"format\": 4");
        for (text, words) in [
            (&whole.as_bytes()[..whole.len() / 2], "damaged"),
            (b"".as_slice(), "damaged"),
            (b"[1, 2]".as_slice(), "damaged"),
            (b"\xff\xfe\x00".as_slice(), "can't be read"),
            (future.as_bytes(), "format 4"),
        ] {
            std::fs::write(&path, text).unwrap();
            let (loaded, note) = Cache::load(&path);
            assert_eq!(loaded, Cache::default());
            let note = note.unwrap();
            assert!(note.contains(words) && note.contains("mirage tune"), "{note}");
        }
        cache.save(&path, true).unwrap();
        assert_eq!(Cache::load(&path), (cache, None));
    }

    #[test]
    fn failed_write_keeps_the_old_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuning.json");
        Cache::default().save(&path, true).unwrap();
        // A folder at the path can't be replaced.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        std::fs::write(taken.join("precious"), "old").unwrap();
        let error = Cache::default().save(&taken, true).unwrap_err();
        assert!(error.to_string().contains("it is a folder"), "{error}");
        assert_eq!(std::fs::read_to_string(taken.join("precious")).unwrap(), "old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
        assert_eq!(Cache::load(&path), (Cache::default(), None));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn default_path_is_in_the_user_cache() {
        let with = |pairs: &[(&str, &str)]| {
            let find = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            default_path_from(find)
        };
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.cache/neural-mirage/tuning.json".into()));
        assert_eq!(
            with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
            Some("/x/neural-mirage/tuning.json".into())
        );
        assert_eq!(with(&[("HOME", ""), ("XDG_CACHE_HOME", "x")]), None);
    }
}
