//! Lines on standard error, above a progress bar where that is a terminal.

use super::escape::{escaped, one_line};
use super::streams;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// Standard error, as one command uses it.
#[derive(Debug)]
pub(in crate::cli) struct Terminal {
    quiet: bool,
    /// Present on a terminal that can show one, unless quiet.
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// Creates the output; with `quiet` nothing is printed.
    pub(in crate::cli) fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
        // On a terminal without control sequences (TERM=dumb) the bar is hidden, and would hide all lines too.
        Self { quiet, bar: bar.filter(|bar| !bar.is_hidden()) }
    }

    /// True if there is a progress bar.
    pub(in crate::cli) fn has_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Prints a line.
    pub(in crate::cli) fn print(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.println(escaped(text)),
            _ => streams::eprint(text),
        }
    }

    /// Prints a note for the user.
    pub(in crate::cli) fn note(&self, text: &str) {
        self.print(&format!("note: {}", one_line(text)));
    }

    /// Prints a warning that the picture is likely to be spoilt.
    pub(in crate::cli) fn warn(&self, text: &str) {
        self.print(&format!("warning: {}", one_line(text)));
    }

    /// Prints a problem other than with the picture, even if quiet.
    pub(in crate::cli) fn problem(&self, text: &str) {
        let text = format!("warning: {}", one_line(text));
        if self.quiet { streams::eprint(&text) } else { self.print(&text) }
    }

    /// Shows a spinner during a slow step.
    pub(in crate::cli) fn spin(&self, message: &'static str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message);
            bar.enable_steady_tick(TICK);
        }
    }

    /// Shows a bar of this length instead of the spinner.
    pub(in crate::cli) fn start_bar(&self, template: &'static str, length: u64) {
        if let Some(bar) = &self.bar {
            bar.disable_steady_tick();
            bar.set_length(length);
            bar.set_position(0);
            bar.set_message("");
            // Templates are constants with known keys.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
        }
    }

    /// Moves the bar.
    pub(in crate::cli) fn advance(&self, position: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(message());
        }
    }

    /// Removes the bar.
    pub(in crate::cli) fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.close();
    }
}
