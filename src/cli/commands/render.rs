//! `mirage render`: sets a run up, runs it with its observers, and saves the picture.

use crate::cli::args::RenderArgs;
use crate::cli::checked_run::{CheckedRun, Writes};
use crate::cli::checkpoint::SavedCheckpoint;
use crate::cli::device_args::DeviceArgs;
use crate::cli::earlier_run::{EarlierRun, EarlierState};
use crate::cli::estimate::auto_size;
use crate::cli::estimate::forecast::Forecast;
use crate::cli::files::run_files::Unsaved;
use crate::cli::interrupt::{INTERRUPTED, Interrupt};
use crate::cli::observers::{
    Checkpoints, FilmRecorder, Log, MetadataRecorder, Observers, Page, RunStatus, RunTerminal, ShareWarnings,
    SharedStatus, Snapshots,
};
use crate::cli::output::escape::{path_text, quoted, shown};
use crate::cli::output::format::duration;
use crate::cli::output::streams;
use crate::cli::preprocessing;
use crate::cli::record::metadata::RunMetadata;
use crate::error::{Error, Result};
use crate::gpu::Trace;
use crate::graph::Engine;
use crate::image_io::Picture;
use crate::mirage::{
    CheckpointFile, Controls, CpuIteration, Ending, GRADIENT_LIMIT, LOSS_LIMIT, Observer, Request, RunResult,
    Session, Shares,
};
use crate::vgg::Network;
use crate::workbench::{Verified, verify};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Paints the picture, and returns the exit code.
pub(in crate::cli) fn run(args: &RenderArgs) -> Result<u8> {
    continue_from(args, EarlierRun::default())
}

/// Paints the picture, continuing an earlier run, and returns the exit code.
pub(in crate::cli) fn continue_from(args: &RenderArgs, mut earlier: EarlierRun) -> Result<u8> {
    let (args, tiles) = auto_size::fitted(args)?;
    let args = &*args;
    earlier.notes.extend(tiles);
    RenderRun::new(args, &mut earlier)?.paint(args, earlier.state)
}

/// A run and its observers.
struct RenderRun {
    checked: Rc<CheckedRun>,
    status: SharedStatus,
    interrupt: Interrupt,
    controls: Controls,
    metadata: MetadataRecorder,
    share_warnings: ShareWarnings,
    snapshots: Snapshots,
    checkpoints: Checkpoints,
    film: Option<FilmRecorder>,
    terminal: RunTerminal,
    page: Option<Page>,
    log: Option<Log>,
    verbose: bool,
    verify: bool,
    quiet: bool,
    /// Memory limit set by the user, in bytes.
    memory: Option<u64>,
    /// True once the run's memory and time were printed.
    stated: bool,
    /// Iteration and path of a picture that was saved although the run failed.
    rescued: Option<(u32, PathBuf)>,
    /// Iteration of the last good picture of a run that failed.
    failed_at: Option<u32>,
    /// Number of times that a lost device may be reopened.
    retry: u32,
    /// Shares at the checkpoint from which the run continues after a lost device: the live page may have changed them.
    shares: Option<Shares>,
    /// Path of the trace.
    trace: Option<PathBuf>,
    /// True if existing files may be replaced.
    overwrite: bool,
}

impl RenderRun {
    /// Sets up a run that continues `earlier`, except for its state.
    fn new(args: &RenderArgs, earlier: &mut EarlierRun) -> Result<Self> {
        let begun = Instant::now();
        let interrupt = Interrupt::install();
        let metadata = RunMetadata::new(earlier.run.take());
        let writes =
            Writes { run: &metadata.run, reads: earlier.file.as_slice(), first: earlier.iteration() };
        let checked = CheckedRun::new(args, writes)?;
        earlier.check(&checked)?;
        let checked = Rc::new(checked);
        let notes = [std::mem::take(&mut earlier.notes), checked.notes.clone()].concat();
        let status = RunStatus::new(metadata, notes);
        let watching = &args.watching;
        let mut terminal = RunTerminal::new(watching, &checked, &status, begun);
        terminal.earlier_device = std::mem::take(&mut earlier.device);
        for note in &status.borrow().notes {
            terminal.lines.note(note);
        }
        let checkpoint = checked.files.checkpoint();
        let overwrite = args.files.overwrite;
        let checkpoints = Checkpoints::new(checkpoint, overwrite, &checked, &status)?;
        let controls = Controls::new();
        let title = path_text(Path::new(args.photo.file_name().unwrap_or_default()));
        let page = watching
            .web
            .map(|port| Page::open(port, watching, title, &controls, &checked, &status))
            .transpose()?;
        if let Some(page) = &page {
            // The page can't be found without its address, so even a quiet run prints it.
            let mut line = format!("Live page: {}", page.url());
            if watching.web_host.is_unspecified() {
                line += "\nFrom another device, use the IP address of this machine instead.";
            }
            if watching.quiet { streams::eprint(&line) } else { terminal.lines.print(&line) }
        }
        let film = watching.film.as_ref();
        let film = film.map(|film| FilmRecorder::start(film, overwrite, &checked, &status)).transpose()?;
        let log =
            watching.log.as_ref().map(|log| Log::open(log, overwrite, &checked, &status)).transpose()?;
        Ok(Self {
            metadata: MetadataRecorder { checked: checked.clone(), status: status.clone() },
            share_warnings: ShareWarnings::new(&checked.request.groups, &status),
            snapshots: Snapshots::new(&checked, &status),
            checked,
            status,
            interrupt,
            controls,
            checkpoints,
            film,
            terminal,
            page,
            log,
            verbose: watching.verbose,
            verify: args.computing.verify,
            quiet: watching.quiet,
            memory: args.files.memory.map(|memory| memory.0),
            stated: false,
            rescued: None,
            failed_at: None,
            retry: watching.retry,
            shares: None,
            trace: watching.trace.clone(),
            overwrite,
        })
    }

    fn paint(mut self, args: &RenderArgs, start: Option<EarlierState>) -> Result<u8> {
        self.terminal.lines.spin("Preparing the device and the network");
        let mut tracing = None;
        let done = self.paint_traced(&args.device, start, &mut tracing);
        // A lost device's trace can't be read back, and reading it from a hung one would hang again.
        let lost = matches!(&done, Err(error) if error.is_of_lost_device());
        if let (Some(path), Some((engine, trace)), false) = (&self.trace, tracing, lost) {
            // The trace of a failed run is saved too. Its name may have become a link to a file that the run reads.
            let is_free = self.checked.files.check_not_read(path, "--trace");
            match is_free.and_then(|()| engine.save_trace(&trace, path, self.overwrite)) {
                Ok(()) => self.terminal.lines.print(&format!("Trace: {}", shown(path))),
                Err(error) => self.terminal.lines.problem(&format!("no trace: {error}")),
            }
        }
        self.terminal.lines.close();
        if let Err(error) = &done {
            if let Some(page) = self.page {
                let output = self.rescued.as_ref().map(|(_, output)| path_text(output));
                page.end(&error.to_string(), &output.unwrap_or_default());
            }
            if let Some(log) = &mut self.log {
                log.error(error, self.rescued);
            }
        }
        self.terminal.print_problems();
        done
    }

    /// Paints. `tracing` receives the trace as soon as it starts, so that it outlives a failure. A lost or hung device
    /// is reopened as often as the user allows.
    fn paint_traced(
        &mut self,
        device: &DeviceArgs,
        mut start: Option<EarlierState>,
        tracing: &mut Option<(Arc<Engine>, Arc<Trace>)>,
    ) -> Result<u8> {
        let mut attempt = self.attempt(device, start.as_ref(), tracing);
        for retry in 1..=self.retry {
            let Err(error) = &attempt else { break };
            if !error.is_of_lost_device() || self.interrupt.requested() {
                break;
            }
            let note = format!("{error}. Reopening it ({retry} of {})", self.retry);
            self.terminal.lines.warn(&note);
            // For the log and the page, which start again.
            self.status.borrow_mut().notes.push(note);
            if let Some(checkpoint) = self.checkpoints.saved() {
                match self.reopen(checkpoint) {
                    Ok(file) => {
                        self.shares = Some(file.shares().clone());
                        start = Some(EarlierState::of(file));
                    }
                    Err(error) => {
                        self.terminal.lines.warn(&error.to_string());
                        self.checkpoints.forget();
                        break;
                    }
                }
            }
            attempt = self.attempt(device, start.as_ref(), tracing);
        }
        if attempt.is_err() {
            self.finish_rescue();
        }
        attempt
    }

    /// Opens a checkpoint that this run saved.
    fn reopen(&self, path: &Path) -> Result<CheckpointFile> {
        let SavedCheckpoint { file, run, .. } = SavedCheckpoint::open(path)?;
        if run == self.status.borrow().metadata.run {
            return Ok(file);
        }
        Err(Error::file(
            path,
            "this is a checkpoint of another run now",
            "Keep other files away from a run's names",
        ))
    }

    /// Opens the device and paints on it. If that fails, saves the last good picture.
    fn attempt(
        &mut self,
        device: &DeviceArgs,
        start: Option<&EarlierState>,
        tracing: &mut Option<(Arc<Engine>, Arc<Trace>)>,
    ) -> Result<u8> {
        let done = start.map_or(0, |start| start.file.iteration());
        let mut session = self.prepare(device, done, tracing)?;
        if let Some(start) = start {
            let state = start.read(&self.checked.request)?;
            self.status.borrow_mut().metadata.set_weights(&state.weights);
            self.terminal.lines.print(&format!("Resuming after iteration {}", state.iteration));
            session.resume(state)?;
        }
        session.set_controls(&self.controls);
        self.interrupt.arm(&self.controls);
        let outcome = session.run(&mut self.observers());
        match outcome {
            Ok(outcome) => self.finish(&outcome),
            Err(error) => {
                if let Some((iteration, picture)) = session.last_good() {
                    self.failed_at = Some(iteration);
                    self.rescue(iteration, &picture);
                }
                Err(error)
            }
        }
    }

    /// Returns all observers, each after those whose results it uses: metadata and warnings first, then the files that
    /// carry the metadata, then those that show all of these.
    fn observers(&mut self) -> Observers<'_> {
        let mut list: Vec<&mut dyn Observer> = vec![
            &mut self.metadata,
            &mut self.share_warnings,
            &mut self.snapshots,
            &mut self.checkpoints,
            &mut self.terminal,
        ];
        list.extend(self.film.as_mut().map(|film| film as &mut dyn Observer));
        list.extend(self.page.as_mut().map(|page| page as &mut dyn Observer));
        list.extend(self.log.as_mut().map(|log| log as &mut dyn Observer));
        Observers(list)
    }

    /// Opens the device, prints the memory and time that the run will take after `done` iterations, and prepares it.
    fn prepare(
        &mut self,
        device: &DeviceArgs,
        done: u32,
        tracing: &mut Option<(Arc<Engine>, Arc<Trace>)>,
    ) -> Result<Session> {
        // Hashing a full-size network takes a second or two, so it runs while the device is prepared.
        let network = &self.checked.network;
        let mut request = self.checked.request.clone();
        if let Some(shares) = &self.shares {
            shares.apply(&mut request.groups)?;
        }
        let terminal = &self.terminal.lines;
        let states = !std::mem::replace(&mut self.stated, true);
        let (session, sha256) = std::thread::scope(|scope| {
            let hash = {
                let network = network.clone();
                scope.spawn(move || network.sha256())
            };
            let (engine, notes) = device.open()?;
            for note in notes.into_iter().chain(preprocessing::doubt(&engine, network)?) {
                terminal.note(&note);
                let notes = &mut self.status.borrow_mut().notes;
                // A device that is reopened repeats its notes.
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            if states {
                let mut forecast = Forecast::new(&engine, &self.checked, self.memory, self.verify)?;
                forecast.check(&engine, &self.checked, true)?;
                forecast.done = done;
                // Not with --lose-device-after, which must lose the device during the run, nor with a trace, which
                // shows compilation: timing would compile the kernels before it.
                if !self.quiet && device.lose_device_after.is_none() && self.trace.is_none() {
                    forecast.time(&engine, &self.checked)?;
                }
                terminal.print(&forecast.line());
            }
            if self.trace.is_some() {
                *tracing = Some((engine.clone(), engine.start_trace()));
            }
            // The CPU device is itself the reference.
            let expected = match self.verify {
                true => {
                    terminal.print(&verified(&engine, network, &request)?);
                    engine.gpu().map(|_| CpuIteration::compute(&engine, network, &request)).transpose()?
                }
                false => None,
            };
            let session = Session::new(&engine, network, request)?;
            if let Some(expected) = &expected {
                terminal.print(&compared(&session, expected)?);
            }
            let sha256 = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, Error>((session, sha256))
        })?;
        self.status.borrow_mut().metadata.network_sha256 = sha256;
        if self.verbose {
            let timing = Instant::now();
            let layers = session.layer_times()?;
            self.terminal.layer_times = Some((layers, timing.elapsed().as_secs_f64()));
        }
        Ok(session)
    }

    fn finish(&mut self, outcome: &RunResult) -> Result<u8> {
        self.status.borrow_mut().metadata.seconds = outcome.seconds;
        let checked = self.checked.clone();
        let picture = checked.at_full_size(&outcome.picture)?;
        let saved = checked.files.write_output(&picture, &self.texts(outcome.iterations));
        self.finish_film(outcome.iterations);
        self.terminal.print_problems();
        if let Err(Unsaved { error, rescued }) = saved {
            self.rescued = rescued.map(|place| (outcome.iterations, place));
            self.note_checkpoint();
            return Err(error);
        }
        let terminal = &self.terminal.lines;
        terminal.close();
        let output = &checked.files.output;
        let (ending, code, word) = match outcome.ending {
            Ending::Finished => ("finished", 0, "Done"),
            Ending::Settled => ("settled", 0, "Done (the picture hardly changes any more)"),
            _ if self.interrupt.requested() => ("stopped", INTERRUPTED, "Stopped"),
            Ending::Stopped | Ending::Commanded => ("stopped", 0, "Stopped"),
        };
        let (iterations, time) = (outcome.iterations, duration(outcome.seconds));
        terminal.print(&format!("{word} after {iterations} iterations in {time}: {}", shown(&output)));
        if let Some(checkpoint) = self.checkpoints.saved()
            && ending == "stopped"
        {
            terminal.print(&format!("To resume: mirage resume {}", quoted(checkpoint)));
        }
        if let Some(page) = self.page.take() {
            page.end(ending, &path_text(output));
        }
        if let Some(log) = &mut self.log {
            log.end(ending, outcome);
        }
        Ok(code)
    }

    fn finish_film(&mut self, iterations: u32) {
        let texts = self.texts(iterations);
        let Some(film) = self.film.take() else { return };
        match film.finish(iterations, &texts) {
            Ok(text) => self.terminal.lines.print(&text),
            Err(error) => self.status.borrow_mut().problems.push(error.to_string()),
        }
    }

    /// Saves the last good picture of a run that failed.
    fn rescue(&mut self, iteration: u32, picture: &Picture) {
        let checked = self.checked.clone();
        let output = &checked.files.output;
        let saved = match checked.at_full_size(picture) {
            Ok(picture) => checked.files.write_output(&picture, &self.texts(iteration)),
            Err(error) => Err(Unsaved { error, rescued: None }),
        };
        match saved {
            Ok(()) => {
                let note = format!("the picture after iteration {iteration} is saved as {}", shown(output));
                self.terminal.lines.note(&note);
                self.rescued = Some((iteration, output.clone()));
            }
            Err(Unsaved { error, rescued }) => {
                self.terminal.lines.problem(&error.to_string());
                self.rescued = rescued.map(|place| (iteration, place));
            }
        }
    }

    /// Saves the film of a run that failed for good, and prints how to resume it.
    fn finish_rescue(&mut self) {
        let Some(iteration) = self.failed_at else { return };
        self.finish_film(iteration);
        self.note_checkpoint();
    }

    /// Prints how to resume the run, if there is a checkpoint.
    fn note_checkpoint(&self) {
        if let Some(checkpoint) = self.checkpoints.saved() {
            self.terminal.lines.note(&format!("to resume: mirage resume {}", quoted(checkpoint)));
        }
    }

    /// Returns the metadata of the picture after these iterations.
    fn texts(&self, iterations: u32) -> Vec<(String, String)> {
        self.status.borrow().metadata.texts(&self.checked.options, iterations)
    }
}

/// Tests the kernels that a run uses. A session on the counting engine lists them.
fn verified(engine: &Arc<Engine>, network: &Arc<Network>, request: &Request) -> Result<String> {
    let timing = Instant::now();
    let session = Session::new(&engine.counting(), network, request.clone())?;
    let Verified { kernels, tests } = verify(engine, session.nodes())?;
    let seconds = timing.elapsed().as_secs_f64();
    Ok(format!("Verified {kernels} kernels in {tests} tests, {seconds:.1} s"))
}

/// Compares an iteration with the CPU device's, and returns the figures as a line.
fn compared(session: &Session, expected: &CpuIteration) -> Result<String> {
    let agreement = session.compare_with(expected)?;
    let [height, width] = agreement.size;
    Ok(format!(
        "Compared an iteration at {width}x{height} pixels with the CPU's: the gradient differs by {:.1e} (limit {GRADIENT_LIMIT:.0e}), \
         losses by {:.1e} (limit {LOSS_LIMIT:.0e})",
        agreement.gradient, agreement.loss,
    ))
}
