//! The processor that the CPU device runs on.

use std::num::NonZeroUsize;

/// The processor of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processor {
    /// Name reported by the system, or else the architecture.
    pub name: String,
    /// Number of hardware threads that this process may use.
    pub threads: usize,
    /// Widest vector instructions that the processor supports and kernels are compiled for.
    pub instructions: &'static str,
}

impl Processor {
    /// Detects the processor of this machine.
    pub fn detect() -> Self {
        Self {
            name: name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            instructions: instructions(),
        }
    }
}

#[cfg(target_os = "linux")]
fn name() -> Option<String> {
    model(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

#[cfg(not(target_os = "linux"))]
fn name() -> Option<String> {
    // Set by Windows.
    std::env::var("PROCESSOR_IDENTIFIER").ok()
}

/// Parses the first model name of `/proc/cpuinfo`. Arm kernels list none.
#[cfg(any(target_os = "linux", test))]
fn model(info: &str) -> Option<String> {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let (_, name) = lines.find(|(key, _)| matches!(key.trim(), "model name" | "Model" | "cpu"))?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn instructions() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "AVX2"
    } else if is_x86_feature_detected!("avx") {
        "AVX"
    } else {
        "SSE2"
    }
}

#[cfg(target_arch = "aarch64")]
fn instructions() -> &'static str {
    "NEON"
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
fn instructions() -> &'static str {
    "no vectors"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_model_is_parsed() {
        let x86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\n";
        assert_eq!(model(x86).unwrap(), "AMD EPYC 9R14");
        assert_eq!(model("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
        assert_eq!(model("model name\t:\n"), None);
        assert_eq!(model("processor\t: 0\n\nModel\t\t: Raspberry Pi 5\n").unwrap(), "Raspberry Pi 5");
        assert!(Processor::detect().threads > 0);
    }
}
