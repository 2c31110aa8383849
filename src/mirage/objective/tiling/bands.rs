//! Band-by-band computation on a picture in host memory: the optimiser's steps, and losses that compare neighbouring
//! pixels. A band consists of whole rows.

use super::in_transit::{IN_FLIGHT, InTransit, in_order};
use super::planes::Planes;
use crate::error::{Error, Result};
use crate::graph::{
    Engine, Goals, Memory, MemoryUse, Pending, Program, Readback, Submission, TensorId, When,
};
use crate::mirage::objective::build::{Build, NamedMemory};
use crate::mirage::objective::non_finite::NonFiniteCounters;
use crate::mirage::objective::sections::{GRADIENT, STEP};
use crate::mirage::objective::step::{STATE_PICTURE, StatePart, StateTensors};
use crate::mirage::request::Request;
use crate::mirage::statistic::{Decomposition, Statistic};
use crate::ops::Shape;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Approximate number of pixels in a band.
const PIXELS: usize = 1 << 16;
/// Read-back of the tensors that a step changed, or of the gradients of losses.
const BAND: &str = "band";
/// Name of the memory of a band's gradient.
const GRADIENT_OF_BAND: &str = "gradient of a band";
/// Name of the memory of a band's rows and their neighbours.
const ROWS: &str = "rows of a band";

/// A loss of the picture that compares neighbouring pixels.
#[derive(Debug, Clone)]
pub(in crate::mirage) struct NeighborLoss {
    /// Index among the losses of the objective.
    pub term: usize,
    pub statistic: Arc<dyn Statistic>,
    /// Memory of the loss, which the objective's program reads.
    pub memory: Memory,
}

/// A state tensor in host memory.
#[derive(Debug, Clone)]
pub(in crate::mirage) enum HostTensor {
    /// Tensor of the picture's shape.
    Map(Planes),
    /// Tensor whose shape does not depend on the picture.
    Vector(Vec<f32>),
}

/// State tensors in host memory, by name.
pub(in crate::mirage) type HostState = HashMap<String, HostTensor>;

/// Programs for the bands of a picture.
#[derive(Debug)]
pub(in crate::mirage) struct Bands {
    engine: Arc<Engine>,
    size: [usize; 2],
    /// Rows of a band for losses.
    rows: usize,
    /// Rows of a band for steps.
    rows_of_steps: usize,
    /// Programs of a step, by the number of rows in the band.
    steps: HashMap<usize, Program>,
    watch: Option<NonFiniteCounters>,
    /// Memory of the tensors that the programs read and change.
    kept: NamedMemory,
    of_neighbors: Vec<NeighborLoss>,
    /// Programs of the losses' gradients, by the number of rows in the band including neighbours.
    gradients: HashMap<usize, Program>,
    in_transit: InTransit,
}

impl Bands {
    /// Prepares the programs for a request at this size. `loss` is the memory of the whole objective, if the optimiser
    /// needs it. An optimiser that is not elementwise gets a single band, and its state stays on the device.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    /// If the device fails or has too little memory.
    pub fn new(
        engine: &Arc<Engine>,
        request: &Request,
        size: [usize; 2],
        loss: Option<&Memory>,
        of_neighbors: Vec<NeighborLoss>,
    ) -> Result<(Self, Vec<StatePart>)> {
        // A band is bound as a whole, including its border and neighbouring rows.
        let bound = (engine.profile().max_binding / 16) as usize / (size[1] + 1);
        let rows = (PIXELS / size[1]).min(bound.saturating_sub(4)).clamp(1, size[0]);
        Self::with_rows(engine, request, (size, rows), loss, of_neighbors)
    }

    /// Same as [`Bands::new`], with this many rows in a band.
    fn with_rows(
        engine: &Arc<Engine>,
        request: &Request,
        (size, rows): ([usize; 2], usize),
        loss: Option<&Memory>,
        of_neighbors: Vec<NeighborLoss>,
    ) -> Result<(Self, Vec<StatePart>)> {
        let [height, width] = size;
        let all = request.optimizer.is_elementwise();
        let mut made = Self {
            engine: engine.clone(),
            size,
            rows,
            rows_of_steps: if all { rows } else { height },
            steps: HashMap::new(),
            watch: None,
            kept: NamedMemory::default(),
            of_neighbors,
            gradients: HashMap::new(),
            in_transit: InTransit::default(),
        };
        let whole = StateTensors::list(request, Shape::map(3, height, width));
        for height in lengths(bands(&(0..height), made.rows_of_steps).map(|band| band.len())) {
            let shape = Shape::map(3, height, width);
            let mut build = Build::new(engine);
            let picture = made.kept.tensor(&mut build, STATE_PICTURE, shape)?;
            let state = StateTensors::new(&mut build, &mut made.kept, request, picture)?;
            let gradient = made.kept.tensor(&mut build, GRADIENT_OF_BAND, shape)?;
            let loss = loss.map(|memory| build.alias("objective", memory, Shape::Vector(1)));
            let step = state.step(&mut build, &mut made.kept, request, (gradient, loss))?;
            let carried: Vec<_> = state.named().filter(|(name, _)| all || name == STATE_PICTURE).collect();
            let read_shapes: Vec<_> = carried.iter().map(|(_, tensor)| build.graph.shape(*tensor)).collect();
            let written = [&read_shapes[..], &[shape]].concat();
            let parts = size[0].div_ceil(made.rows_of_steps);
            made.in_transit = made.in_transit.and(InTransit::of(engine, parts, &written, &read_shapes));
            let goals = Goals::default().section(STEP, step.goals).readback(read(carried));
            made.steps.insert(height, prepare(engine, build, &goals)?);
            made.watch = Some(step.watch);
        }
        if !made.of_neighbors.is_empty() {
            let around: Vec<usize> = bands(&(0..height), rows).map(|band| made.around(&band).len()).collect();
            for height in lengths(around.into_iter()) {
                let program = made.gradient_program(height)?;
                made.gradients.insert(height, program);
            }
        }
        let parts = whole.into_iter().map(|(name, shape, optimizer)| {
            let on_host = all || name == STATE_PICTURE;
            let memory = made.kept.get(&name).filter(|_| !on_host).cloned();
            StatePart { name, shape, memory, optimizer }
        });
        let parts = parts.collect();
        Ok((made, parts))
    }

    /// Prepares the program of the losses' gradients for this many rows.
    fn gradient_program(&mut self, height: usize) -> Result<Program> {
        let shape = Shape::map(3, height, self.size[1]);
        let mut build = Build::new(&self.engine);
        let rows = self.kept.tensor(&mut build, ROWS, shape)?;
        let one = build.constant(1.0)?;
        let mut gradients = Vec::new();
        for (index, loss) in self.of_neighbors.iter().enumerate() {
            let gradient =
                loss.statistic.gradient_of_part(&mut build.graph, [rows, one], self.size, "picture")?;
            gradients.push((index.to_string(), gradient));
        }
        let tensors: Vec<_> = gradients.iter().map(|(_, tensor)| *tensor).collect();
        let read_shapes = build.graph.shapes(&tensors);
        let parts = self.size[0].div_ceil(self.rows);
        self.in_transit = self.in_transit.and(InTransit::of(&self.engine, parts, &[shape], &read_shapes));
        let goals = Goals::default().section(GRADIENT, tensors).readback(read(gradients));
        prepare(&self.engine, build, &goals)
    }

    /// Returns a band's rows and one more on each side, within the picture.
    fn around(&self, band: &Range<usize>) -> Range<usize> {
        band.start.saturating_sub(1)..(band.end + 1).min(self.size[0])
    }

    /// Returns the rows of a band for steps. A step on part of the picture must start at a multiple of this.
    pub fn rows_of_steps(&self) -> usize {
        self.rows_of_steps
    }

    /// Makes a step on these rows along their gradient, and updates them in the state. Returns the vector tensors after
    /// the step, without updating them: every band of a step must read their old values.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step(
        &self,
        state: &mut HostState,
        rows: &Range<usize>,
        gradient: &Planes,
    ) -> Result<Vec<(String, Vec<f32>)>> {
        let mut vectors = Vec::new();
        let submit = |state: &HostState, band: &Range<usize>| {
            self.write_rows(GRADIENT_OF_BAND, gradient, band)?;
            for (name, held) in state {
                match held {
                    HostTensor::Map(planes) => self.write_rows(name, planes, band)?,
                    HostTensor::Vector(values) => self.write(name, Shape::Vector(values.len()), values)?,
                }
            }
            let program = self.steps.get(&band.len()).ok_or_else(|| missing(STEP))?;
            program.submit(&[STEP], &[BAND], "a step of a band")
        };
        in_order(state, bands(rows, self.rows_of_steps), submit, |state, band, submission| {
            vectors.clear();
            for (name, values) in finished(submission)? {
                match state.get_mut(&name) {
                    Some(HostTensor::Map(planes)) => planes.set_rows(&band, &values),
                    _ => vectors.push((name, values)),
                }
            }
            Ok(())
        })?;
        Ok(vectors)
    }

    /// Returns the contribution of these rows to each neighbour loss, in order, and adds their gradients, each times
    /// its factor, to `gradient`. The rows must start where a step may. `above` is the old row above them, if the
    /// picture has changed there since.
    ///
    /// # Errors
    /// If the device fails.
    pub fn losses(
        &self,
        (picture, rows): (&Planes, &Range<usize>),
        above: Option<&[f32]>,
        mut gradient: Option<(&mut Planes, &[f32])>,
    ) -> Result<Vec<f64>> {
        let mut losses = vec![0.0; self.of_neighbors.len()];
        if losses.is_empty() {
            return Ok(losses);
        }
        let columns = picture.columns();
        let submit = |_: &Vec<f64>, band: &Range<usize>| {
            let around = self.around(band);
            let mut values = picture.part(&around, &columns);
            if let Some(above) = above.filter(|_| around.start < rows.start) {
                let channels = values.chunks_exact_mut(around.len() * columns.len());
                let lines = channels.zip(above.chunks_exact(columns.len()));
                lines.for_each(|(channel, line)| channel[..line.len()].copy_from_slice(line));
            }
            self.write(ROWS, Shape::map(3, around.len(), columns.len()), &values)?;
            let program = self.gradients.get(&around.len()).ok_or_else(|| missing(ROWS))?;
            program.submit(&[GRADIENT], &[BAND], "losses of a band")
        };
        in_order(&mut losses, bands(rows, self.rows), submit, |losses, band, submission| {
            let around = self.around(&band);
            let own = band.start - around.start..band.end - around.start;
            let pixels = picture.part(&band, &columns);
            for (index, (_, values)) in finished(submission)?.into_iter().enumerate() {
                let slopes = Planes::of([around.len(), columns.len()], values).part(&own, &columns);
                let products = pixels.iter().zip(&slopes).map(|(x, slope)| f64::from(*x) * f64::from(*slope));
                losses[index] += products.sum::<f64>();
                if let Some((gradient, factors)) = &mut gradient {
                    gradient.add(&band, &columns, &slopes, factors[index]);
                }
            }
            Ok(())
        })?;
        let degree = |loss: &NeighborLoss| match loss.statistic.decomposition() {
            Decomposition::Neighbors { degree } => f64::from(degree),
            _ => 1.0,
        };
        Ok(losses.iter().zip(&self.of_neighbors).map(|(product, loss)| product / degree(loss)).collect())
    }

    /// Writes an input of the programs by name.
    fn write(&self, name: &str, shape: Shape, values: &[f32]) -> Result<()> {
        let memory = self.kept.get(name).ok_or_else(|| missing(name))?;
        self.engine.write(memory, shape, values)
    }

    fn write_rows(&self, name: &str, planes: &Planes, rows: &Range<usize>) -> Result<()> {
        let columns = planes.columns();
        self.write(name, Shape::map(3, rows.len(), columns.len()), &planes.part(rows, &columns))
    }

    /// Returns the losses that compare neighbours.
    pub fn of_neighbors(&self) -> &[NeighborLoss] {
        &self.of_neighbors
    }

    /// Returns the memory of the programs' other inputs, and of the records that steps write.
    pub fn kept(&self) -> &NamedMemory {
        &self.kept
    }

    /// Returns the non-finite counters, and the number of bands in a step.
    pub fn watch(&self) -> Option<(&NonFiniteCounters, u32)> {
        self.watch.as_ref().map(|watch| (watch, self.size[0].div_ceil(self.rows_of_steps) as u32))
    }

    /// Returns the memory of bands in transit.
    pub fn in_transit(&self) -> InTransit {
        self.in_transit
    }

    /// Returns the device memory in use.
    pub fn memory(&self) -> MemoryUse {
        let programs = self.steps.values().chain(self.gradients.values()).map(Program::memory);
        let own = programs.fold(MemoryUse::default(), |all, program| all.with(program));
        MemoryUse { bound: self.kept.bytes(), ..own }
    }
}

/// Splits rows into bands of at most `most` rows.
fn bands(rows: &Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = rows.end;
    rows.clone().step_by(most).map(move |start| start..(start + most).min(end))
}

/// Returns the distinct lengths of bands, the longest first: the first program allocates the shared inputs.
fn lengths(bands: impl Iterator<Item = usize>) -> impl Iterator<Item = usize> {
    bands.collect::<BTreeSet<usize>>().into_iter().rev()
}

fn read(tensors: Vec<(String, TensorId)>) -> Readback {
    Readback { name: BAND.to_owned(), tensors, when: When::After, in_flight: IN_FLIGHT }
}

fn prepare(engine: &Arc<Engine>, mut build: Build<'_>, goals: &Goals) -> Result<Program> {
    build.fuse(goals);
    Program::prepare(engine, &build.graph, &build.bound, goals, |_| 0)
}

/// Waits for a band's read-back and returns its names and values.
fn finished(mut submission: Submission) -> Result<Vec<(String, Vec<f32>)>> {
    let values = submission.take(BAND).map(Pending::finish).transpose()?;
    Ok(values.map_or_else(Vec::new, |values| values.into_iter().collect()))
}

fn missing(name: &str) -> Error {
    Error::internal(name, "a band was not prepared for it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{AdapterChoice, DeviceOptions};
    use crate::image_io::Picture;
    use crate::mirage::statistic::by_name;

    const SIZE: [usize; 2] = [23, 17];

    fn planes(seed: usize) -> Planes {
        let value = |index: usize| ((index * 7919 + seed * 104_729) % 1009) as f32 / 1009.0;
        Planes::of(SIZE, (0..3 * SIZE[0] * SIZE[1]).map(value).collect())
    }

    fn bands_of(rows: usize) -> (Bands, HostState) {
        let options = DeviceOptions { adapter: AdapterChoice::Cpu, ..DeviceOptions::default() };
        let engine = Engine::open(&options).unwrap();
        let request = Request::new(Picture { width: 17, height: 23, rgb: planes(0).interleaved().collect() });
        let names = ["total-variation", "total-variation-absolute", "total-variation-diagonal"];
        let loss = |name: &str| NeighborLoss {
            term: 0,
            statistic: by_name(name).unwrap(),
            memory: engine.tensor("a loss", Shape::Vector(1)).unwrap(),
        };
        let losses = names.map(loss).into();
        let (bands, parts) = Bands::with_rows(&engine, &request, (SIZE, rows), None, losses).unwrap();
        assert!(parts.iter().all(|part| part.memory.is_none()));
        let control = bands.kept().get(crate::mirage::objective::step::CONTROL).unwrap();
        engine.write(control, Shape::Vector(4), &request.optimizer.control(0)).unwrap();
        let held = parts.into_iter().enumerate().map(|(index, part)| {
            let held = match part.shape {
                Shape::Map { .. } => HostTensor::Map(planes(index)),
                shape => HostTensor::Vector(vec![0.0; shape.elements()]),
            };
            (part.name, held)
        });
        (bands, held.collect())
    }

    fn map<'a>(state: &'a HostState, name: &str) -> &'a Planes {
        match &state[name] {
            HostTensor::Map(planes) => planes,
            HostTensor::Vector(_) => panic!("{name} is a vector"),
        }
    }

    /// No bit may differ with the number of rows in a band, since the inputs of each value are the same.
    #[test]
    fn step_in_bands_is_bit_identical() {
        let steps = |rows: usize, split: usize| {
            let (bands, mut state) = bands_of(rows);
            for _ in 0..3 {
                let mut vectors = Vec::new();
                for part in [0..split, split..SIZE[0]].into_iter().filter(|part| !part.is_empty()) {
                    vectors = bands.step(&mut state, &part, &planes(9)).unwrap();
                }
                state.extend(vectors.into_iter().map(|(name, values)| (name, HostTensor::Vector(values))));
            }
            state
        };
        let expected = steps(SIZE[0], SIZE[0]);
        for (rows, split) in [(1, 7), (5, 10), (22, 22)] {
            let state = steps(rows, split);
            assert_eq!(state.len(), expected.len());
            for (name, held) in &state {
                let same = match (held, &expected[name]) {
                    (HostTensor::Map(one), HostTensor::Map(other)) => one == other,
                    (HostTensor::Vector(one), HostTensor::Vector(other)) => one == other && one[0] == 3.0,
                    _ => false,
                };
                assert!(same, "{name} in bands of {rows} rows");
            }
        }
        assert_ne!(map(&expected, STATE_PICTURE), &planes(0));
    }

    /// Losses are summed in another order, in f64.
    #[test]
    fn losses_and_gradients_in_bands_match_the_whole() {
        let picture = planes(5);
        let run = |rows: usize, factors: &[f32; 3]| {
            let (mut gradient, mut changed) = (planes(6), picture.clone());
            let (bands, _) = bands_of(rows);
            let mut losses = vec![0.0; 3];
            // In two parts; the first has changed when the second is computed.
            for part in [0..rows, rows..SIZE[0]] {
                let above = part.start.checked_sub(1).map(|row| picture.part(&(row..row + 1), &(0..SIZE[1])));
                let given = Some((&mut gradient, &factors[..]));
                let found = bands.losses((&changed, &part), above.as_deref(), given).unwrap();
                losses.iter_mut().zip(found).for_each(|(sum, loss)| *sum += loss);
                changed.set_rows(&part, &vec![0.3; 3 * part.len() * SIZE[1]]);
            }
            (losses, gradient)
        };
        for factors in [[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 300.0]] {
            let (expected, gradient) = run(SIZE[0], &factors);
            assert!(expected.iter().all(|loss| *loss > 0.0) && gradient != planes(6));
            for rows in [1, 4, 22] {
                let (losses, found) = run(rows, &factors);
                for (loss, expected) in losses.iter().zip(&expected) {
                    assert!((loss - expected).abs() <= 1e-12 * expected, "{rows} rows: {loss} {expected}");
                }
                assert!(found == gradient, "{rows} rows, {factors:?}");
            }
        }
    }

    /// The product of picture and gradient equals the loss that the op computes directly.
    #[test]
    fn losses_match_the_statistics() {
        let (bands, _) = bands_of(7);
        let picture = planes(5);
        let losses = bands.losses((&picture, &(0..SIZE[0])), None, None).unwrap();
        for (loss, NeighborLoss { statistic, .. }) in losses.iter().zip(bands.of_neighbors()) {
            let mut build = Build::new(&bands.engine);
            let shape = Shape::map(3, SIZE[0], SIZE[1]);
            let (map, memory) = build.external("picture", shape).unwrap();
            bands.engine.write(&memory, shape, picture.values()).unwrap();
            let summary = statistic.summary(&mut build.graph, map, "picture").unwrap();
            let distance = statistic.distance(&mut build.graph, &summary, &[], "picture").unwrap();
            let goals = Goals::all([distance]).readback(read(vec![("loss".to_owned(), distance)]));
            let program = prepare(&bands.engine, build, &goals).unwrap();
            let found = finished(program.submit(&[Goals::ALL], &[BAND], "a loss").unwrap()).unwrap();
            let expected = f64::from(found[0].1[0]);
            // Values of up to 1 with differences of about a third: rounding errors are 6e-8 of the larger values.
            assert!((loss - expected).abs() <= 5e-6 * expected, "{statistic:?}: {loss} {expected}");
        }
    }
}
