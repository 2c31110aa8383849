//! Commands to a run that goes on, from any thread.

use super::request::Balance;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A handle on a run: what is asked for is done before the next iteration is submitted. Clones command the same
/// run.
#[derive(Debug, Clone, Default)]
pub struct Controls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

/// What is asked for and not done yet.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Wishes {
    /// Hold the run.
    pub paused: bool,
    /// End it.
    pub stop: bool,
    /// Make a snapshot.
    pub save: bool,
    /// Go on with these shares.
    pub balance: Option<Balance>,
}

impl Controls {
    /// Handles on no run yet; give it to [`Session::set_controls`](super::Session::set_controls).
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds the run after the iterations that were submitted.
    pub fn pause(&self) {
        self.wish(|wishes| wishes.paused = true);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.wish(|wishes| wishes.paused = false);
    }

    /// Ends it after the iterations that were submitted, paused or not.
    pub fn stop(&self) {
        self.wish(|wishes| wishes.stop = true);
    }

    /// Asks for a snapshot now; a paused run makes one too.
    pub fn save(&self) {
        self.wish(|wishes| wishes.save = true);
    }

    /// Changes the shares: the gradients are measured and the weights set before the next iteration. A factor
    /// that the objective lacks stays out; see [`Request::adjustable`](super::Request::adjustable).
    pub fn set_balance(&self, balance: Balance) {
        self.wish(|wishes| wishes.balance = Some(balance));
    }

    /// True if the run is held or about to be.
    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Takes what is asked for. `paused` stays until it is withdrawn, `stop` for good.
    pub(super) fn take(&self) -> Wishes {
        let mut wishes = self.lock();
        let taken = *wishes;
        wishes.save = false;
        wishes.balance = None;
        taken
    }

    /// Waits while the run is held and nothing else is asked for.
    pub(super) fn wait(&self) {
        let held =
            |wishes: &mut Wishes| wishes.paused && !wishes.stop && !wishes.save && wishes.balance.is_none();
        drop(self.0.changed.wait_while(self.lock(), held).unwrap_or_else(PoisonError::into_inner));
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.lock());
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.0.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn wishes_are_taken_once_but_a_pause_holds() {
        let controls = Controls::new();
        let balance = Balance { spatial: 1.0, abstracted: 2.0, style: 3.0 };
        controls.pause();
        controls.save();
        controls.set_balance(balance);
        let taken = controls.take();
        assert_eq!(taken, Wishes { paused: true, stop: false, save: true, balance: Some(balance) });
        assert_eq!(controls.take(), Wishes { paused: true, ..Default::default() });
        controls.resume();
        assert_eq!(controls.take(), Wishes::default());
    }

    #[test]
    fn whatever_is_asked_for_ends_the_waiting() {
        for ask in [Controls::resume, Controls::stop, Controls::save] {
            let controls = Controls::new();
            controls.pause();
            let other = controls.clone();
            let asking = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                ask(&other);
            });
            controls.wait();
            assert_ne!(controls.take(), Wishes { paused: true, ..Default::default() });
            asking.join().unwrap();
        }
    }
}
