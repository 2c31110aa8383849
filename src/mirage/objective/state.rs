//! Access to the tensors that a run carries from one iteration to the next, on the device or in host memory.

use super::build::NamedMemory;
use super::capture::planar;
use super::prepare::Location;
use super::step::{STATE_AVERAGE, STATE_PICTURE, StatePart, shown};
use super::tiling::in_transit::InTransit;
use super::{Objective, non_finite};
use crate::error::{Error, Result};
use crate::graph::Memory;
use crate::image_io::Picture;

impl Objective {
    /// Sets the picture, and resets all other state.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_picture(&self, picture: &Picture) -> Result<()> {
        self.set_state(vec![(STATE_PICTURE.to_owned(), planar(picture))])
    }

    /// Sets the state from tensors by name, in logical order. Tensors that are not given are reset: those shown as the
    /// picture to the picture, the others to zeros. Recorded faults are cleared.
    ///
    /// # Errors
    /// If the device fails, or the size of a tensor is wrong.
    pub fn set_state(&self, mut tensors: Vec<(String, Vec<f32>)>) -> Result<()> {
        let source = |tensors: &[(String, Vec<f32>)], part: &StatePart| {
            let find = |name: &str| tensors.iter().position(|(other, _)| other == name);
            find(&part.name).or_else(|| find(STATE_PICTURE).filter(|_| self.shows(part)))
        };
        let mut parts = self.state.as_slice();
        self.set_state_from(|part| {
            parts = parts.get(1..).unwrap_or_default();
            let Some(at) = source(&tensors, part) else { return Ok(false) };
            // Several tensors may be set to the picture; the last gets the values themselves, the others copies.
            let again = parts.iter().any(|later| source(&tensors, later) == Some(at));
            let values = if again { tensors[at].1.clone() } else { std::mem::take(&mut tensors[at].1) };
            if values.len() != part.shape.elements() {
                return Err(Error::usage(format!(
                    "the state's {} has {} values instead of {}",
                    part.name,
                    values.len(),
                    part.shape.elements()
                )));
            }
            self.write(part, values).map(|()| true)
        })
    }

    /// Sets the state through `set`, which writes each tensor's memory, the picture's first. It returns false for a
    /// tensor that is to be reset.
    ///
    /// # Errors
    /// If the device fails, or those of `set`.
    pub fn set_state_from(&self, mut set: impl FnMut(&StatePart) -> Result<bool>) -> Result<()> {
        for part in &self.state {
            if set(part)? {
                continue;
            }
            let picture = self.state.iter().find(|part| part.name == STATE_PICTURE);
            let picture = picture.filter(|_| self.shows(part));
            let values = match picture {
                Some(picture) => self.read(picture)?,
                None => vec![0.0; part.shape.elements()],
            };
            self.write(part, values)?;
        }
        if let Location::Host(tiled) = &self.location {
            tiled.forget_faults();
        }
        non_finite::reset(&self.engine, self.kept())
    }

    /// Returns the device memory that steps read and write besides the state.
    pub(super) fn kept(&self) -> &NamedMemory {
        match &self.location {
            Location::Device { kept, .. } => kept,
            Location::Host(tiled) => tiled.bands().kept(),
        }
    }

    /// Reads the values of a state tensor in logical order, and waits for them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self, part: &StatePart) -> Result<Vec<f32>> {
        match &self.location {
            Location::Host(tiled) => tiled.read(part),
            Location::Device { .. } => self.engine.read(memory(part)?, part.shape, &part.name),
        }
    }

    /// Same as [`Objective::read`], but moves values out of host memory. The objective can't be used afterwards.
    ///
    /// # Errors
    /// If the device fails.
    pub fn take(&self, part: &StatePart) -> Result<Vec<f32>> {
        match &self.location {
            Location::Host(tiled) => tiled.take(part),
            Location::Device { .. } => self.read(part),
        }
    }

    /// Returns all state tensors with their names, each through [`Objective::take`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn take_state(&self) -> Result<Vec<(String, Vec<f32>)>> {
        self.state.iter().map(|part| Ok((part.name.clone(), self.take(part)?))).collect()
    }

    /// Returns the bytes of the gradient in host memory.
    pub fn gradient_bytes(&self) -> u64 {
        match &self.location {
            Location::Device { .. } => 0,
            Location::Host(tiled) => tiled.gradient_bytes(),
        }
    }

    /// Returns the memory of tiles and bands in transit.
    pub fn in_transit(&self) -> InTransit {
        match &self.location {
            Location::Device { .. } => InTransit::default(),
            Location::Host(tiled) => tiled.in_transit(),
        }
    }

    /// Frees the state and gradient in host memory. The state must then be set again before use.
    pub fn release(&self) {
        if let Location::Host(tiled) = &self.location {
            tiled.release();
        }
    }

    /// Replaces the values of a state tensor, given in logical order.
    ///
    /// # Errors
    /// If the device fails.
    pub fn write(&self, part: &StatePart, values: Vec<f32>) -> Result<()> {
        match &self.location {
            Location::Host(tiled) => tiled.write(part, values),
            Location::Device { .. } => self.engine.write(memory(part)?, part.shape, &values),
        }
    }

    /// Returns the shown tensor.
    pub fn shown(&self) -> &StatePart {
        &self.state[shown(&self.state, &*self.optimizer)]
    }

    /// True for tensors that are initialised to the picture: the average, and the optimiser's shown tensor.
    fn shows(&self, part: &StatePart) -> bool {
        part.name == STATE_AVERAGE || self.is_shown(part)
    }

    /// True for the optimiser's tensor that is shown instead of the picture.
    pub fn is_shown(&self, part: &StatePart) -> bool {
        part.stands_for_picture(&*self.optimizer)
    }
}

fn memory(part: &StatePart) -> Result<&Memory> {
    part.memory.as_ref().ok_or_else(|| Error::internal(&part.name, "it has no memory"))
}
