//! `mirage render`: the run, with its listeners.

use super::INTERRUPTED;
use super::args::{DeviceArgs, RenderArgs};
use super::console::{Console, duration};
use super::files::Files;
use super::interrupt::Interrupt;
use super::log::{Line, Log, NetworkLine, Size};
use super::names::Names;
use super::plan::Plan;
use super::record::{Options, VERSION};
use crate::error::Result;
use crate::gpu::Trace;
use crate::graph::Engine;
use crate::image_io::Picture;
use crate::mirage::{Ending, Event, LayerTime, Outcome, Request, Session, Started};
use crate::vgg::Network;
use crate::workbench::{Verified, verify};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Paints; the answer is the exit code.
pub(super) fn run(args: &RenderArgs) -> Result<u8> {
    let begun = Instant::now();
    let interrupt = Interrupt::install();
    let Plan { request, network, names, files, options, notes } = Plan::new(args)?;
    let console = Console::new(&args.watching, request.iterations);
    for note in &notes {
        console.note(note);
    }
    let log = Log::open(args.watching.log.as_deref())?;
    let mut run = Run {
        begun,
        interrupt,
        names,
        files,
        options,
        notes,
        console,
        log,
        device: String::new(),
        sha256: String::new(),
        rescued: None,
        reported: false,
        layers: (Vec::new(), 0.0),
        trace: args.watching.trace.clone(),
    };
    let done = run.paint(request, &network, &args.device);
    run.console.close();
    if let Err(error) = &done {
        let (iteration, output) = run.rescued.take().unzip();
        let line =
            Line::Error { message: error.to_string(), exit_code: error.exit_code(), iteration, output };
        // The error itself is what counts, not that the log can't be told.
        let _ = run.log.write(&line);
    }
    done
}

/// A run and all who listen to it.
struct Run {
    begun: Instant,
    interrupt: Interrupt,
    names: Names,
    files: Files,
    options: Options,
    notes: Vec<String>,
    console: Console,
    log: Log,
    device: String,
    sha256: String,
    /// Iteration and place of a picture that was saved although the run failed.
    rescued: Option<(u32, String)>,
    /// True once a report came.
    reported: bool,
    /// With --verbose: what each layer takes, and the seconds that it took to find out.
    layers: (Vec<LayerTime>, f64),
    /// Where to write a trace.
    trace: Option<PathBuf>,
}

impl Run {
    fn paint(&mut self, request: Request, network: &Network, device: &DeviceArgs) -> Result<u8> {
        self.console.preparing();
        let mut tracing = None;
        let done = self.paint_traced(request, network, device, &mut tracing);
        if let (Some(path), Some((engine, trace))) = (&self.trace, tracing) {
            // A run that failed has the more interesting trace; its own error comes first all the same.
            let saved = trace.save(&engine.context, path);
            if done.is_ok() {
                saved?;
                self.console.say(&format!("Trace: {}", path.display()));
            }
        }
        done
    }

    /// Paints; `tracing` gets the trace as soon as there is one, so that it outlives a failure.
    fn paint_traced(
        &mut self,
        request: Request,
        network: &Network,
        device: &DeviceArgs,
        tracing: &mut Option<(Arc<Engine>, Arc<Trace>)>,
    ) -> Result<u8> {
        // Hashing a full-size network takes a second or two: meanwhile the device gets ready.
        let (mut session, sha256) = std::thread::scope(|scope| {
            let hash = scope.spawn(|| network.sha256());
            let engine = Engine::open(&device.options())?;
            if let Some(note) = device.tuning.apply(&engine) {
                self.console.note(&note);
                self.notes.push(note);
            }
            if self.trace.is_some() {
                *tracing = Some((engine.clone(), engine.context.start_trace()));
            }
            let session = Session::new(&engine, network, request)?;
            if device.verify {
                let timing = Instant::now();
                let Verified { kernels, tests } = verify(&engine, session.nodes())?;
                let seconds = timing.elapsed().as_secs_f64();
                self.console.say(&format!("Verified {kernels} kernels in {tests} tests, {seconds:.1} s"));
            }
            let sha256 = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, crate::Error>((session, sha256))
        })?;
        self.sha256 = sha256;
        if self.console.verbose {
            let timing = Instant::now();
            let layers = session.layer_times()?;
            self.layers = (layers, timing.elapsed().as_secs_f64());
        }
        match session.run(&mut |event| self.hear(event, network)) {
            Ok(outcome) => self.finish(&outcome),
            Err(error) => {
                if let Some((iteration, picture)) = session.last_good() {
                    self.rescue(iteration, picture);
                }
                Err(error)
            }
        }
    }

    fn hear(&mut self, event: Event<'_>, network: &Network) -> Result<ControlFlow<()>> {
        match event {
            Event::Started(started) => self.start(started, network)?,
            Event::Balanced { iteration, weights } => {
                self.console.balanced(iteration, weights);
                self.log.write(&Line::balance(iteration, weights))?;
            }
            Event::Progress { iteration, seconds } => self.console.progress(iteration, seconds),
            Event::Report(report) => {
                if self.console.verbose && !self.reported {
                    let seconds = self.begun.elapsed().as_secs_f64() - self.layers.1;
                    self.console.say(&format!("time to first iteration {seconds:.2} s"));
                }
                self.reported = true;
                self.console.report(report, &self.names);
                self.log.write(&Line::report(report, &self.names))?;
            }
            Event::Snapshot { iteration, picture } => {
                let path = self.files.snapshot(iteration);
                self.files.write(&path, picture, self.record(iteration))?;
                self.console.say(&format!("Saved {}", path.display()));
                self.log.write(&Line::Snapshot { iteration, path: path.to_string_lossy().into_owned() })?;
            }
        }
        Ok(if self.interrupt.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn start(&mut self, started: &Started, network: &Network) -> Result<()> {
        self.device.clone_from(&started.device);
        self.console.started(started, &self.names, &self.layers);
        let [height, width] = started.size;
        let notes = [self.notes.as_slice(), started.notes.as_slice()].concat();
        self.log.write(&Line::Start {
            version: VERSION,
            device: &started.device,
            size: Size { width, height },
            network: NetworkLine {
                path: network.path.to_string_lossy().into_owned(),
                sha256: &self.sha256,
                topology: network.topology(),
                preprocessing: network.preprocessing.to_string(),
            },
            options: &self.options,
            prepared_in: started.prepared_in,
            device_memory: started.memory.total(),
            photo_classes: self.names.classes(&started.photo_classes),
            notes: &notes,
        })?;
        self.interrupt.arm();
        Ok(())
    }

    fn finish(&mut self, outcome: &Outcome) -> Result<u8> {
        self.files.write_output(&outcome.picture, self.record(outcome.iterations))?;
        self.console.close();
        let output = self.files.output.display();
        let (ending, code, word) = match outcome.ending {
            Ending::Finished => ("finished", 0, "Done"),
            Ending::Stopped => ("stopped", INTERRUPTED, "Stopped"),
        };
        self.console.say(&format!(
            "{word} after {} iterations in {}: {output}",
            outcome.iterations,
            duration(outcome.seconds)
        ));
        self.log.write(&Line::End {
            ending,
            iterations: outcome.iterations,
            seconds: outcome.seconds,
            output: self.files.output.to_string_lossy().into_owned(),
        })?;
        Ok(code)
    }

    /// Saves what a failed run leaves.
    fn rescue(&mut self, iteration: u32, picture: &Picture) {
        let output = self.files.output.display().to_string();
        match self.files.write_output(picture, self.record(iteration)) {
            Ok(()) => {
                self.console.note(&format!("the picture after iteration {iteration} is saved as {output}"));
                self.rescued = Some((iteration, output));
            }
            Err(error) => self.console.note(&error.to_string()),
        }
    }

    fn record(&self, iterations: u32) -> Vec<(String, String)> {
        self.options.embed(&self.device, &self.sha256, iterations)
    }
}
