//! What is computed of a picture in the host's memory band by band: the steps of the optimiser, and losses that compare
//! neighbouring pixels. A band has whole rows of the picture.

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

/// Pixels of a band, about.
const PIXELS: usize = 1 << 16;
/// Read-back of what a step changed, or of the gradients of losses.
const BAND: &str = "band";
/// Name of the memory of a band's gradient.
const GRADIENT_OF_BAND: &str = "gradient of a band";
/// Name of the memory of a band's rows and those around it.
const ROWS: &str = "rows of a band";

/// A loss of the picture that compares neighbouring pixels.
#[derive(Debug, Clone)]
pub(in crate::mirage) struct NeighborLoss {
    /// Its index among the losses of the objective.
    pub term: usize,
    pub statistic: Arc<dyn Statistic>,
    /// Where the loss is written for the objective's program.
    pub memory: Memory,
}

/// A tensor of the state in the host's memory.
#[derive(Debug, Clone)]
pub(in crate::mirage) enum HostTensor {
    /// Of the picture's shape.
    Map(Planes),
    /// Of a shape that does not depend on the picture's.
    Vector(Vec<f32>),
}

/// The state in the host's memory, by name.
pub(in crate::mirage) type HostState = HashMap<String, HostTensor>;

/// Programs for the bands of a picture.
#[derive(Debug)]
pub(in crate::mirage) struct Bands {
    engine: Arc<Engine>,
    size: [usize; 2],
    /// Rows of a band.
    rows: usize,
    /// The same of a step.
    rows_of_steps: usize,
    /// The step, by the rows of the band.
    steps: HashMap<usize, Program>,
    watch: Option<NonFiniteCounters>,
    /// Memory of what the programs read and change.
    kept: NamedMemory,
    of_neighbors: Vec<NeighborLoss>,
    /// The gradients of these losses, by the rows of the band with those around it.
    gradients: HashMap<usize, Program>,
    in_transit: InTransit,
}

impl Bands {
    /// Programs for a request at this size. `loss` is the memory of the whole objective, if the optimiser needs it. Where
    /// the optimiser does not treat each value by itself, there is one band, and its state stays on the device.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn new(
        engine: &Arc<Engine>,
        request: &Request,
        size: [usize; 2],
        loss: Option<&Memory>,
        of_neighbors: Vec<NeighborLoss>,
    ) -> Result<(Self, Vec<StatePart>)> {
        // A band is bound as a whole, with its border; so is the one with the rows around it.
        let bound = (engine.profile().max_binding / 16) as usize / (size[1] + 1);
        let rows = (PIXELS / size[1]).min(bound.saturating_sub(4)).clamp(1, size[0]);
        Self::with_rows(engine, request, (size, rows), loss, of_neighbors)
    }

    /// The same with so many rows in a band.
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

    /// The program of the losses' gradients for so many rows.
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

    /// A band's rows with one more on each side, as far as there is one.
    fn around(&self, band: &Range<usize>) -> Range<usize> {
        band.start.saturating_sub(1)..(band.end + 1).min(self.size[0])
    }

    /// Rows of a band of a step: a step of a part of the picture begins at a multiple of it.
    pub fn rows_of_steps(&self) -> usize {
        self.rows_of_steps
    }

    /// Makes a step of these rows along their gradient, and changes them in the state. Returns the tensors that do not
    /// belong to rows, as they are after the step: they have to be as before it for all rows.
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

    /// What these rows add to the losses that compare neighbours, in order; and their gradients, each times its factor, are
    /// added to one. The rows begin where a step may. `above` is the row above them, if the picture's has changed since.
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

    /// Writes what programs read under a name.
    fn write(&self, name: &str, shape: Shape, values: &[f32]) -> Result<()> {
        let memory = self.kept.get(name).ok_or_else(|| missing(name))?;
        self.engine.write(memory, shape, values)
    }

    fn write_rows(&self, name: &str, planes: &Planes, rows: &Range<usize>) -> Result<()> {
        let columns = planes.columns();
        self.write(name, Shape::map(3, rows.len(), columns.len()), &planes.part(rows, &columns))
    }

    /// The losses that compare neighbours.
    pub fn of_neighbors(&self) -> &[NeighborLoss] {
        &self.of_neighbors
    }

    /// Memory of what steps read besides the state, and of what they note.
    pub fn kept(&self) -> &NamedMemory {
        &self.kept
    }

    /// What steps note, and in how many runs each of them is made.
    pub fn watch(&self) -> Option<(&NonFiniteCounters, u32)> {
        self.watch.as_ref().map(|watch| (watch, self.size[0].div_ceil(self.rows_of_steps) as u32))
    }

    /// What the bands take on their way.
    pub fn in_transit(&self) -> InTransit {
        self.in_transit
    }

    /// Device memory in use.
    pub fn memory(&self) -> MemoryUse {
        let programs = self.steps.values().chain(self.gradients.values()).map(Program::memory);
        let own = programs.fold(MemoryUse::default(), |all, program| all.with(program));
        MemoryUse { bound: self.kept.bytes(), ..own }
    }
}

/// Rows in bands of at most so many.
fn bands(rows: &Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = rows.end;
    rows.clone().step_by(most).map(move |start| start..(start + most).min(end))
}

/// The lengths of bands, the longest first: what the programs read is as large as that of the first one.
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

/// Names and values of a band's read-back.
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

    /// However many rows a band has: no bit differs, since each value is computed from the same others.
    #[test]
    fn bands_make_the_step_of_the_whole() {
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

    /// Losses are sums in another order, in f64.
    #[test]
    fn losses_and_gradients_of_bands_are_those_of_the_whole() {
        let picture = planes(5);
        let run = |rows: usize, factors: &[f32; 3]| {
            let (mut gradient, mut changed) = (planes(6), picture.clone());
            let (bands, _) = bands_of(rows);
            let mut losses = vec![0.0; 3];
            // In two parts, and the first has changed when the second follows.
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

    /// The product of picture and gradient is the loss that the op computes by itself.
    #[test]
    fn losses_are_those_of_the_statistics() {
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
            // Values of up to 1, and differences of about a third: roundings of 6e-8 of the larger.
            assert!((loss - expected).abs() <= 5e-6 * expected, "{statistic:?}: {loss} {expected}");
        }
    }
}
