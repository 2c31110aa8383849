//! Forecast of a run, printed and checked before it starts: memory by class, and time.

use super::free_memory::Free;
use super::largest_size;
use crate::cli::checked_run::CheckedRun;
use crate::cli::output::format::{bytes, duration};
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::mirage::{MemoryClasses, MemoryPlan, PROGRAM_MEMORY, Request, Speed, Tiling};
use crate::vgg::Network;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// Sizes in pixels. `--size auto` starts with the first of them that the network's layers accept.
pub(in crate::cli) const FIRST_SIZES: [u32; 3] = [512, 2048, 8192];

/// Name of the limit that the user sets.
const GIVEN: &str = "--memory";

/// A memory limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Budget {
    pub bytes: u64,
    /// Source of the limit.
    pub of: String,
}

impl Display for Budget {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} allows {}", self.of, bytes(self.bytes))
    }
}

/// Memory limits of a run on a device; `None` where the system does not report one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Budgets {
    /// Limit of the device's memory, which the CPU device and software drivers share with the host.
    pub device: Option<Budget>,
    /// Limit of the host's memory, if the device has its own.
    pub host: Option<Budget>,
}

impl Budgets {
    /// Returns the limits of this process on a device; `limit` is the user's.
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

    /// Returns the budget that a plan exceeds, with the memory that it needs.
    pub(in crate::cli) fn exceeded(&self, memory: &MemoryPlan) -> Option<(u64, &Budget)> {
        let host = if memory.is_shared { 0 } else { memory.host_peak().host.total() };
        let needs = [(memory.needed(), &self.device), (host, &self.host)];
        needs.into_iter().find_map(|(needed, budget)| {
            budget.as_ref().filter(|budget| needed > budget.bytes).map(|budget| (needed, budget))
        })
    }
}

/// Memory and time that a run will take.
#[derive(Debug)]
pub(in crate::cli) struct Forecast {
    pub memory: MemoryPlan,
    pub budgets: Budgets,
    /// Peak memory of reading the pictures, before the run, in bytes, with the program itself.
    pub reading: u64,
    /// Time of the iterations, if it was measured.
    pub speed: Option<Speed>,
    /// Number of iterations that a resumed run has done.
    pub done: u32,
}

impl Forecast {
    /// Creates the forecast of a run on this device.
    ///
    /// # Errors
    /// See [`MemoryPlan::new`].
    pub(in crate::cli) fn new(
        engine: &Engine,
        checked: &CheckedRun,
        limit: Option<u64>,
        verify: bool,
    ) -> Result<Self> {
        let (network, request) = (&checked.network, &checked.request);
        let memory = MemoryPlan::new(engine, network, request)?;
        Ok(Self {
            memory: if verify { memory.verified(engine, network, request)? } else { memory },
            budgets: Budgets::of(engine, limit),
            reading: checked.reading + PROGRAM_MEMORY,
            speed: None,
            done: 0,
        })
    }

    /// Times the iterations. That takes the whole picture at small sizes, so a run in tiles gets no time if its memory
    /// limit does not allow it.
    ///
    /// # Errors
    /// See [`Speed::measure`].
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

    /// Returns the time of the run in seconds, if its speed was measured.
    pub(in crate::cli) fn seconds(&self) -> Option<f64> {
        Some(self.speed?.seconds(&self.memory.scales, self.done))
    }

    /// Returns the peak memory on the device, by class; with the host's memory if they are shared.
    pub(in crate::cli) fn device(&self) -> MemoryClasses {
        let peak = self.memory.peak();
        if self.memory.is_shared { peak.classes() } else { peak.device }
    }

    /// Returns one line with the memory by class, and the time. Reading the pictures, which is done by then, is
    /// mentioned if it took more than the run will.
    pub(in crate::cli) fn line(&self) -> String {
        let device = self.device();
        let host = if self.memory.is_shared { device } else { self.memory.host_peak().host };
        let mut line = if self.memory.is_shared {
            format!("Needs up to {} of memory ({})", bytes(device.total()), parts(&device))
        } else {
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
        if self.reading > host.total() {
            line += &format!("; reading the pictures took up to {}", bytes(self.reading));
        }
        line
    }

    /// Refuses a run that needs more memory than there is. For a `single` run, suggests choosing size and tiles
    /// automatically.
    ///
    /// # Errors
    /// [`Error::Usage`] with the sizes, including the largest that would fit.
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
        let in_tiles = match checked.request.tiling {
            Tiling::Side(side) => format!(" in tiles of {side} pixels"),
            _ => String::new(),
        };
        // --memory limits only the device's memory.
        let is_host = self.budgets.host.as_ref().is_some_and(|host| std::ptr::eq(host, budget));
        let mut remedies = vec![if budget.of == GIVEN { "raise --memory" } else { "close other programs" }];
        remedies.extend(self.options_that_fit(engine, checked, single)?);
        if budget.of != GIVEN && !is_host {
            remedies.push("set the limit with --memory");
        }
        Err(Error::usage(format!(
            "at {width}x{height} pixels this run needs {}{in_tiles}, and {budget}: {advice}. {}",
            bytes(needed),
            sentence(&remedies)
        )))
    }

    /// Returns what to do with options that would let the run fit at this size.
    fn options_that_fit(
        &self,
        engine: &Engine,
        checked: &CheckedRun,
        single: bool,
    ) -> Result<Vec<&'static str>> {
        let (network, request) = (&checked.network, &checked.request);
        let mut options = Vec::new();
        if !request.activations.half {
            let mut halved = request.clone();
            halved.activations.half = true;
            let memory = plan_with(engine, network, &halved, request.tiling)?;
            if memory.is_some_and(|memory| self.budgets.exceeded(&memory).is_none()) {
                options.push("add --half-activations");
            }
        }
        if request.tiling == Tiling::Whole
            && matches!(tiles(engine, network, request, &self.budgets)?, Tiles::Fit(_))
        {
            options.push(if single {
                "cut the picture into tiles with --tile auto"
            } else {
                "cut the pictures into tiles with --tile"
            });
        }
        Ok(options)
    }
}

/// Joins alternatives to a sentence without its full stop: `Do this, do that, or do something else`.
fn sentence(alternatives: &[&str]) -> String {
    let joined = match alternatives {
        [others @ .., last] if !others.is_empty() => format!("{}, or {last}", others.join(", ")),
        _ => alternatives.concat(),
    };
    let mut letters = joined.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Formats classes as `weights 12 MiB, staging 3 MiB`, without empty ones.
fn parts(classes: &MemoryClasses) -> String {
    let parts = classes.list().into_iter().filter(|(_, size)| *size > 0);
    parts.map(|(name, size)| format!("{name} {}", bytes(size))).collect::<Vec<_>>().join(", ")
}

/// Sides of tiles, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Tiles {
    /// The largest that keep the run within its budgets.
    Fit(u32),
    /// None do; these need the least memory.
    Exceed(u32),
}

/// Plans a run with this tiling; none if a tensor exceeds the device's limits.
pub(in crate::cli) fn plan_with(
    engine: &Engine,
    network: &Arc<Network>,
    request: &Request,
    tiling: Tiling,
) -> Result<Option<MemoryPlan>> {
    match MemoryPlan::new(engine, network, &Request { tiling, ..request.clone() }) {
        Ok(memory) => Ok(Some(memory)),
        Err(Error::OutOfMemory { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds tiles for a run that exceeds its budgets as a whole.
pub(in crate::cli) fn tiles(
    engine: &Engine,
    network: &Arc<Network>,
    request: &Request,
    budgets: &Budgets,
) -> Result<Tiles> {
    let mut least = (u64::MAX, Tiling::LEAST);
    for side in Tiling::Auto.sides(request.size()).into_iter().flatten() {
        let side = side as u32;
        let Some(memory) = plan_with(engine, network, request, Tiling::Side(side))? else { continue };
        if budgets.exceeded(&memory).is_none() {
            return Ok(Tiles::Fit(side));
        }
        least = least.min((memory.needed(), side));
    }
    Ok(Tiles::Exceed(least.1))
}

/// Finds the largest size up to `most` at which a run keeps within the budgets; `first` is tried first.
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
            // If only the host's budget is exceeded, report more than the device's limit.
            Ok(memory) => Ok(match budgets.exceeded(&memory) {
                Some((needed, _)) => needed.max(limit.saturating_add(1)),
                None => memory.needed(),
            }),
            // A tensor exceeds the device's limits; or the picture is too small for the network, and so are all smaller
            // ones.
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
    fn line_lists_all_classes_and_the_time() {
        let mut cpu = forecast(Profile::cpu(), None, None);
        let line = cpu.line();
        for words in ["weights", "activations and gradients", "optimiser", "targets", "pictures", "program"] {
            assert!(line.contains(words), "{words}: {line}");
        }
        assert!(!line.contains("on the device") && !line.contains("about"), "{line}");
        cpu.speed = Some(Speed { size: [64, 96], per_pixel: 1e-5, per_iteration: 0.1, preparing: 1.0 });
        assert!(cpu.line().ends_with(&format!(", about {}", duration(cpu.seconds().unwrap()))));
        let mut gpu = forecast(Profile::minimal(), None, None);
        let line = gpu.line();
        assert!(line.contains("on the device (weights") && !line.contains("reading"), "{line}");
        // The host's memory counts, not the device's.
        gpu.reading = gpu.memory.host_peak().host.total() + 1;
        let read = format!("; reading the pictures took up to {}", bytes(gpu.reading));
        assert_eq!(gpu.line(), line + &read);
    }

    #[test]
    fn exceeded_budgets_are_detected() {
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
