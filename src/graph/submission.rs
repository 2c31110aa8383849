//! Submitted work, and the values that come back from it.

use super::engine::Engine;
use crate::error::Result;
use crate::gpu::{Copy, ReadBack, StagingPool};
use crate::ops::Shape;
use std::sync::Arc;

/// A prepared [`Readback`](super::Readback).
#[derive(Debug)]
pub(super) struct Reader {
    pub name: String,
    pub before: bool,
    layout: Arc<[Part]>,
    /// Each tensor's buffer, the offset in it and the bytes.
    sources: Vec<(wgpu::Buffer, u64, u64)>,
    pool: StagingPool,
}

/// One value of a read-back.
#[derive(Debug)]
struct Part {
    name: String,
    shape: Shape,
}

impl Reader {
    /// A read-back of these tensors: name, shape, buffer and offset of each.
    pub fn new(
        name: &str,
        before: bool,
        in_flight: usize,
        tensors: Vec<(String, Shape, wgpu::Buffer, u64)>,
    ) -> Self {
        let (mut layout, mut sources, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (name, shape, buffer, offset) in tensors {
            bytes += shape.bytes();
            sources.push((buffer, offset, shape.bytes()));
            layout.push(Part { name, shape });
        }
        let pool = StagingPool::new(name, bytes, in_flight);
        Self { name: name.to_owned(), before, layout: layout.into(), sources, pool }
    }

    /// Records the copy of the tensors into a staging buffer.
    ///
    /// # Errors
    /// As [`StagingPool::copy_parts`].
    pub fn copy(&self, engine: &Engine, encoder: &mut wgpu::CommandEncoder) -> Result<Copy> {
        self.pool.copy_parts(&engine.context, encoder, &self.sources)
    }

    /// The values once the copy is submitted.
    pub fn pending(&self, engine: &Arc<Engine>, copy: Copy, submission: &wgpu::SubmissionIndex) -> Pending {
        Pending { engine: engine.clone(), layout: self.layout.clone(), read: copy.read(submission) }
    }

    /// Staging buffers made so far.
    pub fn staging_buffers(&self) -> usize {
        self.pool.made()
    }
}

/// Work that was submitted.
#[derive(Debug)]
pub struct Submission {
    pub(super) engine: Arc<Engine>,
    pub(super) label: String,
    pub(super) index: wgpu::SubmissionIndex,
    pub(super) pending: Vec<(String, Pending)>,
}

impl Submission {
    /// Waits until the work is done.
    ///
    /// # Errors
    /// As [`crate::gpu::Context::wait`].
    pub fn wait(&self) -> Result<()> {
        self.engine.context.wait(&self.index, &self.label)
    }

    /// The read-back of this name; `None` if it was not asked for, or already taken.
    pub fn take(&mut self, name: &str) -> Option<Pending> {
        let position = self.pending.iter().position(|(other, _)| other == name)?;
        Some(self.pending.swap_remove(position).1)
    }
}

/// Values that the device has yet to deliver.
#[derive(Debug)]
pub struct Pending {
    engine: Arc<Engine>,
    layout: Arc<[Part]>,
    read: ReadBack,
}

impl Pending {
    /// Waits for the values, unless they are there.
    ///
    /// # Errors
    /// As [`ReadBack::finish`].
    pub fn finish(self) -> Result<Values> {
        let stored = self.read.finish(&self.engine.context)?;
        let mut rest = stored.as_slice();
        let unpack = |part: &Part| {
            let (here, behind) = rest.split_at(part.shape.stored().min(rest.len()));
            rest = behind;
            (part.name.clone(), part.shape.unpack(here))
        };
        Ok(Values { values: self.layout.iter().map(unpack).collect() })
    }
}

/// Values of a read-back by name, each in the logical order of its tensor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values {
    values: Vec<(String, Vec<f32>)>,
}

impl Values {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.iter().find(|(other, _)| *other == name).map(|(_, values)| values)
    }

    /// The value of this name, moved out.
    pub fn take(&mut self, name: &str) -> Option<Vec<f32>> {
        let position = self.values.iter().position(|(other, _)| other == name)?;
        Some(self.values.remove(position).1)
    }

    /// All values in the declared order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.values.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}
