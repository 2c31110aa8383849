//! What an earlier start of the same sweep left: cells that are painted, and checkpoints of interrupted runs.

use super::axes::Cell;
use super::sheet::PaintedCell;
use crate::cli::args::RenderArgs;
use crate::cli::checked_run::CheckedRun;
use crate::cli::checkpoint::SavedCheckpoint;
use crate::cli::output::escape::one_line;
use crate::cli::record::metadata::{self, PictureMetadata};
use crate::cli::record::options::{self, Effect, Row};
use crate::error::{Error, Result};
use crate::image_io::{self, Picture};
use crate::mirage::CheckpointFile;
use serde_json::{Map, Value};
use std::path::Path;
use std::rc::Rc;

/// A run of a sweep, which is checked.
pub(super) struct PlannedRun {
    pub args: RenderArgs,
    pub checked: Rc<CheckedRun>,
    /// SHA-256 of the network.
    pub network: String,
}

impl PlannedRun {
    /// The picture of a cell that an earlier start of the sweep has painted.
    ///
    /// # Errors
    /// [`Error::File`] if it is of another sweep, or of none.
    pub(super) fn painted(&self, cell: &Cell, path: &Path) -> Result<PaintedCell> {
        let options = self.checked.options.of_cell(path, cell.stops_before(self.checked.iterations));
        let Some(found) = PictureMetadata::read(path)? else {
            return Err(Error::file(
                path,
                "this picture is not a cell of a sweep",
                "Choose another folder with -o, or allow replacing it with --overwrite",
            ));
        };
        let other = match difference(&found.options, options.map(), Compared::Cells) {
            Some(name) => Some(format!("{} differs", one_line(&name.replace('_', "-")))),
            None => self.changed(&found).map(str::to_owned),
        };
        if let Some(what) = other {
            return Err(Error::file(
                path,
                format!("this is a cell of another sweep ({what})"),
                "Choose another folder with -o, or allow replacing its cells with --overwrite",
            ));
        }
        let picture = image_io::read(path)?.picture;
        Ok(painted(picture, &found.classes))
    }

    /// What the run of a cell read that is not what this one reads. The names of the files are options.
    fn changed(&self, cell: &PictureMetadata) -> Option<&'static str> {
        if cell.text(metadata::NETWORK) != Some(&self.network) {
            return Some("its network has changed");
        }
        match cell.text(metadata::PICTURES) {
            None => Some("it doesn't state what its photo held"),
            Some(pictures) if *pictures != self.checked.inputs.of_pictures() => {
                Some("its photo, or another picture, has changed")
            }
            Some(_) => None,
        }
    }
}

/// The checkpoint of an interrupted run, if it had these options and read files with this content. It may have more
/// iterations now.
pub(super) fn own_checkpoint(path: &Path, run: &PlannedRun) -> Option<CheckpointFile> {
    let saved = path.exists().then(|| SavedCheckpoint::open(path).ok()).flatten()?;
    let options = run.checked.options.absolute().ok()?;
    let is_same = difference(&saved.options, &options, Compared::Runs).is_none()
        && saved.network == run.network
        && saved.has_inputs(&run.checked.inputs).ok()?;
    is_same.then_some(saved.file)
}

/// What two records are compared for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// Whether they are of the same cell, whatever its files are called: what they hold is compared.
    Cells,
    /// Whether a run can go on from a checkpoint, maybe to more iterations.
    Runs,
}

/// The first option in which two records differ, of those that the picture depends on.
fn difference(one: &Map<String, Value>, other: &Map<String, Value>, compared: Compared) -> Option<String> {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    let counts = |name: &&String| {
        let row = options::row(name);
        let effect = row.is_none_or(|row| matches!(row.effect, Effect::Picture | Effect::Device));
        effect && (compared == Compared::Cells || name.as_str() != "iterations")
    };
    // How many files an option names.
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

fn painted(picture: Picture, seen: &Map<String, Value>) -> PaintedCell {
    let class = |class: &Value| {
        let index = usize::try_from(class.get("index")?.as_u64()?).ok()?;
        Some((index, class.get("probability")?.as_f64()? as f32))
    };
    let classes = seen.get("classes").and_then(Value::as_array).into_iter().flatten();
    let distance = seen.get("distance").and_then(Value::as_f64).map(|distance| distance as f32);
    PaintedCell { picture, classes: classes.filter_map(class).collect(), distance }
}
