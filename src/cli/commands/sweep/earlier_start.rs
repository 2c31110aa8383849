//! Reads the results of an earlier start of the same sweep: painted cells, and checkpoints of interrupted runs.

use super::axes::Cell;
use super::sheet::PaintedCell;
use crate::cli::args::RenderArgs;
use crate::cli::checked_run::CheckedRun;
use crate::cli::checkpoint::SavedCheckpoint;
use crate::cli::output::escape::one_line;
use crate::cli::own_files::overwrite_unchanged;
use crate::cli::record::metadata::{self, PictureMetadata};
use crate::cli::record::options::{self, Effect, Row};
use crate::error::{Error, Result};
use crate::files::Overwrite;
use crate::image_io::{self, Picture};
use serde_json::{Map, Value};
use std::path::Path;
use std::rc::Rc;

/// A checked run of a sweep.
pub(super) struct PlannedRun {
    pub args: RenderArgs,
    pub checked: Rc<CheckedRun>,
    /// SHA-256 of the network.
    pub network: String,
}

impl PlannedRun {
    /// Reads a cell that was painted by an earlier start of the sweep.
    ///
    /// # Errors
    /// [`Error::File`] if it belongs to another sweep, or to none.
    pub(super) fn painted(&self, cell: &Cell, path: &Path) -> Result<PaintedCell> {
        let options = self.checked.options.of_cell(path, cell.stops_before(self.checked.iterations));
        // The version first: the file may change.
        let overwrite = overwrite_unchanged(path);
        // A file that is no picture is not a cell either.
        let Ok(Some(found)) = PictureMetadata::read(path) else {
            return Err(Error::file(
                path,
                "this file is not a cell of a sweep",
                "Choose another folder with -o, or allow replacing it with --overwrite",
            ));
        };
        let other = match difference(&found.options, options.map(), Compared::Cells) {
            Some(name) => Some(format!("{} differs", one_line(&name.replace('_', "-")))),
            None => self.changed(&found).map(str::to_owned),
        };
        if let Some(reason) = other {
            return Err(Error::file(
                path,
                format!("this is a cell of another sweep ({reason})"),
                "Choose another folder with -o, or allow replacing its cells with --overwrite",
            ));
        }
        let picture = image_io::read(path)?.picture;
        Ok(painted(picture, &found.classes, overwrite))
    }

    /// Returns which file content differs between the run of a cell and this one, if any. The names of the files are
    /// options.
    fn changed(&self, cell: &PictureMetadata) -> Option<&'static str> {
        if cell.text(metadata::NETWORK) != Some(&self.network) {
            return Some("its network has changed");
        }
        match cell.text(metadata::PICTURES) {
            None => Some("it has no SHA-256 of its photo"),
            Some(pictures) if *pictures != self.checked.inputs.of_pictures() => {
                Some("its photo, or another picture, has changed")
            }
            Some(_) => None,
        }
    }
}

/// Opens the checkpoint of an interrupted run, if the run had the same options and read files with the same content.
/// The run may have more iterations than the interrupted one, but none that the checkpoint has passed.
pub(super) fn own_checkpoint(path: &Path, run: &PlannedRun) -> Option<SavedCheckpoint> {
    let saved = path.exists().then(|| SavedCheckpoint::open(path).ok()).flatten()?;
    let options = run.checked.options.absolute().ok()?;
    let is_same = difference(&saved.options, &options, Compared::Runs).is_none()
        && saved.network == run.network
        && saved.has_inputs(&run.checked.inputs).ok()?;
    (is_same && saved.file.iteration() <= run.checked.iterations).then_some(saved)
}

/// Purpose of comparing two records.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// Whether they are of the same cell. Files are compared by content, not by name.
    Cells,
    /// Whether a run can continue from a checkpoint, perhaps to more iterations.
    Runs,
}

/// Returns the first option that differs between two records, among those on which the picture depends.
fn difference(one: &Map<String, Value>, other: &Map<String, Value>, compared: Compared) -> Option<String> {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    let counts = |name: &&String| {
        let row = options::row(name);
        let effect = row.is_none_or(|row| matches!(row.effect, Effect::Picture | Effect::Device));
        effect && (compared == Compared::Cells || name.as_str() != "iterations")
    };
    // Number of files that an option names.
    let files = |name: &str, value: Option<&Value>| {
        let form = options::row(name).and_then(Row::form).filter(|_| compared == Compared::Cells);
        form.zip(value).map_or(0, |(form, value)| form.files(value).len())
    };
    let differs = |name: &&String| {
        let (one, other) = (one.get(*name), other.get(*name));
        let count = files(name, one);
        one != other && (count == 0 || count != files(name, other))
    };
    names.filter(counts).find(differs).cloned()
}

fn painted(picture: Picture, seen: &Map<String, Value>, overwrite: Overwrite) -> PaintedCell {
    let class = |class: &Value| {
        let index = usize::try_from(class.get("index")?.as_u64()?).ok()?;
        Some((index, class.get("probability")?.as_f64()? as f32))
    };
    let classes = seen.get("classes").and_then(Value::as_array).into_iter().flatten();
    let distance = seen.get("distance").and_then(Value::as_f64).map(|distance| distance as f32);
    PaintedCell { picture, classes: classes.filter_map(class).collect(), distance, overwrite }
}
