//! Class names, and the most probable classes.

use std::path::Path;

use crate::{Error, Result};

/// The 1000 class names of ImageNet, in the order of the published networks' outputs.
const IMAGENET: &str = include_str!("../../weights/imagenet-labels.txt");

/// Names of a network's classes, by output index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Labels {
    /// ImageNet's 1000 names.
    pub fn imagenet() -> Self {
        Self::of(IMAGENET)
    }

    /// Reads names from a UTF-8 text file, one a line; blank lines at its end don't count.
    /// Whether they are as many as the network's classes is for the caller to check.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read, isn't UTF-8 text or holds no names.
    pub fn load(path: &Path) -> Result<Self> {
        let remedy = "Give a text file with one class name a line";
        let bytes = std::fs::read(path)
            .map_err(|error| Error::file(path, format!("the labels can't be read: {error}"), remedy))?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| Error::file(path, format!("the labels are not UTF-8 text: {error}"), remedy))?;
        let labels = Self::of(text.strip_prefix('\u{feff}').unwrap_or(text));
        if labels.is_empty() {
            return Err(Error::file(path, "the file holds no labels", remedy));
        }
        Ok(labels)
    }

    fn of(text: &str) -> Self {
        Self(text.trim_end().lines().map(|line| line.trim().to_owned()).collect())
    }

    /// The name of class `index`, counted from 0.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(String::as_str)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no names.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The `k` most probable classes as (index, probability), most probable first; of equals the lower
/// index first. Fewer where there are fewer; NaN never gets in.
pub fn top_k(probabilities: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut classes: Vec<(usize, f32)> =
        probabilities.iter().copied().enumerate().filter(|(_, p)| !p.is_nan()).collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.truncate(k);
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenet_has_its_thousand_names_in_order() {
        let labels = Labels::imagenet();
        assert_eq!(labels.len(), 1000);
        for (index, name) in [(0, "tench"), (281, "tabby"), (285, "Egyptian cat"), (999, "toilet tissue")] {
            let found = labels.get(index).unwrap();
            assert!(found.starts_with(name), "{index}: {found}");
        }
        assert_eq!(labels.get(1000), None);
    }

    #[test]
    fn own_labels_are_read_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        std::fs::write(&path, "\u{feff}cat\r\n\r\ndog \n\n\n").unwrap();
        let labels = Labels::load(&path).unwrap();
        assert_eq!((labels.get(0), labels.get(1), labels.get(2)), (Some("cat"), Some(""), Some("dog")));
        assert_eq!(labels.len(), 3);
    }

    #[test]
    fn unusable_label_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        for content in [None, Some(&b"\n \n"[..]), Some(&[0xff, 0xfe, 0x00])] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = Labels::load(&path).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("labels.txt"), "{error}");
        }
    }

    #[test]
    fn top_k_sorts_and_ignores_nan() {
        let p = [0.1, f32::NAN, 0.4, 0.1, 0.4];
        assert_eq!(top_k(&p, 3), [(2, 0.4), (4, 0.4), (0, 0.1)]);
        assert_eq!(top_k(&p, 99).len(), 4);
        assert_eq!(top_k(&[], 5), []);
    }
}
