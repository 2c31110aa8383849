//! The memory that a run takes, known before it. The run is prepared scale by scale on an engine that only counts, so
//! what it takes on the device follows from the code that prepares it. What the host holds besides is added up here.

use super::loss::Target;
use super::objective::{AHEAD, STATE_PICTURE, StatePart};
use super::reporting::LOOKED_AT;
use super::request::{Init, Request, Schedule};
use super::scales::Scale;
use super::session::Session;
use crate::error::Result;
use crate::graph::{Counted, Engine, MemoryUse};
use crate::image_io::{Picture, fit};
use crate::ops::Shape;
use crate::vgg::Network;
use serde::Serialize;
use std::fmt;
use std::ops::Add;
use std::sync::Arc;

/// Resident memory of the program itself: code, libraries and small allocations. Measured with the release build on
/// x86-64 Linux (docs/memory.md).
const PROGRAM: u64 = 20 << 20;
/// The same of each thread of the CPU device: its part of the kernels' scratch memory, and what the allocator keeps for it
/// (4.7 to 5.4 MiB at 64 to 512 px with 1 to 8 threads).
const THREAD: u64 = 5 << 20;
/// What a graphics driver takes besides: the loader, the driver's libraries and its compiler.
const DRIVER: u64 = 100 << 20;
/// What a driver in software takes for each compute pipeline.
const PIPELINE: u64 = 1 << 20;

/// Values a pixel while grain is drawn: two gray pictures, what is drawn, and the products of gradients.
const GRAIN_VALUES: u64 = 10;
/// A pixel of three floats.
const RGB: u64 = 12;

/// Images of a target, with their weights.
type Images = Arc<[(Picture, f32)]>;

impl Request {
    /// The same with pictures of one colour in place of the photo and all other images, each scaled to this longest side: to
    /// plan the memory of another size with.
    pub fn at_size(&self, longest: usize) -> Self {
        let mut images = 0_u8;
        // Each of another colour: equal images would share their targets.
        let mut plain = |picture: &Picture| {
            let (width, height) = fit(picture.width, picture.height, longest);
            images = images.wrapping_add(1);
            Picture { width, height, rgb: vec![f32::from(images) / 256.0; width * height * 3] }
        };
        let mut request = self.clone();
        request.photo = Arc::new(plain(&self.photo));
        if let Init::Picture(picture) = &self.init {
            request.init = Init::Picture(plain(picture));
        }
        // Losses with the same images share them.
        let mut known: Vec<[Images; 2]> = Vec::new();
        for loss in request.groups.iter_mut().flat_map(|group| &mut group.losses) {
            let Target::Images(images) = &loss.target else { continue };
            let same = known.iter().find(|[old, _]| Arc::ptr_eq(old, images)).map(|[_, new]| new.clone());
            let new = same.unwrap_or_else(|| {
                let new: Images = images.iter().map(|(image, weight)| (plain(image), *weight)).collect();
                known.push([images.clone(), new.clone()]);
                new
            });
            loss.target = Target::Images(new);
        }
        request
    }
}

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryClasses {
    /// Weights as kernels read them, packed and transformed; and the network's file where it is part of the program.
    pub weights: u64,
    /// Activations, gradients and scratch memory of kernels.
    pub activations: u64,
    /// What the optimiser keeps, and the average of the pictures.
    pub optimizer: u64,
    /// What the losses compare with, at this and the earlier scales.
    pub targets: u64,
    /// The photo, the picture that is painted and what is kept of it.
    pub pictures: u64,
    /// On the way to the device and back: textures through which kernels read, staging buffers, copies.
    pub staging: u64,
    /// The program itself, and the graphics driver.
    pub program: u64,
}

impl MemoryClasses {
    /// Names and bytes, in the order in which they are stated.
    pub fn list(&self) -> [(&'static str, u64); 7] {
        [
            ("weights", self.weights),
            ("activations and gradients", self.activations),
            ("optimiser", self.optimizer),
            ("targets", self.targets),
            ("pictures", self.pictures),
            ("staging", self.staging),
            ("program", self.program),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.list().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Add for MemoryClasses {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            activations: self.activations + other.activations,
            optimizer: self.optimizer + other.optimizer,
            targets: self.targets + other.targets,
            pictures: self.pictures + other.pictures,
            staging: self.staging + other.staging,
            program: self.program + other.program,
        }
    }
}

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// A scale's targets are captured, and its objective is prepared.
    Preparing,
    /// Iterations and their reports.
    Iterations,
    /// The state is taken to the next scale.
    Transition,
    /// The finished picture is saved.
    Saving,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preparing => "preparing",
            Self::Iterations => "iterations",
            Self::Transition => "to the next scale",
            Self::Saving => "saving",
        })
    }
}

/// What a part of a run takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPhase {
    /// Which part.
    pub phase: Phase,
    /// At which scale, counted from 0.
    pub scale: usize,
    /// On the device.
    pub device: MemoryClasses,
    /// In the host's memory besides.
    pub host: MemoryClasses,
}

impl MemoryPhase {
    /// Both together.
    pub fn classes(&self) -> MemoryClasses {
        self.device + self.host
    }
}

/// The memory of a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// All parts of the run, in order.
    pub phases: Vec<MemoryPhase>,
    /// The sizes that it goes through.
    pub scales: Vec<Scale>,
    /// True if the device's memory is the host's: the CPU device, and drivers in software.
    pub is_shared: bool,
}

impl MemoryPlan {
    /// Plans a run on this engine's device, of which nothing is used but its properties. The caller is taken to keep the
    /// request, as the program does.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn new(engine: &Engine, network: &Arc<Network>, request: &Request) -> Result<Self> {
        let counting = engine.counting();
        let counted = || counting.counted().unwrap_or_default();
        let profile = engine.profile();
        let threads = engine.threads().unwrap_or(0) as u64;
        let mut host = Host { request, native: profile.native, scale: [1, 1], state: Vec::new() };
        let mut session = Session::new(&counting, network, request.clone())?;
        let scales = session.scales.clone();
        let driver = if profile.native { THREAD * threads } else { DRIVER };
        let mut base = MemoryClasses {
            weights: network.resident_bytes() as u64,
            program: PROGRAM + driver,
            ..MemoryClasses::default()
        };
        let mut phases: Vec<MemoryPhase> = Vec::new();
        // What the host holds while a scale is prepared, but for pictures that come with the request.
        let mut waiting = MemoryClasses::default();
        for (index, scale) in scales.iter().enumerate() {
            if let Some(MemoryPhase { device, .. }) = phases.last().copied() {
                // The state is read; then, without the objective, grain is drawn.
                session.leave();
                let left = host.device_before(counted().live, session.target_bytes());
                let way = host.to_next_scale(scale.size);
                let (reading, drawing) = (device + way.reading, left + way.drawing);
                let (device, host) = if reading.total() > drawing.total() {
                    (device, way.reading)
                } else {
                    (left, way.drawing)
                };
                phases.push(MemoryPhase {
                    phase: Phase::Transition,
                    scale: index - 1,
                    device,
                    host: base + host,
                });
                waiting = way.waiting;
            }
            session.enter(index)?;
            let Counted { live, peak, pipelines } = counted();
            let objective = session.objective()?;
            host.scale = scale.size;
            host.state = objective.state.iter().map(shape_and_name).collect();
            if !profile.native && profile.software {
                base.program = PROGRAM + DRIVER + PIPELINE * pipelines as u64;
            }
            let targets = session.target_bytes();
            let device = host.device(live, targets);
            let mut push = |phase, device, host: MemoryClasses| {
                phases.push(MemoryPhase { phase, scale: index, device, host: base + host });
            };
            // Where the host's memory is the device's, pages of the objective are taken by its first iteration, so what is
            // there before counts without them.
            let capturing = objective.capturing.filter(|_| profile.software);
            let peak = capturing.unwrap_or(peak);
            if capturing.is_some() || peak.total() > live.total() {
                push(Phase::Preparing, host.device_before(peak, targets), host.preparing() + waiting);
            }
            push(Phase::Iterations, device, host.iterations());
            if index + 1 == scales.len() {
                push(Phase::Saving, device, host.saving());
            }
        }
        Ok(Self { phases, scales, is_shared: profile.software })
    }

    /// The part that takes most: of the host's memory and the device's together where they are the same, else of the
    /// device's.
    pub fn peak(&self) -> MemoryPhase {
        self.most(|phase| if self.is_shared { phase.classes().total() } else { phase.device.total() })
    }

    /// The part that takes most of the host's memory.
    pub fn host_peak(&self) -> MemoryPhase {
        self.most(|phase| if self.is_shared { phase.classes().total() } else { phase.host.total() })
    }

    fn most(&self, bytes: impl Fn(&MemoryPhase) -> u64) -> MemoryPhase {
        let none = MemoryPhase {
            phase: Phase::Preparing,
            scale: 0,
            device: MemoryClasses::default(),
            host: MemoryClasses::default(),
        };
        self.phases.iter().copied().max_by_key(bytes).unwrap_or(none)
    }

    /// What must fit into the device's memory: the peak, of both where they are the same.
    pub fn needed(&self) -> u64 {
        let peak = self.peak();
        if self.is_shared { peak.classes().total() } else { peak.device.total() }
    }
}

fn shape_and_name(part: &StatePart) -> (bool, Shape) {
    (part.name == STATE_PICTURE, part.shape)
}

/// What a run holds on its way to the next scale.
struct ToNextScale {
    /// While the state is read.
    reading: MemoryClasses,
    /// While grain is drawn; the objective is gone.
    drawing: MemoryClasses,
    /// While the next objective is prepared, without the pictures of the request.
    waiting: MemoryClasses,
}

/// What a run holds besides its program, at one scale.
struct Host<'a> {
    request: &'a Request,
    /// True on the CPU device.
    native: bool,
    /// Height and width.
    scale: [usize; 2],
    /// The tensors of the state, each with whether it is the picture.
    state: Vec<(bool, Shape)>,
}

impl Host<'_> {
    /// The device's memory while the scale's iterations run.
    fn device(&self, live: MemoryUse, targets: u64) -> MemoryClasses {
        let of = |is_picture: bool| {
            let parts = self.state.iter().filter(|(picture, _)| *picture == is_picture);
            parts.map(|(_, shape)| shape.bytes()).sum::<u64>()
        };
        let (pictures, optimizer) = (of(true), of(false));
        // Gradients that are kept are bound, too.
        let others = live.bound.saturating_sub(pictures + optimizer + targets);
        let read = if self.native { 0 } else { self.reads() * self.pixels() * RGB + self.state_bytes() };
        MemoryClasses {
            weights: live.constants,
            activations: live.planned + live.scratch + others,
            optimizer,
            targets,
            pictures,
            staging: live.staging + read,
            program: 0,
        }
    }

    /// The most that the device holds until then.
    fn device_before(&self, peak: MemoryUse, targets: u64) -> MemoryClasses {
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

    fn pixels(&self) -> u64 {
        (self.scale[0] * self.scale[1]) as u64
    }

    /// The photo and the other pictures of the request, of which a start picture is both the caller's and the session's.
    fn given(&self) -> u64 {
        let own = |pixels: usize| pixels as u64 * RGB;
        let photo = own(self.request.photo.width * self.request.photo.height);
        let start = match &self.request.init {
            Init::Picture(start) => own(start.width * start.height),
            _ => 0,
        };
        // The photo and the images of targets are shared.
        let images: u64 = self.request.images().map(|image| own(image.width * image.height)).sum();
        photo + 2 * start + images
    }

    /// Read-backs of pictures that are on their way at once.
    fn reads(&self) -> u64 {
        let Schedule { report_every, snapshot_every, picture_every, picture_at, .. } = &self.request.schedule;
        let always = [report_every, snapshot_every, picture_every].into_iter().any(|every| *every == 1);
        // As those of a film are at first.
        let in_a_row = picture_at.windows(2).any(|pair| pair[0] + 1 == pair[1]);
        if always || in_a_row { AHEAD as u64 + 1 } else { 1 }
    }

    /// What observers hold.
    fn held(&self) -> u64 {
        let photo = &self.request.photo;
        (photo.width * photo.height) as u64 * self.request.schedule.held_per_pixel
    }

    /// Bytes of a state that is read back for a checkpoint, as the device stores it.
    fn state_bytes(&self) -> u64 {
        if self.request.schedule.state_every == 0 {
            return 0;
        }
        self.state.iter().map(|(_, shape)| shape.bytes()).sum()
    }

    /// The same as checkpoints have it.
    fn state_values(&self) -> u64 {
        self.state.iter().map(|(_, shape)| shape.elements() as u64 * 4).sum()
    }

    /// A scale's photo, and what it takes on its way to a graphics device.
    fn preparing(&self) -> MemoryClasses {
        let pixels = self.pixels();
        let photo = if self.scale == self.request.size() { 0 } else { pixels * RGB };
        MemoryClasses {
            pictures: self.given() + photo,
            staging: if self.native { 0 } else { pixels * (RGB + 16) },
            ..MemoryClasses::default()
        }
    }

    /// The newest good picture, the best, and the values that the change is measured from.
    fn kept(&self) -> u64 {
        2 * self.pixels() * RGB + 4 * (LOOKED_AT as u64).min(3 * self.pixels())
    }

    /// While a report's picture is read back. The CPU device hands over the memory that it was copied to, which counts as
    /// the device's; so there it is only the second and the third that take more.
    fn iterations(&self) -> MemoryClasses {
        let checkpoint = if self.request.schedule.state_every > 0 {
            // As read, by name, and as the file's bytes.
            self.state_bytes() + 2 * self.state_values()
        } else {
            0
        };
        let reads = if self.native { self.reads() - 1 } else { self.reads() };
        MemoryClasses {
            pictures: self.given() + self.kept() + self.held(),
            staging: reads * self.pixels() * RGB + checkpoint,
            ..MemoryClasses::default()
        }
    }

    /// While the state goes to the next scale.
    fn to_next_scale(&self, next: [usize; 2]) -> ToNextScale {
        let larger = (next[0] * next[1]) as u64;
        let maps = self.state.iter().filter(|(is_picture, shape)| !is_picture && shape.layout().is_some());
        // The average, or without one the picture; and of the optimiser what it keeps, at most.
        let carried: u64 =
            maps.map(|(_, shape)| shape.elements() as u64 * 4).sum::<u64>().max(self.pixels() * RGB);
        let has_grain = self.request.grain > 0.0;
        let grain = |values: u64| if has_grain { values * 4 * larger } else { 0 };
        let kept = self.kept() + self.held();
        let holding = |pictures, staging| MemoryClasses { pictures, staging, ..MemoryClasses::default() };
        let of_reading = if self.native { 0 } else { self.pixels() * 16 };
        ToNextScale {
            reading: holding(self.given() + kept, carried + of_reading),
            drawing: holding(self.given() + kept, carried + grain(GRAIN_VALUES)),
            waiting: holding(kept, carried + grain(1)),
        }
    }

    /// The picture, its samples, and the file.
    fn saving(&self) -> MemoryClasses {
        let pixels = self.pixels();
        MemoryClasses {
            pictures: self.given() + self.held() + pixels * RGB,
            staging: pixels * 6,
            ..MemoryClasses::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Profile;
    use crate::image_io::Picture;
    use crate::mirage::Scales;
    use crate::vgg::locate;

    fn network() -> Arc<Network> {
        let path = std::path::Path::new("weights/vgg16-narrow.safetensors");
        let location = locate::Location::File(path.to_owned());
        Arc::new(Network::open_at(&location, None).unwrap())
    }

    fn request(width: usize, height: usize, scales: u32) -> Request {
        let photo = Picture { width, height, rgb: vec![0.5; width * height * 3] };
        let mut request = Request::new(photo);
        request.scales = Scales { count: crate::mirage::ScaleCount::Exactly(scales), ..request.scales };
        request
    }

    fn plan(profile: &Profile, request: &Request) -> MemoryPlan {
        let engine = Engine::counting_for(profile.clone(), "invented");
        MemoryPlan::new(&engine, &network(), request).unwrap()
    }

    /// An invented device of each kind.
    fn profiles() -> [Profile; 3] {
        let software =
            Profile { software: true, max_binding: 1 << 30, max_buffer: 1 << 31, ..Profile::minimal() };
        [Profile::native(), software, Profile::minimal()]
    }

    #[test]
    fn memory_grows_with_the_pixels() {
        for profile in profiles() {
            let [small, large] = [96, 192].map(|side| plan(&profile, &request(side, side, 1)));
            let iterations = |plan: &MemoryPlan| {
                *plan.phases.iter().find(|phase| phase.phase == Phase::Iterations).unwrap()
            };
            let of_pixels = |plan: &MemoryPlan| {
                let classes = iterations(plan).classes();
                classes.activations + classes.optimizer + classes.pictures
            };
            // Four times the pixels; borders and chunks of fixed size make it a little less.
            let factor = of_pixels(&large) as f64 / of_pixels(&small) as f64;
            assert!((1.5..=4.2).contains(&factor), "{factor} on {profile:?}");
            // Kernels of graphics devices are chosen by the number of tiles, too.
            if profile.native {
                assert_eq!(iterations(&small).device.weights, iterations(&large).device.weights);
            }
        }
    }

    #[test]
    fn each_scale_has_its_phases_and_keeps_the_targets_of_those_before() {
        for profile in profiles() {
            let plan = plan(&profile, &request(160, 120, 3));
            use Phase::{Iterations, Preparing, Saving, Transition};
            let phases: Vec<&MemoryPhase> =
                plan.phases.iter().filter(|phase| phase.phase != Preparing).collect();
            assert_eq!(
                phases.iter().map(|phase| (phase.phase, phase.scale)).collect::<Vec<_>>(),
                [
                    (Iterations, 0),
                    (Transition, 0),
                    (Iterations, 1),
                    (Transition, 1),
                    (Iterations, 2),
                    (Saving, 2)
                ]
            );
            let targets = |index: usize| phases[index].device.targets;
            assert!(targets(0) > 0 && targets(2) > targets(0) && targets(4) > targets(2));
            assert_eq!(plan.peak().scale, 2);
        }
    }

    #[test]
    fn what_a_request_asks_for_counts() {
        let cpu = Profile::native();
        let plain = plan(&cpu, &request(96, 96, 1));
        let optimizer = |request: &Request| plan(&cpu, request).peak().device.optimizer;
        let adam = request(96, 96, 1);
        let mut lbfgs = adam.clone();
        lbfgs.optimizer = Arc::new(crate::mirage::optimizer::Lbfgs::default());
        // Two moments and the average, against a history of 20 pairs.
        assert!(optimizer(&lbfgs) > 10 * optimizer(&adam), "{}", optimizer(&lbfgs));
        let mut reported = adam.clone();
        reported.schedule.report_every = 1;
        let staging = |plan: &MemoryPlan| plan.peak().classes().staging;
        assert_eq!(staging(&plan(&cpu, &reported)) - staging(&plain), 2 * 96 * 96 * RGB);
        let mut filmed = adam.clone();
        filmed.schedule.picture_at = vec![0, 1, 2, 4];
        filmed.schedule.held_per_pixel = 7;
        let pictures = |plan: &MemoryPlan| plan.peak().classes().pictures;
        assert_eq!(staging(&plan(&cpu, &filmed)) - staging(&plain), 2 * 96 * 96 * RGB);
        assert_eq!(pictures(&plan(&cpu, &filmed)) - pictures(&plain), 7 * 96 * 96);
        let mut saved = adam;
        saved.schedule.state_every = 5;
        assert!(staging(&plan(&cpu, &saved)) > staging(&plain));
    }

    #[test]
    fn the_sum_is_that_of_the_classes() {
        let plan = plan(&Profile::minimal(), &request(64, 48, 1));
        let peak = plan.peak();
        let listed: u64 = peak.classes().list().iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(listed, peak.device.total() + peak.host.total());
        assert_eq!(plan.needed(), peak.device.total(), "a GPU has memory of its own");
        assert!(!plan.is_shared && plan.host_peak().host.program >= PROGRAM);
    }
}
