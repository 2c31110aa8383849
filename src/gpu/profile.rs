//! Properties that the choice of kernels depends on: family, precision and the device's capabilities.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Family of kernels that a run uses for ops that have several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// Chosen per adapter.
    #[default]
    Auto,
    /// Register blocks fed from storage textures and subgroup shuffles: software drivers with one known subgroup size.
    Texture,
    /// Blocks in shared memory, fed from storage buffers: GPUs, and other software drivers.
    Buffer,
    /// The naive reference kernels.
    Naive,
}

/// Precision of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Precision {
    /// Everything in f32.
    #[default]
    Single,
    /// Weights are stored in f16 in device memory if the kernel supports it (fully connected layers; convolutions of
    /// the buffer family): half the memory and traffic, at a rounding error of 2^-11. Arithmetic is f32.
    HalfWeights,
    /// Like [`Precision::HalfWeights`]. If the device has cooperative matrices, tuning may also choose their kernels:
    /// products of f16, sums in f32.
    Half,
}

/// Cooperative matrices of a device: the invocations of a subgroup hold and multiply them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoopMatrix {
    /// Rows and columns of both factors and of the sum: 8 or 16.
    pub side: u32,
    /// Invocations of a workgroup that holds a whole subgroup: the largest subgroup size.
    pub lanes: u32,
}

impl CoopMatrix {
    /// Device features that kernels with cooperative matrices need.
    pub const FEATURES: wgpu::Features =
        wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

    /// Returns the cooperative matrices of an adapter.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Option<Self> {
        let info = adapter.get_info();
        // Apple GPUs with matrices have 32 lanes; wgpu reports the maximum that Metal allows.
        let lanes = if info.backend == wgpu::Backend::Metal { 32 } else { info.subgroup_max_size };
        let found = Self::choose(&adapter.cooperative_matrix_properties(), lanes);
        found.filter(|_| adapter.features().contains(Self::FEATURES))
    }

    /// Chooses among the matrices of an adapter with subgroups of up to `lanes` invocations: the larger side. `None` if
    /// none is square, multiplies f16 and accumulates in f32.
    pub fn choose(properties: &[wgpu::CooperativeMatrixProperties], lanes: u32) -> Option<Self> {
        use wgpu::CooperativeScalarType::{F16, F32};
        let has = |side: u32| {
            properties.iter().any(|found| {
                [found.m_size, found.n_size, found.k_size] == [side; 3]
                    && (found.ab_type, found.cr_type) == (F16, F32)
                    && !found.saturating_accumulation
            })
        };
        let side = [16, 8].into_iter().find(|side| has(*side))?;
        (lanes > 0).then_some(Self { side, lanes })
    }
}

/// The device properties that the choice of kernels may depend on, and no others.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// True for the CPU device: ops run as CPU functions ([`crate::ops::Op::cpu`]) and no limit below applies.
    pub cpu: bool,
    /// True to exclude kernels that trade accuracy for speed (Winograd convolution).
    pub exact: bool,
    /// Which values may be stored and multiplied in f16.
    pub precision: Precision,
    /// Cooperative matrices of f16 with sums in f32, if the device has them and the precision allows them.
    pub coop_matrix: Option<CoopMatrix>,
    /// Requested kernel family; [`Profile::prefers`] resolves [`Family::Auto`].
    pub family: Family,
    /// True if the device runs on the CPU.
    pub software: bool,
    /// Subgroup size, if the device supports subgroups of a single size.
    pub lanes: Option<u32>,
    /// Largest side of a 2-D texture, in texels.
    pub max_texture_side: u32,
    /// Largest range of a storage buffer that one binding may cover, in bytes.
    pub max_binding: u64,
    /// Alignment of bindings in bytes, a power of two.
    pub binding_alignment: u64,
    /// Largest size of a buffer, in bytes.
    pub max_buffer: u64,
    /// Largest number of workgroups along one axis of a dispatch.
    pub max_groups: u32,
    /// Workgroup (shared) memory, in bytes.
    pub max_workgroup_storage: u32,
    /// Largest number of invocations in one workgroup.
    pub max_invocations: u32,
    /// Number of loop iterations of one invocation after which the driver silently ends its loops, if it does (see
    /// [`super::QUIRKS`]).
    pub loop_limit: Option<u32>,
}

impl Profile {
    /// Rejects a buffer that is larger than the device allows.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn check_buffer(&self, label: &str, bytes: u64) -> Result<()> {
        if self.cpu || bytes <= self.max_buffer {
            return Ok(());
        }
        Err(Error::OutOfMemory {
            what: format!("{label}: this adapter's largest buffer is {} MiB", self.max_buffer >> 20),
            needed: bytes,
            remedy: "Use a smaller --size, tiles (--tile) or another --adapter".to_owned(),
        })
    }

    /// Describes a hardware device with WebGPU's default limits, which every device offers, and without subgroups.
    pub fn minimal() -> Self {
        Self {
            cpu: false,
            exact: false,
            precision: Precision::Single,
            coop_matrix: None,
            family: Family::Auto,
            software: false,
            lanes: None,
            max_texture_side: 8192,
            max_binding: 128 << 20,
            binding_alignment: 256,
            max_buffer: 256 << 20,
            max_groups: 65_535,
            max_workgroup_storage: 16 << 10,
            max_invocations: 256,
            loop_limit: None,
        }
    }

    /// Describes the CPU device, which has no limits.
    pub fn cpu() -> Self {
        Self {
            cpu: true,
            exact: false,
            precision: Precision::Single,
            coop_matrix: None,
            family: Family::Auto,
            software: true,
            lanes: None,
            max_texture_side: u32::MAX,
            max_binding: u64::MAX,
            binding_alignment: 4,
            max_buffer: u64::MAX,
            max_groups: u32::MAX,
            max_workgroup_storage: u32::MAX,
            max_invocations: u32::MAX,
            loop_limit: None,
        }
    }

    /// True if kernels that support it store weights in f16.
    pub fn half_weights(&self) -> bool {
        self.precision != Precision::Single
    }

    /// True if kernels of this family should be preferred. The texture family needs a single known subgroup size.
    pub fn prefers(&self, family: Family) -> bool {
        let automatic = if self.software && self.lanes.is_some() { Family::Texture } else { Family::Buffer };
        family == if self.family == Family::Auto { automatic } else { self.family }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::CooperativeScalarType::{F16, F32, I32};

    #[test]
    fn software_driver_prefers_textures_only_with_subgroups() {
        let preferred = |profile: &Profile| {
            [Family::Texture, Family::Buffer, Family::Naive].map(|family| profile.prefers(family))
        };
        let gpu = Profile { lanes: Some(32), ..Profile::minimal() };
        let software = Profile { software: true, ..gpu.clone() };
        let bare = Profile { software: true, ..Profile::minimal() };
        assert_eq!(preferred(&gpu), [false, true, false]);
        assert_eq!(preferred(&software), [true, false, false]);
        assert_eq!(preferred(&bare), [false, true, false]);
        assert_eq!(preferred(&Profile { family: Family::Naive, ..software }), [false, false, true]);
    }

    fn property(
        [m_size, n_size, k_size]: [u32; 3],
        ab_type: wgpu::CooperativeScalarType,
        cr_type: wgpu::CooperativeScalarType,
    ) -> wgpu::CooperativeMatrixProperties {
        let saturating_accumulation = false;
        wgpu::CooperativeMatrixProperties {
            m_size,
            n_size,
            k_size,
            ab_type,
            cr_type,
            saturating_accumulation,
        }
    }

    #[test]
    fn only_square_f16_matrices_with_f32_accumulation_are_used() {
        let wrong = [
            property([16, 8, 16], F16, F32),
            property([16; 3], F16, F16),
            property([16; 3], F32, F32),
            property([8; 3], I32, I32),
        ];
        assert_eq!(CoopMatrix::choose(&wrong, 32), None);
        assert_eq!(CoopMatrix::choose(&[], 32), None);
        let small = [&wrong[..], &[property([8; 3], F16, F32)]].concat();
        assert_eq!(CoopMatrix::choose(&small, 8), Some(CoopMatrix { side: 8, lanes: 8 }));
        let both = [&small[..], &[property([16; 3], F16, F32)]].concat();
        assert_eq!(CoopMatrix::choose(&both, 32), Some(CoopMatrix { side: 16, lanes: 32 }));
        assert_eq!(CoopMatrix::choose(&both, 0), None);
    }
}
