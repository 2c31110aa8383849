//! Checks, before a run, that all its files can be written, that they replace nothing by accident, and that no other
//! run writes them.

use super::disk::{Reservation, is_same, room};
use super::run_files::{Files, check_free, check_place};
use crate::cli::args::RenderArgs;
use crate::cli::output::escape::shown;
use crate::cli::output::format::bytes;
use crate::error::{Error, Result};
use crate::files::{check_name, is_stream, parent};
use crate::image_io::{self, BitDepth};
use crate::mirage::{Request, Schedule};
use crate::ops::Shape;
use std::path::Path;

/// Maximum size of a picture's record, in bytes.
const RECORD: u64 = 8 << 10;

/// Result of the checks.
#[derive(Debug, Default)]
pub(in crate::cli) struct Places {
    /// Held until the run ends.
    pub reservations: Vec<Reservation>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// A file of the run, its description, and the option that names it.
type Written<'a> = (&'a Path, &'static str, &'static str);

/// Checks all files. `schedule` says which are saved in the iterations from `first` to `last`.
///
/// # Errors
/// [`Error::File`] naming the first file that can't be written, may not be replaced, or that the run reads.
pub(in crate::cli) fn check(
    args: &RenderArgs,
    request: &Request,
    schedule: &Schedule,
    [first, last]: [u32; 2],
    files: &Files,
) -> Result<Places> {
    let checkpoint = files.checkpoint();
    let watching = &args.watching;
    let log = watching.log.as_deref().filter(|log| log.as_os_str() != "-");
    let mut extras: Vec<Written<'_>> = Vec::new();
    extras.extend(log.map(|log| (log, "the log", "--log")));
    extras.extend(watching.film.as_deref().map(|film| (film, "the film", "--film")));
    extras.extend(watching.trace.as_deref().map(|trace| (trace, "the trace", "--trace")));

    let mut places = Places::default();
    // Reserved first, so that no other run writes to the names while they are checked. The picture's name without its
    // extension stands for snapshots and checkpoint, which are named after it; the other two keep a film, log or trace
    // of another run away.
    let output = files.output.as_path();
    let mut names = vec![
        (output.with_extension(""), output, "-o"),
        (output.to_owned(), output, "-o"),
        (checkpoint.clone(), output, "-o"),
    ];
    let ordinary = extras.iter().filter(|(path, ..)| !is_stream(path));
    names.extend(ordinary.map(|(path, _, option)| (path.to_path_buf(), *path, *option)));
    for (index, (name, path, option)) in names.iter().enumerate() {
        // A name that occurs twice is reported by the next checks.
        if !names[..index].iter().any(|(earlier, ..)| is_same(earlier, name)) {
            places.reservations.extend(Reservation::take(name, path, option)?);
        }
    }

    files.check(|at| (first..=last).contains(&at) && schedule.snapshots(at))?;
    let mut earlier: Vec<Written<'_>> =
        vec![(files.output.as_path(), "the picture", "-o"), (checkpoint.as_path(), "the checkpoint", "-o")];
    for (path, what, option) in extras {
        if !is_stream(path) {
            check_extra((path, what, option), args, files, &earlier)?;
            let is_due =
                |at: u32| (first..=last).contains(&at) && (schedule.snapshots(at) || watching.web.is_some());
            if files.iteration_of(path).is_some_and(is_due) {
                let problem = format!("{what} would replace a snapshot of this run");
                return Err(Error::file(path, problem, format!("Choose another name with {option}")));
            }
        }
        if what == "the film" {
            image_io::check_film(path, args.files.overwrite)?;
        }
        earlier.push((path, what, option));
    }
    if schedule.snapshot_every > 0 || !schedule.snapshot_at.is_empty() || watching.web.is_some() {
        check_name(&files.snapshot(last))?;
    }
    check_room(args, request, schedule, files, &mut places.notes)?;
    Ok(places)
}

fn check_extra(
    (path, what, option): Written<'_>,
    args: &RenderArgs,
    files: &Files,
    earlier: &[Written<'_>],
) -> Result<()> {
    files.check_not_read(path, option)?;
    if let Some((other, named, _)) = earlier.iter().find(|(other, ..)| is_same(other, path)) {
        let problem = format!("{what} would replace {}, {named} of this run", shown(other));
        return Err(Error::file(path, problem, format!("Choose another name with {option}")));
    }
    check_free(path, args.files.overwrite, option)?;
    check_place(path, what, option)
}

/// Refuses a picture for which there is no space. For files that a run can do without, adds a note.
fn check_room(
    args: &RenderArgs,
    request: &Request,
    schedule: &Schedule,
    files: &Files,
    notes: &mut Vec<String>,
) -> Result<()> {
    let (width, height) = (request.photo.width, request.photo.height);
    let raw = (width * height * 3) as u64;
    let depth = if args.files.bit_depth.bits() == BitDepth::Sixteen { 2 } else { 1 };
    // Noise hardly compresses.
    let picture = raw * depth + RECORD;
    let folder = parent(&files.output);
    let left = room(folder);
    if let Some(left) = left.filter(|left| *left < picture) {
        return Err(Error::file(
            &files.output,
            format!("the picture may take {}, but only {} is free", bytes(picture), bytes(left)),
            "Free some space, or choose another place with -o",
        ));
    }
    let mut note = |what: &str, size: u64, folder: &Path, left: Option<u64>| {
        if let Some(left) = left.filter(|left| *left < size) {
            notes.push(format!(
                "{what} takes about {}, but {} has only {} free: unless you free some space, the run continues \
                 without it",
                bytes(size),
                shown(folder),
                bytes(left)
            ));
        }
    };
    if schedule.state_every > 0 || schedule.state_when_stopped {
        let state = request.optimizer.state(Shape::Map { channels: 3, height, width });
        let state: u64 = state.iter().map(|tensor| tensor.shape.elements() as u64).sum();
        // With the picture, its average and the best one so far, in f32.
        note("a checkpoint", (state + 3 * raw) * 4, folder, left);
    }
    if let Some(film) = &args.watching.film {
        // Compressed size relative to the raw frames; a rough guess.
        let share = match film.extension().and_then(|extension| extension.to_str()) {
            Some("apng") => 0.6,
            Some("gif") => 0.3,
            _ => 0.1,
        };
        let size = schedule.picture_at.len() as f64 * raw as f64 * share;
        note("the film", size as u64, parent(film), room(parent(film)));
    }
    Ok(())
}
