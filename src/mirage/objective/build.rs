//! Builder for the graph of an objective: tensors with their own memory, weighted losses, and gradients.

use super::layer_statistic::Captured;
use crate::error::{Error, Result};
use crate::graph::{
    Bindings, Engine, Goals, Graph, Memory, Seeds, TensorId, gradients, gradients_recomputing,
};
use crate::mirage::loss::Group;
use crate::ops::{Add, Dot, LinearCombination, Shape, WeightedSum};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The graph under construction, with the memory of its external tensors.
pub(in crate::mirage) struct Build<'a> {
    engine: &'a Arc<Engine>,
    pub graph: Graph,
    pub bound: Bindings,
    losses: Vec<WeightedLoss>,
}

/// A loss and its weight, which is stored on the device.
struct WeightedLoss {
    loss: TensorId,
    /// Weight in the objective.
    weight: TensorId,
    memory: Memory,
    /// Weight within the group.
    own: f32,
}

/// Gradients with respect to the picture.
pub(in crate::mirage) struct PictureGradients {
    /// Gradient of the whole objective.
    pub all: TensorId,
    /// Gradient of each measured group at weight 1, with the group's name.
    pub groups: Vec<(String, TensorId)>,
    /// Weighted gradient of all other groups together.
    rest: Option<TensorId>,
}

/// Weighted sum of the groups' gradients.
pub(in crate::mirage) struct GroupSum {
    pub tensor: TensorId,
    /// Memory of the weights.
    pub weights: Memory,
    /// Group of each summand; `None` for the gradient of all other losses, which is already weighted.
    pub groups: Vec<Option<String>>,
}

/// Gradients with respect to several tensors, in their order.
pub(in crate::mirage) struct TensorGradients {
    /// Gradients of the whole objective.
    pub all: Vec<TensorId>,
    /// Gradients of each measured group at weight 1, with the group's name.
    pub groups: Vec<(String, Vec<TensorId>)>,
}

/// Gradients of each sum of losses with respect to some tensors, `None` where it does not depend on one.
struct RawGradients {
    all: Vec<Option<TensorId>>,
    groups: Vec<(String, Vec<Option<TensorId>>)>,
    rest: Vec<Option<TensorId>>,
}

/// Memory of tensors by name, shared by several graphs. The first graph must have the largest shapes.
#[derive(Debug, Default)]
pub(in crate::mirage) struct NamedMemory(HashMap<String, Memory>);

impl NamedMemory {
    /// Creates an external tensor in the memory of this name, which is allocated at first use.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn tensor(&mut self, build: &mut Build<'_>, name: &str, shape: Shape) -> Result<TensorId> {
        if let Some(memory) = self.0.get(name) {
            return Ok(build.alias(name, memory, shape));
        }
        let (tensor, memory) = build.external(name, shape)?;
        self.0.insert(name.to_owned(), memory);
        Ok(tensor)
    }

    /// Returns the memory of this name, if it was allocated.
    pub fn get(&self, name: &str) -> Option<&Memory> {
        self.0.get(name)
    }

    /// Returns the bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(Memory::bytes).sum()
    }
}

impl<'a> Build<'a> {
    /// Creates an empty graph.
    pub fn new(engine: &'a Arc<Engine>) -> Self {
        Self { engine, graph: Graph::new(), bound: Bindings::new(), losses: Vec::new() }
    }

    /// Creates an external tensor and allocates its memory.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn external(&mut self, label: &str, shape: Shape) -> Result<(TensorId, Memory)> {
        let tensor = self.graph.external(label, shape);
        Ok((tensor, self.keep(tensor)?))
    }

    /// Allocates memory for a tensor.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn memory(&self, label: &str, shape: Shape) -> Result<Memory> {
        self.engine.tensor(label, shape)
    }

    /// Fuses nodes of the graph, except for external tensors and those that the goals read.
    pub fn fuse(&mut self, goals: &Goals) {
        self.graph.fuse(&self.kept(goals));
    }

    /// Keeps activations in half precision until the backward pass, where that saves memory. To be called after
    /// [`Build::fuse`].
    ///
    /// # Errors
    /// Same as [`Graph::keep_in_half`].
    pub fn keep_in_half(&mut self, goals: &Goals) -> Result<()> {
        let kept = self.kept(goals);
        self.graph.keep_in_half(&kept, goals)
    }

    /// External tensors, and those that the goals read.
    fn kept(&self, goals: &Goals) -> HashSet<TensorId> {
        self.bound.keys().copied().chain(goals.read()).collect()
    }

    /// Allocates memory for a tensor of its own, unless it has one.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn keep(&mut self, tensor: TensorId) -> Result<Memory> {
        if let Some(memory) = self.bound.get(&tensor) {
            return Ok(memory.clone());
        }
        let described = self.graph.tensor(tensor);
        let memory = self.engine.tensor(&described.label, described.shape)?;
        self.bound.insert(tensor, memory.clone());
        Ok(memory)
    }

    /// Binds a tensor to this memory.
    pub fn bind(&mut self, tensor: TensorId, memory: &Memory) {
        self.bound.insert(tensor, memory.clone());
    }

    /// Creates an external tensor on existing memory. Reading it does not make the graph compute the contents again.
    pub fn alias(&mut self, label: &str, memory: &Memory, shape: Shape) -> TensorId {
        let tensor = self.graph.external(label, shape);
        self.bind(tensor, memory);
        tensor
    }

    /// Creates external tensors for captured targets.
    ///
    /// # Errors
    /// If one is not on the device.
    pub fn targets(&mut self, label: &str, captured: &[Captured]) -> Result<Vec<TensorId>> {
        captured.iter().map(|part| Ok(self.alias(label, part.memory(label)?, part.shape))).collect()
    }

    /// Registers a loss, and allocates its weight on the device.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn term(&mut self, label: &str, loss: TensorId, own: f32) -> Result<()> {
        let (weight, memory) = self.external(&format!("weight {label}"), Shape::Vector(1))?;
        self.losses.push(WeightedLoss { loss, weight, memory, own });
        Ok(())
    }

    /// Returns the losses in the order of registration.
    pub fn losses(&self) -> impl Iterator<Item = TensorId> {
        self.losses.iter().map(|term| term.loss)
    }

    /// Returns the memory of each loss's weight.
    pub fn loss_weights(&self) -> Vec<Memory> {
        self.losses.iter().map(|term| term.memory.clone()).collect()
    }

    /// Appends the sum of all weighted losses.
    ///
    /// # Errors
    /// If there are no losses.
    pub fn total(&mut self) -> Result<TensorId> {
        let mut total = None;
        for term in &self.losses {
            let weighted = self.graph.apply(Dot, &[term.loss, term.weight], "weighted loss")?;
            total = Some(match total {
                None => weighted,
                Some(sum) => self.graph.apply(Add, &[sum, weighted], "objective")?,
            });
        }
        total.ok_or_else(no_gradient)
    }

    /// Appends the gradients of the registered losses with respect to the picture. `group_of` is the index of each
    /// loss's measured group, if any. With `recompute`, activations are recomputed in the backward pass where that
    /// saves memory.
    ///
    /// # Errors
    /// If the device fails or has too little memory, or if no loss depends on the picture.
    pub fn gradients(
        &mut self,
        groups: &[Group],
        group_of: &[Option<usize>],
        picture: TensorId,
        recompute: bool,
    ) -> Result<PictureGradients> {
        let RawGradients { all, groups, rest } =
            self.raw_gradients(groups, group_of, &[picture], recompute)?;
        let one = |found: Vec<Option<TensorId>>| found.into_iter().next().flatten();
        let groups = groups
            .into_iter()
            .map(|(name, gradient)| Ok((name, one(gradient).ok_or_else(no_gradient)?)))
            .collect::<Result<_>>()?;
        Ok(PictureGradients { all: one(all).ok_or_else(no_gradient)?, groups, rest: one(rest) })
    }

    /// Appends the gradients of the whole objective, and of each measured group at weight 1, with respect to external
    /// tensors. For each of these tensors there is one memory, shared by all its gradients, which holds the last one
    /// computed. The gradient of a loss that does not depend on the tensor is zero.
    ///
    /// # Errors
    /// Same as [`Build::gradients`].
    pub fn gradients_wrt(
        &mut self,
        groups: &[Group],
        group_of: &[Option<usize>],
        by: &[(TensorId, Memory)],
    ) -> Result<TensorGradients> {
        let tensors: Vec<TensorId> = by.iter().map(|(tensor, _)| *tensor).collect();
        let RawGradients { all, groups, .. } = self.raw_gradients(groups, group_of, &tensors, false)?;
        if all.iter().all(Option::is_none) {
            return Err(no_gradient());
        }
        let mut stored = |found: Vec<Option<TensorId>>| -> Result<Vec<TensorId>> {
            let mut kept = Vec::new();
            for ((tensor, memory), gradient) in by.iter().zip(found) {
                if let Some(gradient) = gradient.filter(|gradient| self.may_lie_in(*gradient, memory)) {
                    self.bind(gradient, memory);
                    kept.push(gradient);
                    continue;
                }
                // The gradient may itself be an external tensor: the weight of a loss.
                let factor = if gradient.is_some() { 1.0 } else { 0.0 };
                let label = format!("gradient with respect to {}", self.graph.tensor(*tensor).label);
                let copy = LinearCombination::scale(factor);
                let gradient = self.graph.apply(copy, &[gradient.unwrap_or(*tensor)], label)?;
                self.bind(gradient, memory);
                kept.push(gradient);
            }
            Ok(kept)
        };
        let all = stored(all)?;
        let groups =
            groups.into_iter().map(|(name, found)| Ok((name, stored(found)?))).collect::<Result<_>>()?;
        Ok(TensorGradients { all, groups })
    }

    /// True if a node produces the tensor, no node reads it, and it is not bound to other memory.
    fn may_lie_in(&self, tensor: TensorId, memory: &Memory) -> bool {
        let made = self.graph.tensor(tensor).producer.is_some();
        let read = self.graph.nodes().iter().any(|node| node.inputs.contains(&tensor));
        made && !read && self.bound.get(&tensor).is_none_or(|other| other == memory)
    }

    fn raw_gradients(
        &mut self,
        groups: &[Group],
        group_of: &[Option<usize>],
        by: &[TensorId],
        recompute: bool,
    ) -> Result<RawGradients> {
        let mut sums: Vec<(String, Vec<(TensorId, TensorId)>)> = Vec::new();
        let mut measured = Vec::new();
        for (at, group) in groups.iter().enumerate() {
            let mut seeds = Vec::new();
            for index in (0..self.losses.len()).filter(|index| group_of[*index] == Some(at)) {
                let WeightedLoss { loss, own, .. } = self.losses[index];
                seeds.push((loss, self.constant(own)?));
            }
            if !seeds.is_empty() {
                measured.push(group.name.clone());
                sums.push((format!("{} ", group.name), seeds));
            }
        }
        let weighted = |term: &WeightedLoss| (term.loss, term.weight);
        let others = self.losses.iter().zip(group_of).filter(|(_, group)| group.is_none());
        sums.push(("rest ".to_owned(), others.map(|(term, _)| weighted(term)).collect()));
        sums.push((String::new(), self.losses.iter().map(weighted).collect()));
        let sums: Vec<_> = sums.iter().map(|(word, seeds)| (word.as_str(), seeds.as_slice())).collect();
        let mut found = self.differentiate(&sums, by, recompute)?;
        let all = found.pop().unwrap_or_default();
        let rest = found.pop().unwrap_or_default();
        Ok(RawGradients { all, groups: measured.into_iter().zip(found).collect(), rest })
    }

    /// Appends the gradients of each of these sums with respect to each of `by`. With `recompute`, activations are
    /// recomputed in the backward pass where that saves memory.
    ///
    /// # Errors
    /// Same as [`gradients`].
    pub fn differentiate(
        &mut self,
        sums: &[(&str, &Seeds)],
        by: &[TensorId],
        recompute: bool,
    ) -> Result<Vec<Vec<Option<TensorId>>>> {
        if recompute {
            let kept = self.bound.keys().copied().collect();
            gradients_recomputing(&mut self.graph, sums, by, &kept)
        } else {
            gradients(&mut self.graph, sums, by)
        }
    }

    /// Creates a tensor that holds one constant.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn constant(&mut self, value: f32) -> Result<TensorId> {
        let tensor = self.graph.external(format!("{value}"), Shape::Vector(1));
        let memory = self.engine.tensor_with("weight of a loss in its group", Shape::Vector(1), &[value])?;
        self.bind(tensor, &memory);
        Ok(tensor)
    }

    /// Appends the weighted sum of the groups' gradients, read from memory without computing them again.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn sum_of_groups(&mut self, gradients: &PictureGradients) -> Result<GroupSum> {
        let mut groups = Vec::new();
        let mut inputs = Vec::new();
        for (group, gradient) in &gradients.groups {
            let memory = self.keep(*gradient)?;
            inputs.push(self.alias(&format!("{group} gradient"), &memory, self.graph.shape(*gradient)));
            groups.push(Some(group.clone()));
        }
        if let Some(rest) = gradients.rest {
            inputs.push(rest);
            groups.push(None);
        }
        let (given, weights) = self.external("weights of the sum", Shape::Vector(inputs.len()))?;
        inputs.insert(0, given);
        let tensor = self.graph.apply(WeightedSum, &inputs, "sum of the groups' gradients")?;
        Ok(GroupSum { tensor, weights, groups })
    }
}

fn no_gradient() -> Error {
    Error::internal("building the gradient", "no loss depends on the picture")
}
