//! Faults of drivers that are worked around, all in one table. Nothing else in the program goes by a driver's
//! name.
//!
//! An entry says which drivers have the fault, what is done about it, and where it is known from. A test
//! (`tests/kernels/quirks.rs`) shows on the present driver that the fault is there where the table says so, and absent
//! elsewhere: an entry that is no longer needed fails.

/// A fault that some drivers have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quirk {
    /// Name for messages, e.g. in `mirage devices`.
    pub name: &'static str,
    /// The backend that it shows on.
    pub backend: wgpu::Backend,
    /// Vendor: the PCI number, or the one that Khronos gave.
    pub vendor: u32,
    /// Part of the driver's name, case ignored.
    pub driver: &'static str,
    /// First version that has it; `None`: all up to `until`.
    pub from: Option<Version>,
    /// First version that has it no more; `None`: none is known.
    pub until: Option<Version>,
    /// What is wrong.
    pub reason: &'static str,
    /// Where that is known from.
    pub link: &'static str,
    /// What is done about it.
    pub effect: Effect,
}

/// What an entry changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Sets [`super::Profile::loop_limit`]: long sums are cut up, and what can't be is refused.
    LoopLimit(u32),
}

/// Version of a driver: the first three numbers with dots between them in the driver's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub [u32; 3]);

/// Vendor number of Mesa's software drivers (`VK_VENDOR_ID_MESA`).
const MESA: u32 = 0x1_0005;

/// All of them.
pub const QUIRKS: &[Quirk] = &[Quirk {
    name: "loops end after 65535 iterations",
    backend: wgpu::Backend::Vulkan,
    vendor: MESA,
    driver: "llvmpipe",
    from: None,
    // The first version that was seen without it; 22.3.6 has it.
    until: Some(Version([25, 0, 7])),
    reason: "the compiler counts the iterations of all loops of an invocation together, and silently ends each \
             loop when 65535 are used up (LP_MAX_TGSI_LOOP_ITERATIONS)",
    link: "https://gitlab.freedesktop.org/mesa/mesa/-/blob/mesa-22.3.6/src/gallium/auxiliary/gallivm/lp_bld_limits.h",
    effect: Effect::LoopLimit(65_535),
}];

impl Version {
    /// The version in a text such as `Mesa 22.3.6 (LLVM 15.0.6)`, if there is one.
    pub fn find(text: &str) -> Option<Self> {
        let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
        words.filter_map(Self::parse).next()
    }

    /// Two or more numbers with dots between them.
    fn parse(word: &str) -> Option<Self> {
        let mut numbers = word.split('.').map(str::parse::<u32>);
        let (first, second) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let third = numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Self([first, second, third]))
    }
}

impl Quirk {
    /// True if this adapter's driver has the fault. A driver that does not report its version counts as having
    /// what any version had.
    pub fn matches(&self, info: &wgpu::AdapterInfo) -> bool {
        let version = Version::find(&info.driver_info);
        let since = self.from.zip(version).is_none_or(|(from, version)| from <= version);
        let before = self.until.zip(version).is_none_or(|(until, version)| version < until);
        let driver = info.driver.to_lowercase().contains(&self.driver.to_lowercase());
        info.backend == self.backend && info.vendor == self.vendor && driver && since && before
    }
}

/// The faults that this adapter's driver is known for.
pub fn quirks(info: &wgpu::AdapterInfo) -> impl Iterator<Item = &'static Quirk> {
    QUIRKS.iter().filter(|quirk| quirk.matches(info))
}

/// The least loop limit of these faults, if any has one.
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
