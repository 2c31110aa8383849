//! Iterations of a tiled picture. Picture, gradient and optimiser state are in host memory and go to the device in
//! parts, so device memory and binding limits do not limit the picture's size.

use super::bands::{Bands, HostState, HostTensor};
use super::in_transit::InTransit;
use super::passes::TilePasses;
use super::planes::{Pixels, Planes};
use crate::error::{Error, Result};
use crate::graph::{Engine, MemoryUse, Pending, Program, Submission, Values};
use crate::mirage::objective::gradients::norm_name;
use crate::mirage::objective::kept_picture::KeptPicture;
use crate::mirage::objective::non_finite::RECORD;
use crate::mirage::objective::sections::{
    GRADIENT, GROUPS, LOSSES, NON_FINITE, REPORT, SNAPSHOT, STATE, STEP,
};
use crate::mirage::objective::step::{STATE_PICTURE, StatePart};
use crate::mirage::setback::Fault;
use crate::ops::{CountNonFinite, Shape};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

/// A group whose gradient is measured separately.
#[derive(Debug)]
pub(in crate::mirage) struct TiledGroup {
    pub name: String,
    /// Section that computes its gradient with respect to the sums over tiles.
    pub section: String,
    /// Weight in this group of each loss that compares neighbours; 0 for losses of other groups.
    pub of_neighbors: Vec<f32>,
}

/// Properties of the optimiser that the passes depend on.
#[derive(Debug)]
pub(in crate::mirage) struct StepKind {
    /// Name of the shown tensor.
    pub shown: String,
    /// True if the picture is clamped to [0, 1].
    pub clamps: bool,
    /// True if a step reads the loss.
    pub needs_loss: bool,
    /// True if a gradient that is not finite is a fault.
    pub watches_gradient: bool,
}

/// A prepared objective of a tiled picture.
#[derive(Debug)]
pub(in crate::mirage) struct TiledObjective {
    engine: Arc<Engine>,
    size: [usize; 2],
    tiles: TilePasses,
    bands: Bands,
    groups: Vec<TiledGroup>,
    kind: StepKind,
    /// Picture copied by [`SNAPSHOT`].
    snapshot: RefCell<Option<KeptPicture>>,
    held: RefCell<HostState>,
    /// Rows of the gradient that is being computed.
    window: RefCell<Option<Planes>>,
    /// Gradient of a submission without a step.
    gradient: RefCell<Option<Planes>>,
    /// Weights of the losses that compare neighbours.
    weights: RefCell<Vec<f32>>,
    /// True if all results of the forward pass are valid for the current picture.
    put_together: Cell<bool>,
    /// Norm of each group's gradient, as last measured.
    norms: RefCell<Vec<(String, Vec<f32>)>>,
    /// Number of steps since the state was set.
    steps: Cell<u32>,
    /// First step whose gradient was not finite, and its number of such values.
    bad_gradient: Cell<Option<(u32, u64)>>,
}

impl TiledObjective {
    /// Creates the objective of a picture of this size.
    pub fn new(
        engine: &Arc<Engine>,
        size: [usize; 2],
        (tiles, bands): (TilePasses, Bands),
        groups: Vec<TiledGroup>,
        kind: StepKind,
    ) -> Self {
        let weights = RefCell::new(vec![0.0; bands.of_neighbors().len()]);
        Self {
            engine: engine.clone(),
            size,
            tiles,
            bands,
            groups,
            kind,
            snapshot: RefCell::default(),
            held: RefCell::default(),
            window: RefCell::default(),
            gradient: RefCell::default(),
            weights,
            put_together: Cell::default(),
            norms: RefCell::default(),
            steps: Cell::default(),
            bad_gradient: Cell::default(),
        }
    }

    /// Reads the values of a state tensor, on the device or in host memory, and waits for them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self, part: &StatePart) -> Result<Vec<f32>> {
        if let Some(memory) = &part.memory {
            return self.engine.read(memory, part.shape, &part.name);
        }
        match self.held.borrow().get(&part.name) {
            Some(HostTensor::Map(planes)) => Ok(planes.values().to_vec()),
            Some(HostTensor::Vector(values)) => Ok(values.clone()),
            None => Err(not_set(&part.name)),
        }
    }

    /// Same as [`Self::read`], but moves values out of host memory. The state can't be used afterwards.
    ///
    /// # Errors
    /// If the device fails.
    pub fn take(&self, part: &StatePart) -> Result<Vec<f32>> {
        self.put_together.set(false);
        match self.held.borrow_mut().remove(&part.name) {
            Some(HostTensor::Map(planes)) => Ok(planes.into_values()),
            Some(HostTensor::Vector(values)) => Ok(values),
            None => self.read(part),
        }
    }

    /// Frees the state, the gradient and the snapshot in host memory.
    pub fn release(&self) {
        self.put_together.set(false);
        self.held.borrow_mut().clear();
        *self.window.borrow_mut() = None;
        *self.gradient.borrow_mut() = None;
        *self.snapshot.borrow_mut() = None;
    }

    /// Replaces the values of a state tensor; their number must match.
    ///
    /// # Errors
    /// If the device fails.
    pub fn write(&self, part: &StatePart, values: Vec<f32>) -> Result<()> {
        if part.name == STATE_PICTURE {
            self.put_together.set(false);
        }
        if let Some(memory) = &part.memory {
            return self.engine.write(memory, part.shape, &values);
        }
        let held = match part.shape {
            Shape::Map { height, width, .. } => HostTensor::Map(Planes::of([height, width], values)),
            _ => HostTensor::Vector(values),
        };
        self.held.borrow_mut().insert(part.name.clone(), held);
        Ok(())
    }

    /// Sets the weights of the neighbour losses, given those of all losses in order.
    pub fn set_weights(&self, weights: &[f32]) {
        let of = |term: usize| weights.get(term).copied().unwrap_or(0.0);
        *self.weights.borrow_mut() = self.bands.of_neighbors().iter().map(|loss| of(loss.term)).collect();
    }

    /// Returns the gradient of a submission without a step, channel after channel, and frees it.
    pub fn take_gradient(&self) -> Vec<f32> {
        self.gradient.take().map_or_else(Vec::new, Planes::into_values)
    }

    /// Clears the faults of earlier steps.
    pub fn forget_faults(&self) {
        self.steps.set(0);
        self.bad_gradient.set(None);
    }

    /// Runs these sections of the objective, in `program` or on the tiles, and reads back. All work that reads the
    /// picture is complete when this returns.
    ///
    /// # Errors
    /// If the device fails, or the host has too little memory.
    pub fn submit(
        &self,
        program: &Program,
        parts: &[StatePart],
        sections: &[&str],
        readbacks: &[&str],
    ) -> Result<Submission> {
        let wanted = |section| sections.contains(&section);
        if wanted(LOSSES) || wanted(GRADIENT) || wanted(GROUPS) {
            self.forward(wanted(LOSSES) || self.kind.needs_loss)?;
        }
        if wanted(GROUPS) {
            let mut norms = Vec::new();
            for TiledGroup { name, section, of_neighbors } in &self.groups {
                let mut norm = 0.0;
                self.backward(program, section, of_neighbors, |_, rows, gradient| {
                    norm += gradient.of_rows(rows).map(|value| f64::from(value.abs())).sum::<f64>();
                    Ok(())
                })?;
                norms.push((norm_name(name), vec![norm as f32]));
            }
            *self.norms.borrow_mut() = norms;
        }
        let mut values: Vec<(String, Values)> = Vec::new();
        let mut add = |name: &str, found: Values| values.push((name.to_owned(), found));
        let of_program: &[&str] = if wanted(LOSSES) { &[LOSSES] } else { &[] };
        if readbacks.contains(&REPORT) {
            let report = program.submit(of_program, &[REPORT], "losses")?.take(REPORT);
            let report = report.map(Pending::finish).transpose()?.unwrap_or_default();
            add(REPORT, report.into_iter().chain(self.norms.borrow().clone()).collect());
        } else if wanted(LOSSES) {
            program.submit(of_program, &[], "losses")?;
        }
        if wanted(SNAPSHOT) {
            *self.snapshot.borrow_mut() = Some(self.show(parts)?);
        }
        if readbacks.contains(&STATE) {
            let part = |part: &StatePart| Ok((part.name.clone(), self.read(part)?));
            add(STATE, parts.iter().map(part).collect::<Result<_>>()?);
        }
        match (wanted(GRADIENT), wanted(STEP)) {
            (true, true) => self.step(program)?,
            (true, false) => self.keep_gradient(program)?,
            (false, true) => return Err(not_set(GRADIENT)),
            (false, false) => {}
        }
        if readbacks.contains(&NON_FINITE)
            && let Some(record) = self.bands.kept().get(RECORD)
        {
            let record = self.engine.read(record, CountNonFinite::RECORD, "non-finite counts")?;
            add(NON_FINITE, [(NON_FINITE.to_owned(), record)].into_iter().collect());
        }
        Ok(Submission::with_values("iteration", values))
    }

    /// Runs the forward pass over the tiles, and with `losses` computes the losses that compare neighbours.
    fn forward(&self, losses: bool) -> Result<()> {
        if self.put_together.get() {
            return Ok(());
        }
        let held = self.held.borrow();
        let picture = picture(&held)?;
        self.tiles.forward(Pixels::Planes(picture))?;
        if !losses {
            return Ok(());
        }
        let losses = self.bands.losses((picture, &(0..self.size[0])), None, None)?;
        for (loss, value) in self.bands.of_neighbors().iter().zip(losses) {
            self.engine.write(&loss.memory, Shape::Vector(1), &[value as f32])?;
        }
        self.put_together.set(true);
        Ok(())
    }

    /// Computes a gradient of the current picture. `section` computes the gradients with respect to the sums over
    /// tiles, and `weights` are those of the neighbour losses. Calls `done` with ranges of rows in order, once their
    /// gradient is complete and nothing else reads these rows of the picture. The ranges start and end where a step
    /// may.
    fn backward(
        &self,
        program: &Program,
        section: &str,
        weights: &[f32],
        mut done: impl FnMut(&mut HostState, &Range<usize>, &Planes) -> Result<()>,
    ) -> Result<()> {
        program.submit(&[section], &[], "gradients of the sums over tiles")?;
        let mut held = self.held.borrow_mut();
        let mut window = self.window.borrow_mut();
        if window.is_none() {
            *window = Some(Planes::zeros("gradient", [self.window_rows(), self.size[1]])?);
        }
        let Some(gradient) = window.as_mut() else { return Ok(()) };
        gradient.clear();
        let (mut first, mut above) = (0, None);
        for row in 0..self.tiles.rows() {
            self.tiles.backward(row, Pixels::Planes(picture(&held)?), gradient)?;
            let rows = first..self.complete_after(row);
            if rows.is_empty() {
                continue;
            }
            if weights.iter().any(|weight| *weight != 0.0) {
                let given = Some((&mut *gradient, weights));
                self.bands.losses((picture(&held)?, &rows), above.as_deref(), given)?;
            }
            let columns = 0..self.size[1];
            above = Some(picture(&held)?.part(&(rows.end - 1..rows.end), &columns));
            done(&mut held, &rows, gradient)?;
            gradient.advance(rows.end);
            first = rows.end;
        }
        Ok(())
    }

    /// Returns the number of rows, from the top of the picture, that are final once this row of tiles is done.
    fn complete_after(&self, row: usize) -> usize {
        if row + 1 == self.tiles.rows() {
            return self.size[0];
        }
        let unit = self.bands.rows_of_steps();
        self.tiles.rows_of(row + 1).start / unit * unit
    }

    /// Returns the largest number of rows of the gradient that are held at once.
    fn window_rows(&self) -> usize {
        let rows = 0..self.tiles.rows();
        let first = |row: usize| row.checked_sub(1).map_or(0, |before| self.complete_after(before));
        rows.map(|row| self.tiles.rows_of(row).end - first(row)).max().unwrap_or(1)
    }

    /// Returns the bytes of the gradient in host memory.
    pub fn gradient_bytes(&self) -> u64 {
        (3 * self.window_rows() * self.size[1]) as u64 * 4
    }

    /// Returns the memory of tiles and bands in transit.
    pub fn in_transit(&self) -> InTransit {
        self.tiles.in_transit().and(self.bands.in_transit())
    }

    /// Makes a step along the gradient of the current picture.
    fn step(&self, program: &Program) -> Result<()> {
        let (mut vectors, mut bad) = (Vec::new(), 0);
        self.put_together.set(false);
        self.backward(program, GRADIENT, &self.weights.borrow(), |held, rows, gradient| {
            bad += gradient.of_rows(rows).filter(|value| !value.is_finite()).count() as u64;
            vectors = self.bands.step(held, rows, gradient)?;
            Ok(())
        })?;
        self.steps.set(self.steps.get() + 1);
        if bad > 0 && self.kind.watches_gradient && self.bad_gradient.get().is_none() {
            self.bad_gradient.set(Some((self.steps.get(), bad)));
        }
        let vectors = vectors.into_iter().map(|(name, values)| (name, HostTensor::Vector(values)));
        self.held.borrow_mut().extend(vectors);
        Ok(())
    }

    /// Computes and keeps the gradient of the current picture, for [`Self::take_gradient`].
    fn keep_gradient(&self, program: &Program) -> Result<()> {
        let mut whole = Planes::zeros("gradient", self.size)?;
        self.backward(program, GRADIENT, &self.weights.borrow(), |_, rows, gradient| {
            whole.set_rows(rows, &gradient.part(rows, &gradient.columns()));
            Ok(())
        })?;
        *self.gradient.borrow_mut() = Some(whole);
        Ok(())
    }

    /// Copies the shown tensor.
    fn show(&self, parts: &[StatePart]) -> Result<KeptPicture> {
        let StepKind { shown, clamps, .. } = &self.kind;
        if let Some(HostTensor::Map(planes)) = self.held.borrow().get(shown) {
            return Ok(KeptPicture::of(planes, *clamps));
        }
        let part = parts.iter().find(|part| part.name == *shown).ok_or_else(|| not_set(shown))?;
        Ok(KeptPicture::of(&Planes::of(self.size, self.read(part)?), *clamps))
    }

    /// Returns the last picture copied by [`SNAPSHOT`], and frees it.
    pub fn take_snapshot(&self) -> Option<KeptPicture> {
        self.snapshot.take()
    }

    /// Returns the first fault of the steps so far, and its distance in steps from the last one.
    pub fn fault(&self, values: &Values) -> Option<(u32, Fault)> {
        let gradient = self.bad_gradient.get().map(|(step, count)| {
            (self.steps.get() - step, Fault::NonFinite { tensor: GRADIENT.to_owned(), count })
        });
        let noted = self.bands.watch().and_then(|(watch, runs)| watch.fault(values, runs));
        // On a tie the gradient comes first: faults of the step follow from it.
        [gradient, noted].into_iter().flatten().reduce(|one, other| if other.0 > one.0 { other } else { one })
    }

    /// Returns the band programs.
    pub fn bands(&self) -> &Bands {
        &self.bands
    }

    /// Returns the device memory in use, without that of the objective's program.
    pub fn memory(&self) -> MemoryUse {
        self.tiles.memory.with(self.bands.memory())
    }
}

/// Returns the picture of a state.
fn picture(held: &HostState) -> Result<&Planes> {
    match held.get(STATE_PICTURE) {
        Some(HostTensor::Map(planes)) => Ok(planes),
        _ => Err(not_set(STATE_PICTURE)),
    }
}

fn not_set(name: &str) -> Error {
    Error::internal(name, "it was not computed yet")
}
