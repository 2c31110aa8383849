//! The tensors that a run carries from one iteration to the next, wherever they are.

use super::Objective;
use super::build::NamedMemory;
use super::capture::planar;
use super::non_finite;
use super::prepare::Location;
use super::step::{STATE_AVERAGE, STATE_PICTURE, StatePart, shown};
use super::tiling::in_transit::InTransit;
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

    /// Sets the state from tensors by name, in logical order. Tensors that are not among them are reset: those that are
    /// shown as the picture become the picture, the others zeros. What was noted of earlier steps is forgotten.
    ///
    /// # Errors
    /// If the device fails, or a tensor has another size.
    pub fn set_state(&self, mut tensors: Vec<(String, Vec<f32>)>) -> Result<()> {
        let source = |tensors: &[(String, Vec<f32>)], part: &StatePart| {
            let find = |name: &str| tensors.iter().position(|(other, _)| other == name);
            find(&part.name).or_else(|| find(STATE_PICTURE).filter(|_| self.shows(part)))
        };
        let mut parts = self.state.as_slice();
        self.set_state_from(|part| {
            parts = parts.get(1..).unwrap_or_default();
            let Some(at) = source(&tensors, part) else { return Ok(false) };
            // The picture may be shown, too; its last place gets the values themselves.
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

    /// The same from what `set` writes into each tensor's memory, the picture's first; it returns false for a tensor that
    /// it leaves to be reset.
    ///
    /// # Errors
    /// If the device fails, or as `set`.
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

    /// Memory on the device of what steps read and note.
    pub(super) fn kept(&self) -> &NamedMemory {
        match &self.location {
            Location::Device { kept, .. } => kept,
            Location::Host(tiled) => tiled.bands().kept(),
        }
    }

    /// The values of a tensor of the state in logical order, waited for.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self, part: &StatePart) -> Result<Vec<f32>> {
        match &self.location {
            Location::Host(tiled) => tiled.read(part),
            Location::Device { .. } => self.engine.read(memory(part)?, part.shape, &part.name),
        }
    }

    /// The same; what is in the host's memory is moved out, so the objective can't be used any more.
    ///
    /// # Errors
    /// If the device fails.
    pub fn take(&self, part: &StatePart) -> Result<Vec<f32>> {
        match &self.location {
            Location::Host(tiled) => tiled.take(part),
            Location::Device { .. } => self.read(part),
        }
    }

    /// All tensors of the state with their names, each as [`Objective::take`] has it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn take_state(&self) -> Result<Vec<(String, Vec<f32>)>> {
        self.state.iter().map(|part| Ok((part.name.clone(), self.take(part)?))).collect()
    }

    /// Bytes of the gradient in the host's memory.
    pub fn gradient_bytes(&self) -> u64 {
        match &self.location {
            Location::Device { .. } => 0,
            Location::Host(tiled) => tiled.gradient_bytes(),
        }
    }

    /// What tiles and bands take on their way to the device and back.
    pub fn in_transit(&self) -> InTransit {
        match &self.location {
            Location::Device { .. } => InTransit::default(),
            Location::Host(tiled) => tiled.in_transit(),
        }
    }

    /// Frees what is in the host's memory of the state and the gradient, until the state is set again.
    pub fn release(&self) {
        if let Location::Host(tiled) = &self.location {
            tiled.release();
        }
    }

    /// Replaces the values of a tensor of the state, given in logical order.
    ///
    /// # Errors
    /// If the device fails.
    pub fn write(&self, part: &StatePart, values: Vec<f32>) -> Result<()> {
        match &self.location {
            Location::Host(tiled) => tiled.write(part, values),
            Location::Device { .. } => self.engine.write(memory(part)?, part.shape, &values),
        }
    }

    /// The tensor that is shown.
    pub fn shown(&self) -> &StatePart {
        &self.state[shown(&self.state, &*self.optimizer)]
    }

    /// True for the tensors that begin as the picture: the average, and what is shown in its place.
    fn shows(&self, part: &StatePart) -> bool {
        part.name == STATE_AVERAGE || self.is_shown(part)
    }

    /// True for the tensor of the optimiser that is shown instead of the picture.
    pub fn is_shown(&self, part: &StatePart) -> bool {
        part.stands_for_picture(&*self.optimizer)
    }
}

fn memory(part: &StatePart) -> Result<&Memory> {
    part.memory.as_ref().ok_or_else(|| Error::internal(&part.name, "it has no memory"))
}
