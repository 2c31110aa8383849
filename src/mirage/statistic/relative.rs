//! Distances relative to the magnitude of the target, so that layers weigh alike whatever the scale of their
//! activations.

use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{Dot, LinearCombination, MeanSquaredError, Reciprocal, ScaleBy};

/// Added to the mean square of a target, so that an all-zero target (a layer that never fires) gives a finite distance.
const SMALLEST: f32 = 1e-8;

/// Appends `1 / (sum of mean(T^2) + 1e-8)`, where the sum is over the targets.
pub(super) fn inverse_mean_square(graph: &mut Graph, targets: &[TensorId], label: &str) -> Result<TensorId> {
    let mut sums = Vec::new();
    let mut factors = Vec::new();
    for target in targets {
        sums.push(graph.apply(Dot, &[*target, *target], format!("sum of squares {label}"))?);
        factors.push(1.0 / graph.shape(*target).elements() as f32);
    }
    let mean = graph.apply(LinearCombination { factors }, &sums, format!("mean square {label}"))?;
    let reciprocal = Reciprocal { scale: 1.0, smallest: SMALLEST };
    graph.apply(reciprocal, &[mean], format!("inverse mean square {label}"))
}

/// Appends the sum of `mean((S - T)^2)` over pairs of a summary S and its target T.
pub(super) fn mean_squared_errors(
    graph: &mut Graph,
    summary: &[TensorId],
    target: &[TensorId],
    label: &str,
) -> Result<TensorId> {
    let mut losses = Vec::new();
    for (summary, target) in summary.iter().zip(target) {
        losses.push(graph.apply(MeanSquaredError, &[*summary, *target], format!("{label} part"))?);
    }
    sum(graph, &losses, label)
}

/// Appends a loss times a scalar tensor of the target.
pub(super) fn scaled(graph: &mut Graph, loss: TensorId, by: TensorId, label: &str) -> Result<TensorId> {
    graph.apply(ScaleBy, &[loss, by], label)
}

/// Appends the sum of up to three losses.
pub(super) fn sum(graph: &mut Graph, losses: &[TensorId], label: &str) -> Result<TensorId> {
    graph.apply(LinearCombination { factors: vec![1.0; losses.len()] }, losses, label)
}
