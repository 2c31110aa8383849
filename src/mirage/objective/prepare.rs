//! Prepares an objective from the graph of its losses and gradients: with the step in the same program, or with the
//! picture in tiles.

use super::build::{Build, NamedMemory};
use super::non_finite::NonFiniteCounters;
use super::sections::{GRADIENT, NON_FINITE, PICTURE, SNAPSHOT, STATE, STEP, SUM};
use super::sources::Sources;
use super::step::{StatePart, StateTensors, shown};
use super::targets::Targets;
use super::tiling::bands::{Bands, NeighborLoss};
use super::tiling::graph::{TileContext, TileGradients};
use super::tiling::tiled_objective::{StepKind, TiledGroup, TiledObjective};
use crate::error::{Error, Result};
use crate::graph::{Engine, Goals, Memory, Program, Readback, TensorId, When};
use crate::mirage::request::Request;
use crate::ops::Interleave;
use std::sync::Arc;

/// Number of iterations submitted ahead of the device: enough to keep it busy, few enough that a stop is prompt.
pub(in crate::mirage) const AHEAD: usize = 2;
/// Read-backs of one kind that may be in flight at once: one for each iteration ahead, and one for the next.
const READ_BACKS: usize = AHEAD + 1;

/// Location of picture, gradient and state.
#[derive(Debug)]
pub(in crate::mirage) enum Location {
    /// In device memory, with all feature maps.
    Device {
        gradient: Memory,
        watch: NonFiniteCounters,
        /// Memory of the tensors that steps read and change.
        kept: NamedMemory,
    },
    /// In host memory.
    Host(Box<TiledObjective>),
}

/// An objective with its losses and gradients in a graph.
pub(in crate::mirage) struct ObjectiveBuilder<'a> {
    pub engine: &'a Arc<Engine>,
    pub build: Build<'a>,
    pub goals: Goals,
    pub targets: Targets,
    pub request: &'a Request,
    pub size: [usize; 2],
}

/// A prepared objective.
pub(in crate::mirage) struct Prepared<'a> {
    pub program: Program,
    pub location: Location,
    pub state: Vec<StatePart>,
    /// Builder that the program was prepared from.
    pub build: Build<'a>,
    /// Class probabilities of the photo; empty if reports have no classes.
    pub photo_probabilities: Vec<f32>,
}

impl<'a> ObjectiveBuilder<'a> {
    /// Prepares an objective with the step in the same program.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn whole(
        mut self,
        picture: TensorId,
        gradient: Memory,
        sum: Option<TensorId>,
    ) -> Result<Prepared<'a>> {
        let Self { build, request, .. } = &mut self;
        let shape = build.graph.shape(picture);
        let mut kept = NamedMemory::default();
        let state = StateTensors::new(build, &mut kept, request, picture)?;
        // Before the step, so that a submission's snapshot and losses belong to the same iteration.
        let clamp = request.optimizer.clamps();
        let snapshot = build.graph.apply(Interleave { clamp }, &[state.shown(request)], SNAPSHOT)?;
        let loss = if request.optimizer.needs_loss() { Some(build.total()?) } else { None };
        let along = build.alias(GRADIENT, &gradient, shape);
        let step = state.step(build, &mut kept, request, (along, loss))?;
        self.goals = std::mem::take(&mut self.goals)
            .section(SUM, sum.into_iter().collect::<Vec<_>>())
            .section(SNAPSHOT, [snapshot])
            .section(STEP, step.goals)
            .readback(readback(PICTURE, vec![(PICTURE.to_owned(), snapshot)], When::AfterOnce))
            .readback(readback(NON_FINITE, vec![(NON_FINITE.to_owned(), step.watch.record)], When::After))
            .readback(readback(STATE, state.named().collect(), When::Before));
        let (program, build, photo_probabilities) = self.program()?;
        let location = Location::Device { gradient, watch: step.watch, kept };
        Ok(Prepared { program, location, state: state.parts, build, photo_probabilities })
    }

    /// Prepares a tiled objective, with picture and state in host memory.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn in_tiles(
        mut self,
        sources: Sources<'_>,
        context: TileContext<'_>,
        gradients: TileGradients,
        groups: impl FnOnce(&[NeighborLoss]) -> Vec<TiledGroup>,
    ) -> Result<Prepared<'a>> {
        let Self { engine, request, size, .. } = self;
        let mut loss = None;
        if request.optimizer.needs_loss() {
            let total = self.build.total()?;
            loss = Some(self.build.keep(total)?);
            let of_gradient = self.goals.sections.iter_mut().filter(|(name, _)| name == GRADIENT);
            of_gradient.for_each(|(_, goals)| goals.push(total));
        }
        let (program, build, photo_probabilities) = self.program()?;
        let assembly = sources.assembly.ok_or_else(|| Error::internal("the objective", "it has no tiles"))?;
        let tiles = assembly.prepare(context, Some(&gradients))?;
        let groups = groups(&sources.of_neighbors);
        let (bands, state) = Bands::new(engine, request, size, loss.as_ref(), sources.of_neighbors)?;
        let optimizer = &request.optimizer;
        let kind = StepKind {
            shown: state[shown(&state, &**optimizer)].name.clone(),
            clamps: optimizer.clamps(),
            needs_loss: optimizer.needs_loss(),
            watches_gradient: optimizer.shown().is_none(),
        };
        let tiled = TiledObjective::new(engine, size, (tiles, bands), groups, kind);
        Ok(Prepared { program, location: Location::Host(Box::new(tiled)), state, build, photo_probabilities })
    }

    /// Waits for the targets, prepares the program, and reads the class probabilities of the photo.
    fn program(self) -> Result<(Program, Build<'a>, Vec<f32>)> {
        let Self { engine, mut build, goals, targets, request, .. } = self;
        build.fuse(&goals);
        if request.activations.half {
            build.keep_in_half(&goals)?;
        }
        // Compiles while the device computes the targets. Memory is allocated after theirs has been freed.
        Program::compile(engine, &build.graph, &goals)?;
        if let Some(submission) = &targets.submission {
            submission.wait()?;
        }
        let photo = match &targets.classes {
            Some(target) => {
                let label = "classes of the photo";
                engine.read(target.memory(label)?, target.shape, label)?
            }
            None => Vec::new(),
        };
        drop(targets);
        let program = Program::prepare(engine, &build.graph, &build.bound, &goals, |_| 0)?;
        Ok((program, build, photo))
    }
}

/// Creates a read-back of an objective.
pub(in crate::mirage) fn readback(name: &str, tensors: Vec<(String, TensorId)>, when: When) -> Readback {
    Readback { name: name.to_owned(), tensors, when, in_flight: READ_BACKS }
}
