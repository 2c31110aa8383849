//! Parts of a picture on their way to the device and back.

use crate::error::Result;
use crate::graph::{Engine, Submission};
use crate::ops::Shape;
use std::collections::VecDeque;

/// Parts that are submitted before the oldest is waited for: one is computed while the host prepares the next.
pub(super) const IN_FLIGHT: usize = 2;

/// Bytes of parts on their way to the device and back, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct InTransit {
    /// In staging buffers of a graphics device.
    pub device: u64,
    /// In the host's memory.
    pub host: u64,
}

impl InTransit {
    /// Of parts for which tensors of these shapes are written, and read when they are done. On a graphics device several are
    /// in flight; the host packs one tensor at a time, and unpacks all of one part.
    pub fn of(engine: &Engine, written: &[Shape], read: &[Shape]) -> Self {
        let stored = |shapes: &[Shape]| shapes.iter().map(Shape::bytes).sum::<u64>();
        let values = |shape: &Shape| shape.elements() as u64 * 4;
        // The CPU device packs into the tensor's own memory.
        let is_native = engine.profile().native;
        let packing = |shape: &Shape| values(shape) + if is_native { 0 } else { shape.bytes() };
        let packed = written.iter().map(packing).max().unwrap_or(0);
        Self {
            device: if is_native { 0 } else { IN_FLIGHT as u64 * (stored(written) + stored(read)) },
            host: packed.max(stored(read) + read.iter().map(values).sum::<u64>()),
        }
    }

    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self { device: self.device.max(other.device), host: self.host.max(other.host) }
    }
}

/// Submits parts in order, and calls `done` with each in that order, before there are more than [`IN_FLIGHT`]. Where the
/// work is done when it has been submitted, there is only one, so that no other's values take memory meanwhile.
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
        if submission.is_done() {
            done(context, part, submission)?;
        } else {
            in_flight.push_back((part, submission));
        }
    }
    in_flight.into_iter().try_for_each(|(part, submission)| done(context, part, submission))
}
