//! The state that a run carries from one scale to the next, larger one. It is read from the device before the objective's
//! memory is freed, and resized into that of the next objective, one tensor after another: memory that both need is never
//! needed for both at once.

use crate::error::Result;
use crate::graph::{Bindings, Engine, Goals, Graph, Memory, Program};
use crate::mirage::objective::Objective;
use crate::mirage::objective::step::{STATE_PICTURE, StatePart};
use crate::mirage::optimizer::NextScale;
use crate::ops::{Relu, Resize, ResizeMode, Shape, resize_in_host_memory};
use std::sync::Arc;

/// A tensor on its way.
#[derive(Debug)]
struct Carried {
    /// Its name at the next scale.
    name: String,
    shape: Shape,
    values: Vec<f32>,
    next: NextScale,
}

/// What the next scale takes over: the picture that was shown, and the state that the optimiser keeps. All else is reset.
#[derive(Debug)]
pub(in crate::mirage) struct CarriedState(Vec<Carried>);

impl CarriedState {
    /// Reads the state of an objective, which is not used any more.
    ///
    /// # Errors
    /// If the device fails.
    pub fn of(objective: &Objective) -> Result<Self> {
        let parts = || objective.state.iter();
        let picture = (objective.shown(), STATE_PICTURE, NextScale::Bicubic);
        let kept = parts().filter(|part| !objective.is_shown(part)).filter_map(|part| {
            let next = part.optimizer?.next_scale;
            (next != NextScale::Zero).then_some((part, part.name.as_str(), next))
        });
        let read = |(part, name, next): (&StatePart, &str, NextScale)| {
            let values = objective.take(part)?;
            Ok(Carried { name: name.to_owned(), shape: part.shape, values, next })
        };
        Ok(Self([picture].into_iter().chain(kept).map(read).collect::<Result<_>>()?))
    }

    /// Sets the state of the next objective: the picture bicubically enlarged, with `grain` added to all channels of each
    /// pixel, and cut off to [0, 1] with `clamp`.
    ///
    /// # Errors
    /// If the device fails, or the host has too little memory.
    pub fn unpack(
        self,
        engine: &Arc<Engine>,
        objective: &Objective,
        mut grain: Option<Vec<f32>>,
        clamp: bool,
    ) -> Result<()> {
        let mut carried = self.0;
        objective.set_state_from(|part| {
            let Some(at) = carried.iter().position(|tensor| tensor.name == part.name) else {
                return Ok(false);
            };
            let Carried { shape, values, next, .. } = carried.swap_remove(at);
            let mode = match next {
                NextScale::Zero => return Ok(false),
                NextScale::Same => return objective.write(part, values).map(|()| true),
                NextScale::Bicubic => ResizeMode::Bicubic,
                NextScale::BilinearPositive => ResizeMode::Bilinear,
            };
            let positive = next == NextScale::BilinearPositive;
            let changes = part.name == STATE_PICTURE && (clamp || grain.is_some());
            let mut resized = match &part.memory {
                Some(memory) => {
                    resize(engine, (values, shape), (memory, part.shape), mode, positive)?;
                    if !changes {
                        return Ok(true);
                    }
                    engine.read(memory, part.shape, "resized picture")?
                }
                // It is in the host's memory because the device may have too little for all of it.
                None => {
                    let size = part.shape.expect_map("resizing a map")?;
                    let mut larger = resize_in_host_memory(mode, &values, shape, [size.height, size.width])?;
                    if positive {
                        larger.iter_mut().for_each(|value| *value = value.max(0.0));
                    }
                    larger
                }
            };
            // Freed here: only the picture gets grain.
            if let Some(grain) = grain.take_if(|_| changes) {
                // Channel after channel.
                let channels = resized.chunks_mut(grain.len());
                let pairs = channels.flat_map(|channel| channel.iter_mut().zip(&grain));
                pairs.for_each(|(value, grain)| *value += grain);
            }
            if changes && clamp {
                resized.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
            }
            objective.write(part, resized).map(|()| true)
        })
    }
}

/// Resizes values into a tensor; with `positive`, what would be negative becomes 0. Waits for it.
fn resize(
    engine: &Arc<Engine>,
    (values, shape): (Vec<f32>, Shape),
    (to, larger): (&Memory, Shape),
    mode: ResizeMode,
    positive: bool,
) -> Result<()> {
    let from = engine.tensor_with("map to resize", shape, &values)?;
    drop(values);
    let size = larger.expect_map("resizing a map")?;
    let mut graph = Graph::new();
    let input = graph.external("map", shape);
    let op = Resize { mode, size: [size.height, size.width] };
    let mut output = graph.apply(op, &[input], "resized map")?;
    if positive {
        output = graph.apply(Relu, &[output], "resized map, not negative")?;
    }
    let bound = Bindings::from([(input, from), (output, to.clone())]);
    let program = Program::prepare(engine, &graph, &bound, &Goals::all([output]), |_| 0)?;
    program.submit(&[Goals::ALL], &[], "resizing a map")?.wait()
}

/// A map at another height and width, in logical order: as PyTorch's `interpolate` without aligned corners.
///
/// # Errors
/// If the device fails.
pub fn resize_map(
    engine: &Arc<Engine>,
    values: &[f32],
    shape: Shape,
    size: [usize; 2],
    mode: ResizeMode,
) -> Result<Vec<f32>> {
    let larger = Shape::map(shape.expect_map("resizing a map")?.channels, size[0], size[1]);
    let output = engine.tensor("resized map", larger)?;
    resize(engine, (values.to_vec(), shape), (&output, larger), mode, false)?;
    engine.read(&output, larger, "resized map")
}
