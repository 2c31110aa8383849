//! Submitted work, and the values that come back from it.

use super::engine::Engine;
use super::goals::When;
use super::lowered::{Location, LoweredReadback};
use crate::error::Result;
use crate::gpu::{Copy, Fence, ReadBack, StagingPool};
use crate::ops::Shape;
use std::sync::Arc;

/// A prepared [`Readback`](super::Readback).
#[derive(Debug)]
pub(super) struct Reader {
    pub name: String,
    pub when: When,
    layout: Arc<[(String, Shape)]>,
    /// Each value's buffer, the offset in it and the bytes.
    sources: Vec<(wgpu::Buffer, u64, u64)>,
    pool: StagingPool,
}

impl Reader {
    /// A read-back from these buffers.
    pub fn new(read: &LoweredReadback, buffers: &[wgpu::Buffer]) -> Self {
        let source = |(_, shape, at): &(String, Shape, Location)| {
            (buffers[at.buffer].clone(), at.offset, shape.bytes())
        };
        let layout = read.values.iter().map(|(name, shape, _)| (name.clone(), *shape)).collect();
        let sources: Vec<_> = read.values.iter().map(source).collect();
        let bytes = sources.iter().map(|(_, _, bytes)| bytes).sum();
        let pool = StagingPool::new(&read.name, bytes, read.in_flight);
        Self { name: read.name.clone(), when: read.when, layout, sources, pool }
    }

    /// Records the copy of the tensors into a staging buffer.
    ///
    /// # Errors
    /// As [`StagingPool::copy_parts`].
    pub fn copy(&self, engine: &Engine, encoder: &mut wgpu::CommandEncoder) -> Result<Copy> {
        self.pool.copy_parts(&engine.context, encoder, &self.sources)
    }

    /// The values once the copy is submitted.
    pub fn pending(&self, engine: &Arc<Engine>, copy: Copy, fence: &Fence) -> Pending {
        Pending { engine: engine.clone(), layout: self.layout.clone(), read: copy.read(fence) }
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
    pub(super) fence: Fence,
    pub(super) pending: Vec<(String, Pending)>,
}

impl Submission {
    /// Waits until the work is done.
    ///
    /// # Errors
    /// As [`crate::gpu::Context::wait`].
    pub fn wait(&self) -> Result<()> {
        self.engine.context.wait(&self.fence, &self.label)
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
    layout: Arc<[(String, Shape)]>,
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
        let unpack = |(name, shape): &(String, Shape)| {
            let (here, behind) = rest.split_at(shape.stored().min(rest.len()));
            rest = behind;
            (name.clone(), shape.unpack(here))
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
