//! What a run will take, said and checked before it starts: memory by class, and time.

use super::free_memory::Free;
use super::largest_size;
use crate::cli::checked_run::CheckedRun;
use crate::cli::output::format::{bytes, duration};
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::mirage::MemoryClasses;
use crate::mirage::MemoryPlan;
use crate::mirage::Request;
use crate::mirage::Speed;
use crate::mirage::Tiling;
use crate::vgg::Network;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// With `--size auto` the first of these that the network's layers take is tried first, in pixels.
pub(in crate::cli) const FIRST_SIZES: [u32; 3] = [512, 2048, 8192];

/// The limit of a [`Budget`] that the user states.
const GIVEN: &str = "--memory";

/// Memory that may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Budget {
    pub bytes: u64,
    /// Whose limit it is.
    pub of: String,
}

impl Display for Budget {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} allows {}", self.of, bytes(self.bytes))
    }
}

/// The memory that a device's run may take. None where the system does not report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Budgets {
    /// Of the device's memory, which the CPU device and software drivers share with the host.
    pub device: Option<Budget>,
    /// Of the host's memory, where the device has its own.
    pub host: Option<Budget>,
}

impl Budgets {
    /// Those of this process on a device; `limit` is the user's.
    pub(in crate::cli) fn of(engine: &Engine, limit: Option<u64>) -> Self {
        let given = limit.map(|bytes| Budget { bytes, of: GIVEN.to_owned() });
        let free = Free::of_this_process();
        let free = free.map(|Free { bytes, limit }| Budget { bytes, of: limit.to_owned() });
        if engine.profile().software {
            return Self { device: given.or(free), host: None };
        }
        let own = engine.gpu().and_then(|device| device.memory_budget());
        let own = own.map(|bytes| Budget { bytes, of: "the device's budget".to_owned() });
        Self { device: given.or(own), host: free }
    }

    /// The budget that a plan exceeds, with what it needs of it.
    pub(in crate::cli) fn exceeded(&self, memory: &MemoryPlan) -> Option<(u64, &Budget)> {
        let host = if memory.is_shared { 0 } else { memory.host_peak().host.total() };
        let needs = [(memory.needed(), &self.device), (host, &self.host)];
        needs.into_iter().find_map(|(needed, budget)| {
            budget.as_ref().filter(|budget| needed > budget.bytes).map(|budget| (needed, budget))
        })
    }
}

/// What a run will take.
#[derive(Debug)]
pub(in crate::cli) struct Forecast {
    pub memory: MemoryPlan,
    pub budgets: Budgets,
    /// Bytes that reading the pictures took, before anything else.
    pub reading: u64,
    /// What iterations cost, if that was measured.
    pub speed: Option<Speed>,
    /// Iterations that a resumed run has done.
    pub done: u32,
}

impl Forecast {
    /// The forecast for a run on this device.
    ///
    /// # Errors
    /// As [`MemoryPlan::new`].
    pub(in crate::cli) fn new(engine: &Engine, checked: &CheckedRun, limit: Option<u64>) -> Result<Self> {
        Ok(Self {
            memory: MemoryPlan::new(engine, &checked.network, &checked.request)?,
            budgets: Budgets::of(engine, limit),
            reading: checked.reading,
            speed: None,
            done: 0,
        })
    }

    /// Measures what iterations cost. That takes the whole picture at small sizes: where a run in tiles may not take as much
    /// memory, no time is stated.
    ///
    /// # Errors
    /// As [`Speed::measure`].
    pub(in crate::cli) fn time(&mut self, engine: &Arc<Engine>, checked: &CheckedRun) -> Result<()> {
        let is_tiled = checked.request.tiling != Tiling::Whole;
        if is_tiled {
            let largest = Speed::largest(engine, &checked.request);
            if self.budgets.exceeded(&MemoryPlan::new(engine, &checked.network, &largest)?).is_some() {
                return Ok(());
            }
        }
        self.speed = match Speed::measure(engine, &checked.network, &checked.request) {
            Err(Error::OutOfMemory { .. }) if is_tiled => None,
            speed => Some(speed?),
        };
        Ok(())
    }

    /// Seconds of the run, if its speed was measured.
    pub(in crate::cli) fn seconds(&self) -> Option<f64> {
        Some(self.speed?.seconds(&self.memory.scales, self.done))
    }

    /// The most memory that the run takes of the device, with what it holds then; of the host too where that is the
    /// device.
    pub(in crate::cli) fn device(&self) -> MemoryClasses {
        let peak = self.memory.peak();
        if self.memory.is_shared { peak.classes() } else { peak.device }
    }

    /// One line: memory by class, and the time.
    pub(in crate::cli) fn line(&self) -> String {
        let device = self.device();
        let mut line = if self.memory.is_shared {
            format!("Needs up to {} of memory ({})", bytes(device.total()), parts(&device))
        } else {
            let host = self.memory.host_peak().host;
            format!(
                "Needs up to {} on the device ({}) and {} of memory ({})",
                bytes(device.total()),
                parts(&device),
                bytes(host.total()),
                parts(&host)
            )
        };
        if let Some(seconds) = self.seconds() {
            line += &format!(", about {}", duration(seconds));
        }
        line
    }

    /// Refuses a run that takes more memory than there is. Only for a `single` one can size and tiles be found.
    ///
    /// # Errors
    /// [`Error::Usage`] with the sizes, the largest that would fit among them.
    pub(in crate::cli) fn check(&self, engine: &Engine, checked: &CheckedRun, single: bool) -> Result<()> {
        let Some((needed, budget)) = self.budgets.exceeded(&self.memory) else { return Ok(()) };
        let [height, width] = checked.request.size();
        let most = width.max(height) as u32;
        let first = FIRST_SIZES[0].max(most / 2);
        let largest =
            largest_fitting(engine, &checked.network, &checked.request, &self.budgets, [first, most])?;
        let advice = match largest {
            Some(size) if single => {
                format!("--size {size} is the largest that fits (--size auto finds it)")
            }
            Some(size) => format!("--size {size} is the largest that fits"),
            None => "no size fits".to_owned(),
        };
        let tiles = match checked.request.tiling {
            Tiling::Whole if single => ", or cut the picture into tiles with --tile auto",
            Tiling::Whole => ", or cut the pictures into tiles with --tile",
            _ => "",
        };
        // --memory is the device's.
        let is_host = self.budgets.host.as_ref().is_some_and(|host| std::ptr::eq(host, budget));
        let remedy = match budget.of.as_str() {
            GIVEN => format!("Raise --memory{tiles}"),
            _ if is_host => format!("Close other programs{tiles}"),
            _ => format!("Close other programs{tiles}, or state with --memory how much the run may take"),
        };
        Err(Error::usage(format!(
            "at {width}x{height} pixels this run needs {}, and {budget}: {advice}. {remedy}",
            bytes(needed)
        )))
    }
}

/// `weights 12 MiB, staging 3 MiB`, without what takes nothing.
fn parts(classes: &MemoryClasses) -> String {
    let parts = classes.list().into_iter().filter(|(_, size)| *size > 0);
    parts.map(|(name, size)| format!("{name} {}", bytes(size))).collect::<Vec<_>>().join(", ")
}

/// The largest size up to `most` at which a run keeps within the budgets; `first` is tried first.
pub(in crate::cli) fn largest_fitting(
    engine: &Engine,
    network: &Arc<Network>,
    request: &Request,
    budgets: &Budgets,
    [first, most]: [u32; 2],
) -> Result<Option<u32>> {
    let limit = budgets.device.as_ref().map_or(u64::MAX, |budget| budget.bytes);
    largest_size::search(limit, most, first, |size| {
        match MemoryPlan::new(engine, network, &request.at_size(size as usize)) {
            // Where the host has too little, so does the search's number.
            Ok(memory) => Ok(match budgets.exceeded(&memory) {
                Some((needed, _)) => needed.max(limit.saturating_add(1)),
                None => memory.needed(),
            }),
            // A tensor is larger than the device takes at once; or the picture is too small for the network, and so are all
            // smaller ones.
            Err(Error::OutOfMemory { .. } | Error::Usage(_)) => Ok(u64::MAX),
            Err(error) => Err(error),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Profile;
    use crate::image_io::Picture;
    use crate::mirage::{ScaleCount, Scales};

    fn forecast(profile: Profile, device: Option<u64>, host: Option<u64>) -> Forecast {
        let engine = Engine::counting_for(profile, "invented");
        let network = Network::open(std::path::Path::new("weights/vgg16-narrow.safetensors"), None).unwrap();
        let mut request = Request::new(Picture { width: 96, height: 64, rgb: vec![0.5; 96 * 64 * 3] });
        request.scales = Scales { count: ScaleCount::Exactly(1), ..request.scales };
        let budget = |bytes: Option<u64>| bytes.map(|bytes| Budget { bytes, of: "a test".to_owned() });
        Forecast {
            memory: MemoryPlan::new(&engine, &Arc::new(network), &request).unwrap(),
            budgets: Budgets { device: budget(device), host: budget(host) },
            reading: 0,
            speed: None,
            done: 0,
        }
    }

    #[test]
    fn the_line_states_all_classes_and_the_time() {
        let mut cpu = forecast(Profile::cpu(), None, None);
        let line = cpu.line();
        for words in ["weights", "activations and gradients", "optimiser", "targets", "pictures", "program"] {
            assert!(line.contains(words), "{words}: {line}");
        }
        assert!(!line.contains("on the device") && !line.contains("about"), "{line}");
        cpu.speed = Some(Speed { size: [64, 96], per_pixel: 1e-5, per_iteration: 0.1, preparing: 1.0 });
        assert!(cpu.line().ends_with(&format!(", about {}", duration(cpu.seconds().unwrap()))));
        let gpu = forecast(Profile::minimal(), None, None).line();
        assert!(gpu.contains("on the device (weights"), "{gpu}");
    }

    #[test]
    fn what_exceeds_a_budget_is_found() {
        let needed = forecast(Profile::cpu(), None, None).memory.needed();
        for (bytes, fits) in [(needed, true), (needed - 1, false)] {
            let cpu = forecast(Profile::cpu(), Some(bytes), Some(1));
            assert_eq!(cpu.budgets.exceeded(&cpu.memory).is_none(), fits, "its memory is one");
        }
        let gpu = forecast(Profile::minimal(), Some(u64::MAX), Some(1));
        assert!(gpu.budgets.exceeded(&gpu.memory).is_some(), "the host has no byte");
        assert!(forecast(Profile::minimal(), None, None).budgets.exceeded(&gpu.memory).is_none());
    }
}
