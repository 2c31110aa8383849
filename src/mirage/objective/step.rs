//! The state of a run between two steps, and a step of the optimiser, as parts of a graph.

use super::build::{Build, NamedMemory};
use super::non_finite::NonFiniteCounters;
use super::sections::GRADIENT;
use crate::error::Result;
use crate::graph::{Memory, TensorId};
use crate::mirage::optimizer::{Optimizer, StateTensor, StepInputs};
use crate::mirage::request::Request;
use crate::ops::{Average, Shape};

/// Name of the picture in the state.
pub(in crate::mirage) const STATE_PICTURE: &str = "picture";
/// Name of the average in the state.
pub(in crate::mirage) const STATE_AVERAGE: &str = "average";
/// Name of the average's counters in the state.
pub(in crate::mirage) const STATE_AVERAGE_COUNTERS: &str = "average_counters";

/// A state tensor.
#[derive(Debug, Clone)]
pub(in crate::mirage) struct StatePart {
    pub name: String,
    pub shape: Shape,
    /// Device memory; `None` if the tensor is in host memory.
    pub memory: Option<Memory>,
    /// Description of a tensor that belongs to the optimiser.
    pub optimizer: Option<StateTensor>,
}

impl StatePart {
    /// True for the tensor that the optimiser shows instead of the picture.
    pub fn stands_for_picture(&self, optimizer: &dyn Optimizer) -> bool {
        self.optimizer.is_some_and(|tensor| optimizer.shown() == Some(tensor.name))
    }
}

/// Returns the index of the tensor that holds the result of the last accepted step: the picture (index 0), or the one
/// shown in its place.
fn stepped(parts: &[StatePart], optimizer: &dyn Optimizer) -> usize {
    parts.iter().position(|part| part.stands_for_picture(optimizer)).unwrap_or(0)
}

/// Returns the index of the shown tensor: the average, if there is one, otherwise that of [`stepped`].
pub(in crate::mirage) fn shown(parts: &[StatePart], optimizer: &dyn Optimizer) -> usize {
    let average = parts.iter().position(|part| part.name == STATE_AVERAGE);
    average.unwrap_or_else(|| stepped(parts, optimizer))
}

/// The state in a graph: the picture first, then the optimiser's tensors, and the average.
pub(in crate::mirage) struct StateTensors {
    pub parts: Vec<StatePart>,
    /// Graph tensor of each part.
    tensors: Vec<TensorId>,
}

/// An optimiser step in a graph.
pub(in crate::mirage) struct Step {
    /// Outputs of the section [`STEP`](super::sections::STEP).
    pub goals: Vec<TensorId>,
    pub watch: NonFiniteCounters,
}

impl StateTensors {
    /// Lists the names and shapes of the tensors, with descriptions of the optimiser's. The picture is the first.
    pub fn list(request: &Request, shape: Shape) -> Vec<(String, Shape, Option<StateTensor>)> {
        let optimizer = &request.optimizer;
        let mut list = vec![(STATE_PICTURE.to_owned(), shape, None)];
        for tensor in optimizer.state(shape) {
            list.push((optimizer.tensor(tensor.name), tensor.shape, Some(tensor)));
        }
        if request.average_decay > 0.0 {
            list.push((STATE_AVERAGE.to_owned(), shape, None));
            list.push((STATE_AVERAGE_COUNTERS.to_owned(), Shape::Vector(4), None));
        }
        list
    }

    /// Creates the state for a picture in the graph.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn new(
        build: &mut Build<'_>,
        kept: &mut NamedMemory,
        request: &Request,
        picture: TensorId,
    ) -> Result<Self> {
        let (mut parts, mut tensors) = (Vec::new(), Vec::new());
        for (name, shape, optimizer) in Self::list(request, build.graph.shape(picture)) {
            let tensor = if parts.is_empty() { picture } else { kept.tensor(build, &name, shape)? };
            let memory = build.bound.get(&tensor).cloned();
            parts.push(StatePart { name, shape, memory, optimizer });
            tensors.push(tensor);
        }
        Ok(Self { parts, tensors })
    }

    /// Returns each tensor with its name.
    pub fn named(&self) -> impl Iterator<Item = (String, TensorId)> + '_ {
        self.parts.iter().map(|part| part.name.clone()).zip(self.tensors.iter().copied())
    }

    /// Returns the shown tensor.
    pub fn shown(&self, request: &Request) -> TensorId {
        self.tensors[shown(&self.parts, &*request.optimizer)]
    }

    /// Returns the tensors of the parts for which `wanted` is true.
    fn filter(&self, wanted: impl Fn(&StatePart) -> bool) -> Vec<TensorId> {
        let pairs = self.parts.iter().zip(&self.tensors).filter(|(part, _)| wanted(part));
        pairs.map(|(_, tensor)| *tensor).collect()
    }

    /// Appends a step along a gradient. `loss` is the whole objective, if the optimiser needs it. The control values
    /// are in the memory [`CONTROL`].
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn step(
        &self,
        build: &mut Build<'_>,
        kept: &mut NamedMemory,
        request: &Request,
        (gradient, loss): (TensorId, Option<TensorId>),
    ) -> Result<Step> {
        let optimizer = &request.optimizer;
        let picture = self.tensors[0];
        let control = kept.tensor(build, CONTROL, Shape::Vector(4))?;
        let inputs = StepInputs { picture, gradient, loss, control };
        let of_optimizer = self.filter(|part| part.optimizer.is_some());
        let mut goals = optimizer.step(&mut build.graph, &inputs, &of_optimizer)?;
        let average =
            self.filter(|part| [STATE_AVERAGE, STATE_AVERAGE_COUNTERS].contains(&part.name.as_str()));
        if let [mean, counters] = average[..] {
            let op = Average { decay: f64::from(request.average_decay) };
            let stepped = self.tensors[stepped(&self.parts, &**optimizer)];
            goals.push(build.graph.apply(op, &[stepped, mean, counters], "average")?);
        }
        // Checked after the step, on tensors that are not clamped, since clamping hides infinities. The gradient is not
        // watched for an optimiser that rejects pictures, since it may then be anything.
        let of_gradient = optimizer.shown().is_none().then(|| (GRADIENT.to_owned(), gradient));
        let of_state = self.parts.iter().zip(&self.tensors).filter_map(|(part, tensor)| {
            let name = part.optimizer?.name;
            optimizer.watched().contains(&name).then(|| (name.to_owned(), *tensor))
        });
        let watched = of_gradient.into_iter().chain(of_state).chain([(STATE_PICTURE.to_owned(), picture)]);
        let (watch, watches) = NonFiniteCounters::new(build, kept, watched.collect())?;
        goals.push(watches);
        Ok(Step { goals, watch })
    }
}

/// Name of the memory of the [`Optimizer::control`](crate::mirage::optimizer::Optimizer::control) values.
pub(in crate::mirage) const CONTROL: &str = "control";
