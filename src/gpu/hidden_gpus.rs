//! GPUs of the machine that are not listed as adapters: those whose drivers wgpu excludes because they don't pass
//! Vulkan's conformance tests, and on Linux those without a Vulkan driver. Only used for a message if no hardware
//! adapter was found.

use super::adapter::enumerate_with;
use crate::escape::shown;
use std::path::{Path, PathBuf};

/// Environment variable that makes wgpu accept drivers that don't pass the conformance tests.
const ALLOW: &str = "WGPU_ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER=1";

/// A GPU detected by Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LinuxGpu {
    /// A PCI device of a GPU maker, and its render node if this process may not open it.
    Pci { maker: Maker, closed: Option<PathBuf> },
    /// The GPU of the Windows host (WSL).
    Windows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Nvidia,
    Amd,
    Intel,
}

impl Maker {
    /// Returns the maker with this PCI vendor number. Others, such as the display adapters of servers and virtual
    /// machines, have no Vulkan driver.
    fn of(vendor: u32) -> Option<Self> {
        match vendor {
            0x10de => Some(Self::Nvidia),
            0x1002 => Some(Self::Amd),
            0x8086 => Some(Self::Intel),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "NVIDIA",
            Self::Amd => "AMD",
            Self::Intel => "Intel",
        }
    }
}

/// Returns one or two sentences for each GPU that could be used but is not, with the remedy. Only to be called if no
/// hardware adapter was found. On Linux without a GPU it takes microseconds; otherwise adapters are listed a second
/// time.
pub fn hidden_gpus() -> Vec<String> {
    let known = if cfg!(target_os = "linux") { Some(linux_gpus(Path::new("/"))) } else { None };
    if known.as_ref().is_some_and(Vec::is_empty) {
        return Vec::new();
    }
    // If a driver fails here, only a hint is lost.
    let all = enumerate_with(wgpu::InstanceFlags::ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER).unwrap_or_default();
    let all: Vec<wgpu::AdapterInfo> = all.iter().map(wgpu::Adapter::get_info).collect();
    messages(&hardware(&all), &known.unwrap_or_default())
}

/// Returns the names of the hardware adapters. None was found without the flag, so wgpu had excluded all of these.
fn hardware(all: &[wgpu::AdapterInfo]) -> Vec<String> {
    let hardware = all.iter().filter(|info| info.device_type != wgpu::DeviceType::Cpu);
    hardware.map(|info| format!("{} (driver {})", info.name, info.driver)).collect()
}

/// Returns the messages. GPUs excluded by wgpu account for those detected by Linux; without any, these have no driver.
fn messages(left_out: &[String], known: &[LinuxGpu]) -> Vec<String> {
    if !left_out.is_empty() {
        let message = |name: &String| {
            format!(
                "THIS MACHINE HAS A GPU THAT IS NOT USED: {name}. Its driver does not pass Vulkan's conformance tests and is \
                 ignored; set {ALLOW} to use it, and run `mirage kernels test` first to check its results"
            )
        };
        return left_out.iter().map(message).collect();
    }
    known.iter().map(LinuxGpu::message).collect()
}

impl LinuxGpu {
    fn message(&self) -> String {
        let (maker, remedy) = match self {
            Self::Pci { maker, closed: Some(node) } => (
                maker.name(),
                format!(
                    "this user may not open {}; add the user to the file's group (often `sudo usermod -aG render $USER`, then log in \
                     again)",
                    shown(&node)
                ),
            ),
            Self::Pci { maker: Maker::Nvidia, .. } => (
                Maker::Nvidia.name(),
                "no Vulkan driver for it was found; install NVIDIA's driver with its Vulkan part, and in a container set \
                 NVIDIA_DRIVER_CAPABILITIES=all"
                    .to_owned(),
            ),
            Self::Pci { maker, .. } => (
                maker.name(),
                "no Vulkan driver for it was found; install one: `apt-get install mesa-vulkan-drivers` on Debian and Ubuntu, \
                 `dnf install mesa-vulkan-drivers` on Fedora"
                    .to_owned(),
            ),
            Self::Windows => (
                "Windows's",
                format!(
                    "no Vulkan driver for it was found; install Mesa's with dzn (mesa-vulkan-drivers, in newer distributions) and set \
                     {ALLOW}, or run the Windows program"
                ),
            ),
        };
        format!("THIS MACHINE HAS A GPU THAT IS NOT USED ({maker}): {remedy}")
    }
}

/// Lists the GPUs in `/sys/class/drm` below this root, one per maker, and that of WSL.
fn linux_gpus(root: &Path) -> Vec<LinuxGpu> {
    let mut gpus = Vec::new();
    let entries = std::fs::read_dir(root.join("sys/class/drm")).into_iter().flatten().flatten();
    let mut cards: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_card(path)).collect();
    cards.sort();
    for card in cards {
        let text = std::fs::read_to_string(card.join("device/vendor")).unwrap_or_default();
        let vendor = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
        let Some(maker) = vendor.and_then(Maker::of) else { continue };
        let is_known = |gpu: &LinuxGpu| matches!(gpu, LinuxGpu::Pci { maker: known, .. } if *known == maker);
        if !gpus.iter().any(is_known) {
            gpus.push(LinuxGpu::Pci { maker, closed: closed_node(root, &card) });
        }
    }
    if root.join("dev/dxg").exists() {
        gpus.push(LinuxGpu::Windows);
    }
    gpus
}

/// True for a card, such as `card0`, but not its connectors, such as `card0-HDMI-A-1`.
fn is_card(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("card"));
    name.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns the card's render node, if it exists but this process may not open it.
fn closed_node(root: &Path, card: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(card.join("device/drm")).ok()?.flatten().map(|entry| entry.file_name());
    let node = names.into_iter().find(|name| name.to_string_lossy().starts_with("renderD"))?;
    let node = root.join("dev/dri").join(node);
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(&node);
    opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(root: &Path, name: &str, vendor: &str) {
        let device = root.join("sys/class/drm").join(name).join("device");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("vendor"), vendor).unwrap();
    }

    #[test]
    fn linux_lists_only_gpus_of_known_vendors() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(linux_gpus(root), []);
        // A server's display adapter, a virtual machine's, a connector, and one without a vendor (not on PCI).
        card(root, "card0", "0x1a03\n");
        card(root, "card1", "0x1234\n");
        card(root, "card1-Virtual-1", "0x10de\n");
        card(root, "renderD128", "0x10de\n");
        std::fs::create_dir_all(root.join("sys/class/drm/card2/device")).unwrap();
        assert_eq!(linux_gpus(root), []);
        card(root, "card3", "0x1002\n");
        card(root, "card4", "0x10de\n");
        card(root, "card5", "0x10de\n");
        let pci = |maker| LinuxGpu::Pci { maker, closed: None };
        assert_eq!(linux_gpus(root), [pci(Maker::Amd), pci(Maker::Nvidia)]);
        std::fs::create_dir_all(root.join("dev")).unwrap();
        std::fs::write(root.join("dev/dxg"), "").unwrap();
        assert_eq!(linux_gpus(root), [pci(Maker::Amd), pci(Maker::Nvidia), LinuxGpu::Windows]);
    }

    #[test]
    fn excluded_software_adapter_is_not_a_gpu() {
        let info = |name: &str, kind| {
            let mut info = wgpu::AdapterInfo::new(kind, wgpu::Backend::Vulkan);
            info.name = name.to_owned();
            info.driver = "dzn".to_owned();
            info
        };
        let gpu = info("Microsoft Direct3D12 (Some GPU)", wgpu::DeviceType::DiscreteGpu);
        let software = info("llvmpipe", wgpu::DeviceType::Cpu);
        assert_eq!(hardware(&[software.clone(), gpu]), ["Microsoft Direct3D12 (Some GPU) (driver dzn)"]);
        assert_eq!(hardware(&[software]), [""; 0]);
    }

    #[test]
    fn each_message_names_the_remedy() {
        let nvidia = LinuxGpu::Pci { maker: Maker::Nvidia, closed: None };
        let closed = LinuxGpu::Pci { maker: Maker::Intel, closed: Some("/dev/dri/renderD128".into()) };
        let amd = LinuxGpu::Pci { maker: Maker::Amd, closed: None };
        for (left_out, known, words) in [
            (
                vec!["A GPU (driver dzn)".to_owned()],
                vec![LinuxGpu::Windows],
                vec!["A GPU (driver dzn)", ALLOW],
            ),
            (vec![], vec![nvidia], vec!["NVIDIA", "NVIDIA_DRIVER_CAPABILITIES"]),
            (vec![], vec![closed], vec!["Intel", "/dev/dri/renderD128", "usermod -aG render"]),
            (vec![], vec![amd], vec!["AMD", "mesa-vulkan-drivers"]),
            (vec![], vec![LinuxGpu::Windows], vec!["Windows", "dzn", ALLOW]),
        ] {
            let messages = messages(&left_out, &known);
            assert_eq!(messages.len(), 1, "{messages:?}");
            for word in words.iter().chain(&["THIS MACHINE HAS A GPU THAT IS NOT USED"]) {
                assert!(messages[0].contains(word), "{word}: {}", messages[0]);
            }
        }
        assert!(messages(&[], &[]).is_empty());
    }
}
