//! Paints the runs of a sweep, one after the other. Interrupted ones are resumed.

use super::axes::{Cell, SweepRun, Table};
use super::cells::CellWriter;
use super::earlier_start::{PlannedRun, own_checkpoint};
use super::progress::{SweepProgress, labelled};
use super::sheet::{ContactSheet, PaintedCell};
use crate::cli::args::RenderArgs;
use crate::cli::checked_run::CheckedRun;
use crate::cli::checkpoint::SavedCheckpoint;
use crate::cli::estimate::forecast::Forecast;
use crate::cli::files::disk::{Reservation, check_whole};
use crate::cli::interrupt::{INTERRUPTED, Interrupt};
use crate::cli::observers::{Checkpoints, MetadataRecorder, Observers, RunStatus, ShareWarnings};
use crate::cli::output::escape::{quoted, shown};
use crate::cli::output::format::duration;
use crate::cli::own_files::is_read_only;
use crate::cli::preprocessing;
use crate::cli::record::metadata::RunMetadata;
use crate::cli::record::option_words::{self, OptionWords};
use crate::error::{Error, Result};
use crate::files::{Overwrite, check_place, make_folder};
use crate::graph::Engine;
use crate::mirage::{Controls, Ending, Readout, Session, effective_shares};
use crate::vgg::{Network, locate};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Memory of a sweep, in bytes per pixel of a cell: the painted picture, its copy at the size of the sheet, the sheet,
/// and its samples while it is written.
const CELL: u64 = 12 + 12 + 12 + 3;

/// Maximum number of reservations. Each keeps a file open, and a process may have only some thousand open.
const MOST_RESERVATIONS: usize = 500;

/// A sweep that can start: everything that needs no device was checked.
pub(super) struct Sweep {
    table: Table,
    contact: ContactSheet,
    planned: Vec<PlannedRun>,
    /// Painted cells, row by row.
    painted: Vec<Option<PaintedCell>>,
    interrupt: Interrupt,
    controls: Controls,
    progress: SweepProgress,
    prepared: Option<Prepared>,
    overwrite: bool,
    /// Reserve the sweep's files against other runs.
    reservations: Vec<Reservation>,
}

/// A device with a session, for runs with the same network and device options.
struct Prepared {
    /// Device options and network that it was opened for.
    key: String,
    engine: Arc<Engine>,
    /// The run that the session is prepared for.
    checked: Rc<CheckedRun>,
    session: Session,
}

impl Sweep {
    /// Checks all runs, and finds the cells that are already painted.
    ///
    /// # Errors
    /// The first problem of a run or of its files.
    pub(super) fn new(
        base: &RenderArgs,
        title: String,
        folder: PathBuf,
        overwrite: bool,
        table: Table,
        options: &[Vec<OptionWords>],
        interrupt: Interrupt,
    ) -> Result<Self> {
        let mut networks: Vec<(PathBuf, String, Arc<Network>)> = Vec::new();
        let (mut planned, mut read) = (Vec::new(), HashMap::new());
        let mut table = table;
        let held_per_pixel = CELL * (table.rows.len() * table.columns.len()) as u64;
        for (run, options) in table.runs.iter_mut().zip(options) {
            let args = option_words::parse(options)?;
            let checked = CheckedRun::with(&args, None, || {
                let location = locate::find_weights(args.network.weights.as_deref())?;
                let preprocessing = format!("{:?}", args.network.preprocessing);
                if let Some((.., network)) =
                    networks.iter().find(|(p, w, _)| p == location.path() && *w == preprocessing)
                {
                    return Ok((network.clone(), false));
                }
                let network = Arc::new(Network::open_at(&location, args.network.preprocessing)?);
                networks.push((location.path().to_owned(), preprocessing, network.clone()));
                Ok((network, true))
            });
            let mut checked = checked.map_err(|error| in_run(run, error))?;
            run.cells
                .iter_mut()
                .filter(|cell| cell.iterations == 0)
                .for_each(|cell| cell.iterations = checked.iterations);
            let schedule = &mut checked.request.schedule;
            schedule.report_every = 0;
            schedule.held_per_pixel = held_per_pixel;
            schedule.snapshot_at = run.cells.iter().rev().skip(1).map(|cell| cell.iterations).collect();
            checked.inputs.check_same(&mut read).map_err(|error| in_run(run, error))?;
            let network = checked.network.sha256()?;
            planned.push(PlannedRun { args, checked: Rc::new(checked), network });
        }
        let shares = planned.iter().map(|run| {
            let groups = run.checked.request.present();
            let shares = effective_shares(&groups).into_iter();
            shares.map(|(name, share)| (name.to_owned(), share)).collect()
        });
        table.set_labels(&shares.collect::<Vec<_>>());
        let about = planned.first().map(|PlannedRun { checked, .. }| {
            let photo = &checked.request.photo;
            let network = shown(checked.network.path.file_stem().unwrap_or_default());
            format!("{network}, {}x{} pixels, seed {}", photo.width, photo.height, checked.request.seed)
        });
        let pictures = planned.first().map(|run| run.checked.inputs.of_pictures()).unwrap_or_default();
        let contact = ContactSheet { folder, title, about: about.unwrap_or_default(), pictures };
        if let Some(run) = planned.first() {
            let [height, width] = run.checked.request.size();
            contact.check(&table, (width, height))?;
        }
        make_folder(&contact.folder)?;
        let mut sweep = Self {
            painted: vec![None; table.rows.len() * table.columns.len()],
            progress: SweepProgress::new(base.watching.quiet),
            contact,
            table,
            planned,
            interrupt,
            controls: Controls::new(),
            prepared: None,
            overwrite,
            reservations: Vec::new(),
        };
        sweep.reserve()?;
        sweep.check_places()?;
        sweep.find_painted()?;
        sweep.check_sheet()?;
        sweep.check_checkpoints()?;
        check_whole(&sweep.contact.picture(), true)?;
        Ok(sweep)
    }

    /// Reserves the sweep's files against other runs. A picture's name without its extension stands for the files that
    /// a single run would name after it; its whole name keeps a film, log or trace of another run away.
    fn reserve(&mut self) -> Result<()> {
        let cells = self.table.runs.iter().flat_map(|run| &run.cells).map(|cell| self.contact.cell(cell));
        let pictures = [self.contact.picture()].into_iter().chain(cells);
        let pictures =
            pictures.flat_map(|path| [(path.with_extension(""), path.clone()), (path.clone(), path)]);
        let checkpoints = (0..self.table.runs.len()).map(|run| self.checkpoint(run));
        let others = checkpoints.chain([self.contact.page()]).map(|path| (path.clone(), path));
        let mut reservations = Vec::new();
        for (name, path) in others.chain(pictures).take(MOST_RESERVATIONS) {
            reservations.extend(Reservation::take(&name, &path, "-o")?);
        }
        self.reservations = reservations;
        Ok(())
    }

    /// Reads the cells that an earlier start painted.
    fn find_painted(&mut self) -> Result<()> {
        for (run, planned) in self.table.runs.iter().zip(&self.planned) {
            for cell in &run.cells {
                let path = self.contact.cell(cell);
                if self.overwrite || path.symlink_metadata().is_err() {
                    continue;
                }
                let found = planned.painted(cell, &path)?;
                let index = self.table.index(cell);
                self.painted[index] = Some(found);
            }
        }
        Ok(())
    }

    /// Checks that all files can be written, and that none replaces a file that a run reads.
    fn check_places(&self) -> Result<()> {
        let runs = self.table.runs.iter().enumerate();
        let cells = self.table.runs.iter().flat_map(|run| &run.cells);
        let mut written: Vec<PathBuf> = cells.map(|cell| self.contact.cell(cell)).collect();
        written.extend([self.contact.picture(), self.contact.page()]);
        written.extend(runs.map(|(run, _)| self.checkpoint(run)));
        // Files that exist may be the sweep's own. Its read-only ones are kept.
        let kept = |path: &&PathBuf| !self.overwrite && is_read_only(path);
        written.iter().filter(|path| !kept(path)).try_for_each(|path| check_place(path, true).map(drop))?;
        for run in &self.planned {
            written.iter().try_for_each(|path| run.checked.files.check_not_read(path, "-o"))?;
        }
        Ok(())
    }

    /// Returns the path of a run's checkpoint, which is saved if the run is interrupted.
    fn checkpoint(&self, run: usize) -> PathBuf {
        self.contact.folder.join(format!("run-{}-checkpoint.safetensors", run + 1))
    }

    /// Checks that the checkpoints replace no other file, and no link to one.
    fn check_checkpoints(&self) -> Result<()> {
        for (run, planned) in self.planned.iter().enumerate() {
            let path = self.checkpoint(run);
            let Ok(found) = path.symlink_metadata() else { continue };
            let is_own = || found.is_file() && own_checkpoint(&path, planned).is_some();
            if !self.overwrite && !is_own() {
                return Err(not_of_this_sweep(&path));
            }
        }
        Ok(())
    }

    /// Checks that sheet and page replace no other file, and no link to one.
    fn check_sheet(&self) -> Result<()> {
        let continues = self.painted.iter().any(Option::is_some);
        for path in [self.contact.picture(), self.contact.page()] {
            if path.symlink_metadata().is_err() {
                continue;
            }
            let is_own = continues && self.contact.overwrite_own(&self.table, &path) != Overwrite::Never;
            if !self.overwrite && !is_own {
                return Err(not_of_this_sweep(&path));
            }
        }
        Ok(())
    }

    /// Paints the missing cells, and returns the exit code.
    pub(super) fn run(mut self) -> Result<u8> {
        let begun = Instant::now();
        let missing: Vec<usize> = (0..self.table.runs.len())
            .filter(|run| {
                let cells = &self.table.runs[*run].cells;
                cells.iter().any(|cell| self.painted[self.table.index(cell)].is_none())
            })
            .collect();
        let count = self.table.runs.len();
        let work = missing.iter().map(|run| self.planned[*run].checked.work()).sum();
        self.progress.start(count, work);
        if missing.len() < count {
            self.progress
                .lines
                .print(&format!("{} of {count} runs are already painted", count - missing.len()));
        }
        self.interrupt.arm(&self.controls);
        let mut lacks_sheet = false;
        let mut failed = 0;
        for run in missing {
            let (ending, rescued) = match self.paint(run) {
                // The optimiser failed with the values of this run. Others may succeed.
                Err(error @ (Error::Unstable { .. } | Error::NoFiniteTrial { .. })) => {
                    self.progress.lines.problem(&labelled(&self.table.runs[run].label, &error.to_string()));
                    self.progress.finish_run(self.planned[run].checked.work());
                    failed += 1;
                    continue;
                }
                painted => painted.map_err(|error| in_run(&self.table.runs[run], error))?,
            };
            // The run's cells are saved, so the next runs may continue; writing the sheet is tried again after each.
            match self.write_sheet() {
                Err(error) if run + 1 < count => {
                    if !std::mem::replace(&mut lacks_sheet, true) {
                        self.progress.lines.problem(&format!("no contact sheet yet: {error}"));
                    }
                }
                written => {
                    written?;
                    lacks_sheet = false;
                }
            }
            if ending != Ending::Finished && ending != Ending::Settled {
                self.progress.lines.close();
                self.progress.lines.print(&self.how_to_continue(run, rescued.as_deref()));
                return Ok(if self.interrupt.requested() { INTERRUPTED } else { 0 });
            }
            let line = format!("{}/{count}  {}", run + 1, self.table.runs[run].label);
            self.progress.lines.print(line.trim_end());
        }
        self.write_sheet()?;
        self.progress.lines.close();
        if failed > 0 {
            self.progress.lines.problem(&format!("{failed} of {count} runs failed, see above"));
            return Ok(1);
        }
        self.progress.lines.print(&format!(
            "Done in {}: {} and {}",
            duration(begun.elapsed().as_secs_f64()),
            shown(&self.contact.picture()),
            shown(&self.contact.page())
        ));
        Ok(0)
    }

    /// Returns the message after a stop in this run, whose checkpoint may be rescued in another place.
    fn how_to_continue(&self, run: usize, rescued: Option<&Path>) -> String {
        let is_missing = |cell: &&Cell| self.painted[self.table.index(cell)].is_none();
        let mut missing = self.table.runs.iter().flat_map(|run| &run.cells).filter(is_missing);
        let command = match self.overwrite {
            false => "the same command",
            // Cells that are not replaced yet would be in the way.
            true if missing.any(|cell| self.contact.cell(cell).exists()) => {
                return "Stopped. The same command starts this sweep again.".to_owned();
            }
            true => "the same command without --overwrite",
        };
        match rescued {
            Some(rescued) => {
                let (from, to) = (quoted(rescued), quoted(self.checkpoint(run)));
                format!("Stopped. To continue this sweep, move {from} to {to} and run {command}.")
            }
            None => format!("Stopped. To continue this sweep, run {command}."),
        }
    }

    fn write_sheet(&self) -> Result<()> {
        let Some(first) = self.planned.first() else { return Ok(()) };
        // The names may have become links to files that a run reads.
        let is_read = |path: &Path| self.planned.iter().any(|run| run.checked.files.reads(path));
        let overwrite = self.overwrite && !is_read(&self.contact.picture()) && !is_read(&self.contact.page());
        let written = self.contact.write(&self.table, &self.painted, &first.checked.names, overwrite);
        let remedy = "Choose another folder with -o, or allow replacing it with --overwrite";
        written.map_err(|error| error.after_work("writing the contact sheet", remedy))
    }

    /// Paints one run. Returns how it ended, and the place of its checkpoint if that could not be saved beside its cells.
    fn paint(&mut self, run: usize) -> Result<(Ending, Option<PathBuf>)> {
        let checkpoint = self.checkpoint(run);
        let overwrite = self.overwrite;
        let Self { table, contact, planned, painted, controls, progress, prepared, .. } = self;
        let cells = &table.runs[run].cells;
        let columns = table.columns.len();
        let planned = &planned[run];
        let PlannedRun { args, checked, .. } = planned;
        let session = prepare(prepared, args, checked, progress)?;
        session.set_controls(controls);

        let saved = own_checkpoint(&checkpoint, planned);
        let mut metadata = RunMetadata::new(saved.as_ref().map(|saved| saved.run.clone()));
        metadata.network_sha256.clone_from(&planned.network);
        metadata.pictures_sha256 = Some(checked.inputs.of_pictures());
        let status = RunStatus::new(metadata, Vec::new());
        let mut checkpoints = Checkpoints::new(checkpoint.clone(), overwrite, checked, &status)?;
        if let Some(SavedCheckpoint { file, .. }) = saved
            && file.iteration() <= checked.iterations
            && cells
                .iter()
                .all(|cell| cell.iterations >= file.iteration() || painted[table.index(cell)].is_some())
        {
            match file.read(&checked.request, None).and_then(|state| session.resume(state)) {
                // The file has changed meanwhile, or its iteration is now at another scale. The run starts again.
                Err(Error::File { .. } | Error::Usage(_)) => {}
                done => done?,
            }
        }
        let mut metadata = MetadataRecorder { checked: checked.clone(), status: status.clone() };
        let mut share_warnings = ShareWarnings::new(&checked.request.groups, &status);
        let mut writer = CellWriter {
            cells,
            contact,
            checked,
            status: status.clone(),
            painted,
            columns,
            last_readout: Readout::default(),
            overwrite,
        };
        let mut shown = progress.follow(run, &table.runs[run].label, &status);
        // Metadata and warnings come before the observers that save and show them.
        let outcome = session.run(&mut Observers(vec![
            &mut metadata,
            &mut share_warnings,
            &mut writer,
            &mut checkpoints,
            &mut shown,
        ]))?;
        if matches!(outcome.ending, Ending::Finished | Ending::Settled) {
            writer.finish(&outcome)?;
            shown.print_problems();
            progress.finish_run(checked.work());
            checkpoints.remove()?;
        }
        let rescued = checkpoints.saved().filter(|saved| *saved != checkpoint).map(Path::to_owned);
        Ok((outcome.ending, rescued))
    }
}

/// Returns the error for a file in the way of a sweep.
fn not_of_this_sweep(path: &Path) -> Error {
    Error::file(
        path,
        "this file does not belong to this sweep, or was changed since",
        "Choose another folder with -o, or allow replacing it with --overwrite",
    )
}

/// Returns a session for a run, reusing that of the previous run as far as possible.
fn prepare<'a>(
    prepared: &'a mut Option<Prepared>,
    args: &RenderArgs,
    checked: &Rc<CheckedRun>,
    progress: &SweepProgress,
) -> Result<&'a mut Session> {
    let network = &checked.network;
    let key = format!("{:?} {:?} {}", args.device.options(), network.path, network.preprocessing);
    let ready = match prepared.take().filter(|ready| ready.key == key) {
        Some(mut ready) => {
            // A run with the same objective needs no more than the session already has.
            if !ready.checked.request.shares_objective(&checked.request) {
                check_memory(&ready.engine, args, checked)?;
            }
            ready.session.restart(checked.request.clone())?;
            Prepared { checked: checked.clone(), ..ready }
        }
        None => {
            let (engine, notes) = args.device.open()?;
            for note in notes.into_iter().chain(preprocessing::doubt(&engine, network)?) {
                progress.lines.note(&note);
            }
            check_memory(&engine, args, checked)?;
            let session = Session::new(&engine, network, checked.request.clone())?;
            Prepared { key, engine, checked: checked.clone(), session }
        }
    };
    Ok(&mut prepared.insert(ready).session)
}

/// Refuses a run that, with all cells, needs more memory than there is.
fn check_memory(engine: &Engine, args: &RenderArgs, checked: &CheckedRun) -> Result<()> {
    let limit = args.files.memory.map(|memory| memory.0);
    Forecast::new(engine, checked, limit, false)?.check(engine, checked, false)
}

/// Adds the run's label to an error.
fn in_run(run: &SweepRun, error: Error) -> Error {
    match error {
        Error::Usage(text) => Error::Usage(labelled(&run.label, &text)),
        other => other,
    }
}
