//! Shares in place of weights.
//!
//! The gradient norm of a factor is the mean absolute value of the picture's gradient at weight 1. A
//! factor's raw weight is its share divided by that norm, so that the factors' gradients stand in the
//! proportion of the shares (as in crowsonkb/style_transfer, which scales each gradient to mean 1).

use super::objective::Objective;
use super::request::{Balance, FactorKind, Request};
use crate::error::Result;

/// Weights and how they came about.
#[derive(Debug, Clone, Default)]
pub(super) struct Weights {
    /// Raw weight of each active factor.
    pub raw: Vec<(FactorKind, f32)>,
    /// Factor, raw weight, gradient norm at weight 1; empty if the weights were given.
    pub measured: Vec<(FactorKind, f32, f32)>,
}

impl Weights {
    /// The weights as given in a request without a balance.
    pub fn given(request: &Request) -> Self {
        let raw = FactorKind::THREE
            .into_iter()
            .filter_map(|kind| request.factor(kind).map(|factor| (kind, factor.weight)))
            .chain([(FactorKind::Smooth, request.tv_weight)])
            .filter(|(kind, _)| request.is_present(*kind))
            .collect();
        Self { raw, measured: Vec::new() }
    }

    /// Weights that give the factors their shares of the gradient at the present picture. A factor without
    /// gradient there (a loss at its minimum) keeps its earlier weight.
    ///
    /// # Errors
    /// If the device fails.
    pub fn balanced(
        objective: &Objective,
        request: &Request,
        balance: Balance,
        earlier: &Self,
    ) -> Result<Self> {
        let norms = objective.measure()?;
        let mut weights = Self::default();
        for (kind, norm) in FactorKind::THREE.into_iter().zip(norms) {
            if !request.is_present(kind) {
                continue;
            }
            let weight = match balance.share(kind) {
                0.0 => 0.0,
                share if is_gradient(norm) => share / norm,
                _ => earlier.of(kind),
            };
            weights.raw.push((kind, weight));
            weights.measured.push((kind, weight, norm));
        }
        if request.tv_weight > 0.0 {
            weights.raw.push((FactorKind::Smooth, request.tv_weight));
        }
        weights.apply(objective)?;
        Ok(weights)
    }

    /// Weight of one factor; 0 if it is not active.
    pub fn of(&self, kind: FactorKind) -> f32 {
        self.raw.iter().find(|(other, _)| *other == kind).map_or(0.0, |(_, weight)| *weight)
    }

    /// Sets the weights on the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn apply(&self, objective: &Objective) -> Result<()> {
        objective.set_weights(|kind| self.of(kind))
    }

    /// Share of each of the three factors, as far as active, in the gradient, from their norms at weight 1.
    pub fn shares(&self, norms: [f32; 3]) -> Vec<(FactorKind, f32)> {
        let active = |kind: &FactorKind| self.raw.iter().any(|(other, _)| other == kind);
        let weighted: Vec<(FactorKind, f32)> = FactorKind::THREE
            .into_iter()
            .zip(norms)
            .filter(|(kind, _)| active(kind))
            .map(|(kind, norm)| (kind, self.of(kind) * norm))
            .collect();
        let sum: f32 = weighted.iter().map(|(_, norm)| norm).sum();
        weighted.into_iter().map(|(kind, norm)| (kind, if sum > 0.0 { norm / sum } else { 0.0 })).collect()
    }

    /// True if some active factor had no gradient when the weights were measured.
    pub fn incomplete(&self) -> bool {
        self.measured.iter().any(|(_, _, norm)| !is_gradient(*norm))
    }
}

/// True for a norm that weights can be computed from: neither zero nor infinite nor NaN.
fn is_gradient(norm: f32) -> bool {
    norm.is_finite() && norm > 0.0
}
