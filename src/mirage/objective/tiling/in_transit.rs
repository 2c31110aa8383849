//! Parts of a picture on their way to the device and back.

use crate::error::Result;
use crate::gpu::UPLOAD_CHUNK;
use crate::graph::{Engine, Submission};
use crate::ops::Shape;
use std::collections::VecDeque;

/// Parts that are submitted before the oldest is waited for: one is computed while the host prepares the next.
pub(in crate::mirage) const IN_FLIGHT: usize = 2;

/// What tiles or bands take, besides their programs' memory, while they are written to the device and read back. In bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::mirage) struct InTransit {
    /// What a graphics device stages of tensors that are written.
    written: u64,
    /// A graphics device's staging buffers for tensors that are read. Each program keeps its own.
    read: u64,
    /// In the host's memory, which packs one tensor at a time, or unpacks all tensors of one part.
    pub host: u64,
}

impl InTransit {
    /// Of so many parts with one program, for which tensors of these shapes are written, and read when they are done.
    pub fn of(engine: &Engine, parts: usize, written: &[Shape], read: &[Shape]) -> Self {
        let stored = |shapes: &[Shape]| shapes.iter().map(Shape::bytes).sum::<u64>();
        let values = |shape: &Shape| shape.elements() as u64 * 4;
        let unpacking = stored(read) + read.iter().map(values).sum::<u64>();
        let largest = |bytes: &dyn Fn(&Shape) -> u64| written.iter().map(bytes).max().unwrap_or(0);
        if engine.profile().cpu {
            // It packs into the tensor's own memory.
            return Self { host: largest(&values).max(unpacking), ..Self::default() };
        }
        let at_once = IN_FLIGHT.min(parts) as u64;
        // Larger ones are written piece by piece, and each is waited for.
        let staged = written.iter().map(|shape| shape.bytes().min(UPLOAD_CHUNK as u64)).sum::<u64>();
        Self {
            written: at_once * staged,
            read: at_once * stored(read),
            host: largest(&|shape| values(shape) + shape.bytes()).max(unpacking),
        }
    }

    /// Of the parts of both programs, which are not submitted at the same time.
    pub fn and(self, other: Self) -> Self {
        Self {
            written: self.written.max(other.written),
            read: self.read + other.read,
            host: self.host.max(other.host),
        }
    }

    /// In staging buffers of a graphics device.
    pub fn device(&self) -> u64 {
        self.written + self.read
    }
}

/// Submits parts in order, and calls `done` with each in that order, before there are more than [`IN_FLIGHT`]. Where the
/// work is done when it has been submitted, there is only one, so that no other's values take memory meanwhile.
///
/// # Errors
/// Those of `submit` and `done`; what is in flight is dropped then.
pub(in crate::mirage) fn in_order<Context, Part>(
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
        if submission.was_done_at_once() {
            done(context, part, submission)?;
        } else {
            in_flight.push_back((part, submission));
        }
    }
    in_flight.into_iter().try_for_each(|(part, submission)| done(context, part, submission))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Profile;
    use std::cell::Cell;

    #[test]
    fn parts_that_are_done_at_once_are_never_two() {
        let held = Cell::new(0);
        let submit = |(): &(), _: &usize| {
            held.set(held.get() + 1);
            assert_eq!(held.get(), 1);
            Ok(Submission::with_values("part", []))
        };
        let mut order = Vec::new();
        in_order(&mut (), 0..5, submit, |(), part, _| {
            held.set(held.get() - 1);
            order.push(part);
            Ok(())
        })
        .unwrap();
        assert_eq!(order, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn staging_counts_parts_in_flight_and_the_read_backs_of_all_programs() {
        let (written, read) = (Shape::map(8, 10, 20), Shape::map(3, 10, 20));
        let values = |shape: Shape| shape.elements() as u64 * 4;
        let cpu = Engine::counting_for(Profile::cpu(), "invented");
        let of = |engine: &Engine, parts| InTransit::of(engine, parts, &[read, written], &[read, read]);
        let found = of(&cpu, 7);
        assert_eq!((found.device(), found.host), (0, 2 * (read.bytes() + values(read))));
        assert_eq!(InTransit::of(&cpu, 7, &[written], &[]).host, values(written));
        let gpu = Engine::counting_for(Profile::minimal(), "invented");
        let (one, two) = (of(&gpu, 1), of(&gpu, 7));
        assert_eq!(one.device(), read.bytes() + written.bytes() + 2 * read.bytes());
        assert_eq!(two.device(), 2 * one.device());
        assert_eq!(two.host, (written.bytes() + values(written)).max(2 * (read.bytes() + values(read))));
        // The other program's read-backs stay, and its parts are written when these are done.
        assert_eq!(two.and(one).device(), two.device() + 2 * read.bytes());
        let large = Shape::map(64, 400, 400);
        assert_eq!(InTransit::of(&gpu, 1, &[large], &[]).device(), UPLOAD_CHUNK as u64);
    }
}
