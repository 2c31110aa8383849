//! Files that a run reads, except the network, and hashes of their content.

use crate::cli::args::{FactorArgs, RenderArgs};
use crate::cli::output::escape::path_text;
use crate::cli::values::StartPicture;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::mirage::preset;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Returns the images that each factor uses instead of the photo.
pub(in crate::cli) fn images_of(args: &RenderArgs) -> [(&'static str, &[PathBuf]); 3] {
    let FactorArgs { spatial_image, abstract_image, style_image, .. } = &args.factors;
    [(preset::SPATIAL, spatial_image), (preset::ABSTRACT, abstract_image), (preset::STYLE, style_image)]
}

/// Returns the pictures that a run reads, the photo first.
pub(in crate::cli) fn pictures(args: &RenderArgs) -> Vec<PathBuf> {
    let mut pictures = vec![args.photo.clone()];
    pictures.extend(images_of(args).into_iter().flat_map(|(_, images)| images.iter().cloned()));
    if let StartPicture::File(path) = &args.optimisation.init {
        pictures.push(path.clone());
    }
    pictures
}

/// Returns the files that a run reads: the pictures, then the names of the classes.
pub(in crate::cli) fn files(args: &RenderArgs) -> Vec<PathBuf> {
    let mut files = pictures(args);
    files.extend(args.class_names.labels.clone());
    files
}

/// Modification time and size of a file, which show whether it was written to.
type Stamp = (Option<SystemTime>, u64);

/// Files that are about to be read.
#[derive(Debug)]
pub(in crate::cli) struct Unread {
    files: Vec<(PathBuf, Option<Stamp>)>,
    pictures: usize,
}

impl Unread {
    /// Lists the files of a run.
    pub(in crate::cli) fn of(args: &RenderArgs) -> Self {
        let files = files(args).into_iter().map(|path| (path.clone(), stamp(&path))).collect();
        Self { files, pictures: pictures(args).len() }
    }

    /// Returns the files with their hashes, after they were read.
    ///
    /// # Errors
    /// [`Error::File`] naming a file that was written meanwhile, or that can't be read any more.
    pub(in crate::cli) fn read(self) -> Result<Inputs> {
        let read = |(path, before): (PathBuf, Option<Stamp>)| {
            let sha256 = hash(&path, "Start again, or choose another file")?;
            if stamp(&path) != before {
                return Err(changed(&path));
            }
            Ok((path, sha256))
        };
        Ok(Inputs {
            files: self.files.into_iter().map(read).collect::<Result<_>>()?,
            pictures: self.pictures,
        })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = path.metadata().ok()?;
    Some((found.modified().ok(), found.len()))
}

fn changed(path: &Path) -> Error {
    Error::file(path, "this file was changed while it was read", "Start again")
}

/// Files that a run has read, with the SHA-256 of each.
#[derive(Debug)]
pub(in crate::cli) struct Inputs {
    files: Vec<(PathBuf, String)>,
    /// Number of pictures among them; they come first.
    pictures: usize,
}

impl Inputs {
    /// Returns the SHA-256 of each of the [`pictures`], on which the result depends, separated by commas.
    pub(in crate::cli) fn of_pictures(&self) -> String {
        let pictures = self.files.iter().take(self.pictures);
        pictures.map(|(_, sha256)| sha256.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Returns the SHA-256 of each file, by its absolute path.
    ///
    /// # Errors
    /// [`Error::Io`] if the current folder no longer exists.
    pub(in crate::cli) fn by_path(&self) -> Result<Map<String, Value>> {
        let entry = |(path, sha256): &(PathBuf, String)| {
            let whole = std::path::absolute(path).map_err(Error::io(path, "finding the file"))?;
            Ok((path_text(&whole), Value::String(sha256.clone())))
        };
        self.files.iter().map(entry).collect()
    }

    /// Checks that earlier runs read the same content from these files, and adds them to `known`.
    ///
    /// # Errors
    /// [`Error::File`] naming a file that was written meanwhile.
    pub(in crate::cli) fn check_same(&self, known: &mut HashMap<PathBuf, String>) -> Result<()> {
        for (path, sha256) in &self.files {
            if known.entry(path.clone()).or_insert_with(|| sha256.clone()) != sha256 {
                return Err(changed(path));
            }
        }
        Ok(())
    }
}

/// Returns the SHA-256 of an ordinary file.
///
/// # Errors
/// [`Error::File`] with this remedy if it can't be read.
pub(in crate::cli) fn hash(path: &Path, remedy: &str) -> Result<String> {
    let unusable = |problem: String| Error::file(path, problem, remedy);
    let unreadable = |error: std::io::Error| unusable(format!("it can't be read ({error})"));
    let found = path.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(unusable("it is not an ordinary file".to_owned()));
    }
    // Reads no more than the reported length: some files of /proc have hundreds of gigabytes, and report none.
    let file = File::open(path).map_err(unreadable)?.take(found.len());
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut hash = Sha256::new();
    loop {
        let part = file.fill_buf().map_err(unreadable)?;
        if part.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(part);
        let read = part.len();
        file.consume(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::record::option_words::parse;

    #[test]
    fn changed_files_are_detected() {
        let folder = tempfile::tempdir().unwrap();
        let [photo, labels] = ["photo.png", "labels.txt"].map(|name| folder.path().join(name));
        std::fs::write(&photo, "a photo").unwrap();
        std::fs::write(&labels, "cat").unwrap();
        let word = |name: &str, path: &Path| (name.to_owned(), vec![path.as_os_str().to_owned()]);
        let labels_word = ("labels".to_owned(), vec!["--labels".into(), labels.as_os_str().to_owned()]);
        let args = parse(&[word("photo", &photo), labels_word]).unwrap();
        assert_eq!(files(&args), [photo.clone(), labels.clone()]);
        let read = || Unread::of(&args).read();
        let (first, again) = (read().unwrap(), read().unwrap());
        assert_eq!(first.of_pictures(), again.of_pictures());
        let mut known = HashMap::new();
        first.check_same(&mut known).unwrap();
        again.check_same(&mut known).unwrap();
        assert_eq!(known.len(), 2);
        // Between two runs, and while a run reads.
        let unread = Unread::of(&args);
        std::fs::write(&labels, "dog!").unwrap();
        let error = unread.read().unwrap_err();
        assert!(error.to_string().contains("labels.txt: this file was changed while it was read"), "{error}");
        let other = read().unwrap();
        // Names of classes don't change a picture.
        assert_eq!(other.of_pictures(), first.of_pictures());
        assert_ne!(other.by_path().unwrap(), first.by_path().unwrap());
        assert_eq!(other.check_same(&mut known).unwrap_err().exit_code(), 2);
        std::fs::remove_file(&photo).unwrap();
        assert!(read().is_err());
    }
}
