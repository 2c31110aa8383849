//! An open device. Every use of it follows the same rules: errors are caught and typed, every wait has a timeout, every
//! object has a label.

use super::adapter::{self, AdapterChoice};
use super::profile::{CoopMatrix, Family, Precision, Profile};
use super::wait::{self, Fence, Sharing};
use super::{Trace, quirks};
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Default of [`DeviceOptions::longest_submission`] on a GPU: a quarter of the shortest limit that a system sets,
/// because times are predicted.
const LONGEST_SUBMISSION: Duration = Duration::from_millis(500);

/// Options for opening a device.
#[derive(Debug, Clone, Default)]
pub struct DeviceOptions {
    /// Choice of the adapter.
    pub adapter: AdapterChoice,
    /// Family of kernels.
    pub family: Family,
    /// Exclude kernels that trade accuracy for speed (Winograd convolution).
    pub exact: bool,
    /// Which values may be stored and multiplied in f16.
    pub precision: Precision,
    /// Request no optional features and only WebGPU's default limits, as on a minimal device.
    pub minimal: bool,
    /// Number of threads of the CPU device; `None` for as many as the process may use at once. Opening a graphics
    /// device with a number fails.
    pub threads: Option<usize>,
    /// Maximum time of one submission on a graphics device; more work is split. `None`: half a second on a GPU, which
    /// the system may reset after two; no limit for a software driver, which nothing resets.
    pub longest_submission: Option<Duration>,
    /// Time without a response after which a graphics device counts as hung; `None`: ten minutes.
    pub patience: Option<Duration>,
    /// The device counts as lost after this many submissions. Hidden: for tests of lost devices.
    #[doc(hidden)]
    pub lose_after: Option<u64>,
}

/// True once a device of this process was given up; see [`was_given_up`].
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// True once a device of this process hung and was given up. Its driver may have threads that still wait for it, so the
/// process should end without running exit handlers.
pub fn was_given_up() -> bool {
    GIVEN_UP.load(Ordering::SeqCst)
}

impl DeviceOptions {
    /// Rejects a number of threads for a graphics device.
    pub(crate) fn check_threads(&self, device: &str) -> Result<()> {
        if self.threads.is_none() {
            return Ok(());
        }
        Err(Error::usage(format!(
            "--threads applies only to the CPU device, not to {device}: leave it out or choose --adapter cpu"
        )))
    }
}

/// Time limits of a device.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// [`DeviceOptions::longest_submission`]; `None` for no limit.
    longest: Option<Duration>,
    patience: Duration,
    lose_after: Option<u64>,
}

/// Result of [`Context::open_hardware`].
#[derive(Debug)]
pub enum Hardware {
    /// The opened device.
    Opened(Box<Context>),
    /// There is no hardware device, but perhaps a software adapter.
    Missing {
        /// Name of the software adapter.
        software: Option<String>,
    },
}

#[derive(Default)]
struct Faults {
    lost: Option<String>,
    error: Option<wgpu::Error>,
}

/// An open device with its queue. Cheap to share by reference; all methods take `&self`.
pub struct Context {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    profile: Profile,
    faults: Arc<Mutex<Faults>>,
    sharing: Sharing,
    waits: AtomicU64,
    submissions: AtomicU64,
    timing: Timing,
    trace: OnceLock<Arc<Trace>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("info", &self.info).field("profile", &self.profile).finish()
    }
}

impl Context {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if the machine has none, [`Error::Usage`] if none matches the choice or a number of threads
    /// is set, [`Error::Gpu`] if the driver can't open the device.
    pub fn open(options: &DeviceOptions) -> Result<Self> {
        Self::open_adapter(adapter::pick(&options.adapter)?, options, wanted_features(), requested_limits)
    }

    /// Opens the best hardware device, if any.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn open_hardware(options: &DeviceOptions) -> Result<Hardware> {
        match adapter::hardware()? {
            Ok(adapter) => {
                let opened = Self::open_adapter(adapter, options, wanted_features(), requested_limits)?;
                Ok(Hardware::Opened(Box::new(opened)))
            }
            Err(software) => Ok(Hardware::Missing { software }),
        }
    }

    /// Opens a device for arbitrary user shaders, with every feature that a compute shader may use and the adapter's
    /// own limits. With [`DeviceOptions::minimal`], opens it like [`Context::open`].
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn open_for_any_shader(options: &DeviceOptions) -> Result<Self> {
        let adapter = adapter::pick(&options.adapter)?;
        Self::open_adapter(adapter, options, shader_features(), |available, minimal| {
            if minimal { wgpu::Limits::default() } else { available.clone() }
        })
    }

    fn open_adapter(
        adapter: wgpu::Adapter,
        options: &DeviceOptions,
        wanted: wgpu::Features,
        limits: impl Fn(&wgpu::Limits, bool) -> wgpu::Limits,
    ) -> Result<Self> {
        let info = adapter.get_info();
        options.check_threads(&adapter::describe(&info))?;
        let mut features =
            if options.minimal { wgpu::Features::empty() } else { adapter.features() & wanted };
        let mut limits = limits(&adapter.limits(), options.minimal);
        limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(LARGEST_BINDING);
        let wanted = options.precision == Precision::Half && !options.minimal;
        let coop_matrix = if wanted { CoopMatrix::of(&adapter) } else { None };
        if coop_matrix.is_some() {
            features |= CoopMatrix::FEATURES;
        }
        let fixed = info.subgroup_min_size == info.subgroup_max_size;
        let profile = Profile {
            cpu: false,
            exact: options.exact,
            precision: options.precision,
            coop_matrix,
            family: options.family,
            software: info.device_type == wgpu::DeviceType::Cpu,
            lanes: (features.contains(wgpu::Features::SUBGROUP) && fixed).then_some(info.subgroup_min_size),
            max_texture_side: limits.max_texture_dimension_2d,
            max_binding: limits.max_storage_buffer_binding_size,
            binding_alignment: u64::from(limits.min_storage_buffer_offset_alignment),
            max_buffer: limits.max_buffer_size,
            max_groups: limits.max_compute_workgroups_per_dimension,
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            loop_limit: quirks::loop_limit(&info),
        };
        let timing = Timing {
            longest: options.longest_submission.or((!profile.software).then_some(LONGEST_SUBMISSION)),
            patience: options.patience.unwrap_or(wait::LIMIT),
            lose_after: options.lose_after,
        };
        Self::request(&adapter, features, limits, profile, timing)
    }

    /// Opens the same adapter again after this device was lost. Objects of this device are not valid on the new one.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if the adapter is gone, [`Error::Gpu`] if the driver can't open the device.
    pub fn reopen(&self) -> Result<Self> {
        let adapter = adapter::same(&self.info)?;
        let (features, limits) = (self.device.features(), self.device.limits());
        let timing = Timing { lose_after: None, ..self.timing };
        Self::request(&adapter, features, limits, self.profile.clone(), timing)
    }

    #[allow(unsafe_code, reason = "wgpu's cooperative matrices are experimental")]
    fn request(
        adapter: &wgpu::Adapter,
        features: wgpu::Features,
        limits: wgpu::Limits,
        profile: Profile,
        timing: Timing,
    ) -> Result<Self> {
        let info = adapter.get_info();
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("neural-mirage"),
            required_features: features,
            required_limits: limits,
            experimental_features: if features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
                // SAFETY: the kernels that use them are valid by naga's rules, load and store within their buffers, and
                // are used only after a comparison with the naive kernel.
                unsafe { wgpu::ExperimentalFeatures::enabled() }
            } else {
                wgpu::ExperimentalFeatures::disabled()
            },
            // Small blocks, so larger allocations get memory of their own, which is returned when freed. Weights in
            // preparation and targets would leave holes in large blocks that later tensors do not fit into.
            memory_hints: wgpu::MemoryHints::Manual {
                suballocated_device_memory_block_size: 8 << 20..16 << 20,
            },
            ..Default::default()
        });
        let opened = wait::block_on("opening the device", request, wait::sleep, timing.patience)?;
        let (device, queue) = opened.map_err(|error| {
            Error::gpu(format!("opening {}", adapter::describe(&info)), error.to_string())
        })?;
        let faults = Arc::new(Mutex::new(Faults::default()));
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            let mut faults = sink.lock().unwrap_or_else(PoisonError::into_inner);
            // The first error is the cause; later ones usually follow from it.
            faults.error.get_or_insert(error);
        }));
        let sink = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                let mut faults = sink.lock().unwrap_or_else(PoisonError::into_inner);
                faults.lost.get_or_insert(message);
            }
        });
        Ok(Self {
            device,
            queue,
            info,
            profile,
            faults,
            sharing: Sharing::default(),
            waits: AtomicU64::new(0),
            submissions: AtomicU64::new(0),
            timing,
            trace: OnceLock::new(),
        })
    }

    /// Returns wgpu's device, for the modules that create objects on it.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Returns wgpu's queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Returns the adapter's own description.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Returns the device properties that the choice of kernels depends on.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Makes the device appear smaller: `change` may lower the limits of the profile, which all other modules rely on.
    /// Hidden: for tests of limits.
    #[doc(hidden)]
    pub fn restrict(&mut self, change: impl FnOnce(&mut Profile)) {
        change(&mut self.profile);
    }

    /// Makes the device appear lost from now on. Hidden: for tests of lost devices.
    #[doc(hidden)]
    pub fn lose(&self) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.lost.get_or_insert_with(|| "by a test".to_owned());
    }

    /// Names adapter, backend and driver in one line.
    pub fn describe(&self) -> String {
        adapter::describe(&self.info)
    }

    /// Turns an error that the device reported since the last call into a typed error.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`]; `what` names the step.
    pub fn check(&self, what: &str) -> Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = &faults.lost {
            return Err(Error::DeviceLost(format!("{message}, while {what}")));
        }
        match faults.error.take() {
            None => Ok(()),
            Some(wgpu::Error::OutOfMemory { .. }) => Err(out_of_memory(what, 0)),
            Some(error) => Err(Error::gpu(what, error.to_string())),
        }
    }

    /// Checks like [`Context::check`], after an allocation of `bytes` bytes.
    pub(super) fn check_allocation(&self, what: &str, bytes: u64) -> Result<()> {
        match self.check(what) {
            Err(Error::OutOfMemory { .. }) => Err(out_of_memory(what, bytes)),
            other => other,
        }
    }

    /// Submits recorded commands and reports their errors.
    ///
    /// # Errors
    /// As [`Context::check`].
    pub fn submit(&self, encoder: wgpu::CommandEncoder, what: &str) -> Result<Fence> {
        let begin = Instant::now();
        let before = self.submissions.fetch_add(1, Ordering::Relaxed);
        if self.timing.lose_after.is_some_and(|most| before >= most) {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            faults.lost.get_or_insert_with(|| "as the test asked".to_owned());
        }
        let _span = self.trace().map(|trace| trace.host("submission", what));
        self.sharing.register();
        let fence = Fence::new(&self.queue, self.queue.submit([encoder.finish()]));
        self.check(what)?;
        if let Some(trace) = self.trace() {
            trace.submitted(begin, &fence);
        }
        Ok(fence)
    }

    /// Submits all queued writes and waits for them.
    ///
    /// # Errors
    /// As [`Context::wait`].
    pub fn flush(&self, what: &str) -> Result<()> {
        self.sharing.register();
        self.wait(&Fence::new(&self.queue, self.queue.submit([])), what)
    }

    /// Starts tracing all work. Only the first call has an effect.
    pub fn start_trace(&self) -> Arc<Trace> {
        self.trace.get_or_init(Arc::default).clone()
    }

    /// Returns the trace, if one was started.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.get().map(Arc::as_ref)
    }

    /// Number of times that the host has waited for the device. Hidden: for tests of code that should not wait.
    #[doc(hidden)]
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Number of submissions so far. Hidden: for tests of how work is split.
    #[doc(hidden)]
    pub fn submissions(&self) -> u64 {
        self.submissions.load(Ordering::Relaxed)
    }

    /// Maximum time that one submission should take.
    pub(crate) fn submission_limit(&self) -> Option<Duration> {
        self.timing.longest
    }

    /// Gives up a hung device: its queue is never released, because that would wait for the device without a limit.
    fn give_up(&self) {
        GIVEN_UP.store(true, Ordering::SeqCst);
        std::mem::forget((self.device.clone(), self.queue.clone()));
    }

    /// Waits until this work is complete.
    ///
    /// # Errors
    /// [`Error::Timeout`] after [`DeviceOptions::patience`], otherwise as [`Context::check`].
    pub fn wait(&self, fence: &Fence, what: &str) -> Result<()> {
        self.block_on(fence, what, fence.done())
    }

    /// Waits for a future that completes with this work or soon after it.
    pub(super) fn block_on<T>(
        &self,
        fence: &Fence,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Result<T> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        let _span = self.trace().map(|trace| trace.host("waiting", what));
        let drive = wait::drive((&self.device, &self.sharing), fence, what, || self.check(what));
        let value = wait::block_on(what, future, drive, self.timing.patience).inspect_err(|error| {
            if matches!(error, Error::Timeout { .. }) {
                self.give_up();
            }
        })?;
        self.check(what)?;
        Ok(value)
    }
}

fn out_of_memory(what: &str, needed: u64) -> Error {
    Error::OutOfMemory {
        what: what.to_owned(),
        needed,
        remedy: "Use a smaller --size, or close other programs that use the device".to_owned(),
    }
}

fn wanted_features() -> wgpu::Features {
    wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY
}

/// Optional features that a compute shader may use. Experimental features need an unsafe promise and are left out.
fn shader_features() -> wgpu::Features {
    use wgpu::Features as F;
    wanted_features()
        | F::SUBGROUP_BARRIER
        | F::SHADER_F16
        | F::SHADER_F64
        | F::SHADER_I16
        | F::SHADER_INT64
        | F::SHADER_INT64_ATOMIC_MIN_MAX
        | F::SHADER_INT64_ATOMIC_ALL_OPS
        | F::SHADER_FLOAT32_ATOMIC
        | F::IMMEDIATES
        | F::TEXTURE_ADAPTER_SPECIFIC_FORMAT_FEATURES
        | F::MEMORY_DECORATION_COHERENT
        | F::MEMORY_DECORATION_VOLATILE
}

/// Largest binding in bytes. Shaders get the size of a binding as 32 bits; on Metal, which reports no limit of its own,
/// they could not reach the rest (gfx-rs/wgpu#10305). Vulkan and DirectX 12 have the same limit or a smaller one.
const LARGEST_BINDING: u64 = i32::MAX as u64 / 16 * 16;

/// Returns WebGPU's default limits, raised to the adapter's where kernels can use more.
fn requested_limits(available: &wgpu::Limits, minimal: bool) -> wgpu::Limits {
    let defaults = wgpu::Limits::default();
    if minimal {
        return defaults;
    }
    wgpu::Limits {
        max_buffer_size: available.max_buffer_size,
        max_storage_buffer_binding_size: available.max_storage_buffer_binding_size,
        max_texture_dimension_2d: available.max_texture_dimension_2d,
        max_compute_workgroup_storage_size: available.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: available.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: available.max_compute_workgroup_size_x,
        min_storage_buffer_offset_alignment: available.min_storage_buffer_offset_alignment,
        ..defaults
    }
    .or_worse_values_from(available)
}
