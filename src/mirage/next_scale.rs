//! The state that a run carries from one scale to the next, larger one.

use super::objective::{Objective, STATE_AVERAGE, STATE_PICTURE, StatePart};
use super::optimizer::NextScale;
use crate::error::Result;
use crate::graph::{Bindings, Engine, Goals, Graph, Program, Readback, When};
use crate::ops::{Resize, ResizeMode, Shape};
use std::sync::Arc;

/// The state that the next scale begins with, by the name of each tensor: the picture that was shown, resized
/// bicubically, with `grain` added to all channels of each pixel, and the state that the optimiser keeps. All else is
/// reset. With `clamp`, the picture is cut off to [0, 1].
///
/// # Errors
/// If the device fails.
pub(super) fn carry(
    engine: &Arc<Engine>,
    objective: &Objective,
    state: &[(String, Vec<f32>)],
    size: [usize; 2],
    grain: Option<&[f32]>,
    clamp: bool,
) -> Result<Vec<(String, Vec<f32>)>> {
    let find =
        |name: &str| state.iter().find(|(other, _)| other == name).map(|(_, values)| values.as_slice());
    let named = |name: &str| objective.state.iter().find(|part| part.name == name);
    let shown = named(STATE_AVERAGE)
        .or_else(|| objective.state.iter().find(|part| objective.is_shown(part)))
        .or_else(|| named(STATE_PICTURE));
    let resized = |part: &StatePart, mode| -> Result<Vec<f32>> {
        resize_map(engine, find(&part.name).unwrap_or_default(), part.shape, size, mode)
    };
    let mut carried = Vec::new();
    if let Some(shown) = shown {
        let mut picture = resized(shown, ResizeMode::Bicubic)?;
        if let Some(grain) = grain {
            // Channel after channel.
            picture
                .chunks_mut(grain.len())
                .flat_map(|channel| channel.iter_mut().zip(grain))
                .for_each(|(value, grain)| *value += grain);
        }
        if clamp {
            picture.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        }
        carried.push((STATE_PICTURE.to_owned(), picture));
    }
    for part in &objective.state {
        let Some(tensor) = part.optimizer.filter(|_| !objective.is_shown(part)) else { continue };
        let values = match tensor.next_scale {
            NextScale::Zero => continue,
            NextScale::Same => find(&part.name).unwrap_or_default().to_vec(),
            NextScale::Bicubic => resized(part, ResizeMode::Bicubic)?,
            NextScale::BilinearPositive => {
                let mut values = resized(part, ResizeMode::Bilinear)?;
                values.iter_mut().for_each(|value| *value = value.max(0.0));
                values
            }
        };
        carried.push((part.name.clone(), values));
    }
    Ok(carried)
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
    let mut graph = Graph::new();
    let input = graph.external("map", shape);
    let bound = Bindings::from([(input, engine.tensor_with("map to resize", shape, values)?)]);
    let output = graph.apply(Resize { mode, size }, &[input], "resized map")?;
    let readback = Readback {
        name: "resized".to_owned(),
        tensors: vec![("map".to_owned(), output)],
        when: When::After,
        in_flight: 1,
    };
    let goals = Goals::all([output]).readback(readback);
    let program = Program::prepare(engine, &graph, &bound, &goals, |_| 0)?;
    let pending = program.submit(&[Goals::ALL], &["resized"], "resizing a map")?.take("resized");
    let mut values = pending.map(|pending| pending.finish()).transpose()?.unwrap_or_default();
    Ok(values.take("map").unwrap_or_default())
}
