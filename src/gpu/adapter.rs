//! Lists the adapters of this machine and picks one of them.

use super::profile::CoopMatrix;
use super::wait;
use crate::error::{Error, Result};
use crate::escape::one_line;

/// Maximum percentage of the device's memory budget that may be allocated.
pub(super) const USED_AT_MOST: u8 = 95;

/// Choice of the adapter that a run uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterChoice {
    /// The most capable kind of graphics device: discrete, integrated, virtual, then software. An engine prefers the
    /// CPU device to a software one.
    #[default]
    Best,
    /// The CPU device, which needs no graphics driver.
    Cpu,
    /// The adapter with this index in the list of `mirage devices`.
    Index(usize),
    /// The first adapter whose name contains this text, ignoring case.
    Name(String),
}

impl From<&str> for AdapterChoice {
    /// Parses a number, `cpu`, or part of a name.
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(index) => Self::Index(index),
            Err(_) if text.eq_ignore_ascii_case("cpu") => Self::Cpu,
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

/// The kinds of graphics device, most capable first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the CPU's memory.
    Integrated,
    /// A share of a GPU, or a GPU of another machine.
    Virtual,
    /// Not reported by the driver.
    Other,
    /// No GPU: a driver that runs shaders on the CPU. The last choice, but a full adapter.
    Software,
}

impl AdapterKind {
    fn of(info: &wgpu::AdapterInfo) -> Self {
        match info.device_type {
            wgpu::DeviceType::DiscreteGpu => Self::Discrete,
            wgpu::DeviceType::IntegratedGpu => Self::Integrated,
            wgpu::DeviceType::VirtualGpu => Self::Virtual,
            wgpu::DeviceType::Other => Self::Other,
            wgpu::DeviceType::Cpu => Self::Software,
        }
    }
}

/// Description of an adapter, to choose one by.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// Position in the list, usable as [`AdapterChoice::Index`].
    pub index: usize,
    /// Kind of device.
    pub kind: AdapterKind,
    /// wgpu's description: name, vendor, driver, backend, subgroup sizes.
    pub info: wgpu::AdapterInfo,
    /// The largest values the adapter offers.
    pub limits: wgpu::Limits,
    /// Names of all features the adapter offers.
    pub features: Vec<&'static str>,
    /// True if shaders can compute in half precision.
    pub f16: bool,
    /// True if shaders can use subgroups.
    pub subgroups: bool,
    /// True if the device can measure times.
    pub timestamps: bool,
    /// Cooperative matrices that kernels can use.
    pub coop_matrix: Option<CoopMatrix>,
}

/// Names an adapter with its backend and driver in one line.
pub(super) fn describe(info: &wgpu::AdapterInfo) -> String {
    let driver = format!("{} {}", info.driver, info.driver_info);
    let text = format!("{} ({}, {:?}, {})", info.name, info.backend, info.device_type, driver.trim());
    one_line(&text).into_owned()
}

fn instance(flags: wgpu::InstanceFlags) -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY.with_env();
    descriptor.flags = flags;
    // Reject allocations beyond the driver's budget, if it reports one: a clear message before the first iteration is
    // better than swapping or a killed process.
    descriptor.memory_budget_thresholds.for_resource_creation = Some(USED_AT_MOST);
    wgpu::Instance::new(descriptor)
}

fn enumerate() -> Result<Vec<wgpu::Adapter>> {
    enumerate_with(wgpu::InstanceFlags::empty().with_env())
}

/// Lists all adapters of an instance with these flags, best first.
pub(super) fn enumerate_with(flags: wgpu::InstanceFlags) -> Result<Vec<wgpu::Adapter>> {
    let instance = instance(flags);
    let all = instance.enumerate_adapters(wgpu::Backends::PRIMARY);
    let mut found = wait::block_on("looking for adapters", all, wait::sleep, wait::LIMIT)?;
    found.retain(|adapter| adapter.get_info().backend != wgpu::Backend::Noop);
    // Within a kind, Metal comes first: MoltenVK exposes the same GPU through Metal.
    found.sort_by_key(|adapter| {
        let info = adapter.get_info();
        (AdapterKind::of(&info), info.backend != wgpu::Backend::Metal)
    });
    Ok(found)
}

/// Lists all adapters of this machine, best first.
///
/// # Errors
/// [`Error::Timeout`] if a driver does not respond.
pub fn adapters() -> Result<Vec<AdapterSummary>> {
    Ok(enumerate()?
        .into_iter()
        .enumerate()
        .map(|(index, adapter)| {
            let (info, features) = (adapter.get_info(), adapter.features());
            AdapterSummary {
                index,
                kind: AdapterKind::of(&info),
                info,
                limits: adapter.limits(),
                features: features.iter_names().map(|(name, _)| name).collect(),
                f16: features.contains(wgpu::Features::SHADER_F16),
                subgroups: features.contains(wgpu::Features::SUBGROUP),
                timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
                coop_matrix: CoopMatrix::of(&adapter),
            }
        })
        .collect())
}

/// Returns the best hardware adapter, or else the name of the best software adapter.
pub(super) fn hardware() -> Result<Result<wgpu::Adapter, Option<String>>> {
    let Some(best) = enumerate()?.into_iter().next() else { return Ok(Err(None)) };
    let info = best.get_info();
    Ok(if AdapterKind::of(&info) == AdapterKind::Software { Err(Some(info.name)) } else { Ok(best) })
}

/// Returns the adapter with this description.
pub(super) fn same(info: &wgpu::AdapterInfo) -> Result<wgpu::Adapter> {
    let found = enumerate()?.into_iter().find(|adapter| adapter.get_info() == *info);
    found.ok_or_else(|| Error::NoAdapter(format!("{} was lost and is no longer available", describe(info))))
}

/// Returns the chosen adapter.
pub(super) fn pick(choice: &AdapterChoice) -> Result<wgpu::Adapter> {
    if *choice == AdapterChoice::Cpu {
        return Err(Error::usage(
            "this command needs a graphics device, not --adapter cpu: choose one from `mirage devices`",
        ));
    }
    let found = enumerate()?;
    if found.is_empty() {
        return Err(Error::NoAdapter(no_adapter_message()));
    }
    let names: Vec<String> = found.iter().map(|adapter| describe(&adapter.get_info())).collect();
    let position = match choice {
        AdapterChoice::Best => Some(0),
        AdapterChoice::Cpu => None,
        AdapterChoice::Index(index) => (*index < found.len()).then_some(*index),
        AdapterChoice::Name(name) => {
            let wanted = name.to_lowercase();
            names.iter().position(|candidate| candidate.to_lowercase().contains(&wanted))
        }
    };
    position.and_then(|position| found.into_iter().nth(position)).ok_or_else(|| {
        let wanted = match choice {
            AdapterChoice::Best => "best".to_owned(),
            AdapterChoice::Cpu => "cpu".to_owned(),
            AdapterChoice::Index(index) => index.to_string(),
            AdapterChoice::Name(name) => format!("'{name}'"),
        };
        let list: Vec<String> =
            names.iter().enumerate().map(|(index, name)| format!("  {index}: {name}")).collect();
        Error::usage(format!(
            "no adapter matches {wanted}. Give --adapter a number or part of a name from this list:\n{}\n  cpu: the CPU, without a graphics driver",
            list.join("\n")
        ))
    })
}

fn no_adapter_message() -> String {
    let remedy = if cfg!(target_os = "linux") {
        "Install a Vulkan driver: `apt-get install mesa-vulkan-drivers` on Debian and Ubuntu (it includes a \
         software driver, which needs no GPU), `dnf install mesa-vulkan-drivers` on Fedora, or your GPU maker's driver"
    } else if cfg!(target_os = "windows") {
        "Update the graphics driver; Windows 10 and later include a software device (WARP) with DirectX 12"
    } else {
        "Metal needs macOS 10.15 or later"
    };
    format!("no Vulkan, Metal or DirectX 12 adapter was found. {remedy}")
}
