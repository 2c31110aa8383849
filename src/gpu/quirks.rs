//! The table of all driver faults that are worked around. Nothing else in the program depends on a driver's name.
//!
//! An entry lists the affected drivers, the workaround and the source. A test (`tests/kernels/quirks.rs`) checks that
//! the present driver has a fault exactly if the table says so, so an entry that is no longer needed fails.

/// A fault that some drivers have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quirk {
    /// Name for messages, e.g. in `mirage devices`.
    pub name: &'static str,
    /// Affected backend.
    pub backend: wgpu::Backend,
    /// Vendor: the PCI number, or the number assigned by Khronos.
    pub vendor: u32,
    /// Part of the driver's name, ignoring case.
    pub driver: &'static str,
    /// First affected version; `None` for all versions before `until`.
    pub from: Option<Version>,
    /// First fixed version; `None` if none is known.
    pub until: Option<Version>,
    /// Description of the fault.
    pub reason: &'static str,
    /// Source of the description.
    pub link: &'static str,
    /// Workaround.
    pub effect: Effect,
}

/// Workaround of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Sets [`super::Profile::loop_limit`]: long sums are split; kernels that can't be split are rejected.
    LoopLimit(u32),
}

/// Version of a driver: the first three numbers with dots between them in the driver's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub [u32; 3]);

/// Vendor number of Mesa's software drivers (`VK_VENDOR_ID_MESA`).
const MESA: u32 = 0x1_0005;

/// All known faults.
pub const QUIRKS: &[Quirk] = &[Quirk {
    name: "loops end after 65535 iterations",
    backend: wgpu::Backend::Vulkan,
    vendor: MESA,
    driver: "llvmpipe",
    from: None,
    // First version observed without it; 22.3.6 has it.
    until: Some(Version([25, 0, 7])),
    reason: "the compiler counts the iterations of all loops of an invocation together, and silently ends each \
             loop when 65535 are used up (LP_MAX_TGSI_LOOP_ITERATIONS)",
    link: "https://gitlab.freedesktop.org/mesa/mesa/-/blob/mesa-22.3.6/src/gallium/auxiliary/gallivm/lp_bld_limits.h",
    effect: Effect::LoopLimit(65_535),
}];

impl Version {
    /// Finds the version in a text such as `Mesa 22.3.6 (LLVM 15.0.6)`.
    pub fn find(text: &str) -> Option<Self> {
        let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
        words.filter_map(Self::parse).next()
    }

    /// Parses two or more numbers separated by dots.
    fn parse(word: &str) -> Option<Self> {
        let mut numbers = word.split('.').map(str::parse::<u32>);
        let (first, second) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let third = numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Self([first, second, third]))
    }
}

impl Quirk {
    /// True if this adapter's driver has the fault. A driver that does not report its version is assumed to have the
    /// faults of every version.
    pub fn matches(&self, info: &wgpu::AdapterInfo) -> bool {
        let version = Version::find(&info.driver_info);
        let since = self.from.zip(version).is_none_or(|(from, version)| from <= version);
        let before = self.until.zip(version).is_none_or(|(until, version)| version < until);
        let driver = info.driver.to_lowercase().contains(&self.driver.to_lowercase());
        info.backend == self.backend && info.vendor == self.vendor && driver && since && before
    }
}

/// Returns the known faults of this adapter's driver.
pub fn quirks(info: &wgpu::AdapterInfo) -> impl Iterator<Item = &'static Quirk> {
    QUIRKS.iter().filter(|quirk| quirk.matches(info))
}

/// Returns the smallest loop limit of the driver's faults, if any.
pub(super) fn loop_limit(info: &wgpu::AdapterInfo) -> Option<u32> {
    quirks(info)
        .map(|quirk| match quirk.effect {
            Effect::LoopLimit(limit) => limit,
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(backend: wgpu::Backend, vendor: u32, driver: &str, driver_info: &str) -> wgpu::AdapterInfo {
        let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Cpu, backend);
        info.vendor = vendor;
        info.driver = driver.to_owned();
        info.driver_info = driver_info.to_owned();
        info
    }

    #[test]
    fn driver_versions_are_parsed() {
        for (text, version) in [
            ("Mesa 22.3.6 (LLVM 15.0.6)", Some([22, 3, 6])),
            ("535.104.05", Some([535, 104, 5])),
            ("Mesa 25.1-devel", Some([25, 1, 0])),
            ("31.0.101.4502", Some([31, 0, 101])),
            ("", None),
            ("SwiftShader driver 5", None),
        ] {
            assert_eq!(Version::find(text), version.map(Version), "{text}");
        }
        assert!(Version([22, 3, 6]) < Version([22, 10, 0]));
    }

    #[test]
    fn quirk_matches_backend_vendor_driver_and_version() {
        use wgpu::Backend::{Metal, Vulkan};
        let entry = QUIRKS[0];
        let mesa = |version| adapter(Vulkan, MESA, "llvmpipe", version);
        assert!(entry.matches(&mesa("Mesa 22.3.6 (LLVM 15.0.6)")) && entry.matches(&mesa("")));
        assert!(entry.matches(&adapter(Vulkan, MESA, "LLVMpipe", "")));
        assert!(!entry.matches(&adapter(Metal, MESA, "llvmpipe", "Mesa 22.3.6")));
        assert!(!entry.matches(&adapter(Vulkan, 0x10de, "llvmpipe", "Mesa 22.3.6")));
        assert!(!entry.matches(&adapter(Vulkan, MESA, "radv", "Mesa 22.3.6")));
        let some = Quirk { from: Some(Version([22, 0, 0])), until: Some(Version([23, 1, 0])), ..entry };
        for (version, within) in [
            ("Mesa 21.9.9", false),
            ("Mesa 22.0", true),
            ("Mesa 23.0.9", true),
            ("Mesa 23.1.0", false),
            ("", true),
        ] {
            assert_eq!(some.matches(&mesa(version)), within, "{version}");
        }
    }

    #[test]
    fn loop_limit_comes_from_the_table() {
        use wgpu::Backend::Vulkan;
        let mesa = |version| loop_limit(&adapter(Vulkan, MESA, "llvmpipe", version));
        assert_eq!((mesa("Mesa 22.3.6"), mesa("Mesa 24.2.8 (LLVM 19)")), (Some(65_535), Some(65_535)));
        assert_eq!((mesa("Mesa 25.0.7-2+deb13u1"), mesa("Mesa 26.1.6-1 (LLVM 21.1.8)")), (None, None));
        assert_eq!(loop_limit(&adapter(Vulkan, 0x1ae0, "SwiftShader driver", "")), None);
    }

    #[test]
    fn every_quirk_has_reason_and_link() {
        for quirk in QUIRKS {
            assert!(quirk.reason.len() > 20 && quirk.link.starts_with("https://"), "{}", quirk.name);
        }
    }
}
