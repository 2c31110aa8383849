//! The tuning cache: what was measured, in a file.

use crate::error::{Error, Result};
use crate::escape::shown;
use crate::files::read_text;
use crate::gpu::{Context, Precision};
use crate::graph::{Choice, Choices, KernelUse};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Version of the file's format; files of another are ignored.
const FORMAT: u32 = 3;
/// The largest file that is read, in bytes: an entry has some hundred.
const MAX_FILE: u64 = 1 << 22;
/// Ends every note on a cache that is not used.
const REMEDY: &str = "kernels are chosen without it. `mirage tune` measures anew";

/// What a measurement holds for: one device with one driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// Graphics API.
    pub backend: String,
    /// PCI id of the maker.
    pub vendor: u32,
    /// PCI id of the device.
    pub device: u32,
    /// Its name.
    pub name: String,
    /// The driver with its version.
    pub driver: String,
}

impl Adapter {
    /// That of an opened device.
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
    /// True for the same device with another driver, by which it is known under the same name.
    fn has_other_driver(&self, other: &Self) -> bool {
        self.driver != other.driver && Self { driver: other.driver.clone(), ..self.clone() } == *other
    }
}

/// One choice with its measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// On which device.
    pub adapter: Adapter,
    /// Without kernels that trade accuracy for speed.
    pub exact: bool,
    /// In what precision, which decides which candidates there are.
    pub precision: Precision,
    /// For what.
    #[serde(flatten)]
    pub of: KernelUse,
    /// Hash of the candidates, see [`crate::graph::content`].
    pub content: String,
    /// The variant to take.
    pub variant: String,
    /// Least seconds of each candidate that took part; informative.
    pub seconds: Vec<(String, f64)>,
}

/// All that was measured, on any device.
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
    /// The default path of the cache: `neural-mirage/tuning.json` in the user's folder for
    /// caches. `None` where the environment names no home.
    pub fn default_path() -> Option<PathBuf> {
        default_path_from(|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// Reads a cache. One that can't be used counts as empty, with a note that says why; none at all is empty
    /// without a note.
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

    /// The choices for one device and kernels of this kind, and a note if there are only those of others.
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
            .then(|| format!("the tuning cache is of another device or driver: {REMEDY}"));
        (choices, note)
    }

    /// Adds an entry, which replaces an earlier one for the same, and those of an earlier driver.
    pub fn insert(&mut self, entry: Entry) {
        let kind = |entry: &Entry| (entry.exact, entry.precision);
        self.entries.retain(|old| !old.adapter.has_other_driver(&entry.adapter));
        self.entries
            .retain(|old| !(old.adapter == entry.adapter && kind(old) == kind(&entry) && old.of == entry.of));
        self.entries.push(entry);
    }

    /// Adds these entries to those of a file, which another `mirage tune` may have written meanwhile. Entries of the
    /// same device with another driver are dropped.
    ///
    /// # Errors
    /// As [`Cache::save`].
    pub fn add_to(&self, path: &Path) -> Result<()> {
        let (mut all, _) = Self::load(path);
        for entry in &self.entries {
            all.insert(entry.clone());
        }
        all.save(path)
    }

    /// Writes the cache, whole or not at all, into a folder that is made if need be.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let failed = || Error::io(path, "writing the tuning cache");
        std::fs::create_dir_all(folder).map_err(failed())?;
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from).map_err(failed())?;
        crate::files::write_whole(path, text.as_bytes(), "writing the tuning cache", true)
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
        cache.save(&path).unwrap();
        let (loaded, note) = Cache::load(&path);
        assert_eq!((&loaded, note), (&cache, None));
        let (choices, note) = loaded.choices(&adapter(), false, Precision::Single);
        assert_eq!((choices.len(), note), (2, None));
        assert_eq!(choices[&entry(10, "").of], Choice { variant: "three".into(), content: "abc".into() });
        // Written again over itself, and nothing is left beside it.
        loaded.save(&path).unwrap();
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
        // Two that tune at the same time, and what there was before.
        of(&[outdated, other.clone()]).save(&path).unwrap();
        of(&[entry(10, "one")]).add_to(&path).unwrap();
        of(&[entry(11, "two"), entry(10, "three")]).add_to(&path).unwrap();
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
        // Of this device, but for accurate kernels: nothing to complain of.
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
        cache.save(&path).unwrap();
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
        cache.save(&path).unwrap();
        assert_eq!(Cache::load(&path), (cache, None));
    }

    #[test]
    fn failed_write_keeps_the_old_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuning.json");
        Cache::default().save(&path).unwrap();
        // A folder in the place of the file can't be replaced by it.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        std::fs::write(taken.join("precious"), "old").unwrap();
        let error = Cache::default().save(&taken).unwrap_err();
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
