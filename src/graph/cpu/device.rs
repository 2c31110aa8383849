//! What programs on the CPU device share: its threads, packed weights.

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
    /// Held by the submission that runs: one after another, as in a queue.
    queue: Mutex<()>,
    constants: Mutex<HashMap<String, Arc<CpuValues>>>,
    trace: OnceLock<Arc<Trace>>,
}

impl CpuDevice {
    /// The CPU, with threads of its own.
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

    /// What kernels choose by.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// How many threads it uses.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// One line that names processor, threads and instructions.
    pub fn describe(&self) -> String {
        let Processor { name, instructions, .. } = &self.processor;
        let threads = match self.threads() {
            1 => "1 thread".to_owned(),
            threads => format!("{threads} threads"),
        };
        format!("{name} (CPU, {threads}, {instructions})")
    }

    /// From now on everything is traced; the first call counts.
    pub fn start_trace(&self) -> Arc<Trace> {
        self.trace.get_or_init(Arc::default).clone()
    }

    /// The trace, if one was started.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.get().map(Arc::as_ref)
    }

    /// Does work on the device's threads, after all work before it. What it starts with rayon runs there too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let _turn = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.threads.install(work)
    }

    /// Copies one buffer to another, so often; seconds of one copy.
    pub fn time_copies(&self, from: &HostBuffer, to: &HostBuffer, runs: usize) -> f64 {
        let begin = Instant::now();
        self.run(|| (0..runs).for_each(|_| to.copy_from(0, from, 0..from.len())));
        begin.elapsed().as_secs_f64() / runs as f64
    }

    /// The values of a constant, made on first use.
    ///
    /// # Errors
    /// As its maker, and [`Error::Cpu`] if it panics or makes another size than it states.
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
            let message = format!("it has {bytes} bytes and not {}", constant.bytes);
            return Err(Error::cpu(&constant.key, message));
        }
        Ok(kept().entry(constant.key.clone()).or_insert_with(|| Arc::new(values)).clone())
    }

    /// Releases constants that no program uses.
    pub fn forget_unused_constants(&self) {
        let mut constants = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        constants.retain(|_, values| Arc::strong_count(values) > 1);
    }

    /// The keys of all constants.
    pub fn constant_keys(&self) -> HashSet<String> {
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Releases all constants but those with these keys, and kept scratch memory.
    pub fn keep_constants(&self, keys: &HashSet<String>) {
        release_scratch();
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| keys.contains(key));
    }

    /// Releases constants that no program uses, and kept scratch memory; they are made again when needed.
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

/// What `work` returns, or an error if it panics: a fault in one kernel should not take the program with it.
///
/// # Errors
/// [`Error::Cpu`] with the panic's words.
pub(super) fn caught<T>(what: &str, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| Error::cpu(what, format!("it panicked: {}", words(&*panic))))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
