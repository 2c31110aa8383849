//! Several observers as one.

use crate::error::Result;
use crate::mirage::{Event, Observer};
use std::ops::ControlFlow;

/// Passes each event to its observers in order: one that reads the [`RunStatus`](super::status::RunStatus) comes after
/// those that write it.
pub(in crate::cli) struct Observers<'a>(pub Vec<&'a mut dyn Observer>);

impl Observer for Observers<'_> {
    /// Stops the run if any observer does.
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        let mut flow = ControlFlow::Continue(());
        for observer in &mut self.0 {
            if observer.observe(event)?.is_break() {
                flow = ControlFlow::Break(());
            }
        }
        Ok(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::cell::RefCell;

    #[test]
    fn all_observers_see_events_and_any_can_stop() {
        let seen = RefCell::new(Vec::new());
        let observer = |name: &'static str, stops_at: u32| {
            let seen = &seen;
            move |event: Event<'_>| {
                let Event::Progress { iteration, .. } = event else { return Ok(ControlFlow::Continue(())) };
                seen.borrow_mut().push(format!("{name}{iteration}"));
                Ok(if iteration == stops_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            }
        };
        let (mut one, mut other) = (observer("a", 2), observer("b", 9));
        let mut list = Observers(vec![&mut one, &mut other]);
        let stops = [1, 2, 3]
            .map(|iteration| list.observe(Event::Progress { iteration, seconds: 0.0 }).unwrap().is_break());
        assert_eq!(stops, [false, true, false]);
        assert_eq!(*seen.borrow(), ["a1", "b1", "a2", "b2", "a3", "b3"]);
    }

    #[test]
    fn error_stops_later_observers() {
        let mut fails = |_: Event<'_>| Err(Error::usage("no"));
        let mut unreached = |_: Event<'_>| -> Result<ControlFlow<()>> { panic!("reached") };
        let mut list = Observers(vec![&mut fails, &mut unreached]);
        assert!(list.observe(Event::Progress { iteration: 1, seconds: 0.0 }).is_err());
    }
}
