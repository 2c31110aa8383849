//! The options that choose a device and say how it computes.

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
    /// Graphics device by number or part of its name, from `mirage devices`, or cpu [default: the most capable GPU; the
    /// CPU if there is none]
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    /// Threads of the CPU device [default: as many as the process may use at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(THREADS))]
    #[serde(skip)]
    pub threads: Option<u16>,
    /// Family of kernels of a graphics device: texture suits software drivers, buffer suits GPUs, naive is the slow
    /// reference
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub kernels: Kernels,
    /// Compute convolutions directly, without Winograd's method: slower, and no more accurate at full size
    /// (docs/accuracy.md) [default: off]
    #[arg(long)]
    pub exact: bool,
    /// single computes in 32 bits; half-weights keeps weights in 16 bits on the device: half the memory for the fully
    /// connected layers, and for the convolutions of --kernels buffer; half also lets `mirage tune` choose kernels on
    /// cooperative matrices, with operands of 16 bits and sums of 32, where a GPU has them
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

/// How a run computes on its device; reading out one picture has no use for these.
#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Device")]
pub(super) struct ComputingArgs {
    /// Compute activations again in the backward pass, block by block where that saves memory, instead of keeping them:
    /// about a fifth less for activations, a tenth less in all, a tenth slower [default: off]
    #[arg(long)]
    pub checkpoint_activations: bool,
    /// Cut the picture into tiles of N pixels a side for the network's first layers, where the feature maps of the whole
    /// take too much memory: the same picture to rounding, slower. auto takes the whole picture if it fits into the
    /// memory that the run may take, else the largest tiles that do
    #[arg(long, value_name = "none|auto|N", default_value = "none")]
    #[serde(serialize_with = "values::displayed")]
    pub tile: TileArg,
    /// Test the kernels of this run on this device first, and on a graphics device one whole iteration against the CPU
    /// device; paint only if the results are right [default: off]
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
    /// Ignore the tuning cache [default: use it where there is one]
    #[arg(long, conflicts_with = "tuning_cache")]
    pub no_tuning_cache: bool,
}

impl DeviceArgs {
    /// How to open the device.
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

    /// Opens the device, with the measurements that were made for it, and returns notes for the user.
    pub(super) fn open(&self) -> Result<(Arc<Engine>, Vec<String>)> {
        let engine = Engine::open(&self.options())?;
        let why = engine.note().map(str::to_owned);
        let tuning = self.tuning.apply(&engine);
        Ok((engine, why.into_iter().chain(tuning).collect()))
    }
}

impl TuningArgs {
    /// The file that is read, if any.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let path = self.tuning_cache.clone().or_else(Cache::default_path);
        path.filter(|_| !self.no_tuning_cache)
    }

    /// Has a device use the measurements that were made for it. Returns a note on a cache that can't be used.
    fn apply(&self, engine: &Engine) -> Option<String> {
        // The CPU device has one kernel for each op.
        let context = engine.gpu()?;
        let path = self.path()?;
        let profile = engine.profile();
        if profile.family != Family::Auto {
            return None;
        }
        if self.tuning_cache.is_some() && !path.exists() {
            return Some(format!("there is no tuning cache {}: `mirage tune` makes one", shown(&path)));
        }
        let (cache, damaged) = Cache::load(&path);
        let (choices, foreign) = cache.choices(&Adapter::of(context), profile.exact, profile.precision);
        engine.use_choices(choices);
        damaged.or(foreign)
    }
}
