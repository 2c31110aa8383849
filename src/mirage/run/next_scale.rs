//! State carried over to the next, larger scale. It is read from the device before the objective's memory is freed, and
//! resized tensor by tensor into the memory of the next objective, so the two objectives never take memory at the same
//! time.

use crate::error::Result;
use crate::graph::{Bindings, Engine, Goals, Graph, Memory, Program};
use crate::mirage::objective::Objective;
use crate::mirage::objective::step::{STATE_PICTURE, StatePart};
use crate::mirage::optimizer::NextScale;
use crate::ops::{Relu, Resize, ResizeMode, Shape, resize_in_host_memory};
use std::sync::Arc;

/// A tensor in transit.
#[derive(Debug)]
struct Carried {
    /// Name at the next scale.
    name: String,
    shape: Shape,
    values: Vec<f32>,
    next: NextScale,
}

/// State for the next scale: the shown picture and the optimiser's tensors. Everything else is reset.
#[derive(Debug)]
pub(in crate::mirage) struct CarriedState(Vec<Carried>);

impl CarriedState {
    /// Reads the state of an objective, which can't be used afterwards.
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

    /// Sets the state of the next objective. The picture is enlarged bicubically, `grain` is added to all channels of
    /// each pixel, and with `clamp` the result is clamped to [0, 1].
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
                // The device may have too little memory for all of it.
                None => {
                    let size = part.shape.expect_map("resizing a map")?;
                    let mut larger = resize_in_host_memory(mode, &values, shape, [size.height, size.width])?;
                    if positive {
                        larger.iter_mut().for_each(|value| *value = value.max(0.0));
                    }
                    larger
                }
            };
            // Taken, so that it is freed here: only the picture gets grain.
            if let Some(grain) = grain.take_if(|_| changes) {
                // Values are stored channel after channel.
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

/// Resizes values into a tensor; with `positive`, negative results become 0. Waits for the device.
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

/// Resizes a map, in logical order, to another height and width, like PyTorch's `interpolate` with
/// `align_corners=False`.
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
