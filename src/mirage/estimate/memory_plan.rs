//! Memory plan of a run. The run is prepared scale by scale on a counting engine, so the plan of the device's memory
//! follows from the actual preparation code. Host memory is added up here.

use super::memory_classes::MemoryClasses;
use crate::error::Result;
use crate::graph::{Counted, Engine, MemoryUse};
use crate::image_io::{Picture, fit};
use crate::mirage::estimate::host_memory::Host;
use crate::mirage::loss::Target;
use crate::mirage::objective::tiling::in_transit::InTransit;
use crate::mirage::request::{Init, Request};
use crate::mirage::run::session::Session;
use crate::mirage::scales::Scale;
use crate::vgg::Network;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Resident memory in bytes of the program itself: code, libraries and small allocations. Measured with the release
/// build on x86-64 Linux (docs/memory.md).
pub const PROGRAM_MEMORY: u64 = 20 << 20;
/// Resident memory of each thread of the CPU device: its share of the kernels' scratch memory, and memory that the
/// allocator retains for it (with the default network at 128 to 512 px and 1 to 8 threads, the whole is then 0.98 to 1.05 of
/// what was measured; small networks take less).
const THREAD: u64 = 7 << 20;
/// Resident memory of a graphics driver: the loader, the driver's libraries and its compiler.
const DRIVER: u64 = 100 << 20;
/// Resident memory of an unused software driver: its libraries. LLVM's are never unloaded (47 to 50 MiB with Mesa
/// 22.3.6 and LLVM 15).
const IDLE_DRIVER: u64 = 48 << 20;
/// Memory of the kernel tests of `--verify`: an op's cases with their weights and references. Measured, like
/// [`COMPILED`], with the default network at 256 px: 372 MiB on the CPU device and 788 MiB on Mesa 22.3.6 in total.
const TESTS: u64 = 100 << 20;
/// Memory that a software driver retains for the kernels compiled for these tests.
const COMPILED: u64 = 90 << 20;
/// Resident memory of a software driver per compute pipeline.
const PIPELINE: u64 = 1 << 20;

/// Images of a target, with their weights.
type Images = Arc<[(Picture, f32)]>;

impl Request {
    /// Returns a copy with single-coloured pictures in place of the photo and all other images, each scaled to this
    /// longest side. Used to plan the memory of another size. A start picture smaller than the photo keeps its size.
    pub fn at_size(&self, longest: usize) -> Self {
        let mut images = 0_u8;
        // Each has another colour, because equal images would share their targets.
        let mut plain = |picture: &Picture, longest| {
            let (width, height) = fit(picture.width, picture.height, longest);
            images = images.wrapping_add(1);
            Picture { width, height, rgb: vec![f32::from(images) / 256.0; width * height * 3] }
        };
        let mut request = self.clone();
        request.photo = Arc::new(plain(&self.photo, longest));
        if let Init::Picture(picture) = &self.init {
            let own = picture.width.max(picture.height);
            let kept = own < self.photo.width.max(self.photo.height);
            let longest = if kept { own.min(longest) } else { longest };
            request.init = Init::Picture(Arc::new(plain(picture, longest)));
        }
        // Losses that share a set of images still share it in the copy.
        let mut known: Vec<[Images; 2]> = Vec::new();
        for loss in request.groups.iter_mut().flat_map(|group| &mut group.losses) {
            let Target::Images(images) = &loss.target else { continue };
            let same = known.iter().find(|[old, _]| Arc::ptr_eq(old, images)).map(|[_, new]| new.clone());
            let new = same.unwrap_or_else(|| {
                let new: Images =
                    images.iter().map(|(image, weight)| (plain(image, longest), *weight)).collect();
                known.push([images.clone(), new.clone()]);
                new
            });
            loss.target = Target::Images(new);
        }
        request
    }
}

/// Phase of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// An iteration on the CPU device, which the device is compared with (`--verify`).
    Verifying,
    /// Capturing a scale's targets and preparing its objective.
    Preparing,
    /// Iterations and their reports.
    Iterations,
    /// Moving the state to the next scale.
    Transition,
    /// Saving the finished picture.
    Saving,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verifying => "verifying",
            Self::Preparing => "preparing",
            Self::Iterations => "iterations",
            Self::Transition => "change of scale",
            Self::Saving => "saving",
        })
    }
}

/// Peak memory of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPhase {
    /// Phase of the run.
    pub phase: Phase,
    /// Index of the scale.
    pub scale: usize,
    /// Device memory.
    pub device: MemoryClasses,
    /// Host memory, without the device memory.
    pub host: MemoryClasses,
}

impl MemoryPhase {
    /// Returns device and host memory together.
    pub fn classes(&self) -> MemoryClasses {
        self.device + self.host
    }
}

/// The memory of a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// Phases in order.
    pub phases: Vec<MemoryPhase>,
    /// Scales of the run.
    pub scales: Vec<Scale>,
    /// True if device and host share memory: the CPU device, and software drivers.
    pub is_shared: bool,
}

impl MemoryPlan {
    /// Plans a run on this engine's device. Only the device's properties are used. Assumes that the caller keeps the
    /// request, as the program does.
    ///
    /// # Errors
    /// Same as [`Session::new`].
    pub fn new(engine: &Engine, network: &Arc<Network>, request: &Request) -> Result<Self> {
        let counting = engine.counting();
        let counted = || counting.counted().unwrap_or_default();
        let profile = engine.profile();
        let threads = engine.threads().unwrap_or(0) as u64;
        let mut session = Session::new(&counting, network, request.clone())?;
        let scales = session.scales.clone();
        let mut host = Host {
            request,
            cpu: profile.cpu,
            scale: scales[0],
            pixels_before: None,
            state: Vec::new(),
            gradient: 0,
            in_transit: InTransit::default(),
            targets: 0,
        };
        let idle = if engine.has_idle_driver() { IDLE_DRIVER } else { 0 };
        let driver = if profile.cpu { THREAD * threads + idle } else { DRIVER };
        let mut base = MemoryClasses {
            weights: network.resident_bytes() as u64,
            program: PROGRAM_MEMORY + driver,
            ..MemoryClasses::default()
        };
        let mut phases: Vec<MemoryPhase> = Vec::new();
        // Host memory carried over while a scale is prepared, without the request's own pictures.
        let mut waiting = MemoryClasses::default();
        for (index, scale) in scales.iter().enumerate() {
            if let Some(MemoryPhase { device, .. }) = phases.last().copied() {
                // The state is read first; grain is drawn after the objective is freed.
                session.leave();
                let [targets, _] = session.target_bytes();
                let left = host.device_before(counted().live, targets);
                let transition = host.to_next_scale(scale.size);
                let (reading, drawing) = (device + transition.reading, left + transition.drawing);
                let (device, host) = if reading.total() > drawing.total() {
                    (device, transition.reading)
                } else {
                    (left, transition.drawing)
                };
                phases.push(MemoryPhase {
                    phase: Phase::Transition,
                    scale: index - 1,
                    device,
                    host: base + host,
                });
                waiting = transition.waiting;
            }
            session.enter(index)?;
            let Counted { live, peak, pipelines } = counted();
            let objective = session.objective()?;
            host.pixels_before = (index > 0).then(|| host.pixels());
            host.scale = *scale;
            host.state = objective.state.clone();
            host.gradient = objective.gradient_bytes();
            host.in_transit = objective.in_transit();
            if !profile.cpu && profile.software {
                base.program = PROGRAM_MEMORY + DRIVER + PIPELINE * pipelines as u64;
            }
            let targets;
            [targets, host.targets] = session.target_bytes();
            let device = host.device(live, targets);
            let mut push = |phase, device, host: MemoryClasses| {
                phases.push(MemoryPhase { phase, scale: index, device, host: base + host });
            };
            // With shared memory, the objective's pages are committed only by its first iteration. Until then the
            // peak is the capture of the targets or the packing of the backward pass's weights.
            let capturing = objective.capturing.filter(|_| profile.software);
            let packing = MemoryUse { planned: 0, scratch: 0, ..peak };
            let peak =
                capturing.map_or(
                    peak,
                    |capturing| {
                        if packing.total() > capturing.total() { packing } else { capturing }
                    },
                );
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

    /// Adds the phases of `--verify` to the plan: kernel tests, then an iteration on the CPU device
    /// ([`CpuIteration`](crate::mirage::CpuIteration)).
    ///
    /// # Errors
    /// Same as [`Self::new`], or if the system refuses to start a thread.
    pub fn verified(mut self, engine: &Engine, network: &Arc<Network>, request: &Request) -> Result<Self> {
        let verifying = |device, host| MemoryPhase { phase: Phase::Verifying, scale: 0, device, host };
        let Some(run) = self.phases.iter().find(|phase| phase.phase == Phase::Iterations).copied() else {
            return Ok(self);
        };
        let profile = engine.profile();
        let compiled = if profile.software && !profile.cpu { COMPILED } else { 0 };
        // The weights are already loaded, because the time of the run was estimated before.
        let mut host = MemoryClasses {
            weights: run.host.weights,
            program: run.host.program + TESTS + compiled,
            ..MemoryClasses::default()
        };
        let device = MemoryClasses { weights: run.device.weights, ..MemoryClasses::default() };
        let mut before = vec![verifying(device, host)];
        if !profile.cpu {
            let plan = Self::new(&*engine.cpu_beside()?, network, request)?;
            let first = plan.phases.iter().filter(|phase| phase.scale == 0).map(MemoryPhase::classes);
            host = first.max_by_key(MemoryClasses::total).unwrap_or_default();
            host.program += DRIVER + compiled;
            before.push(verifying(device, host));
        }
        self.phases.splice(0..0, before);
        Ok(self)
    }

    /// Returns the phase with the highest memory use: of host and device together if they share memory, otherwise of
    /// the device alone.
    pub fn peak(&self) -> MemoryPhase {
        self.most(|phase| if self.is_shared { phase.classes().total() } else { phase.device.total() })
    }

    /// Returns the phase with the highest use of host memory.
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

    /// Returns the bytes that must fit into the device's memory: those of the peak, including the host's if memory is
    /// shared.
    pub fn needed(&self) -> u64 {
        let peak = self.peak();
        if self.is_shared { peak.classes().total() } else { peak.device.total() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Profile;
    use crate::image_io::Picture;
    use crate::mirage::estimate::host_memory::RGB;
    use crate::mirage::optimizer::{Adam, Lbfgs, Optimizer};
    use crate::mirage::{Scales, Tiling};
    use crate::ops::Shape;
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

    /// One synthetic device of each kind.
    fn profiles() -> [Profile; 3] {
        let software =
            Profile { software: true, max_binding: 1 << 30, max_buffer: 1 << 31, ..Profile::minimal() };
        [Profile::cpu(), software, Profile::minimal()]
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
            // Slightly less than a factor of four, because of borders and chunks of fixed size.
            let factor = of_pixels(&large) as f64 / of_pixels(&small) as f64;
            assert!((1.5..=4.2).contains(&factor), "{factor} on {profile:?}");
            // On GPUs, the choice of kernels depends on the number of Winograd tiles as well.
            if profile.cpu {
                assert_eq!(iterations(&small).device.weights, iterations(&large).device.weights);
            }
        }
    }

    #[test]
    fn each_scale_has_phases_and_keeps_earlier_targets() {
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

    /// Its tensors exceed the binding limit of a minimal device, and together its memory.
    #[test]
    fn large_tiled_picture_fits_small_device_and_machine() {
        let mut large = request(4096, 4096, 1);
        large.tiling = Tiling::Side(128);
        // The program always sets this.
        large.schedule.state_when_stopped = true;
        // With preview pictures and checkpoints.
        let mut observed = large.clone();
        (observed.schedule.state_every, observed.schedule.picture_every) = (5, 1);
        for large in [&large, &observed] {
            let device = plan(&Profile::minimal(), large).peak().device.total();
            assert!(device <= 1 << 30, "{} MiB", device >> 20);
        }
        let machine = plan(&Profile::cpu(), &large).needed();
        assert!(machine <= 2 << 30, "{} MiB", machine >> 20);
    }

    #[test]
    fn tiled_bands_in_transit_are_counted() {
        let staging = |optimizer: Arc<dyn Optimizer>, profile: &Profile| {
            let request = Request { tiling: Tiling::Side(64), optimizer, ..request(640, 512, 1) };
            let plan = plan(profile, &request);
            let found = plan.phases.iter().find(|phase| phase.phase == Phase::Iterations).unwrap();
            (found.device.staging, found.host.staging)
        };
        // The first band has 102 of the 512 rows. The picture, the average and two moments, as stored and unpacked.
        let (stored, values) = (Shape::map(3, 102, 640).bytes(), 102 * 640 * RGB);
        let vectors = 1 << 10;
        let (device, host) = staging(Arc::new(Adam::default()), &Profile::cpu());
        assert_eq!(device, 0);
        assert!((0..vectors).contains(&(host - 4 * (stored + values))), "{host}");
        // L-BFGS has a single band, of which only the picture is read.
        let (_, host) = staging(Arc::new(Lbfgs::default()), &Profile::cpu());
        assert_eq!(host, Shape::map(3, 512, 640).bytes() + 512 * 640 * RGB);
    }

    #[test]
    fn tiled_scale_change_needs_no_more_than_iterations() {
        let [one, two] = [1, 2].map(|scales| {
            let mut request = request(1024, 1024, scales);
            request.tiling = Tiling::Side(128);
            plan(&Profile::cpu(), &request)
        });
        let targets = |plan: &MemoryPlan| plan.peak().classes().targets;
        let earlier = targets(&two) - targets(&one);
        assert!(two.needed() <= one.needed() + earlier, "{} and {}", two.needed(), one.needed());
    }

    #[test]
    fn requested_features_are_counted() {
        let cpu = Profile::cpu();
        let plain = plan(&cpu, &request(96, 96, 1));
        let optimizer = |request: &Request| plan(&cpu, request).peak().device.optimizer;
        let adam = request(96, 96, 1);
        let mut lbfgs = adam.clone();
        lbfgs.optimizer = Arc::new(crate::mirage::optimizer::Lbfgs::default());
        // Two moments and the average, compared with a history of 20 pairs.
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
        // The picture, two moments and the average, besides counters: four floats per pixel on the device, three in the
        // file. They are read one by one when the run is stopped.
        let mut saved = adam;
        saved.schedule.state_when_stopped = true;
        let more = |request: &Request| staging(&plan(&cpu, request)) - staging(&plain);
        let stopped = more(&saved);
        assert!((4 * 96 * 96 * RGB..4 * 96 * 96 * RGB + 64).contains(&stopped), "{stopped}");
        saved.schedule.state_every = 5;
        assert!(more(&saved) >= stopped + 4 * 96 * 96 * 16, "{}", more(&saved));
        // With tiles the state is in host memory: borrowed when the run is stopped, copied during the run.
        saved.tiling = Tiling::Side(48);
        let every = plan(&cpu, &saved).needed();
        saved.schedule.state_every = 0;
        let stopped = plan(&cpu, &saved).needed();
        saved.schedule.state_when_stopped = false;
        assert_eq!(stopped, plan(&cpu, &saved).needed());
        assert!(every >= stopped + 4 * 96 * 96 * RGB, "{every} {stopped}");
    }

    #[test]
    fn total_is_the_sum_of_classes() {
        let plan = plan(&Profile::minimal(), &request(64, 48, 1));
        let peak = plan.peak();
        let listed: u64 = peak.classes().list().iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(listed, peak.device.total() + peak.host.total());
        assert_eq!(plan.needed(), peak.device.total(), "a GPU has memory of its own");
        assert!(!plan.is_shared && plan.host_peak().host.program >= PROGRAM_MEMORY);
    }
}
