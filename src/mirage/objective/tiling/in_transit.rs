//! Parts of a picture in transit between host and device.

use crate::error::Result;
use crate::gpu::UPLOAD_CHUNK;
use crate::graph::{Engine, Submission};
use crate::ops::Shape;
use std::collections::VecDeque;

/// Largest number of parts in flight: one is computed while the host prepares the next.
pub(in crate::mirage) const IN_FLIGHT: usize = 2;

/// Bytes of memory, besides that of their programs, for writing tiles or bands to the device and reading them back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::mirage) struct InTransit {
    /// Staging memory of a GPU for tensors that are written.
    written: u64,
    /// Staging buffers of a GPU for tensors that are read. Each program has its own.
    read: u64,
    /// Host memory for packing one tensor at a time, or for unpacking all tensors of one part.
    pub host: u64,
}

impl InTransit {
    /// Computes the memory for `parts` parts with one program, given the shapes of tensors written and read for each
    /// part.
    pub fn of(engine: &Engine, parts: usize, written: &[Shape], read: &[Shape]) -> Self {
        let stored = |shapes: &[Shape]| shapes.iter().map(Shape::bytes).sum::<u64>();
        let values = |shape: &Shape| shape.elements() as u64 * 4;
        let unpacking = stored(read) + read.iter().map(values).sum::<u64>();
        let largest = |bytes: &dyn Fn(&Shape) -> u64| written.iter().map(bytes).max().unwrap_or(0);
        if engine.profile().cpu {
            // The CPU device packs directly into the tensor's memory.
            return Self { host: largest(&values).max(unpacking), ..Self::default() };
        }
        let at_once = IN_FLIGHT.min(parts) as u64;
        // Larger tensors are written in pieces, and each piece is waited for.
        let staged = written.iter().map(|shape| shape.bytes().min(UPLOAD_CHUNK as u64)).sum::<u64>();
        Self {
            written: at_once * staged,
            read: at_once * stored(read),
            host: largest(&|shape| values(shape) + shape.bytes()).max(unpacking),
        }
    }

    /// Combines the memory of two programs that are not submitted at the same time.
    pub fn and(self, other: Self) -> Self {
        Self {
            written: self.written.max(other.written),
            read: self.read + other.read,
            host: self.host.max(other.host),
        }
    }

    /// Returns the bytes in a GPU's staging buffers.
    pub fn device(&self) -> u64 {
        self.written + self.read
    }
}

/// Submits parts in order, at most [`IN_FLIGHT`] at a time, and calls `done` with each in the same order. If
/// submissions are synchronous there is only one at a time, so that only one part's values are in memory.
///
/// # Errors
/// Those of `submit` and `done`; parts in flight are then dropped.
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
    fn synchronous_parts_are_held_one_at_a_time() {
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
    fn staging_counts_parts_in_flight_and_all_readbacks() {
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
        // The other program keeps its staging buffers for reading; those for writing are shared.
        assert_eq!(two.and(one).device(), two.device() + 2 * read.bytes());
        let large = Shape::map(64, 400, 400);
        assert_eq!(InTransit::of(&gpu, 1, &[large], &[]).device(), UPLOAD_CHUNK as u64);
    }
}
