//! `mirage render`: the run, with its listeners.

use super::INTERRUPTED;
use super::args::{DeviceArgs, RenderArgs};
use super::checkpoint::Checkpoints;
use super::console::{Console, duration};
use super::film::Filming;
use super::interrupt::Interrupt;
use super::live::Live;
use super::log::{Line, Log, NetworkLine, Size};
use super::own::Own;
use super::plan::{self, Plan};
use super::record::{Facts, VERSION, weight_options};
use super::stdout;
use super::text::{one_line, quoted};
use super::warnings::Shares;
use crate::error::{Error, Result};
use crate::gpu::Trace;
use crate::graph::Engine;
use crate::image_io::Picture;
use crate::mirage::{Controls, Ending, Event, LayerTime, RunResult, Session, Started, State};
use crate::workbench::{Verified, verify};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What a run is to know of the one that it follows.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// What the user should know of the record.
    pub notes: Vec<String>,
    /// SHA-256 of the network, if it is to be the same.
    pub network: Option<String>,
    /// The device of the run so far.
    pub device: String,
    /// The run, if it goes on: it keeps its name and may replace its own files.
    pub own: Option<Own>,
}

/// Paints; the answer is the exit code.
pub(super) fn run(args: &RenderArgs) -> Result<u8> {
    follow(args, Origin::default(), None)
}

/// Paints after a record, from a state if there is one; the answer is the exit code.
pub(super) fn follow(args: &RenderArgs, origin: Origin, state: Option<State>) -> Result<u8> {
    let Origin { notes, network, device, own } = origin;
    let mut run = Run::new(args, notes, own)?;
    if let Some(before) = network
        && before != run.plan.network.sha256()?
    {
        return Err(Error::file(
            &run.plan.network.path,
            "this is not the network that the run was made with",
            "Put that network back, or name the one to go on with by --weights",
        ));
    }
    run.earlier_device = device;
    run.paint(args, state)
}

/// A run and all who listen to it.
struct Run {
    begun: Instant,
    interrupt: Interrupt,
    plan: Plan,
    console: Console,
    log: Log,
    facts: Facts,
    checkpoints: Checkpoints,
    warnings: Shares,
    /// True once weights were measured for shares.
    shares: bool,
    film: Option<Filming>,
    live: Live,
    photo: PathBuf,
    controls: Controls,
    /// Of what was told last, from the first iteration on.
    seconds: f64,
    /// The device on which a resumed run was, until now.
    earlier_device: String,
    /// Iteration and place of a picture that was saved although the run failed.
    rescued: Option<(u32, String)>,
    /// True once a report came.
    reported: bool,
    /// True if a checkpoint was saved.
    checkpoint: bool,
    /// With --verbose: what each layer takes, and the seconds that it took to find out.
    layers: (Vec<LayerTime>, f64),
    /// Where to write a trace.
    trace: Option<PathBuf>,
}

impl Run {
    fn new(args: &RenderArgs, notes: Vec<String>, own: Option<Own>) -> Result<Self> {
        let begun = Instant::now();
        let interrupt = Interrupt::install();
        let facts = Facts::new(String::new(), own.as_ref().map(|own| own.run.clone()));
        let mut plan = Plan::new(args, own)?;
        plan.notes.splice(0..0, notes);
        let console = Console::new(&args.watching, plan.iterations);
        for note in &plan.notes {
            console.note(note);
        }
        let checkpoints = Checkpoints::new(plan.files.checkpoint(), &plan.options, &plan::inputs(args))?;
        let controls = Controls::new();
        let live = Live::open(&args.watching, &controls)?;
        if let Some(url) = live.url() {
            // Without it the page can't be found, so also a quiet run tells it.
            let told = format!("Live page: {url}");
            if args.watching.quiet { stdout::tell(&told) } else { console.say(&told) }
        }
        let film = args.watching.film.as_ref();
        let film = film
            .map(|film| Filming::begin(film, args.files.overwrite, &plan.request.schedule.picture_at))
            .transpose()?;
        Ok(Self {
            begun,
            interrupt,
            plan,
            console,
            log: Log::open(args.watching.log.as_deref())?,
            facts,
            checkpoints,
            warnings: Shares::default(),
            shares: false,
            film,
            live,
            photo: args.photo.clone(),
            controls,
            seconds: 0.0,
            earlier_device: String::new(),
            rescued: None,
            reported: false,
            checkpoint: false,
            layers: (Vec::new(), 0.0),
            trace: args.watching.trace.clone(),
        })
    }

    fn paint(mut self, args: &RenderArgs, resumed: Option<State>) -> Result<u8> {
        self.console.preparing();
        let mut tracing = None;
        let mut done = self.paint_traced(&args.device, resumed, &mut tracing);
        if let (Some(path), Some((engine, trace))) = (&self.trace, tracing) {
            // A run that failed has the more interesting trace; its own error comes first all the same.
            let saved = trace.save(&engine.context, path);
            if saved.is_ok() {
                self.console.say(&format!("Trace: {}", path.display()));
            }
            done = done.and_then(|code| saved.map(|()| code));
        }
        self.console.close();
        if let Err(error) = &done {
            let saved_as = self.rescued.as_ref().map_or("", |(_, output)| output.as_str());
            self.live.end(&error.to_string(), saved_as);
            let (iteration, output) = self.rescued.take().unzip();
            let line =
                Line::Error { message: error.to_string(), exit_code: error.exit_code(), iteration, output };
            // The error itself is what counts, not that the log can't be told.
            let _ = self.log.write(&line);
        }
        done
    }

    /// Paints; `tracing` gets the trace as soon as there is one, so that it outlives a failure.
    fn paint_traced(
        &mut self,
        device: &DeviceArgs,
        resumed: Option<State>,
        tracing: &mut Option<(Arc<Engine>, Arc<Trace>)>,
    ) -> Result<u8> {
        // Hashing a full-size network takes a second or two: meanwhile the device gets ready.
        let (mut session, sha256) = std::thread::scope(|scope| {
            let network = &self.plan.network;
            let hash = scope.spawn(|| network.sha256());
            let engine = Engine::open(&device.options())?;
            if let Some(note) = device.tuning.apply(&engine) {
                self.console.note(&note);
                self.plan.notes.push(note);
            }
            if self.trace.is_some() {
                *tracing = Some((engine.clone(), engine.context.start_trace()));
            }
            let session = Session::new(&engine, network, self.plan.request.clone())?;
            if device.verify {
                let timing = Instant::now();
                let Verified { kernels, tests } = verify(&engine, session.nodes())?;
                let seconds = timing.elapsed().as_secs_f64();
                self.console.say(&format!("Verified {kernels} kernels in {tests} tests, {seconds:.1} s"));
            }
            let sha256 = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, crate::Error>((session, sha256))
        })?;
        self.facts.sha256 = sha256;
        if self.console.verbose {
            let timing = Instant::now();
            let layers = session.layer_times()?;
            self.layers = (layers, timing.elapsed().as_secs_f64());
        }
        if let Some(state) = resumed {
            self.facts.weights = Some(weight_options(&state.weights));
            self.console.say(&format!("Going on after iteration {}", state.iteration));
            session.resume(state)?;
        }
        session.set_controls(&self.controls);
        match session.run(&mut |event: Event<'_>| self.hear(event)) {
            Ok(outcome) => self.finish(&outcome),
            Err(error) => {
                if let Some((iteration, picture)) = session.last_good() {
                    self.rescue(iteration, picture);
                }
                Err(error)
            }
        }
    }

    fn hear(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        match event {
            Event::Started(started) => self.start(started)?,
            Event::Scale(started) => {
                self.console.scale(started);
                self.live.scale(started);
                self.log.write(&Line::scale(started))?;
            }
            Event::Weighted { iteration, shares, weights } => {
                self.console.weighted(iteration, weights);
                self.facts.weighted(weights);
                self.live.weighted(iteration, shares, weights);
                self.log.write(&Line::weighted(iteration, shares, weights))?;
                self.shares = true;
            }
            Event::Progress { iteration, seconds } => {
                self.seconds = seconds;
                self.console.progress(iteration, seconds);
                self.live.progress(iteration, seconds);
            }
            Event::Report(report) => {
                if self.console.verbose && !self.reported {
                    let seconds = self.begun.elapsed().as_secs_f64() - self.layers.1;
                    self.console.say(&format!("time to first iteration {seconds:.2} s"));
                }
                self.reported = true;
                self.seconds = report.seconds;
                self.console.report(report, &self.plan.names);
                self.facts.report(report, &self.plan.names);
                self.live.report(report, &self.plan.names);
                self.log.write(&Line::report(report, &self.plan.names))?;
                for message in self.warnings.warnings(report, self.shares) {
                    self.console.warn(&message);
                    self.live.warn(&message);
                    self.log.write(&Line::Warning { iteration: report.iteration, message })?;
                }
            }
            Event::Snapshot { iteration, picture, seconds, readout } => {
                self.seconds = seconds;
                let path = self.plan.files.free_snapshot(iteration);
                self.facts.readout(readout, &self.plan.names);
                let whole = self.plan.at_full_size(picture)?;
                self.plan.files.write(&path, &whole, self.record(iteration))?;
                self.console.snapshot(&path, readout, &self.plan.names);
                self.live.snapshot(iteration, picture, &path, readout, &self.plan.names);
                self.log.write(&Line::Snapshot {
                    iteration,
                    path: path.to_string_lossy().into_owned(),
                    classes: self.plan.names.classes(&readout.classes),
                    class_distance: readout.distance,
                })?;
            }
            Event::State(state) => {
                self.checkpoints.save(state, &self.facts)?;
                self.checkpoint = true;
                let path = self.checkpoints.path.to_string_lossy().into_owned();
                self.log.write(&Line::Checkpoint { iteration: state.iteration, path })?;
            }
            Event::Paused { iteration, paused } => {
                self.console.paused(iteration, paused);
                self.live.paused(paused);
                self.log.write(&Line::Paused { iteration, paused })?;
            }
            Event::Picture { iteration, picture, last } => {
                if let Some(film) = &mut self.film {
                    film.picture(iteration, &*self.plan.at_full_size(picture)?, last)?;
                }
                self.live.picture(iteration, picture, last);
            }
        }
        Ok(if self.interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn start(&mut self, started: &Started) -> Result<()> {
        self.facts.device.clone_from(&started.device);
        let Plan { network, names, options, notes, .. } = &self.plan;
        self.console.started(started, names, &self.layers);
        if !self.earlier_device.is_empty() && self.earlier_device != started.device {
            self.console.note(&format!(
                "the run was on {} before: another device rounds otherwise, so the picture will differ in detail",
                one_line(&self.earlier_device)
            ));
        }
        let [height, width] = started.size;
        let notes = [notes.as_slice(), started.notes.as_slice()].concat();
        self.log.write(&Line::Start {
            version: VERSION,
            device: &started.device,
            size: Size { width, height },
            network: NetworkLine {
                path: network.path.to_string_lossy().into_owned(),
                sha256: &self.facts.sha256,
                topology: network.topology(),
                preprocessing: network.preprocessing.to_string(),
            },
            options,
            prepared_in: started.prepared_in,
            device_memory: started.memory.total(),
            photo_classes: names.classes(&started.photo_classes),
            notes: &notes,
        })?;
        self.live.begin(&self.plan, &self.photo, started);
        self.interrupt.arm(&self.controls);
        Ok(())
    }

    fn finish(&mut self, outcome: &RunResult) -> Result<u8> {
        self.seconds = outcome.seconds;
        let picture = self.plan.at_full_size(&outcome.picture)?;
        self.plan.files.write_output(&picture, self.record(outcome.iterations))?;
        self.finish_film(outcome.iterations)?;
        self.console.close();
        let output = self.plan.files.output.display();
        let (ending, code, word) = match outcome.ending {
            Ending::Finished => ("finished", 0, "Done"),
            Ending::Settled => ("settled", 0, "Done, the picture hardly changes any more,"),
            _ if self.interrupt.requested() => ("stopped", INTERRUPTED, "Stopped"),
            Ending::Stopped | Ending::Commanded => ("stopped", 0, "Stopped"),
        };
        self.console.say(&format!(
            "{word} after {} iterations in {}: {output}",
            outcome.iterations,
            duration(outcome.seconds)
        ));
        if ending == "stopped" && self.checkpoint {
            self.console.say(&format!("To go on: mirage resume {}", quoted(&self.checkpoints.path)));
        }
        self.live.end(ending, &self.plan.files.output.to_string_lossy());
        self.log.write(&Line::End {
            ending,
            iterations: outcome.iterations,
            seconds: outcome.seconds,
            output: self.plan.files.output.to_string_lossy().into_owned(),
        })?;
        Ok(code)
    }

    fn finish_film(&mut self, iterations: u32) -> Result<()> {
        let record = self.record(iterations);
        let Some(film) = self.film.take() else { return Ok(()) };
        let path = film.path.clone();
        let frames = film.finish(record)?;
        self.console.say(&format!("Film of {frames} pictures: {}", path.display()));
        Ok(())
    }

    /// Saves what a failed run leaves.
    fn rescue(&mut self, iteration: u32, picture: &Picture) {
        let output = self.plan.files.output.display().to_string();
        let saved = self
            .plan
            .at_full_size(picture)
            .and_then(|picture| self.plan.files.write_output(&picture, self.record(iteration)));
        match saved {
            Ok(()) => {
                self.console.note(&format!("the picture after iteration {iteration} is saved as {output}"));
                self.rescued = Some((iteration, output));
            }
            Err(error) => self.console.note(&error.to_string()),
        }
        if let Err(error) = self.finish_film(iteration) {
            self.console.note(&error.to_string());
        }
        if self.checkpoint {
            self.console.note(&format!("to go on: mirage resume {}", quoted(&self.checkpoints.path)));
        }
    }

    fn record(&self, iterations: u32) -> Vec<(String, String)> {
        self.plan.options.embed(&self.facts, iterations, self.seconds)
    }
}
