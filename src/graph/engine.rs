//! An open device and the state that its programs share: memory, compiled kernels, packed weights.

use super::choices::Choices;
use super::counting::CountingDevice;
use super::cpu::{CpuDevice, HostBuffer};
use super::gpu::GpuDevice;
use super::kernels::Selection;
use super::ledger::Counted;
use super::memory::Memory;
use super::options::PrepareOptions;
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, Context, DeviceOptions, Family, Hardware, Profile, Trace, hidden_gpus};
use crate::ops::{Kernel, Shape};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// A device with its kernels and constants.
#[derive(Debug)]
pub struct Engine {
    device: Device,
    /// Note for the user about the choice of this device, if any.
    note: Option<String>,
    has_idle_driver: bool,
    choices: OnceLock<Choices>,
    outdated: AtomicUsize,
}

/// A device that runs programs.
#[derive(Debug)]
pub(super) enum Device {
    Gpu(Arc<GpuDevice>),
    Cpu(Arc<CpuDevice>),
    /// Stands in for another device to count the memory that a run needs.
    Counting(Arc<CountingDevice>),
}

impl Engine {
    /// Opens a device: by default the best hardware graphics device, or the CPU if there is none. With options that
    /// apply only to shaders (a kernel family, minimal limits, shaders from a folder), the default is the best graphics
    /// device including software drivers.
    ///
    /// # Errors
    /// As [`Context::open`]; [`Error::Usage`] if an option that applies only to shaders is combined with the CPU
    /// device.
    pub fn open(options: &DeviceOptions) -> Result<Arc<Self>> {
        let only_shaders = only_shaders(options);
        match (&options.adapter, only_shaders) {
            (AdapterChoice::Cpu, None) => Ok(Self::on(Device::cpu(options)?, None)),
            (AdapterChoice::Cpu, Some(what)) => Err(Error::usage(format!(
                "{what} can't be used with --adapter cpu: leave it out or choose a graphics device"
            ))),
            (AdapterChoice::Best, None) => match Context::open_hardware(options)? {
                Hardware::Opened(context) => Ok(Self::new(*context)),
                Hardware::Missing { software } => {
                    let device = Device::cpu(options)?;
                    let note = without_gpu(&device.describe(), software.as_deref(), &hidden_gpus());
                    let has_idle_driver = software.is_some();
                    Ok(Arc::new(Self { has_idle_driver, ..Self::with(device, Some(note)) }))
                }
            },
            (choice, _) => {
                let context = Context::open(options)?;
                // A software device named by the user needs no note.
                let hidden = match choice {
                    AdapterChoice::Best if context.profile().software => hidden_gpus(),
                    _ => Vec::new(),
                };
                let device = Device::Gpu(Arc::new(GpuDevice::new(context)));
                Ok(Self::on(device, (!hidden.is_empty()).then(|| hidden.join(". "))))
            }
        }
    }

    /// Creates an engine on an open graphics device.
    pub fn new(context: Context) -> Arc<Self> {
        Self::on(Device::Gpu(Arc::new(GpuDevice::new(context))), None)
    }

    /// Opens the CPU device to compare this one with, using the same convolution method and weight precision.
    ///
    /// # Errors
    /// [`Error::Cpu`] if the system refuses a thread.
    pub fn cpu_beside(&self) -> Result<Arc<Self>> {
        let Profile { exact, precision, .. } = *self.profile();
        let options = DeviceOptions { exact, precision, ..DeviceOptions::default() };
        Ok(Self::on(Device::cpu(&options)?, None))
    }

    fn on(device: Device, note: Option<String>) -> Arc<Self> {
        Arc::new(Self::with(device, note))
    }

    fn with(device: Device, note: Option<String>) -> Self {
        let (choices, outdated) = (OnceLock::new(), AtomicUsize::new(0));
        Self { device, note, has_idle_driver: false, choices, outdated }
    }

    /// Creates an engine that stands in for this one. It has the same kernel choices, allocates and computes nothing,
    /// and counts the memory that this engine would use ([`Engine::counted`]). Values read from it are zero.
    pub fn counting(&self) -> Arc<Self> {
        let engine = Self::counting_for(self.profile().clone(), self.describe());
        if let Some(choices) = self.choices.get() {
            engine.use_choices(choices.clone());
        }
        engine
    }

    /// Creates a counting engine ([`Engine::counting`]) for a device that need not be present, described by its
    /// profile.
    pub fn counting_for(profile: Profile, description: impl Into<String>) -> Arc<Self> {
        Self::on(Device::Counting(Arc::new(CountingDevice::new(profile, description.into()))), None)
    }

    /// Returns the counts of a counting engine, with the peak since the last call; `None` for other engines.
    pub fn counted(&self) -> Option<Counted> {
        match &self.device {
            Device::Counting(device) => Some(device.look()),
            Device::Gpu(_) | Device::Cpu(_) => None,
        }
    }

    /// Opens the same graphics device again after it was lost. The new engine has the same choices, but cannot use
    /// memory or programs of this one.
    ///
    /// # Errors
    /// As [`Context::reopen`]; [`Error::Cpu`] on the CPU, which is never lost.
    pub fn reopen(&self) -> Result<Arc<Self>> {
        let Some(context) = self.gpu() else {
            return Err(Error::cpu("opening the device again", "the CPU is never lost"));
        };
        let device = Device::Gpu(Arc::new(GpuDevice::new(context.reopen()?)));
        let engine = Self::on(device, self.note.clone());
        if let Some(choices) = self.choices.get() {
            engine.use_choices(choices.clone());
        }
        Ok(engine)
    }

    /// Returns a note for the user about the choice of this device, if there is one.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// True if the CPU was chosen after a software driver had been loaded during the search for a GPU.
    pub fn has_idle_driver(&self) -> bool {
        self.has_idle_driver
    }

    /// Returns the graphics device; `None` on the CPU and for counting engines.
    pub fn gpu(&self) -> Option<&Context> {
        match &self.device {
            Device::Gpu(device) => Some(&device.context),
            Device::Cpu(_) | Device::Counting(_) => None,
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the device properties that the choice of kernels depends on.
    pub fn profile(&self) -> &Profile {
        match &self.device {
            Device::Gpu(device) => device.context.profile(),
            Device::Cpu(device) => device.profile(),
            Device::Counting(device) => &device.profile,
        }
    }

    /// Number of threads of the CPU device; `None` on a graphics device.
    pub fn threads(&self) -> Option<usize> {
        match &self.device {
            Device::Gpu(_) | Device::Counting(_) => None,
            Device::Cpu(device) => Some(device.threads()),
        }
    }

    /// Names the device in one line.
    pub fn describe(&self) -> String {
        self.device.describe()
    }

    /// Starts tracing all work. Only the first call has an effect.
    pub fn start_trace(&self) -> Arc<Trace> {
        match &self.device {
            Device::Gpu(device) => device.context.start_trace(),
            Device::Cpu(device) => device.start_trace(),
            // A counting device does no work to trace.
            Device::Counting(_) => Arc::default(),
        }
    }

    /// Returns the trace, if one was started.
    pub fn trace(&self) -> Option<&Trace> {
        match &self.device {
            Device::Gpu(device) => device.context.trace(),
            Device::Cpu(device) => device.trace(),
            Device::Counting(_) => None,
        }
    }

    /// Writes the trace. Replaces an existing file only if `replace` is true.
    ///
    /// # Errors
    /// As [`Trace::save`].
    pub fn save_trace(&self, trace: &Trace, path: &Path, replace: bool) -> Result<()> {
        trace.save(self.gpu(), &self.describe(), path, replace)
    }

    /// Makes later programs use these kernels instead of the ops' own preference, for each use that has a choice. Only
    /// the first call has an effect.
    pub fn use_choices(&self, choices: Choices) {
        // `set` fails on the second call, which has no effect, as documented.
        let _ = self.choices.set(choices);
    }

    /// Number of choices that were ignored because the kernels have changed since they were measured.
    pub fn outdated_choices(&self) -> usize {
        self.outdated.load(Ordering::Relaxed)
    }

    /// True if kernels chosen by measurement are set.
    pub(super) fn has_choices(&self) -> bool {
        self.choices.get().is_some()
    }

    /// Returns how programs on this device choose their kernels.
    pub(super) fn selection<'a>(
        &'a self,
        pick: &'a dyn Fn(&[Kernel]) -> usize,
        options: PrepareOptions,
    ) -> Selection<'a> {
        let measured = self.choices.get().map(|choices| (choices, &self.outdated));
        Selection { profile: self.profile(), options, pick, measured }
    }

    /// On the CPU device, releases packed weights that no program uses. Kernels differ between sizes, so weights packed
    /// for an earlier size may be unused.
    pub fn forget_unused_constants(&self) {
        match &self.device {
            Device::Gpu(_) => {}
            Device::Cpu(device) => device.forget_unused_constants(),
            Device::Counting(device) => device.forget_unused_constants(),
        }
    }

    /// Releases all packed weights. Programs keep those that they use; others are packed again when needed.
    pub fn forget_constants(&self) {
        match &self.device {
            Device::Gpu(device) => device.forget_constants(),
            Device::Cpu(device) => device.forget_constants(),
            Device::Counting(device) => device.forget_constants(),
        }
    }

    /// Runs `test`, then releases the packed weights and pipelines that it created.
    pub fn with_temporary_resources<T>(&self, test: impl FnOnce() -> T) -> T {
        match &self.device {
            Device::Gpu(device) => {
                let (constants, pipelines) = (device.constant_keys(), device.pipelines.hashes());
                let result = test();
                device.keep_constants(&constants);
                device.pipelines.keep(&pipelines);
                result
            }
            Device::Cpu(device) => {
                let before = device.constant_keys();
                let result = test();
                device.keep_constants(&before);
                result
            }
            Device::Counting(_) => test(),
        }
    }

    /// Allocates zero-filled device memory for a tensor.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn tensor(&self, label: &str, shape: Shape) -> Result<Memory> {
        self.memory(label, shape.bytes())
    }

    /// Allocates device memory for a tensor and writes these values, given in logical order.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn tensor_with(&self, label: &str, shape: Shape, values: &[f32]) -> Result<Memory> {
        let memory = self.tensor(label, shape)?;
        self.write(&memory, shape, values)?;
        Ok(memory)
    }

    /// Allocates device memory and writes these values, given in storage order.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn stored(&self, label: &str, values: &[f32]) -> Result<Memory> {
        let memory = self.memory(label, values.len() as u64 * 4)?;
        self.write_stored(&memory, values)?;
        Ok(memory)
    }

    fn memory(&self, label: &str, bytes: u64) -> Result<Memory> {
        Ok(match &self.device {
            Device::Gpu(device) => Memory::on_gpu(device.context.storage_buffer(label, bytes)?),
            Device::Cpu(_) => Memory::on_cpu(HostBuffer::zeros(label, bytes)?),
            Device::Counting(device) => Memory::counted(device.tensor(label, bytes)?),
        })
    }

    /// Copies one tensor to another of the same size `runs` times. Returns the seconds per copy.
    ///
    /// # Errors
    /// As [`Context::wait`].
    pub(super) fn time_copies(&self, [from, to]: &[Memory; 2], runs: usize) -> Result<f64> {
        let label = "a copy";
        match &self.device {
            Device::Gpu(device) => device.time_copies(from.gpu(label)?, to.gpu(label)?, runs),
            Device::Cpu(device) => Ok(device.time_copies(from.host(label)?, to.host(label)?, runs)),
            Device::Counting(_) => Ok(0.0),
        }
    }

    /// Overwrites a tensor with values in logical order.
    ///
    /// # Errors
    /// As [`Context::upload`].
    pub fn write(&self, memory: &Memory, shape: Shape, values: &[f32]) -> Result<()> {
        if let Device::Cpu(_) = &self.device {
            let label = "a tensor to be written";
            let mut stored = memory.host(label)?.write();
            let stored = stored.get_mut(..shape.stored()).ok_or_else(|| too_small(label))?;
            shape.pack_into(values, stored);
            return Ok(());
        }
        self.write_stored(memory, &shape.pack(values))
    }

    fn write_stored(&self, memory: &Memory, values: &[f32]) -> Result<()> {
        let label = "a tensor to be written";
        match &self.device {
            Device::Gpu(device) => device.context.upload(memory.gpu(label)?, 0, bytemuck::cast_slice(values)),
            Device::Cpu(_) => {
                let mut stored = memory.host(label)?.write();
                let start = stored.get_mut(..values.len()).ok_or_else(|| too_small(label))?;
                start.copy_from_slice(values);
                Ok(())
            }
            Device::Counting(_) => Ok(()),
        }
    }

    /// Reads a tensor's values in logical order, after waiting for all earlier work.
    ///
    /// # Errors
    /// As [`crate::gpu::PendingRead::finish`].
    pub fn read(&self, memory: &Memory, shape: Shape, label: &str) -> Result<Vec<f32>> {
        if let Device::Cpu(_) = &self.device {
            let stored = memory.host(label)?.read();
            return Ok(shape.unpack(stored.get(..shape.stored()).ok_or_else(|| too_small(label))?));
        }
        Ok(shape.unpack(&self.read_stored(memory, shape.stored(), label)?))
    }

    /// Reads the first `count` values in storage order, including the borders of maps. Waits for all earlier work.
    ///
    /// # Errors
    /// As [`crate::gpu::PendingRead::finish`].
    pub fn read_stored(&self, memory: &Memory, count: usize, label: &str) -> Result<Vec<f32>> {
        match &self.device {
            Device::Gpu(device) => device.context.read_f32(memory.gpu(label)?, count, label),
            Device::Cpu(_) => {
                let stored = memory.host(label)?.read();
                stored.get(..count).map(<[f32]>::to_vec).ok_or_else(|| too_small(label))
            }
            Device::Counting(_) => Ok(vec![0.0; count]),
        }
    }
}

impl Device {
    fn cpu(options: &DeviceOptions) -> Result<Self> {
        Ok(Self::Cpu(Arc::new(CpuDevice::new(options)?)))
    }

    fn describe(&self) -> String {
        match self {
            Self::Gpu(device) => device.context.describe(),
            Self::Cpu(device) => device.describe(),
            Self::Counting(device) => device.description.clone(),
        }
    }
}

/// Returns the first option that applies only to shaders.
fn only_shaders(options: &DeviceOptions) -> Option<&'static str> {
    if options.family != Family::Auto {
        Some("--kernels")
    } else if options.minimal {
        Some("--minimal")
    } else if crate::shader::generation() > 0 {
        Some("--shader-dir")
    } else {
        None
    }
}

fn without_gpu(device: &str, software: Option<&str>, hidden: &[String]) -> String {
    let there = software.and_then(|name| name.split_whitespace().next()).map_or_else(String::new, |name| {
        format!(". A software graphics driver is available: --adapter {name} uses it")
    });
    if hidden.is_empty() {
        return format!("no GPU was found: running on {device}{there}");
    }
    format!("{}. Running on {device}{there}", hidden.join(". "))
}

fn too_small(label: &str) -> Error {
    Error::Cpu { what: label.to_owned(), message: "the values exceed its memory".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::without_gpu;

    #[test]
    fn note_explains_missing_gpu() {
        let note = without_gpu("the CPU", Some("llvmpipe (LLVM 15)"), &[]);
        let there = ". A software graphics driver is available: --adapter llvmpipe uses it";
        assert_eq!(note, format!("no GPU was found: running on the CPU{there}"));
        assert_eq!(
            without_gpu("the CPU", None, &["A GPU is hidden".to_owned()]),
            "A GPU is hidden. Running on the CPU"
        );
    }
}
