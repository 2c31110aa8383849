//! Commands to a running session, from any thread.

use crate::mirage::loss::Shares;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A handle on a run. Commands are applied before the next iteration is submitted. Clones control the same run.
#[derive(Debug, Clone, Default)]
pub struct Controls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<PendingCommands>,
    changed: Condvar,
}

/// Commands that have not been applied yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::mirage) struct PendingCommands {
    /// True to pause the run.
    pub paused: bool,
    /// True to end the run.
    pub stop: bool,
    /// True to take a snapshot.
    pub save: bool,
    /// New shares.
    pub shares: Option<Shares>,
}

impl Controls {
    /// Creates a handle, to be attached with [`Session::set_controls`](crate::mirage::Session::set_controls).
    pub fn new() -> Self {
        Self::default()
    }

    /// Pauses the run after the iterations in flight.
    pub fn pause(&self) {
        self.command(|pending| pending.paused = true);
    }

    /// Resumes the run.
    pub fn resume(&self) {
        self.command(|pending| pending.paused = false);
    }

    /// Ends the run after the iterations in flight, even if it is paused.
    pub fn stop(&self) {
        self.command(|pending| pending.stop = true);
    }

    /// Requests a snapshot now; works in a paused run too.
    pub fn save(&self) {
        self.command(|pending| pending.save = true);
    }

    /// Sets the shares of the named groups. Gradients are measured and weights set before the next iteration. A group
    /// outside the objective stays out; see [`Request::adjustable`](crate::mirage::Request::adjustable). The command
    /// has no effect if a group is unknown or has no measured gradient, if a share is negative or not finite, or if all
    /// shares are zero.
    pub fn set_shares(&self, shares: Shares) {
        self.command(|pending| pending.shares = Some(shares));
    }

    /// True if the run is paused or about to be; for tests.
    #[doc(hidden)]
    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Returns the pending commands and clears one-time ones. `paused` stays until the run is resumed, `stop` for good.
    pub(in crate::mirage) fn take(&self) -> PendingCommands {
        let mut pending = self.lock();
        let taken = pending.clone();
        pending.save = false;
        pending.shares = None;
        taken
    }

    /// Waits while the run is paused and no other command is pending.
    pub(in crate::mirage) fn wait(&self) {
        let idle = |pending: &mut PendingCommands| {
            pending.paused && !pending.stop && !pending.save && pending.shares.is_none()
        };
        drop(self.0.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner));
    }

    fn command(&self, change: impl FnOnce(&mut PendingCommands)) {
        change(&mut self.lock());
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, PendingCommands> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn commands_are_taken_once_but_pause_persists() {
        let controls = Controls::new();
        let shares: Shares = "spatial=1,style=3".parse().unwrap();
        controls.pause();
        controls.save();
        controls.set_shares(shares.clone());
        let taken = controls.take();
        assert_eq!(taken, PendingCommands { paused: true, stop: false, save: true, shares: Some(shares) });
        assert_eq!(controls.take(), PendingCommands { paused: true, ..Default::default() });
        controls.resume();
        assert_eq!(controls.take(), PendingCommands::default());
    }

    #[test]
    fn every_command_wakes_a_paused_run() {
        for ask in [Controls::resume, Controls::stop, Controls::save] {
            let controls = Controls::new();
            controls.pause();
            let other = controls.clone();
            let asking = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                ask(&other);
            });
            controls.wait();
            assert_ne!(controls.take(), PendingCommands { paused: true, ..Default::default() });
            asking.join().unwrap();
        }
    }
}
