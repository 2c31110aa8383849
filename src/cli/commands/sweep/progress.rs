//! Shows the progress of all runs of a sweep.

use crate::cli::observers::SharedStatus;
use crate::cli::output::terminal::Terminal;
use crate::error::Result;
use crate::mirage::{Event, Observer, Scale, work};
use std::ops::ControlFlow;

/// The progress bar of a sweep. Its length is the work of all runs, see [`work`].
#[derive(Debug)]
pub(super) struct SweepProgress {
    pub lines: Terminal,
    runs: usize,
    /// Work of the finished runs.
    done: u64,
}

impl SweepProgress {
    pub(super) fn new(quiet: bool) -> Self {
        Self { lines: Terminal::new(quiet), runs: 0, done: 0 }
    }

    /// Starts the bar with this many runs and this much work.
    pub(super) fn start(&mut self, runs: usize, work: u64) {
        self.runs = runs;
        self.lines.start_bar("{bar:24} {msg}, {eta} left", work);
    }

    /// Adds the work of a finished run.
    pub(super) fn finish_run(&mut self, work: u64) {
        self.done += work;
    }

    /// Returns the observer of one run.
    pub(super) fn follow<'a>(&'a self, run: usize, label: &'a str, status: &SharedStatus) -> RunProgress<'a> {
        RunProgress {
            progress: self,
            run,
            label,
            scales: Vec::new(),
            status: status.clone(),
            problems_seen: 0,
        }
    }
}

/// Moves the bar by the iterations of one run, and prints its warnings with its label.
#[derive(Debug)]
pub(super) struct RunProgress<'a> {
    progress: &'a SweepProgress,
    /// Number of the run, counted from 0.
    run: usize,
    label: &'a str,
    scales: Vec<Scale>,
    status: SharedStatus,
    /// Number of problems printed so far.
    problems_seen: usize,
}

impl RunProgress<'_> {
    /// Prints the problems that were reported since the last event.
    pub(super) fn print_problems(&mut self) {
        for problem in self.status.borrow().new_problems(&mut self.problems_seen) {
            self.progress.lines.problem(&problem);
        }
    }

    fn warn(&self, warning: &str) {
        self.progress.lines.warn(&labelled(self.label, warning));
    }
}

/// Returns a text about a run with its label. A sweep over iterations alone has one run, without a label.
pub(super) fn labelled(label: &str, text: &str) -> String {
    if label.is_empty() { text.to_owned() } else { format!("{label}: {text}") }
}

impl Observer for RunProgress<'_> {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        self.print_problems();
        match event {
            Event::Started(started) => self.scales.clone_from(&started.scales),
            Event::Progress { iteration, .. } => {
                let SweepProgress { lines, runs, done } = self.progress;
                lines.advance(done + work(&self.scales, iteration), || {
                    let last = self.scales.last().map_or(0, |scale| scale.end);
                    format!("run {} of {runs}, iteration {iteration} of {last}", self.run + 1)
                });
            }
            Event::Report(_) => self.status.borrow().warnings.iter().for_each(|warning| self.warn(warning)),
            Event::Setback(setback) => self.warn(&setback.to_string()),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}
