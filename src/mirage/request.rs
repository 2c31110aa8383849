//! Description of a run: objective, optimiser, sizes, start picture, and schedule of reports.

use super::loss::{self, Group, Source, Strength, Target, not_negative};
use super::network_graph::{Pooling, View, smallest_side};
use super::optimizer::{Adam, Optimizer};
use super::preset::Preset;
use super::scales::{Scale, ScaleCount, Scales};
use crate::error::{Error, Result};
use crate::image_io::Picture;
use crate::ops::{Padding, PoolKind};
use crate::vgg::Network;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Highest decay of the average: above it, new pictures have no effect in f32.
const HIGHEST_DECAY: f32 = 0.999_99;
/// Largest grain. From about 10, the picture is nothing but grain.
const MOST_GRAIN: f32 = 1000.0;

/// Picture that the optimisation starts from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Init {
    /// Gray with random grain, which depends only on the seed.
    Noise,
    /// The photo blurred to a few patches of colour, with random grain. It keeps the rough layout of colours and dark
    /// areas only.
    Blur,
    /// The photo itself.
    Photo,
    /// Even mid gray.
    Gray,
    /// This picture, unchanged if it has the size of the first scale, otherwise resized.
    Picture(Arc<Picture>),
}

/// Tiling of the network's first layers, for pictures whose feature maps exceed the device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Tiling {
    /// Compute the whole picture at once.
    #[default]
    Whole,
    /// Compute tiles with this side, in pixels.
    Side(u32),
    /// Compute the whole picture if it fits on the device, otherwise the largest tiles that fit.
    Auto,
}

impl Tiling {
    /// Smallest side of a tile, in pixels.
    pub const LEAST: u32 = 16;

    /// Returns the tile sides to try in order for a picture of this height and width; `None` is the whole picture.
    pub fn sides(self, size: [usize; 2]) -> Vec<Option<usize>> {
        match self {
            Self::Whole => vec![None],
            Self::Side(side) => vec![Some(side as usize)],
            Self::Auto => {
                let smaller = [4096, 2048, 1024, 512, 256, 128, 64, 32, Self::LEAST as usize].into_iter();
                let smaller = smaller.filter(|side| *side < size[0].max(size[1])).map(Some);
                std::iter::once(None).chain(smaller).collect()
            }
        }
    }
}

/// Schedule of reports and pictures. Iterations count from the start of the run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schedule {
    /// Interval of reports, in iterations; 0 for only the first and the last iteration.
    pub report_every: u32,
    /// Interval of snapshots, in iterations; 0 for none.
    pub snapshot_every: u32,
    /// Further iterations after which a snapshot is taken.
    pub snapshot_at: Vec<u32>,
    /// Interval of preview pictures ([`Event::Picture`](super::Event::Picture)), in iterations; 0 for none.
    pub picture_every: u32,
    /// Further iterations after which a preview picture is taken.
    pub picture_at: Vec<u32>,
    /// Interval at which the run's [`State`](super::State) is saved, in iterations, and also at the run's end; 0 for
    /// none.
    pub state_every: u32,
    /// True to save the state when the run is stopped.
    pub state_when_stopped: bool,
    /// Bytes that observers hold for each pixel of the photo; used only by the [`MemoryPlan`](super::MemoryPlan).
    pub held_per_pixel: u64,
}

impl Schedule {
    /// True if a report is due after `iteration`, where `last` is the run's last one.
    pub fn reports(&self, iteration: u32, last: u32) -> bool {
        iteration == 0
            || iteration == last
            || (self.report_every > 0 && iteration.is_multiple_of(self.report_every))
    }

    /// True if a snapshot is due after `iteration`.
    pub fn snapshots(&self, iteration: u32) -> bool {
        let regular =
            self.snapshot_every > 0 && iteration > 0 && iteration.is_multiple_of(self.snapshot_every);
        regular || self.snapshot_at.contains(&iteration)
    }

    /// True if a preview picture is due after `iteration`.
    pub fn pictures(&self, iteration: u32) -> bool {
        let regular = self.picture_every > 0 && iteration.is_multiple_of(self.picture_every);
        regular || self.picture_at.contains(&iteration)
    }

    /// True if a snapshot or preview picture is due after one of these iterations. The range can come from a file and
    /// be huge, so this must not iterate over it.
    pub(super) fn reads_within(&self, iterations: RangeInclusive<u32>) -> bool {
        let (first, end) = (*iterations.start(), *iterations.end());
        let is_due =
            |every: u32, first: u32| end.checked_div(every).is_some_and(|times| times * every >= first);
        let mut listed = self.snapshot_at.iter().chain(&self.picture_at);
        is_due(self.snapshot_every, first.max(1))
            || is_due(self.picture_every, first)
            || listed.any(|iteration| iterations.contains(iteration))
    }

    /// True if preview pictures are requested. The run's last picture is then one of them, whenever the run ends.
    pub(super) fn has_pictures(&self) -> bool {
        self.picture_every > 0 || !self.picture_at.is_empty()
    }

    /// True if the run's state is due after `iteration`.
    pub fn states(&self, iteration: u32) -> bool {
        self.state_every > 0 && iteration > 0 && iteration.is_multiple_of(self.state_every)
    }
}

/// Everything that determines the resulting picture.
#[derive(Debug, Clone)]
pub struct Request {
    /// The photo, at the size of the finished picture.
    pub photo: Arc<Picture>,
    /// The objective.
    pub groups: Vec<Group>,
    /// Interval at which weights are measured, in iterations of a scale. 0: only at the start of each scale, after ten
    /// iterations of the first, and within the first ten iterations of each while a loss has no gradient to measure.
    pub rebalance_every: u32,
    /// True if shares can change during the run ([`Controls`](super::Controls)). Every group with losses is then
    /// computed, whatever its share.
    pub adjustable: bool,
    /// Pooling of the network.
    pub pooling: Pooling,
    /// Padding of the network's first convolution.
    pub border: Padding,
    /// Picture to start from.
    pub init: Init,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Sizes, and the number of iterations at each.
    pub scales: Scales,
    /// Ends the run once an iteration changes colour values by less than this on average, where black to white is 1.
    /// Measured over ten iterations, at the last scale only. 0: never.
    pub stop_when_change_below: f32,
    /// Optimiser.
    pub optimizer: Arc<dyn Optimizer>,
    /// Decay of the exponential moving average over the pictures of a scale. The average is the picture that is shown
    /// and saved. 0 disables it.
    pub average_decay: f32,
    /// Grain added at the start of each scale after the first, as a multiple of the photo's own fine detail. It lets
    /// texture grow in all directions instead of along a grid. 0 for none.
    pub grain: f32,
    /// Reports and snapshots.
    pub schedule: Schedule,
    /// Number of classes listed in each report; 0 for none.
    pub top_classes: usize,
    /// How activations are kept for the backward pass.
    pub activations: Activations,
    /// Tiling of the network's first layers. It changes the picture only by rounding.
    pub tiling: Tiling,
}

/// How activations are kept for the backward pass. Each option lowers the device memory and makes the run longer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activations {
    /// True to recompute activations instead of keeping them, where that saves memory. The result is bit-identical.
    pub recompute: bool,
    /// True to keep them in half precision, where that saves memory. The backward pass then reads values rounded by up
    /// to 2^-11 of themselves.
    pub half: bool,
}

impl Request {
    /// Creates the default request for a photo: all three factors are active.
    pub fn new(photo: Picture) -> Self {
        Self {
            photo: Arc::new(photo),
            groups: Preset::default().groups(),
            rebalance_every: 0,
            adjustable: false,
            pooling: Pooling { kind: PoolKind::Average, gain: 2.0 },
            border: Padding::Replicate,
            init: Init::Blur,
            seed: 0,
            scales: Scales { count: ScaleCount::Auto, min_size: 128, iterations: vec![60, 40, 26, 13, 9] },
            stop_when_change_below: 0.0,
            optimizer: Arc::new(Adam::default()),
            average_decay: 0.9,
            grain: 1.0,
            schedule: Schedule { report_every: 25, ..Default::default() },
            top_classes: 5,
            activations: Activations::default(),
            tiling: Tiling::Whole,
        }
    }

    /// Returns the height and width of the picture.
    pub fn size(&self) -> [usize; 2] {
        [self.photo.height, self.photo.width]
    }

    /// Returns the sizes of the scales in order. Their `pixels` count those of the picture only, without tile overlap.
    ///
    /// # Errors
    /// Same as [`Scales::plan`], or if the network lacks a layer.
    pub(super) fn sizes(&self, network: &Network) -> Result<Vec<Scale>> {
        let mut shortest = 1;
        for loss in self.present().iter().flat_map(Group::counting) {
            if let Source::Layer(name) = &loss.source {
                shortest = shortest.max(smallest_side(network, network.index_of(name)?));
            }
        }
        self.scales.plan(self.size(), shortest)
    }

    /// Checks all numbers and pictures before any work is done.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the picture, or the option and its range.
    pub fn check(&self) -> Result<()> {
        self.photo.check_values("the photo")?;
        self.images().try_for_each(|image| image.check_values("an image"))?;
        if let Init::Picture(picture) = &self.init {
            picture.check_values("the picture to start from")?;
        }
        loss::check_groups(&self.groups)?;
        not_negative("--stop-when-change-below", self.stop_when_change_below)?;
        if !(0.0..=HIGHEST_DECAY).contains(&self.average_decay) {
            let decay = self.average_decay;
            return Err(Error::usage(format!(
                "--average-decay is {decay}: it must be from 0 to {HIGHEST_DECAY}; 0.9 is usual"
            )));
        }
        not_negative("--grain", self.grain)?;
        if self.grain > MOST_GRAIN {
            let grain = self.grain;
            return Err(Error::usage(format!(
                "--grain is {grain}: it must be from 0 to {MOST_GRAIN}; 1 is usual"
            )));
        }
        self.optimizer.check()?;
        let gain = self.pooling.gain;
        if !(gain > 0.0 && gain.is_finite()) {
            return Err(Error::usage(format!("the pooling gain is {gain}: it must be above 0")));
        }
        self.scales.plan(self.size(), 1)?;
        let steers =
            |group: &Group| group.is_active() && group.counting().any(|loss| loss.statistic.has_target());
        if self.groups.iter().any(steers) {
            return Ok(());
        }
        let compares = |group: &&Group| {
            group.losses.is_empty() || group.losses.iter().any(|loss| loss.statistic.has_target())
        };
        let names: Vec<&str> = self.groups.iter().filter(compares).map(|group| group.name.as_str()).collect();
        Err(Error::usage(format!(
            "nothing would steer the picture: no factor has both layers and a share or weight above 0. Give both to one of {}",
            names.join(", ")
        )))
    }

    /// Returns the groups of the objective: the active ones, and those that may get a share during the run.
    pub fn present(&self) -> Vec<Group> {
        let present = |group: &&Group| {
            let may_count = self.adjustable && matches!(group.strength, Strength::Share(_));
            group.is_active() || (may_count && group.counting().next().is_some())
        };
        self.groups.iter().filter(present).cloned().collect()
    }

    /// True if `other` has the same objectives at the same sizes: equal pictures, losses and constants, but possibly
    /// different weights, shares, seeds, steps or reports. A [`Session`](super::Session) can then restart without
    /// preparing anything.
    pub fn shares_objective(&self, other: &Self) -> bool {
        let losses = |request: &Self| -> Vec<_> {
            let present = request.present().into_iter();
            present
                .map(|group| (group.name, matches!(group.strength, Strength::Share(_)), group.losses))
                .collect()
        };
        losses(self) == losses(other)
            && self.photo == other.photo
            && self.pooling == other.pooling
            && self.border == other.border
            && (self.scales.count, self.scales.min_size) == (other.scales.count, other.scales.min_size)
            && self.optimizer.key() == other.optimizer.key()
            && (self.average_decay == other.average_decay)
            && (self.top_classes > 0) == (other.top_classes > 0)
            && self.adjustable == other.adjustable
            && (self.activations, self.tiling) == (other.activations, other.tiling)
    }

    /// Returns the images, besides the photo, that losses compare with.
    pub fn images(&self) -> impl Iterator<Item = &Picture> {
        let mut sets: Vec<&Arc<_>> = Vec::new();
        for loss in self.groups.iter().flat_map(Group::counting) {
            if let Target::Images(images) = &loss.target
                && !sets.iter().any(|set| Arc::ptr_eq(set, images))
            {
                sets.push(images);
            }
        }
        sets.into_iter().flat_map(|set| set.iter()).map(|(image, _)| image)
    }

    /// Returns the parameters of the forward pass.
    pub(super) fn view(&self) -> View {
        View { pooling: self.pooling, border: self.border }
    }

    /// True if any weight has to be measured.
    pub(super) fn has_shares(&self) -> bool {
        self.groups.iter().any(|group| matches!(group.strength, Strength::Share(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_checked() {
        let good = Picture { width: 2, height: 1, rgb: vec![0.5; 6] };
        let request = Request::new(good.clone());
        assert!(request.check().is_ok());
        let short = Picture { rgb: vec![0.5; 5], ..good.clone() };
        let not_a_number = Picture { rgb: vec![0.5, 0.5, 0.5, 0.5, f32::NAN, 0.5], ..good };
        for bad in [short, not_a_number] {
            assert!(Request::new(bad.clone()).check().is_err());
            assert!(
                Request { init: Init::Picture(Arc::new(bad.clone())), ..request.clone() }.check().is_err()
            );
            let mut groups = request.groups.clone();
            groups[0].losses[0].target = Target::Images([(bad, 1.0)].into());
            assert!(Request { groups, ..request.clone() }.check().is_err());
        }
    }

    #[test]
    fn due_pictures_are_found_without_iterating() {
        let all = 0..=u32::MAX;
        let none = Schedule::default();
        assert!(!none.reads_within(all.clone()));
        let schedules = [
            Schedule { snapshot_every: 7, ..none.clone() },
            Schedule { picture_every: 7, ..none.clone() },
            Schedule { snapshot_at: vec![9, 30], ..none.clone() },
            Schedule { picture_at: vec![0], ..none },
        ];
        for schedule in &schedules {
            assert!(schedule.reads_within(all.clone()));
            for (first, end) in (0..20).flat_map(|first| (first..40).map(move |end| (first, end))) {
                let expected = (first..=end).any(|at| schedule.snapshots(at) || schedule.pictures(at));
                assert_eq!(schedule.reads_within(first..=end), expected, "{first} {end} {schedule:?}");
            }
        }
    }
}
