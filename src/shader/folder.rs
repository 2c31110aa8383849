//! WGSL files from disk instead of the embedded ones, to work on a kernel without rebuilding the program.

use super::reflect::Interface;
use super::source::{SOURCES, replace};
use super::{LONGEST_TEXT, check_bounds, keep_branches, unroll, variant};
use crate::error::{Error, Result};
use crate::escape::shown;
use crate::files::read_text;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A folder of shader files with the names of the embedded ones (`conv_tiles.wgsl`). The program keeps its own version
/// of shaders that are not in the folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Last text read of each file, valid or not.
    seen: HashMap<&'static str, String>,
}

/// A file that has changed.
#[derive(Debug)]
pub struct Reloaded {
    /// Name of the shader, without extension.
    pub shader: &'static str,
    /// Error if the new text is not used; the last valid one stays in use.
    pub outcome: Result<()>,
}

impl Folder {
    /// Reads a folder and uses its files from now on in the whole process.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if the folder can't be read, contains no WGSL file, or one that is not named
    /// like a shader of the program; [`Error::Usage`] with naga's message, line and caret if a text is invalid or lacks
    /// an entry point of the text that it replaces.
    pub fn open(path: &Path) -> Result<Self> {
        let mut folder = Self { path: path.to_owned(), seen: HashMap::new() };
        let changed = folder.reload()?;
        if changed.is_empty() {
            return Err(Error::file(
                path,
                "contains no .wgsl file",
                "Copy the shaders to change into it: `mirage kernels show --files DIR` writes all of them",
            ));
        }
        changed.into_iter().try_for_each(|reloaded| reloaded.outcome)?;
        Ok(folder)
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the names of the shaders in the folder, sorted.
    pub fn shaders(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self.seen.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// Reads the files again and uses those that have changed and are valid.
    ///
    /// # Errors
    /// As [`Folder::open`] for the folder as a whole; errors in a single text are part of the result.
    pub fn reload(&mut self) -> Result<Vec<Reloaded>> {
        let mut files = Vec::new();
        let unreadable = |path: &Path, error: &std::io::Error| {
            let problem = format!("can't be read: {error}");
            Error::file(
                path,
                problem,
                "Give a folder of WGSL files, as `mirage kernels show --files` writes it",
            )
        };
        for entry in std::fs::read_dir(&self.path).map_err(|error| unreadable(&self.path, &error))? {
            let path = entry.map_err(|error| unreadable(&self.path, &error))?.path();
            if path.extension().is_some_and(|ending| ending == "wgsl") {
                files.push(path);
            }
        }
        files.sort();
        let mut changed = Vec::new();
        for path in files {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let Some((shader, _)) = SOURCES.iter().find(|(name, _)| *name == stem) else {
                let names: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
                return Err(Error::file(
                    &path,
                    "is not named like a shader of this program",
                    format!("Rename or remove it; the shaders are {}", names.join(", ")),
                ));
            };
            let text = match read(&path) {
                Ok(text) => text,
                // Editors may save a file by removing it and writing a new one.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(&path, &error)),
            };
            if self.seen.get(shader) == Some(&text) {
                continue;
            }
            self.seen.insert(shader, text.clone());
            let outcome = check(shader, &text).map_err(|message| {
                // A usage error keeps the line breaks of naga's message.
                let path = shown(&path);
                Error::usage(format!(
                    "{path}: is not a valid {shader} shader. Correct it and save it again: {message}"
                ))
            });
            if outcome.is_ok() {
                replace(shader, text, &path);
                variant::forget(shader);
            }
            changed.push(Reloaded { shader, outcome });
        }
        Ok(changed)
    }
}

/// Reads a text file. Drops a byte order mark, which Windows editors may write and WGSL does not allow.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = read_text(path, LONGEST_TEXT as u64)?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// Checks that a text can replace the embedded one; the error says why not.
fn check(shader: &str, text: &str) -> Result<(), String> {
    let reflect = |text: &str| match Interface::reflect(shader, text) {
        Ok(interface) => Ok(interface),
        Err(Error::Shader { message, .. }) => Err(message),
        Err(other) => Err(other.to_string()),
    };
    check_bounds(text)?;
    let new = reflect(text)?;
    unroll(&keep_branches(text)?)?;
    let embedded = SOURCES.iter().find(|(name, _)| *name == shader).map_or("", |(_, text)| *text);
    for (entry, _) in &reflect(embedded)?.entries {
        if !new.entries.iter().any(|(name, _)| name == entry) {
            return Err(format!("the entry point `{entry}` is missing"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("add.wgsl");
        let (shader, text) = SOURCES[0];
        for marks in ["", "\u{feff}"] {
            std::fs::write(&file, format!("{marks}{text}")).unwrap();
            let text_of_file = read(&file).unwrap();
            assert_eq!(text_of_file, text);
            check(shader, &text_of_file).unwrap();
        }
        check(shader, &format!("\u{feff}{text}")).unwrap_err();
    }
}
