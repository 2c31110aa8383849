//! Class names, and the most probable classes.

use std::path::Path;

use super::network::edit_distance;
use crate::{Error, Result, files};

/// The 1000 class names of ImageNet, in the order of the published networks' outputs.
const IMAGENET: &str = include_str!("../../weights/imagenet-labels.txt");

/// Largest accepted label file, in bytes. An empty line takes 24 times its size in memory.
const MAX_FILE: u64 = 1 << 22;
/// Longest accepted name, in bytes.
const LONGEST: usize = 1000;

/// Class names of a network, by output index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Labels {
    /// Returns the 1000 class names of ImageNet.
    pub fn imagenet() -> Self {
        Self::of(IMAGENET)
    }

    /// Reads names from a UTF-8 text file, one per line; trailing blank lines are ignored. The caller must
    /// check that their number matches the network's classes.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read, isn't UTF-8 text or holds no names.
    pub fn load(path: &Path) -> Result<Self> {
        let remedy = "Use a text file with one class name per line";
        let bytes = files::read_up_to(path, MAX_FILE)
            .map_err(|error| Error::file(path, format!("the labels can't be read: {error}"), remedy))?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| Error::file(path, format!("the labels are not UTF-8 text: {error}"), remedy))?;
        let labels = Self::of(text.strip_prefix('\u{feff}').unwrap_or(text));
        if labels.is_empty() {
            return Err(Error::file(path, "the file holds no labels", remedy));
        }
        if let Some(line) = labels.0.iter().position(|label| label.len() > LONGEST) {
            let problem = format!("line {} is longer than {LONGEST} bytes", line + 1);
            return Err(Error::file(path, problem, remedy));
        }
        Ok(labels)
    }

    fn of(text: &str) -> Self {
        Self(text.trim_end().lines().map(|line| line.trim().to_owned()).collect())
    }

    /// Returns the name of class `index`, counted from 0.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(String::as_str)
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are no names.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the `k` most probable classes as (index, probability), most probable first, ties in index order.
/// Returns fewer if there are fewer; NaN is skipped.
pub fn top_k(probabilities: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut classes: Vec<(usize, f32)> =
        probabilities.iter().copied().enumerate().filter(|(_, p)| !p.is_nan()).collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    classes.truncate(k);
    classes
}

/// Parses class names with weights, such as `castle:0.7,lakeside:0.3`, to (index, weight). A class is given by its
/// label, by a unique part of one (ignoring case), or by its number, counted from 0. The default weight is 1. The
/// returned weights are normalised to a sum of 1; those of a repeated class are added.
///
/// # Errors
/// [`Error::Usage`] if a class is not found (the message suggests similar ones) or is ambiguous, or if a weight is not
/// a positive number.
pub fn parse_classes(text: &str, labels: &Labels) -> Result<Vec<(usize, f32)>> {
    let mut classes: Vec<(usize, f32)> = Vec::new();
    for item in text.split(',') {
        // A label may contain a colon.
        let (name, part) = match item.rsplit_once(':') {
            Some((name, part)) if labels.find(item.trim()).is_none() => (name.trim(), Some(part.trim())),
            _ => (item.trim(), None),
        };
        let part: f32 = match part {
            None => 1.0,
            Some(part) => {
                part.parse().ok().filter(|part: &f32| *part > 0.0 && part.is_finite()).ok_or_else(|| {
                    Error::usage(format!("'{part}' in '{}' is not a positive number", item.trim()))
                })?
            }
        };
        let class = labels.class(name)?;
        match classes.iter_mut().find(|(known, _)| *known == class) {
            Some((_, sum)) => *sum += part,
            None => classes.push((class, part)),
        }
    }
    let sum: f32 = classes.iter().map(|(_, part)| part).sum();
    if !sum.is_finite() {
        return Err(Error::usage(format!("the weights in '{text}' are too large")));
    }
    classes.iter_mut().for_each(|(_, part)| *part /= sum);
    Ok(classes)
}

/// Maximum number of labels in an error.
const LISTED: usize = 6;

impl Labels {
    /// Returns the class with this label, if it is unique.
    fn find(&self, name: &str) -> Option<usize> {
        let mut found = self.0.iter().enumerate().filter(|(_, label)| same(label, name));
        let (first, _) = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// Returns the class with this name or number.
    fn class(&self, name: &str) -> Result<usize> {
        if name.is_empty() {
            return Err(Error::usage(
                "a class is missing: use names and weights such as castle:0.7,lakeside:0.3",
            ));
        }
        if let Some(class) = self.find(name) {
            return Ok(class);
        }
        if let Ok(class) = name.parse::<usize>() {
            if class < self.len() {
                return Ok(class);
            }
            let last = self.len().saturating_sub(1);
            return Err(Error::usage(format!(
                "there is no class {class}: classes are numbered from 0 to {last}"
            )));
        }
        let lower = name.to_lowercase();
        let numbered = || self.0.iter().enumerate();
        let exact: Vec<_> = numbered().filter(|(_, label)| same(label, name)).collect();
        let within: Vec<_> = if exact.is_empty() {
            numbered().filter(|(_, label)| label.to_lowercase().contains(&lower)).collect()
        } else {
            exact
        };
        match within.as_slice() {
            [(class, _)] => Ok(*class),
            [] => {
                let mut near: Vec<(usize, usize)> = numbered()
                    .map(|(class, label)| (edit_distance(&lower, &label.to_lowercase()), class))
                    .filter(|(distance, _)| *distance <= 2.max(name.len() / 3))
                    .collect();
                near.sort_unstable();
                let near: Vec<String> = near.iter().take(3).map(|(_, class)| self.named(*class)).collect();
                let hint = match near.as_slice() {
                    [] => format!("use its number, from 0 to {}", self.len().saturating_sub(1)),
                    _ => format!("did you mean {}?", near.join(", ")),
                };
                Err(Error::usage(format!("there is no class '{name}'; {hint}")))
            }
            several => {
                let shown: Vec<String> =
                    several.iter().take(LISTED).map(|(class, _)| self.named(*class)).collect();
                let more = several.len().saturating_sub(LISTED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let shown = shown.join(", ");
                Err(Error::usage(format!(
                    "'{name}' matches several classes: {shown}{more}. Use the number of one"
                )))
            }
        }
    }

    /// Formats a class for messages: its label and number.
    fn named(&self, class: usize) -> String {
        format!("{} ({class})", self.get(class).unwrap_or_default())
    }
}

fn same(label: &str, name: &str) -> bool {
    label.to_lowercase() == name.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenet_has_1000_names_in_order() {
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

    #[test]
    fn classes_are_parsed_by_name_and_number() {
        let labels = Labels::imagenet();
        let parse = |text| parse_classes(text, &labels).unwrap();
        let castle = parse("castle")[0].0;
        assert_eq!(labels.get(castle), Some("castle"));
        let two = parse("Castle:3, lakeside:1");
        assert_eq!(two[0], (castle, 0.75));
        assert_eq!((labels.get(two[1].0), two[1].1), (Some("lakeside"), 0.25));
        // A part of one label; a whole label that is part of others; a number; a repeated class.
        assert_eq!(parse("great white")[0].0, 2);
        assert_eq!(labels.get(parse("crane")[0].0), Some("crane"));
        assert_eq!(parse("281,285:1"), [(281, 0.5), (285, 0.5)]);
        assert_eq!(parse("281:1,tabby:3,0:4"), [(281, 0.5), (0, 0.5)]);
    }

    #[test]
    fn invalid_classes_are_refused_with_a_hint() {
        let labels = Labels::imagenet();
        for (text, hint) in [
            ("", "missing"),
            ("castle,,lakeside", "missing"),
            ("casle", "castle (483)"),
            ("shark", "several classes"),
            ("1000", "0 to 999"),
            ("castle:-1", "positive"),
            ("castle:NaN", "positive"),
            ("castle:much", "positive"),
            ("castle:3e38,tench:3e38", "too large"),
            ("zzzzzzzz", "no class"),
        ] {
            let error = parse_classes(text, &labels).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(hint), "{text}: {error}");
        }
        let own = Labels::of("a:1\na:2\nthe same\nthe same");
        assert_eq!(parse_classes("a:1", &own).unwrap(), [(0, 1.0)]);
        assert!(parse_classes("the same", &own).unwrap_err().to_string().contains("the same (3)"));
        assert_eq!(parse_classes("3", &own).unwrap(), [(3, 1.0)]);
    }
}
