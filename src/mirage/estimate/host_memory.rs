//! Host memory of a run, other than that of its device programs.

use super::memory_classes::MemoryClasses;
use crate::graph::MemoryUse;
use crate::mirage::objective::prepare::AHEAD;
use crate::mirage::objective::step::{STATE_PICTURE, StatePart};
use crate::mirage::objective::tiling::in_transit::InTransit;
use crate::mirage::request::{Init, Request, Schedule};
use crate::mirage::run::reporting::CHANGE_SAMPLES;
use crate::mirage::scales::Scale;
use crate::ops::Shape;

/// Values per pixel while grain is drawn: two gray pictures, the grain, and products of gradients.
const GRAIN_VALUES: u64 = 10;
/// Bytes of a pixel of three floats.
pub(in crate::mirage) const RGB: u64 = 12;

/// Memory during the change to the next scale.
pub(in crate::mirage) struct ToNextScale {
    /// While the state is read.
    pub reading: MemoryClasses,
    /// While grain is drawn, after the objective is freed.
    pub drawing: MemoryClasses,
    /// While the next objective is prepared, without the pictures of the request.
    pub waiting: MemoryClasses,
}

/// Inputs of the estimate for one scale.
pub(in crate::mirage) struct Host<'a> {
    pub request: &'a Request,
    /// True on the CPU device.
    pub cpu: bool,
    pub scale: Scale,
    /// Pixels of the previous scale, if any.
    pub pixels_before: Option<u64>,
    pub state: Vec<StatePart>,
    /// Bytes of the gradient in host memory.
    pub gradient: u64,
    /// Memory of tiles and bands in transit.
    pub in_transit: InTransit,
    /// Bytes of the targets in host memory.
    pub targets: u64,
}

fn is_picture(part: &StatePart) -> bool {
    part.name == STATE_PICTURE
}

/// Returns the bytes of a tensor's values without padding.
fn floats(shape: &Shape) -> u64 {
    shape.elements() as u64 * 4
}

impl Host<'_> {
    /// Returns the device memory during the scale's iterations.
    pub fn device(&self, live: MemoryUse, targets: u64) -> MemoryClasses {
        let [pictures, optimizer] = self.parts(true).map(|shapes| shapes.iter().map(Shape::bytes).sum());
        // Retained gradients are bound as well.
        let others = live.bound.saturating_sub(pictures + optimizer + targets);
        let pictures_read = if self.cpu || self.is_tiled() { 0 } else { self.reads() * self.pixels() * RGB };
        let read = pictures_read + if self.cpu { 0 } else { self.state_bytes() };
        MemoryClasses {
            weights: live.constants,
            activations: live.planned + live.scratch + others,
            optimizer,
            targets,
            pictures,
            staging: live.staging + read + self.in_transit.device(),
            program: 0,
        }
    }

    /// Returns the peak of device memory before the iterations.
    pub fn device_before(&self, peak: MemoryUse, targets: u64) -> MemoryClasses {
        let targets = targets.min(peak.bound);
        MemoryClasses {
            weights: peak.constants,
            activations: peak.planned + peak.scratch,
            targets,
            pictures: peak.bound - targets,
            staging: peak.staging,
            ..MemoryClasses::default()
        }
    }

    /// Returns the pixels of the picture at this scale.
    pub fn pixels(&self) -> u64 {
        (self.scale.size[0] * self.scale.size[1]) as u64
    }

    /// Returns the bytes of the photo and the request's other pictures, which are shared with the caller.
    fn given(&self) -> u64 {
        let own = |pixels: usize| pixels as u64 * RGB;
        let photo = own(self.request.photo.width * self.request.photo.height);
        let start = match &self.request.init {
            Init::Picture(start) => own(start.width * start.height),
            _ => 0,
        };
        let images: u64 = self.request.images().map(|image| own(image.width * image.height)).sum();
        photo + start + images
    }

    /// Returns the number of picture read-backs in flight at once.
    fn reads(&self) -> u64 {
        let Schedule { report_every, snapshot_every, picture_every, picture_at, .. } = &self.request.schedule;
        if self.is_tiled() {
            // Each iteration is reported before the next one starts, and its picture is created only for observers.
            return u64::from(self.request.schedule.reads_within(self.scale.first..=self.scale.end));
        }
        let always = [report_every, snapshot_every, picture_every].into_iter().any(|every| *every == 1);
        // A film starts with consecutive iterations.
        let in_a_row = picture_at.windows(2).any(|pair| pair[0] + 1 == pair[1]);
        if always || in_a_row { AHEAD as u64 + 1 } else { 1 }
    }

    /// Returns the bytes that observers hold.
    fn held(&self) -> u64 {
        let photo = &self.request.photo;
        (photo.width * photo.height) as u64 * self.request.schedule.held_per_pixel
    }

    /// Returns whether a state is saved during the run, and when it is stopped.
    fn saves_states(&self) -> [bool; 2] {
        let schedule = &self.request.schedule;
        [schedule.state_every > 0, schedule.state_when_stopped]
    }

    /// Returns the device bytes of a state in transit to a checkpoint, in the device's layout. During the run the state
    /// is copied all at once before a step; at the end, tensor by tensor. (The CPU device does not copy in the latter
    /// case.)
    fn state_bytes(&self) -> u64 {
        let parts = self.parts(true);
        let bytes = parts.iter().flatten().map(Shape::bytes);
        match self.saves_states() {
            [true, _] if !self.is_tiled() => bytes.sum::<u64>() * self.states_on_their_way(),
            [false, false] => 0,
            _ if self.cpu => 0,
            _ => bytes.max().unwrap_or(0),
        }
    }

    /// Returns the number of states copied before the first of them is written, since iterations are submitted ahead.
    fn states_on_their_way(&self) -> u64 {
        let every = u64::from(self.request.schedule.state_every.max(1));
        let saved_until_then = u64::from(self.scale.end) / every;
        (AHEAD as u64 + 1).div_ceil(every).min(saved_until_then).max(1)
    }

    /// True if the picture is computed in tiles.
    fn is_tiled(&self) -> bool {
        self.state.iter().any(|part| is_picture(part) && part.memory.is_none())
    }

    /// Returns the memory of the picture, the state and the gradient, as far as they are in host memory.
    fn painted(&self) -> MemoryClasses {
        let [pictures, optimizer] = self.parts(false).map(|shapes| shapes.iter().map(floats).sum());
        MemoryClasses {
            pictures,
            optimizer,
            activations: self.gradient,
            targets: self.targets,
            ..MemoryClasses::default()
        }
    }

    /// Returns the bytes of a state's values in a checkpoint, which is written from host memory. When the run is
    /// stopped, the part of the state in host memory is not copied.
    fn state_values(&self) -> u64 {
        let look = match self.request.stop_when_change_below > 0.0 {
            true => self.looked_at(self.pixels()),
            false => 0,
        };
        let values: u64 = match self.saves_states() {
            [true, _] => self.state.iter().map(|part| floats(&part.shape)).sum(),
            [false, true] => self.parts(true).iter().flatten().map(floats).sum(),
            [false, false] => return 0,
        };
        values + look
    }

    /// Returns the shapes of the picture and of the rest of the state, either those on the device or those in host
    /// memory.
    fn parts(&self, on_device: bool) -> [Vec<Shape>; 2] {
        let parts = self.state.iter().filter(|part| part.memory.is_some() == on_device);
        let (picture, rest): (Vec<_>, Vec<_>) = parts.partition(|part| is_picture(part));
        [picture, rest].map(|parts| parts.into_iter().map(|part| part.shape).collect())
    }

    /// Returns the memory of a scale's photo, and of its transfer to a GPU.
    pub fn preparing(&self) -> MemoryClasses {
        let pixels = self.pixels();
        let photo = if self.scale.size == self.request.size() { 0 } else { pixels * RGB };
        MemoryClasses {
            pictures: self.given() + photo,
            staging: if self.cpu || self.is_tiled() { 0 } else { pixels * (RGB + 16) },
            targets: self.targets,
            ..MemoryClasses::default()
        }
    }

    /// Returns the bytes of the latest good picture, the best one, and the values that the change is measured from, at
    /// this number of pixels. With tiles, pictures are kept in 16 bits per value.
    fn kept(&self, pixels: u64) -> u64 {
        let compact = self.is_tiled() && self.request.optimizer.clamps();
        let pictures = if compact { RGB } else { 2 * RGB };
        pictures * pixels + self.looked_at(pixels)
    }

    /// Returns the bytes of the values that the change is measured from.
    fn looked_at(&self, pixels: u64) -> u64 {
        4 * (CHANGE_SAMPLES as u64).min(3 * pixels)
    }

    /// Returns the host memory while a report's picture is read back. The CPU device hands over the buffer of the first
    /// read-back, which is counted as device memory, so only the second and third add to this.
    pub fn iterations(&self) -> MemoryClasses {
        let checkpoint = self.state_bytes() + self.state_values();
        let reads = match self.cpu && !self.is_tiled() {
            true => self.reads() - 1,
            false => self.reads(),
        };
        let own = MemoryClasses {
            pictures: self.given() + self.kept(self.pixels()) + self.held(),
            // A report's picture is created after the last band, so the two are never held together.
            staging: (reads * self.pixels() * RGB).max(self.in_transit.host) + checkpoint,
            ..MemoryClasses::default()
        };
        let iterations = own + self.painted();
        let unpacking = self.unpacking();
        if unpacking.total() > iterations.total() { unpacking } else { iterations }
    }

    /// Returns the memory while the last map of the previous scale's state is resized in host memory, after all others
    /// have been. The kept pictures still have the previous size.
    fn unpacking(&self) -> MemoryClasses {
        let Some(smaller) = self.pixels_before.filter(|_| self.is_tiled()) else {
            return MemoryClasses::default();
        };
        MemoryClasses {
            pictures: self.given() + self.kept(smaller) + self.held(),
            staging: smaller * RGB,
            ..MemoryClasses::default()
        } + MemoryClasses { activations: 0, ..self.painted() }
    }

    /// Returns the memory of the change to the next scale.
    pub fn to_next_scale(&self, next: [usize; 2]) -> ToNextScale {
        let larger = (next[0] * next[1]) as u64;
        let maps = self.state.iter().filter(|part| !is_picture(part) && part.shape.layout().is_some());
        // The carried state has at least the picture's size: the average or the picture, and the maps of the optimiser.
        let carried: u64 = maps.map(|part| floats(&part.shape)).sum::<u64>().max(self.pixels() * RGB);
        let has_grain = self.request.grain > 0.0;
        let grain = |values: u64| if has_grain { values * 4 * larger } else { 0 };
        let kept = self.kept(self.pixels()) + self.held();
        let holding = |pictures, staging| MemoryClasses { pictures, staging, ..MemoryClasses::default() };
        let of_reading = if self.cpu || self.is_tiled() { 0 } else { self.pixels() * 16 };
        ToNextScale {
            reading: holding(self.given() + kept, carried + of_reading),
            drawing: holding(self.given() + kept, carried + grain(GRAIN_VALUES)),
            waiting: holding(kept, carried + grain(1)),
        }
    }

    /// Returns the memory of the picture, its samples and the file.
    pub fn saving(&self) -> MemoryClasses {
        let pixels = self.pixels();
        MemoryClasses {
            pictures: self.given() + self.held() + pixels * RGB,
            staging: pixels * 6,
            ..MemoryClasses::default()
        }
    }
}
