//! The graph of an objective while it is made: tensors with buffers of their own, losses with their weights,
//! and the gradients.

use super::objective::Term;
use super::request::FactorKind;
use crate::error::{Error, Result};
use crate::graph::{Bindings, Engine, Graph, Memory, TensorId, gradients};
use crate::ops::{Shape, WeightedSum};
use std::sync::Arc;

/// The graph under construction with the buffers of its outer tensors.
pub(super) struct Build<'a> {
    pub engine: &'a Arc<Engine>,
    pub graph: Graph,
    pub bound: Bindings,
}

/// Gradients with respect to the picture.
pub(super) struct Slopes {
    /// Of the whole objective.
    pub all: TensorId,
    /// Of each active one of the three factors, unweighted.
    pub factors: Vec<(FactorKind, TensorId)>,
    /// Of the total variation, weighted.
    smooth: Option<TensorId>,
}

impl Build<'_> {
    /// A tensor from outside, with its buffer.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn external(&mut self, label: &str, shape: Shape) -> Result<(TensorId, Memory)> {
        let tensor = self.graph.external(label, shape);
        Ok((tensor, self.keep(tensor)?))
    }

    /// Gives a tensor a buffer of its own.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn keep(&mut self, tensor: TensorId) -> Result<Memory> {
        if let Some(buffer) = self.bound.get(&tensor) {
            return Ok(buffer.clone());
        }
        let described = self.graph.tensor(tensor);
        let buffer = self.engine.tensor(&described.label, described.shape)?;
        self.bound.insert(tensor, buffer.clone());
        Ok(buffer)
    }

    /// Registers a loss with its weight, as data on the device.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn term(
        &mut self,
        term: Term,
        loss: TensorId,
        terms: &mut Vec<Term>,
        seeds: &mut Vec<(TensorId, TensorId)>,
        weights: &mut Vec<Memory>,
        parts: &mut Vec<(String, TensorId)>,
    ) -> Result<()> {
        let (weight, buffer) = self.external(&format!("weight {}", term.layer), Shape::Vector(1))?;
        parts.push((format!("loss {}", terms.len()), loss));
        seeds.push((loss, weight));
        weights.push(buffer);
        terms.push(term);
        Ok(())
    }

    /// Appends the gradients of the terms' losses, of which `seeds` gives loss and weight.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn slopes(
        &mut self,
        terms: &[Term],
        seeds: &[(TensorId, TensorId)],
        picture: TensorId,
    ) -> Result<Slopes> {
        let mut kinds: Vec<FactorKind> = terms.iter().map(|term| term.kind).collect();
        kinds.dedup();
        let mut sums: Vec<(String, Vec<(TensorId, TensorId)>)> = Vec::new();
        for kind in &kinds {
            let mut of_kind = Vec::new();
            for (term, (loss, weight)) in terms.iter().zip(seeds).filter(|(term, _)| term.kind == *kind) {
                let seed = match kind {
                    FactorKind::Smooth => *weight,
                    _ => self.constant(term.factor)?,
                };
                of_kind.push((*loss, seed));
            }
            sums.push((format!("{kind} "), of_kind));
        }
        sums.push((String::new(), seeds.to_vec()));
        let sums: Vec<_> = sums.iter().map(|(word, seeds)| (word.as_str(), seeds.as_slice())).collect();
        let mut found = gradients(&mut self.graph, &sums, picture)?;
        let none = || Error::Gpu {
            what: "building the gradient".to_owned(),
            message: "no loss depends on the picture".to_owned(),
        };
        let all = found.pop().flatten().ok_or_else(none)?;
        let mut slopes = Slopes { all, factors: Vec::new(), smooth: None };
        for (kind, slope) in kinds.into_iter().zip(found) {
            match (kind, slope) {
                (FactorKind::Smooth, slope) => slopes.smooth = slope,
                (kind, slope) => slopes.factors.push((kind, slope.ok_or_else(none)?)),
            }
        }
        Ok(slopes)
    }

    /// A tensor that holds one number, which never changes.
    fn constant(&mut self, value: f32) -> Result<TensorId> {
        let tensor = self.graph.external(format!("{value}"), Shape::Vector(1));
        let buffer = self.engine.tensor_with("factor of a layer", Shape::Vector(1), &[value])?;
        self.bound.insert(tensor, buffer);
        Ok(tensor)
    }

    /// The weighted sum of the factors' gradients as they lie in memory, which is not to compute them anew; its
    /// weights, and which factors' they are.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn sum_of_factors(&mut self, slopes: &Slopes) -> Result<(TensorId, Memory, Vec<FactorKind>)> {
        let mut kinds = Vec::new();
        let mut inputs = Vec::new();
        for (kind, slope) in &slopes.factors {
            let buffer = self.keep(*slope)?;
            let there = self.graph.external(format!("{kind} gradient"), self.graph.shape(*slope));
            self.bound.insert(there, buffer);
            kinds.push(*kind);
            inputs.push(there);
        }
        if let Some(smooth) = slopes.smooth {
            kinds.push(FactorKind::Smooth);
            inputs.push(smooth);
        }
        let (weights, buffer) = self.external("weights of the sum", Shape::Vector(inputs.len()))?;
        inputs.insert(0, weights);
        let sum = self.graph.apply(WeightedSum, &inputs, "sum of the factors' gradients")?;
        Ok((sum, buffer, kinds))
    }
}
