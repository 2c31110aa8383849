//! Parts of a picture on their way to the device and back.

use crate::error::Result;
use crate::graph::Submission;
use std::collections::VecDeque;

/// Parts that are submitted before the oldest is waited for: one is computed while the host prepares the next.
pub(super) const IN_FLIGHT: usize = 2;

/// Submits parts in order, and calls `done` with each in that order, before there are more than [`IN_FLIGHT`].
///
/// # Errors
/// Those of `submit` and `done`; what is in flight is dropped then.
pub(super) fn in_order<Context, Part>(
    context: &mut Context,
    parts: impl IntoIterator<Item = Part>,
    submit: impl Fn(&Context, &Part) -> Result<Submission>,
    mut done: impl FnMut(&mut Context, Part, Submission) -> Result<()>,
) -> Result<()> {
    let mut in_flight = VecDeque::new();
    for part in parts {
        if in_flight.len() == IN_FLIGHT
            && let Some((oldest, submission)) = in_flight.pop_front()
        {
            done(context, oldest, submission)?;
        }
        let submission = submit(context, &part)?;
        in_flight.push_back((part, submission));
    }
    in_flight.into_iter().try_for_each(|(part, submission)| done(context, part, submission))
}
