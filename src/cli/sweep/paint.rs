//! The runs of a sweep, one after the other, each from where it was left.

use super::axes::{Cell, Run, Table};
use super::sheet::{Contact, Painted};
use crate::cli::INTERRUPTED;
use crate::cli::args::RenderArgs;
use crate::cli::checkpoint::{Checkpoints, Saved};
use crate::cli::console::{Voice, duration};
use crate::cli::interrupt::Interrupt;
use crate::cli::options::{self, Effect, Row};
use crate::cli::plan::{self, Plan};
use crate::cli::record::{Facts, Options, Told};
use crate::cli::text::one_line;
use crate::cli::warnings::Shares;
use crate::cli::words::{self, Given};
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::image_io::{self, Picture, WriteOptions};
use crate::mirage::{Controls, Ending, Event, Readout, Session, State};
use crate::vgg::{Network, locate};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A sweep that can start: all that needs no device is checked.
pub(super) struct Sweep {
    table: Table,
    contact: Contact,
    plans: Vec<(RenderArgs, Plan)>,
    /// Cells of row after row.
    painted: Vec<Option<Painted>>,
    interrupt: Interrupt,
    controls: Controls,
    progress: Progress,
    prepared: Option<Prepared>,
}

/// A device with a session, for runs of the same network on the same device.
struct Prepared {
    /// What the device was opened for.
    key: String,
    session: Session,
}

impl Sweep {
    /// Checks all runs, and finds the cells that are there already.
    ///
    /// # Errors
    /// The first thing that is wrong with a run, or with a file in its way.
    pub(super) fn new(
        base: &RenderArgs,
        title: String,
        folder: PathBuf,
        overwrite: bool,
        table: Table,
        options: &[Vec<Given>],
        interrupt: Interrupt,
    ) -> Result<Self> {
        let mut networks: Vec<(PathBuf, String, Arc<Network>)> = Vec::new();
        let mut plans = Vec::new();
        let mut table = table;
        for (run, options) in table.runs.iter_mut().zip(options) {
            let args = words::parse(options)?;
            let plan = Plan::with(&args, false, None, || {
                let path = locate::find_weights(args.network.weights.as_deref())?;
                let preprocessing = format!("{:?}", args.network.preprocessing);
                if let Some((.., network)) =
                    networks.iter().find(|(p, w, _)| *p == path && *w == preprocessing)
                {
                    return Ok((network.clone(), false));
                }
                let network = Arc::new(args.network.open()?);
                networks.push((path, preprocessing, network.clone()));
                Ok((network, true))
            });
            let mut plan = plan.map_err(|error| in_run(run, error))?;
            run.cells
                .iter_mut()
                .filter(|cell| cell.iterations == 0)
                .for_each(|cell| cell.iterations = plan.iterations);
            let schedule = &mut plan.request.schedule;
            schedule.report_every = 0;
            schedule.snapshot_at = run.cells.iter().rev().skip(1).map(|cell| cell.iterations).collect();
            plans.push((args, plan));
        }
        let about = plans.first().map(|(_, plan)| {
            let photo = &plan.request.photo;
            let network = plan.network.path.file_stem().unwrap_or_default().to_string_lossy();
            format!("{network}, {}x{} pixels, seed {}", photo.width, photo.height, plan.request.seed)
        });
        let contact = Contact { folder, title, about: about.unwrap_or_default() };
        std::fs::create_dir_all(&contact.folder)
            .map_err(Error::io(&contact.folder, "making the folder of the sweep"))?;
        let mut sweep = Self {
            painted: vec![None; table.rows.len() * table.columns.len()],
            progress: Progress::new(base),
            contact,
            table,
            plans,
            interrupt,
            controls: Controls::new(),
            prepared: None,
        };
        sweep.find_painted(overwrite)?;
        Ok(sweep)
    }

    /// Takes over the cells of an earlier start.
    fn find_painted(&mut self, overwrite: bool) -> Result<()> {
        for (run, (_, plan)) in self.table.runs.iter().zip(&self.plans) {
            for cell in &run.cells {
                let path = self.contact.cell(cell);
                if overwrite || path.symlink_metadata().is_err() {
                    continue;
                }
                let wanted = plan.options.of_snapshot(&path, within(cell, plan));
                let told = Told::by(&path)?;
                match told.map(|told| (difference(&told.options, wanted.map()), told.classes)) {
                    Some((None, classes)) => {
                        let picture = image_io::read(&path)?.picture;
                        let index = cell.row * self.table.columns.len() + cell.column;
                        self.painted[index] = Some(painted(picture, &classes));
                    }
                    Some((Some(name), _)) => {
                        return Err(Error::file(
                            &path,
                            format!(
                                "there is a cell of another sweep ({} differs)",
                                one_line(&name.replace('_', "-"))
                            ),
                            "Choose another folder with -o, or allow replacing its cells with --overwrite",
                        ));
                    }
                    None => {
                        return Err(Error::file(
                            &path,
                            "there is a picture that is no cell of a sweep",
                            "Choose another folder with -o, or allow replacing it with --overwrite",
                        ));
                    }
                }
            }
        }
        self.check_sheet(overwrite)
    }

    /// Makes sure that no other file, and no link to one, is in the place of the sheet and its page.
    fn check_sheet(&self, overwrite: bool) -> Result<()> {
        let goes_on = self.painted.iter().any(Option::is_some);
        for path in [self.contact.picture(), self.contact.page()] {
            let Ok(found) = path.symlink_metadata() else { continue };
            let own = goes_on && found.is_file();
            if !overwrite && !own {
                return Err(Error::file(
                    &path,
                    "there is a file that is not this sweep's",
                    "Choose another folder with -o, or allow replacing it with --overwrite",
                ));
            }
        }
        Ok(())
    }

    /// Paints what is missing; the answer is the exit code.
    pub(super) fn run(mut self) -> Result<u8> {
        let begun = Instant::now();
        let index = |table: &Table, cell: &Cell| cell.row * table.columns.len() + cell.column;
        let missing: Vec<usize> = (0..self.table.runs.len())
            .filter(|run| {
                let cells = &self.table.runs[*run].cells;
                cells.iter().any(|cell| self.painted[index(&self.table, cell)].is_none())
            })
            .collect();
        let count = self.table.runs.len();
        let steps = missing.iter().map(|run| u64::from(self.plans[*run].1.iterations)).sum();
        self.progress.begin(steps);
        if missing.len() < count {
            self.progress.say(&format!("{} of {count} runs are painted already", count - missing.len()));
        }
        self.interrupt.arm(&self.controls);
        for run in missing {
            let ending = self.paint(run).map_err(|error| in_run(&self.table.runs[run], error))?;
            self.write_sheet()?;
            if ending != Ending::Finished && ending != Ending::Settled {
                self.progress.close();
                self.progress.say("Stopped. The same command goes on where this one ended.");
                return Ok(if self.interrupt.requested() { INTERRUPTED } else { 0 });
            }
            self.progress.say(&format!("{}/{count}  {}", run + 1, self.table.runs[run].label));
        }
        self.write_sheet()?;
        self.progress.close();
        self.progress.say(&format!(
            "Done in {}: {} and {}",
            duration(begun.elapsed().as_secs_f64()),
            self.contact.picture().display(),
            self.contact.page().display()
        ));
        Ok(0)
    }

    fn write_sheet(&self) -> Result<()> {
        let Some((_, plan)) = self.plans.first() else { return Ok(()) };
        self.contact.write(&self.table, &self.painted, &plan.names)
    }

    /// Makes one run.
    fn paint(&mut self, run: usize) -> Result<Ending> {
        let Self { table, contact, plans, painted, controls, progress, prepared, .. } = self;
        let cells = &table.runs[run].cells;
        let columns = table.columns.len();
        let (args, plan) = &plans[run];
        let session = prepare(prepared, args, plan, progress)?;
        session.set_controls(controls);

        let sha256 = plan.network.sha256()?;
        let checkpoint = contact.folder.join(format!("run-{}-checkpoint.safetensors", run + 1));
        let checkpoints = Checkpoints::new(checkpoint.clone(), &plan.options, &plan::inputs(args))?;
        if let Some(state) = left(&checkpoint, &plan.options)
            && state.iteration <= plan.iterations
            && cells.iter().all(|cell| {
                cell.iterations >= state.iteration || painted[cell.row * columns + cell.column].is_some()
            })
        {
            session.resume(state)?;
        }
        let mut facts = Facts::new(sha256, None);
        let mut warnings = Shares::default();
        let mut readout = Readout::default();
        let mut shares = false;
        let before = progress.done;
        let mut put =
            |cell: &Cell, picture: &Picture, readout: &Readout, facts: &Facts, seconds| -> Result<()> {
                let path = contact.cell(cell);
                let picture = &*plan.at_full_size(picture)?;
                let options = plan.options.of_snapshot(&path, within(cell, plan));
                let metadata = options.embed(facts, cell.iterations, seconds);
                image_io::write(
                    &path,
                    picture,
                    &WriteOptions { metadata, overwrite: true, ..Default::default() },
                )?;
                let (classes, distance) = (readout.classes.clone(), readout.distance);
                painted[cell.row * columns + cell.column] =
                    Some(Painted { picture: picture.clone(), classes, distance });
                Ok(())
            };
        let outcome = session.run(&mut |event: Event<'_>| {
            match event {
                Event::Started(started) => facts.device.clone_from(&started.device),
                Event::Weighted { weights, .. } => {
                    facts.weighted(weights);
                    shares = true;
                }
                Event::Progress { iteration, .. } => progress.step(before, iteration),
                Event::Report(report) => {
                    facts.report(report, &plan.names);
                    readout.clone_from(&report.readout);
                    for warning in warnings.warnings(report, shares) {
                        progress.say(&format!("warning: {}: {warning}", table.runs[run].label));
                    }
                }
                Event::Snapshot { iteration, picture, seconds, readout } => {
                    facts.readout(readout, &plan.names);
                    if let Some(cell) = cells.iter().find(|cell| cell.iterations == iteration) {
                        put(cell, picture, readout, &facts, seconds)?;
                    }
                }
                Event::State(state) => checkpoints.save(state, &facts)?,
                Event::Scale(_) | Event::Picture { .. } | Event::Paused { .. } => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if matches!(outcome.ending, Ending::Finished | Ending::Settled) {
            // A run that settled shows its last picture in all cells that were still to come.
            for cell in cells.iter().filter(|cell| cell.iterations >= outcome.iterations) {
                put(cell, &outcome.picture, &readout, &facts, outcome.seconds)?;
            }
            progress.done = before + u64::from(plan.iterations);
            if checkpoint.exists() {
                std::fs::remove_file(&checkpoint)
                    .map_err(Error::io(&checkpoint, "removing the checkpoint"))?;
            }
        }
        Ok(outcome.ending)
    }
}

/// A session for a run: the one of the run before, as far as it can be used again.
fn prepare<'a>(
    prepared: &'a mut Option<Prepared>,
    args: &RenderArgs,
    plan: &Plan,
    progress: &Progress,
) -> Result<&'a mut Session> {
    let network = &plan.network;
    let key = format!("{:?} {} {}", args.device.options(), network.path.display(), network.preprocessing);
    let ready = match prepared.take().filter(|ready| ready.key == key) {
        Some(mut ready) => {
            ready.session.restart(plan.request.clone())?;
            ready
        }
        None => {
            let engine = Engine::open(&args.device.options())?;
            if let Some(note) = args.device.tuning.apply(&engine) {
                progress.say(&format!("note: {note}"));
            }
            let session = Session::new(&engine, network, plan.request.clone())?;
            Prepared { key, session }
        }
    };
    Ok(&mut prepared.insert(ready).session)
}

/// What an interrupted run left, if it was this one.
fn left(path: &Path, options: &Options) -> Option<State> {
    let saved = path.exists().then(|| Saved::load(path).ok()).flatten()?;
    let wanted = options.absolute().ok()?;
    difference(&saved.options, &wanted).is_none().then_some(saved.state)
}

/// The first option in which two records differ, of those that make the picture. (A cell's iterations are those of its
/// column.)
fn difference(one: &Map<String, Value>, other: &Map<String, Value>) -> Option<String> {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    let makes_it = |row: &Row| matches!(row.effect, Effect::Picture | Effect::Device);
    let counts = |name: &&String| name.as_str() != "iterations" && options::row(name).is_none_or(makes_it);
    names.filter(counts).find(|name| one.get(*name) != other.get(*name)).cloned()
}

fn painted(picture: Picture, seen: &Map<String, Value>) -> Painted {
    let class = |class: &Value| {
        let index = usize::try_from(class.get("index")?.as_u64()?).ok()?;
        Some((index, class.get("probability")?.as_f64()? as f32))
    };
    let classes = seen.get("classes").and_then(Value::as_array).into_iter().flatten();
    let distance = seen.get("distance").and_then(Value::as_f64).map(|distance| distance as f32);
    Painted { picture, classes: classes.filter_map(class).collect(), distance }
}

/// The iterations of a cell that its run goes on behind.
fn within(cell: &Cell, plan: &Plan) -> Option<u32> {
    (cell.iterations != plan.iterations).then_some(cell.iterations)
}

/// An error with the run that it is of.
fn in_run(run: &Run, error: Error) -> Error {
    match error {
        Error::Usage(text) if !run.label.is_empty() => Error::Usage(format!("{}: {text}", run.label)),
        other => other,
    }
}

/// What a person sees of all runs together.
struct Progress {
    voice: Voice,
    /// Iterations of the runs that are done.
    done: u64,
}

impl Progress {
    fn new(args: &RenderArgs) -> Self {
        Self { voice: Voice::new(args.watching.quiet, || ProgressBar::new(0)), done: 0 }
    }

    fn begin(&self, steps: u64) {
        let Some(bar) = &self.voice.bar else { return };
        bar.set_length(steps);
        // The template is a constant with known keys.
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} iterations, {eta} left") {
            bar.set_style(style);
        }
    }

    fn step(&self, before: u64, iteration: u32) {
        if let Some(bar) = &self.voice.bar {
            bar.set_position(before + u64::from(iteration));
        }
    }

    fn say(&self, text: &str) {
        self.voice.say(text);
    }

    fn close(&self) {
        self.voice.close();
    }
}
