//! Options that choose a device and how it computes.

use super::output::escape::shown;
use super::values::{self, Kernels, Precision, TileArg};
use crate::error::Result;
use crate::gpu::{AdapterChoice, DeviceOptions, Family};
use crate::graph::Engine;
use crate::tune::{Adapter, Cache};
use clap::Args;
use serde::Serialize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Allowed numbers of threads.
pub(super) const THREADS: RangeInclusive<i64> = 1..=1024;

#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Device")]
pub(super) struct DeviceArgs {
    /// Graphics device, by its number or part of its name in `mirage devices`, or cpu [default: the most capable GPU;
    /// the CPU if there is none]
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    /// Threads of the CPU device [default: all that the process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(THREADS))]
    #[serde(skip)]
    pub threads: Option<u16>,
    /// Family of kernels on a graphics device: texture suits software drivers, buffer suits GPUs, naive is the slow
    /// reference
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub kernels: Kernels,
    /// Compute convolutions directly, without Winograd's method: slower, and no more accurate at full size
    /// (docs/accuracy.md) [default: off]
    #[arg(long)]
    pub exact: bool,
    /// Number format: single is 32 bits; half-weights stores weights in 16 bits, which halves the memory of the fully
    /// connected layers, and of convolutions with --kernels buffer; half also lets `mirage tune` choose kernels that
    /// use a GPU's cooperative matrices, with 16-bit operands and 32-bit sums
    #[arg(long, value_name = "KIND", default_value = "single")]
    pub precision: Precision,
    /// Treat a graphics device as hung after this many seconds without an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(skip)]
    pub patience: u64,
    /// Count the device as lost after N submissions, for tests [default: never]
    #[arg(long, value_name = "N", hide = true)]
    #[serde(skip)]
    pub lose_device_after: Option<u64>,
    #[command(flatten)]
    #[serde(skip)]
    pub tuning: TuningArgs,
}

/// How a run computes on its device. Classifying a picture needs none of these.
#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Device")]
pub(super) struct ComputingArgs {
    /// Recompute activations in the backward pass instead of keeping them, in the blocks where that saves memory: about
    /// a fifth less memory for activations, a tenth less in total, a tenth slower [default: off]
    #[arg(long)]
    pub checkpoint_activations: bool,
    /// Keep activations in half precision (f16) until the backward pass, where that saves memory: about a quarter less
    /// memory for activations, a tenth less in total. The picture changes by rounding [default: off]
    #[arg(long)]
    pub half_activations: bool,
    /// Compute the network's first layers in tiles of N pixels a side, if the feature maps of the whole picture take
    /// too much memory. Same image up to rounding, slower. auto: the whole picture if it fits in memory, else the
    /// largest tiles that fit
    #[arg(long, value_name = "none|auto|N", default_value = "none")]
    #[serde(serialize_with = "values::displayed")]
    pub tile: TileArg,
    /// First test the kernels of this run on this device and, on a graphics device, compare one whole iteration with
    /// the CPU device; paint only if the results are correct [default: off]
    #[arg(long)]
    #[serde(skip)]
    pub verify: bool,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Device")]
pub(super) struct TuningArgs {
    /// File with the measurements of `mirage tune`, used with --kernels auto [default: tuning.json in the user's cache
    /// folder]
    #[arg(long, value_name = "FILE")]
    pub tuning_cache: Option<PathBuf>,
    /// Ignore the tuning cache [default: use it if there is one]
    #[arg(long, conflicts_with = "tuning_cache")]
    pub no_tuning_cache: bool,
}

impl DeviceArgs {
    /// Returns the options for opening the device.
    pub(super) fn options(&self) -> DeviceOptions {
        let family = self.kernels.family();
        DeviceOptions {
            adapter: self.adapter.as_deref().map(AdapterChoice::from).unwrap_or_default(),
            family,
            exact: self.exact,
            precision: self.precision.precision(),
            threads: self.threads.map(usize::from),
            patience: Some(Duration::from_secs(self.patience)),
            lose_after: self.lose_device_after,
            ..DeviceOptions::default()
        }
    }

    /// Opens the device and applies its tuning measurements. Returns the device and notes for the user.
    pub(super) fn open(&self) -> Result<(Arc<Engine>, Vec<String>)> {
        let engine = Engine::open(&self.options())?;
        let why = engine.note().map(str::to_owned);
        let tuning = self.tuning.apply(&engine);
        Ok((engine, why.into_iter().chain(tuning).collect()))
    }
}

impl TuningArgs {
    /// Returns the path of the tuning cache, unless it is ignored.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let path = self.tuning_cache.clone().or_else(Cache::default_path);
        path.filter(|_| !self.no_tuning_cache)
    }

    /// Makes a device use the measurements taken on it. Returns a note if the cache can't be used.
    fn apply(&self, engine: &Engine) -> Option<String> {
        // The CPU device has one kernel for each op.
        let context = engine.gpu()?;
        let path = self.path()?;
        let profile = engine.profile();
        if profile.family != Family::Auto {
            return None;
        }
        if self.tuning_cache.is_some() && !path.exists() {
            return Some(format!("there is no tuning cache {}: create it with `mirage tune`", shown(&path)));
        }
        let (cache, damaged) = Cache::load(&path);
        let (choices, foreign) = cache.choices(&Adapter::of(context), profile.exact, profile.precision);
        engine.use_choices(choices);
        damaged.or(foreign)
    }
}
