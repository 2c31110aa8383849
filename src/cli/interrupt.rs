//! Ctrl-C: the first stops the run and saves the picture, the second quits at once. SIGTERM and SIGHUP stop the run
//! too, however often they arrive. Signals that were ignored when the program started (by `nohup`, or in the background
//! of a script) stay ignored.

use super::files::disk::remove_leftovers;
use crate::mirage::Controls;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Exit code of a run ended by a signal, as shells expect after Ctrl-C: 128 + SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// A second Ctrl-C within this time counts as the first: `timeout -s INT` sends one to the process and one to its
/// group.
const ECHO: Duration = Duration::from_millis(100);

/// The user's request to stop.
#[derive(Debug, Default)]
pub(super) struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// True while there is something to finish and save.
    armed: AtomicBool,
    /// When the run was asked to stop.
    stopped: OnceLock<Instant>,
    /// Controls of the run that a signal stops, even while it is paused.
    controls: Mutex<Option<Controls>>,
}

/// Source of a request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    /// The user, who may press it again.
    CtrlC,
    /// The end of a terminal or of a session. Systems send this twice, and SIGTERM together with SIGHUP: a shell
    /// forwards signals that its jobs have already received.
    Termination,
}

#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    Finish,
    Quit,
    Nothing,
}

impl State {
    fn signal(&self, signal: Signal, now: Instant) -> Reaction {
        if !self.armed.load(Ordering::SeqCst) {
            return Reaction::Quit;
        }
        if let Some(first) = self.stopped.get() {
            let again = signal == Signal::CtrlC && now.saturating_duration_since(*first) >= ECHO;
            return if again { Reaction::Quit } else { Reaction::Nothing };
        }
        // Only the signal thread sets it.
        let _ = self.stopped.set(now);
        if let Some(controls) = &*self.controls.lock().unwrap_or_else(PoisonError::into_inner) {
            controls.stop();
        }
        Reaction::Finish
    }
}

impl Interrupt {
    /// Installs the signal handlers of this process. Until [`Interrupt::arm`], a signal quits at once.
    pub(super) fn install() -> Self {
        Self::install_with(
            "Stopping after this iteration and saving the picture. Ctrl-C again quits at once.",
        )
    }

    /// Like [`Interrupt::install`], with the message to print at the first signal.
    pub(super) fn install_with(message: &'static str) -> Self {
        let interrupt = Self::default();
        let state = interrupt.0.clone();
        // Without a handler a signal ends the program at once, which is acceptable.
        let _ = watch(move |signal| match state.signal(signal, Instant::now()) {
            Reaction::Quit => quit(INTERRUPTED),
            Reaction::Nothing => {}
            Reaction::Finish => {
                let mut stderr = std::io::stderr();
                let _ = writeln!(stderr, "\n{message}");
            }
        });
        interrupt
    }

    /// Makes the first signal stop the run with these controls, from now on.
    pub(super) fn arm(&self, controls: &Controls) {
        *self.0.controls.lock().unwrap_or_else(PoisonError::into_inner) = Some(controls.clone());
        self.0.armed.store(true, Ordering::SeqCst);
    }

    /// True once the user asked to stop.
    pub(super) fn requested(&self) -> bool {
        self.0.stopped.get().is_some()
    }
}

/// Write end of the pipe, for the signal handler.
#[cfg(unix)]
static PIPE: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

/// Calls `handle` on its own thread for each signal that is not ignored.
#[cfg(unix)]
#[allow(unsafe_code, reason = "std has no signals")]
fn watch(handle: impl Fn(Signal) + Send + 'static) -> std::io::Result<()> {
    use std::io::Read as _;
    use std::os::fd::IntoRawFd as _;
    let (mut reader, writer) = std::io::pipe()?;
    PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut signal = [0_u8];
        while reader.read_exact(&mut signal).is_ok() {
            handle(if signal == [libc::SIGINT as u8] { Signal::CtrlC } else { Signal::Termination });
        }
    })?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all zeros are a valid sigaction, both pointers are to such values, and the handler only does what a
        // signal handler may.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0
                || action.sa_sigaction == libc::SIG_IGN
            {
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = pass_on as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// The signal handler. It only passes the signal to the thread.
#[cfg(unix)]
#[allow(unsafe_code, reason = "std has no signals")]
extern "C" fn pass_on(signal: libc::c_int) {
    let signal = signal as u8;
    // SAFETY: write may be called in a signal handler; the pipe stays open, and the byte lives as long as the call.
    unsafe { libc::write(PIPE.load(Ordering::SeqCst), (&raw const signal).cast(), 1) };
}

#[cfg(windows)]
fn watch(handle: impl Fn(Signal) + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || handle(Signal::CtrlC))
}

/// Ends the process without running exit handlers, since a graphics driver's may wait for its threads. Removes only
/// lock files and an empty log first.
#[cfg(unix)]
#[allow(unsafe_code, reason = "std has no exit without handlers")]
pub(super) fn quit(code: u8) -> ! {
    remove_leftovers();
    // SAFETY: _exit takes any status, touches no memory of this process and doesn't return.
    unsafe { libc::_exit(i32::from(code)) }
}

#[cfg(not(unix))]
pub(super) fn quit(code: u8) -> ! {
    remove_leftovers();
    std::process::exit(i32::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed() -> State {
        let state = State::default();
        state.armed.store(true, Ordering::SeqCst);
        state
    }

    #[test]
    fn first_ctrl_c_finishes_and_second_quits() {
        let (state, begin) = (armed(), Instant::now());
        assert_eq!(state.signal(Signal::CtrlC, begin), Reaction::Finish);
        assert_eq!(state.signal(Signal::CtrlC, begin + ECHO / 2), Reaction::Nothing);
        assert_eq!(state.signal(Signal::CtrlC, begin + ECHO), Reaction::Quit);
    }

    #[test]
    fn repeated_terminations_still_finish() {
        let (state, begin) = (armed(), Instant::now());
        assert_eq!(state.signal(Signal::Termination, begin), Reaction::Finish);
        for seconds in [0, 1, 100] {
            let later = begin + Duration::from_secs(seconds);
            assert_eq!(state.signal(Signal::Termination, later), Reaction::Nothing);
        }
        assert_eq!(state.signal(Signal::CtrlC, begin + ECHO), Reaction::Quit);
    }

    #[test]
    fn first_signal_quits_before_anything_can_be_saved() {
        for signal in [Signal::CtrlC, Signal::Termination] {
            assert_eq!(State::default().signal(signal, Instant::now()), Reaction::Quit);
        }
    }
}
