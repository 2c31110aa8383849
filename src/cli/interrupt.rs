//! Ctrl-C: once to stop with the picture saved, twice to quit at once.

use crate::mirage::Controls;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Exit code of a run that Ctrl-C ended, as shells expect it: 128 + SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// Whether the user asked to stop. SIGTERM and SIGHUP count like Ctrl-C.
#[derive(Debug, Default)]
pub(super) struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// True while there is something to finish and save.
    armed: AtomicBool,
    signals: AtomicU32,
    /// Of the run that a signal stops, even while it is paused.
    controls: Mutex<Option<Controls>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    Finish,
    Quit,
}

impl State {
    fn signal(&self) -> Reaction {
        let earlier = self.signals.fetch_add(1, Ordering::SeqCst);
        if earlier > 0 || !self.armed.load(Ordering::SeqCst) {
            return Reaction::Quit;
        }
        if let Some(controls) = &*self.controls.lock().unwrap_or_else(PoisonError::into_inner) {
            controls.stop();
        }
        Reaction::Finish
    }
}

impl Interrupt {
    /// Handles the signals of this process; until [`Interrupt::arm`] they quit at once.
    pub(super) fn install() -> Self {
        Self::install_with(
            "Stopping after this iteration; the picture will be saved. Ctrl-C again quits at once.",
        )
    }

    /// [`Interrupt::install`] with what is printed at the first signal.
    pub(super) fn install_with(message: &'static str) -> Self {
        let interrupt = Self::default();
        let state = interrupt.0.clone();
        // Without a handler a signal ends the program at once, which is acceptable.
        let _ = ctrlc::set_handler(move || match state.signal() {
            Reaction::Quit => quit(INTERRUPTED),
            Reaction::Finish => {
                let mut stderr = std::io::stderr();
                let _ = writeln!(stderr, "\n{message}");
            }
        });
        interrupt
    }

    /// From now on the first signal asks the run of these controls to stop and only the second quits.
    pub(super) fn arm(&self, controls: &Controls) {
        *self.0.controls.lock().unwrap_or_else(PoisonError::into_inner) = Some(controls.clone());
        self.0.armed.store(true, Ordering::SeqCst);
    }

    /// True once the user asked to stop.
    pub(super) fn requested(&self) -> bool {
        self.0.signals.load(Ordering::SeqCst) > 0
    }
}

/// Ends the process without running exit handlers: a graphics driver's may wait for its threads.
#[cfg(unix)]
pub(super) fn quit(code: u8) -> ! {
    // SAFETY: _exit takes any status, touches no memory of this process and doesn't return.
    unsafe { libc::_exit(i32::from(code)) }
}

#[cfg(not(unix))]
pub(super) fn quit(code: u8) -> ! {
    std::process::exit(i32::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_finishes_and_the_second_quits() {
        let state = State::default();
        state.armed.store(true, Ordering::SeqCst);
        assert_eq!(state.signal(), Reaction::Finish);
        assert_eq!(state.signal(), Reaction::Quit);
    }

    #[test]
    fn before_anything_can_be_saved_the_first_signal_quits() {
        assert_eq!(State::default().signal(), Reaction::Quit);
    }
}
