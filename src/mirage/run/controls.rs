//! Commands to a run that goes on, from any thread.

use crate::mirage::loss::Shares;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A handle on a run: commands are applied before the next iteration is submitted. Clones command the same
/// run.
#[derive(Debug, Clone, Default)]
pub struct Controls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<PendingCommands>,
    changed: Condvar,
}

/// Commands that are not applied yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::mirage) struct PendingCommands {
    /// Pause the run.
    pub paused: bool,
    /// End it.
    pub stop: bool,
    /// Make a snapshot.
    pub save: bool,
    /// Go on with these shares.
    pub shares: Option<Shares>,
}

impl Controls {
    /// A handle that is not on a run yet; pass it to [`Session::set_controls`](crate::mirage::Session::set_controls).
    pub fn new() -> Self {
        Self::default()
    }

    /// Pauses the run after the iterations that were submitted.
    pub fn pause(&self) {
        self.command(|pending| pending.paused = true);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.command(|pending| pending.paused = false);
    }

    /// Ends it after the iterations that were submitted, paused or not.
    pub fn stop(&self) {
        self.command(|pending| pending.stop = true);
    }

    /// Asks for a snapshot now; a paused run makes one too.
    pub fn save(&self) {
        self.command(|pending| pending.save = true);
    }

    /// Changes the shares of the groups that are named: the gradients are measured and the weights set before the next
    /// iteration. A group that the objective lacks stays out; see [`Request::adjustable`](crate::mirage::Request::adjustable).
    /// The run goes on as before if a group is unknown or steers nothing, if a share is negative or not finite, or if all are
    /// zero.
    pub fn set_shares(&self, shares: Shares) {
        self.command(|pending| pending.shares = Some(shares));
    }

    /// True if the run is paused or about to be; for tests.
    #[doc(hidden)]
    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Takes the pending commands. `paused` stays until the run is resumed, `stop` for good.
    pub(in crate::mirage) fn take(&self) -> PendingCommands {
        let mut pending = self.lock();
        let taken = pending.clone();
        pending.save = false;
        pending.shares = None;
        taken
    }

    /// Waits while the run is paused and there is no other command.
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
    fn commands_are_taken_once_but_a_pause_stays() {
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
    fn every_command_ends_the_waiting() {
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
