//! State that programs on the CPU device share: threads, packed weights.

use super::buffer::HostBuffer;
use super::processor::Processor;
use crate::error::{Error, Result};
use crate::gpu::{DeviceOptions, Profile, Trace};
use crate::ops::{CpuConstant, CpuValues, release_scratch};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// The CPU as a device.
#[derive(Debug)]
pub struct CpuDevice {
    profile: Profile,
    processor: Processor,
    threads: rayon::ThreadPool,
    /// Held by the running submission, so submissions run one after another, as in a queue.
    queue: Mutex<()>,
    constants: Mutex<HashMap<String, Arc<CpuValues>>>,
    trace: OnceLock<Arc<Trace>>,
}

impl CpuDevice {
    /// Creates a CPU device with its own threads.
    ///
    /// # Errors
    /// [`Error::Cpu`] if the system refuses a thread.
    pub fn new(options: &DeviceOptions) -> Result<Self> {
        let processor = Processor::detect();
        let builder = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads.unwrap_or(processor.threads).max(1))
            .thread_name(|index| format!("mirage-cpu-{index}"));
        let threads = builder.build().map_err(|error| Error::cpu("starting threads", error.to_string()))?;
        let profile = Profile { exact: options.exact, precision: options.precision, ..Profile::cpu() };
        Ok(Self {
            profile,
            processor,
            threads,
            queue: Mutex::default(),
            constants: Mutex::default(),
            trace: OnceLock::new(),
        })
    }

    /// Returns the device properties that the choice of kernels depends on.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Names processor, threads and instructions in one line.
    pub fn describe(&self) -> String {
        let Processor { name, instructions, .. } = &self.processor;
        let threads = match self.threads() {
            1 => "1 thread".to_owned(),
            threads => format!("{threads} threads"),
        };
        format!("{name} (CPU, {threads}, {instructions})")
    }

    /// Starts tracing all work. Only the first call has an effect.
    pub fn start_trace(&self) -> Arc<Trace> {
        self.trace.get_or_init(Arc::default).clone()
    }

    /// Returns the trace, if one was started.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.get().map(Arc::as_ref)
    }

    /// Runs `work` on the device's threads, after all earlier work. Rayon tasks that it starts run there too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let _turn = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.threads.install(work)
    }

    /// Copies one buffer to another `runs` times. Returns the seconds per copy.
    pub fn time_copies(&self, from: &HostBuffer, to: &HostBuffer, runs: usize) -> f64 {
        let begin = Instant::now();
        self.run(|| (0..runs).for_each(|_| to.copy_from(0, from, 0..from.len())));
        begin.elapsed().as_secs_f64() / runs as f64
    }

    /// Returns the values of a constant, computed on first use.
    ///
    /// # Errors
    /// As [`CpuConstant::make`]; [`Error::Cpu`] if that panics or returns another size than [`CpuConstant::bytes`].
    pub fn constant(&self, constant: &CpuConstant) -> Result<Arc<CpuValues>> {
        let kept = || self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = kept().get(&constant.key) {
            return Ok(values.clone());
        }
        let values = self.run(|| caught(&constant.key, || (constant.make)()))??;
        let bytes = match &values {
            CpuValues::F32(values) => size_of_val(values.as_slice()),
            CpuValues::F16(values) => size_of_val(values.as_slice()),
        };
        if bytes as u64 != constant.bytes {
            let message = format!("it has {bytes} bytes, not {}", constant.bytes);
            return Err(Error::cpu(&constant.key, message));
        }
        Ok(kept().entry(constant.key.clone()).or_insert_with(|| Arc::new(values)).clone())
    }

    /// Releases constants that no program uses.
    pub fn forget_unused_constants(&self) {
        let mut constants = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        constants.retain(|_, values| Arc::strong_count(values) > 1);
    }

    /// Returns the keys of all constants.
    pub fn constant_keys(&self) -> HashSet<String> {
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Releases scratch memory, and all constants except those with these keys.
    pub fn keep_constants(&self, keys: &HashSet<String>) {
        release_scratch();
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| keys.contains(key));
    }

    /// Releases scratch memory and all constants. Programs keep those that they use; others are computed again when
    /// needed.
    pub fn forget_constants(&self) {
        release_scratch();
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for CpuDevice {
    fn drop(&mut self) {
        release_scratch();
    }
}

/// Runs `work` and turns a panic into an error: a bug in one kernel should not abort the program.
///
/// # Errors
/// [`Error::Cpu`] with the panic's message.
pub(super) fn caught<T>(what: &str, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| Error::cpu(what, format!("it panicked: {}", words(&*panic))))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
