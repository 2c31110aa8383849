//! Waits for shader files to be saved.

use crate::cli::output::streams;
use crate::error::{Error, Result};
use crate::shader::Folder;
use notify::{RecursiveMode, Watcher as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Editors save in several steps (truncate, write, rename). A save counts as finished this long after the last step.
const SETTLED: Duration = Duration::from_millis(80);

/// Watches a folder of shaders.
pub(super) struct Watch {
    folder: Folder,
    events: mpsc::Receiver<notify::Result<notify::Event>>,
    /// Watches the folder until it is dropped.
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// Starts to watch a folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the system can't watch the folder.
    pub(super) fn new(folder: Folder) -> Result<Self> {
        let failed = |path: &Path, error: notify::Error| {
            Error::io(path, "watching")(std::io::Error::other(error.to_string()))
        };
        let (sender, events) = mpsc::channel();
        let mut watcher =
            notify::recommended_watcher(sender).map_err(|error| failed(folder.path(), error))?;
        watcher
            .watch(folder.path(), RecursiveMode::NonRecursive)
            .map_err(|error| failed(folder.path(), error))?;
        Ok(Self { folder, events, _watcher: watcher })
    }

    /// Calls `work` with the names of the changed shaders whenever valid ones are saved. Returns only with an error.
    ///
    /// # Errors
    /// Those of [`Watch::next`] and `work`.
    pub(super) fn each(mut self, mut work: impl FnMut(&[&str]) -> Result<()>) -> Result<()> {
        loop {
            streams::print("\nWaiting for a shader to be saved; Ctrl-C ends.")?;
            let changed = self.next()?;
            streams::print(&format!("\n{} changed", changed.join(", ")))?;
            work(&changed)?;
        }
    }

    /// Waits until valid shaders are saved, and returns their names. Problems in invalid ones are printed to stderr,
    /// and their last valid version stays in use.
    ///
    /// # Errors
    /// If the folder can't be read, or holds a file that does not belong there.
    fn next(&mut self) -> Result<Vec<&'static str>> {
        loop {
            let event = self.events.recv().map_err(|_| {
                Error::io(self.folder.path(), "watching")(std::io::Error::other("the watch has ended"))
            })?;
            // Events differ from system to system: the files themselves show what has changed.
            let reading = |event: &notify::Result<notify::Event>| {
                event.as_ref().is_ok_and(|event| event.kind.is_access())
            };
            let mut changed = !reading(&event);
            while let Ok(event) = self.events.recv_timeout(SETTLED) {
                changed |= !reading(&event);
            }
            if !changed {
                continue;
            }
            let mut good = Vec::new();
            for reloaded in self.folder.reload()? {
                match reloaded.outcome {
                    Ok(()) => good.push(reloaded.shader),
                    Err(error) => streams::eprint(&format!("{error}\nThe last valid version stays in use.")),
                }
            }
            if !good.is_empty() {
                return Ok(good);
            }
        }
    }
}

/// Returns the watch, if `--watch` is given.
///
/// # Errors
/// [`Error::Usage`] without a folder.
pub(super) fn watch(watch: bool, folder: Option<Folder>) -> Result<Option<Watch>> {
    match (watch, folder) {
        (false, _) => Ok(None),
        (true, Some(folder)) => Watch::new(folder).map(Some),
        (true, None) => Err(Error::usage("--watch watches a folder of shaders: give one with --shader-dir")),
    }
}
