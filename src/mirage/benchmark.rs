//! What is timed as an iteration: two fixed objectives on a made-up photo. `benches/iteration.rs`, `mirage report` and the
//! PyTorch programs that they are compared with all compute these.

use super::Strength;
use super::preset::{FACTORS, Preset, layers};
use super::request::{Request, Schedule};
use super::scales::Scales;
use super::session::Session;
use super::statistic::by_name;
use crate::error::Result;
use crate::graph::Engine;
use crate::image_io::Picture;
use crate::ops::{Padding, PoolKind};
use crate::vgg::Network;
use std::sync::Arc;

/// Iterations that are not counted: kernels are compiled, memory is touched.
const WARM: usize = 2;

/// A fixed objective, with max pooling, zero padding and no average of the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Benchmark {
    /// neural-style's: Gram matrices at relu1_1 to relu5_1, content at relu4_2. Needs no fully connected layers.
    Style,
    /// The same with fc8 and total variation: all factors of the program.
    Three,
}

/// Times of an iteration: the gradient of the picture and a step of Adam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IterationTimes {
    /// Least seconds of one iteration.
    pub least: f64,
    /// Median of them.
    pub median: f64,
    /// Bytes on the device.
    pub device_bytes: u64,
}

impl Benchmark {
    /// The objective on a square photo of `side` pixels. Its weights are shares, as in a usual run.
    ///
    /// # Errors
    /// None but for a fault of the program: the names of layers and statistics are fixed.
    pub fn request(self, side: usize) -> Result<Request> {
        let value = |index: usize| (index * 37 % 101) as f32 * 0.01;
        let photo = Picture { width: side, height: side, rgb: (0..side * side * 3).map(value).collect() };
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

    /// A session whose weights are all 1, so that nothing is measured before the first step.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn session(self, engine: &Arc<Engine>, network: &Arc<Network>, side: usize) -> Result<Session> {
        let mut request = self.request(side)?;
        for group in request.groups.iter_mut().filter(|group| FACTORS.contains(&group.name.as_str())) {
            group.strength = Strength::Weight(1.0);
        }
        Session::new(engine, network, request)
    }
}

impl IterationTimes {
    /// Times this many iterations, each waited for, after two that warm up.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(session: &mut Session, iterations: usize) -> Result<Self> {
        let times = session.time_iterations(WARM + iterations.max(1))?;
        let mut times = times[WARM..].to_vec();
        times.sort_by(f64::total_cmp);
        Ok(Self { least: times[0], median: times[times.len() / 2], device_bytes: session.memory().total() })
    }
}
