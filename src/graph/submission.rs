//! Submitted work and the values that it returns.

use super::gpu::GpuDevice;
use crate::error::Result;
use crate::gpu::{Fence, PendingRead};
use crate::ops::Shape;
use std::sync::Arc;

/// Name and shape of each value of a read-back.
pub(super) type Layout = Arc<[(String, Shape)]>;

/// Submitted work.
#[derive(Debug)]
pub struct Submission {
    label: String,
    /// Fence to wait for; `None` for work on the CPU, which is complete once submitted.
    fence: Option<(Arc<GpuDevice>, Fence)>,
    pending: Vec<(String, Pending)>,
}

impl Submission {
    /// Creates the submission of work on a graphics device.
    pub(super) fn on_gpu(label: &str, device: &Arc<GpuDevice>, fence: Fence) -> Self {
        Self { label: label.to_owned(), fence: Some((device.clone(), fence)), pending: Vec::new() }
    }

    /// Creates a completed submission.
    pub(super) fn done(label: &str) -> Self {
        Self { label: label.to_owned(), fence: None, pending: Vec::new() }
    }

    /// Adds the values of a read-back.
    pub(super) fn with(mut self, name: &str, pending: Pending) -> Self {
        self.pending.push((name.to_owned(), pending));
        self
    }

    /// Creates a completed submission with the values of its read-backs.
    pub fn with_values(label: &str, values: impl IntoIterator<Item = (String, Values)>) -> Self {
        let pending = |(name, values): (String, Values)| (name, Pending::unpacked(values));
        Self { pending: values.into_iter().map(pending).collect(), ..Self::done(label) }
    }

    /// Waits until the work is complete.
    ///
    /// # Errors
    /// As [`crate::gpu::Context::wait`].
    pub fn wait(&self) -> Result<()> {
        self.fence.as_ref().map_or(Ok(()), |(device, fence)| device.context.wait(fence, &self.label))
    }

    /// True if the work was complete as soon as it was submitted: always on the CPU device, never on a graphics device.
    pub fn was_done_at_once(&self) -> bool {
        self.fence.is_none()
    }

    /// Removes and returns the read-back with this name; `None` if it was not requested or has already been taken.
    pub fn take(&mut self, name: &str) -> Option<Pending> {
        let position = self.pending.iter().position(|(other, _)| other == name)?;
        Some(self.pending.swap_remove(position).1)
    }
}

/// Values of a read-back, possibly in transit from the device.
#[derive(Debug)]
pub struct Pending {
    layout: Layout,
    stored: Stored,
}

#[derive(Debug)]
enum Stored {
    OnTheWay(Arc<GpuDevice>, PendingRead),
    Here(Vec<f32>),
    /// In logical order already.
    Unpacked(Values),
}

impl Pending {
    /// Creates values in transit from a graphics device.
    pub(super) fn on_gpu(layout: &Layout, device: &Arc<GpuDevice>, read: PendingRead) -> Self {
        Self { layout: layout.clone(), stored: Stored::OnTheWay(device.clone(), read) }
    }

    /// Creates values in host memory, in storage order.
    pub(super) fn here(layout: &Layout, stored: Vec<f32>) -> Self {
        Self { layout: layout.clone(), stored: Stored::Here(stored) }
    }

    fn unpacked(values: Values) -> Self {
        Self { layout: Arc::from([]), stored: Stored::Unpacked(values) }
    }

    /// Waits for the values if they are in transit.
    ///
    /// # Errors
    /// As [`PendingRead::finish`].
    pub fn finish(self) -> Result<Values> {
        let stored = match self.stored {
            Stored::OnTheWay(device, read) => read.finish(&device.context)?,
            Stored::Here(stored) => stored,
            Stored::Unpacked(values) => return Ok(values),
        };
        // The storage of a single vector is its values, followed by padding.
        if let [(name, Shape::Vector(length))] = &self.layout[..] {
            let mut values = stored;
            values.truncate(*length);
            return Ok(Values { values: vec![(name.clone(), values)] });
        }
        let mut rest = stored.as_slice();
        let unpack = |(name, shape): &(String, Shape)| {
            let (here, behind) = rest.split_at(shape.stored().min(rest.len()));
            rest = behind;
            (name.clone(), shape.unpack(here))
        };
        Ok(Values { values: self.layout.iter().map(unpack).collect() })
    }
}

impl IntoIterator for Values {
    type Item = (String, Vec<f32>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.into_iter()
    }
}

/// Values of a read-back by name, each in the logical order of its tensor.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values {
    values: Vec<(String, Vec<f32>)>,
}

impl FromIterator<(String, Vec<f32>)> for Values {
    fn from_iter<Named: IntoIterator<Item = (String, Vec<f32>)>>(values: Named) -> Self {
        Self { values: values.into_iter().collect() }
    }
}

impl Values {
    /// Returns the value with this name.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.iter().find(|(other, _)| *other == name).map(|(_, values)| values)
    }

    /// Removes and returns the value with this name.
    pub fn take(&mut self, name: &str) -> Option<Vec<f32>> {
        let position = self.values.iter().position(|(other, _)| other == name)?;
        Some(self.values.remove(position).1)
    }

    /// Iterates over all values in the declared order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.values.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}
