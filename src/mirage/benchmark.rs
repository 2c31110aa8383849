//! Benchmarks of an iteration: two fixed objectives on a synthetic photo. `benches/iteration.rs`, `mirage report` and
//! the PyTorch programs that they are compared with compute the same objectives.

use super::Strength;
use super::network_graph::{self, View};
use super::preset::{FACTORS, Preset, layers};
use super::request::{Request, Schedule};
use super::run::session::Session;
use super::scales::Scales;
use super::statistic::by_name;
use crate::error::Result;
use crate::graph::{Bindings, Engine, Goals, Graph, Program, WARM_UP_IDLE, warm_up};
use crate::image_io::Picture;
use crate::ops::{Padding, PoolKind, Shape};
use crate::vgg::Network;
use std::sync::Arc;
use std::time::Instant;

/// Warm-up iterations, which compile kernels and touch memory and are not timed.
const WARM: usize = 2;

/// A fixed objective with max pooling, zero padding and no averaging of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Benchmark {
    /// neural-style's objective: Gram matrices at relu1_1 to relu5_1, content at relu4_2. Needs no fully connected
    /// layers.
    Style,
    /// [`Benchmark::Style`] with fc8 and total variation added: all factors of the program.
    Three,
}

/// Times of an iteration: the gradient with respect to the picture and a step of Adam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IterationTimes {
    /// Shortest time of an iteration, in seconds.
    pub least: f64,
    /// Median time of an iteration, in seconds.
    pub median: f64,
    /// Bytes of device memory in use.
    pub device_bytes: u64,
}

impl Benchmark {
    /// Creates the request for a square photo of `side` pixels. Factors have shares, as in a normal run.
    ///
    /// # Errors
    /// Only on an internal fault: the names of layers and statistics are fixed.
    pub fn request(self, side: usize) -> Result<Request> {
        let photo = Picture { width: side, height: side, rgb: values(side * side * 3) };
        let mut request = Request::new(photo);
        request.schedule = Schedule::default();
        request.scales = Scales::single(1);
        request.pooling = PoolKind::Max.into();
        request.border = Padding::Zeros;
        request.average_decay = 0.0;
        let mut preset = Preset { smooth: by_name("total-variation")?, ..Preset::default() };
        preset.style.layers = layers("relu1_1,relu2_1,relu3_1,relu4_1,relu5_1")?;
        preset.style.statistic = by_name("gram")?;
        if self == Self::Style {
            preset.abstracted.layers.clear();
            preset.smooth_weight = 0.0;
            request.top_classes = 0;
        }
        request.groups = preset.groups();
        Ok(request)
    }

    /// Creates a session whose weights are all 1, so that no weights are measured before the first step.
    ///
    /// # Errors
    /// Same as [`Session::new`].
    pub fn session(self, engine: &Arc<Engine>, network: &Arc<Network>, side: usize) -> Result<Session> {
        let mut request = self.request(side)?;
        for group in request.groups.iter_mut().filter(|group| FACTORS.contains(&group.name.as_str())) {
            group.strength = Strength::Weight(1.0);
        }
        Session::new(engine, network, request)
    }
}

/// Returns `count` values of the synthetic photo.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index * 37 % 101) as f32 * 0.01).collect()
}

/// Times `runs` forward passes of a square picture up to a layer, after two for warm-up, in seconds. Uses max pooling
/// and zero padding. Each pass is waited for, and nothing is read back.
///
/// # Errors
/// [`crate::Error::Usage`] for an unknown layer or a picture that is too small; otherwise if the device fails.
pub fn forward_seconds(
    engine: &Arc<Engine>,
    network: &Network,
    layer: &str,
    side: usize,
    runs: usize,
) -> Result<Vec<f64>> {
    let layer = network.index_of(layer)?;
    network_graph::check_size(network, layer, side, side)?;
    let (mut graph, mut bound) = (Graph::new(), Bindings::new());
    let shape = Shape::map(3, side, side);
    let picture = graph.external("picture", shape);
    bound.insert(picture, engine.tensor_with("benchmark's picture", shape, &values(side * side * 3))?);
    let view = View { pooling: PoolKind::Max.into(), border: Padding::Zeros };
    let activation = network_graph::forward(&mut graph, network, picture, &[layer], view)?[&layer];
    let shape = graph.shape(activation);
    bound.insert(activation, engine.tensor("benchmark's activation", shape)?);
    graph.fuse(&bound.keys().copied().collect());
    let program = Program::prepare(engine, &graph, &bound, &Goals::all([activation]), |_| 0)?;
    let pass = |_| {
        let start = Instant::now();
        program.submit(&[Goals::ALL], &[], "forward pass")?.wait()?;
        Ok(start.elapsed().as_secs_f64())
    };
    (0..WARM + runs).map(pass).skip(WARM).collect()
}

impl IterationTimes {
    /// Times this many iterations and waits for each one. Two iterations warm up; a GPU also runs as many as it takes
    /// to raise its clock.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(session: &mut Session, iterations: usize) -> Result<Self> {
        session.time_iterations(WARM)?;
        let device = session.engine.profile().clone();
        warm_up(&device, WARM_UP_IDLE, || session.time_iterations(1).map(drop))?;
        let times = session.time_iterations(WARM + iterations.max(1))?;
        let mut times = times[WARM..].to_vec();
        times.sort_by(f64::total_cmp);
        Ok(Self { least: times[0], median: times[times.len() / 2], device_bytes: session.memory().total() })
    }
}
