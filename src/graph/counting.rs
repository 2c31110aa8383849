//! A device that allocates and computes nothing, but counts the memory that programs would use on another device. A
//! run prepared on it needs exactly the memory of the real run, because the same code prepares both.

use super::ledger::{Claim, Counted, Ledger, entered};
use super::lowered::{Lowered, LoweredConstant, Origin};
use super::memory::{Bindings, Memory, Workspace};
use super::plan::MemoryUse;
use crate::error::Result;
use crate::gpu::{Profile, UPLOAD_CHUNK};
use crate::ops::{CpuConstant, Initializer, Storage, TEXTURE_WIDTH};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// While constants are created, the host runs ahead of a graphics device by at most this many bytes of inputs and
/// copies.
pub(super) const CONSTANTS_AHEAD: u64 = 16 << 20;

/// A counting device.
#[derive(Debug)]
pub struct CountingDevice {
    pub profile: Profile,
    /// Description of the device that it stands in for.
    pub description: String,
    ledger: Arc<Mutex<Ledger>>,
    constants: Mutex<HashMap<(String, Storage), Arc<Claim>>>,
}

impl CountingDevice {
    /// Creates a stand-in for a device with this profile.
    pub fn new(profile: Profile, description: String) -> Self {
        Self { profile, description, ledger: Arc::default(), constants: Mutex::default() }
    }

    /// Returns the counts and resets the peak to the current memory.
    pub fn look(&self) -> Counted {
        entered(&self.ledger).look()
    }

    /// Counts the memory of a tensor.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if the tensor is larger than the device allows.
    pub fn tensor(&self, label: &str, bytes: u64) -> Result<Claim> {
        let bound = bytes.max(16).next_multiple_of(16);
        self.profile.check_buffer(label, bound)?;
        Ok(self.claim(MemoryUse { bound, ..MemoryUse::default() }))
    }

    /// Counts a program without its buffers ([`Self::buffers`]), and its constants, which are kept when it is dropped.
    pub fn program(&self, program: &Lowered) -> (Claim, Vec<Arc<Claim>>) {
        let entries = program.entries.iter();
        let entries = entries.map(|entry| (entry.shader, entry.entry, entry.consts.clone()));
        entered(&self.ledger).compile(entries);
        let of_functions = program.functions.iter().flat_map(|function| &function.constants);
        let constants = program.constants.iter().map(|constant| self.constant(constant));
        let constants = constants.chain(of_functions.map(|constant| self.cpu_constant(constant))).collect();
        let own = program.textures.iter().filter(|texture| texture.origin == Origin::Own);
        let textures: u64 = own.map(|texture| texture_bytes(texture.texels)).sum();
        let params = if self.profile.cpu { 0 } else { program.params.len() as u64 };
        let own = self.claim(MemoryUse {
            staging: textures + params,
            scratch: program.memory.scratch,
            ..MemoryUse::default()
        });
        (own, constants)
    }

    /// Counts the buffers of a program: its own, unless the workspace has one of that size, and the bound ones.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if one is larger than the device allows.
    pub fn buffers(
        &self,
        program: &Lowered,
        bound: &Bindings,
        workspace: &mut Workspace,
    ) -> Result<Vec<Memory>> {
        let mut kept = Vec::new();
        let mut own = 0;
        for buffer in &program.buffers {
            match buffer.origin {
                // Includes tensors that are read back but not bound.
                Origin::Own => {
                    let planned = MemoryUse { planned: buffer.bytes, ..MemoryUse::default() };
                    self.profile.check_buffer(&buffer.label, buffer.bytes)?;
                    let make = || Ok(Memory::counted(self.claim(planned)));
                    kept.push(workspace.take(own, buffer.bytes, make)?);
                    own += 1;
                }
                Origin::Bound(tensor) => kept.extend(bound.get(&tensor).cloned()),
                Origin::Constant(_) => {}
            }
        }
        Ok(kept)
    }

    /// Counts a constant of a graphics device, and the temporary memory to create it.
    fn constant(&self, LoweredConstant { constant, parts }: &LoweredConstant) -> Arc<Claim> {
        let key = (constant.key.clone(), constant.storage);
        let constants = match constant.storage {
            Storage::Buffer => constant.bytes,
            Storage::Texture => texture_bytes(constant.bytes / 16),
        };
        let (claim, is_new) = self.keep(key, constants);
        if !is_new {
            return claim;
        }
        let staging = match &constant.initializer {
            Initializer::Host(_) => {
                let buffer = if constant.storage == Storage::Texture { constant.bytes } else { 0 };
                constant.bytes + buffer + UPLOAD_CHUNK as u64
            }
            Initializer::Device { parts: described, .. } => {
                let values = described.iter().map(|part| part.values.end as u64 * 4).max().unwrap_or(0);
                let programs = parts.iter().map(|part| part.program.memory.total());
                values + programs.max().unwrap_or(0) + CONSTANTS_AHEAD.min(constant.bytes)
            }
        };
        drop(self.claim(MemoryUse { staging, ..MemoryUse::default() }));
        claim
    }

    fn cpu_constant(&self, constant: &CpuConstant) -> Arc<Claim> {
        let (claim, is_new) = self.keep((constant.key.clone(), Storage::Buffer), constant.bytes);
        if is_new {
            drop(self.claim(MemoryUse { staging: constant.reading, ..MemoryUse::default() }));
        }
        claim
    }

    /// Keeps a constant. Returns true if it is new.
    fn keep(&self, key: (String, Storage), constants: u64) -> (Arc<Claim>, bool) {
        let mut kept = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claim) = kept.get(&key) {
            return (claim.clone(), false);
        }
        let claim = Arc::new(self.claim(MemoryUse { constants, ..MemoryUse::default() }));
        kept.insert(key, claim.clone());
        (claim, true)
    }

    fn claim(&self, taken: MemoryUse) -> Claim {
        Claim::new(&self.ledger, taken)
    }

    /// Releases the constants that the real device would release: see
    /// [`Engine::forget_unused_constants`](super::Engine::forget_unused_constants).
    pub fn forget_unused_constants(&self) {
        if self.profile.cpu {
            let mut constants = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
            constants.retain(|_, claim| Arc::strong_count(claim) > 1);
        }
    }

    /// Releases all constants.
    pub fn forget_constants(&self) {
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Size in bytes of a linear texture for this many texels.
fn texture_bytes(texels: u64) -> u64 {
    let row = u64::from(TEXTURE_WIDTH);
    texels.div_ceil(row).max(1) * row * 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_memory_is_released() {
        let device = CountingDevice::new(Profile::cpu(), String::new());
        let one = device.tensor("one", 100).unwrap();
        let other = device.tensor("other", 1).unwrap();
        assert_eq!((one.bytes(), other.bytes()), (112, 16));
        drop(one);
        let seen = device.look();
        assert_eq!((seen.live.bound, seen.peak.bound), (16, 128));
        // The peak starts again from the current memory.
        assert_eq!(device.look().peak.bound, 16);
        drop(other);
        assert_eq!(device.look().live, MemoryUse::default());
    }

    #[test]
    fn peak_is_the_largest_sum() {
        let device = CountingDevice::new(Profile::cpu(), String::new());
        drop(device.claim(MemoryUse { planned: 500, ..MemoryUse::default() }));
        let kept = device.claim(MemoryUse { constants: 300, ..MemoryUse::default() });
        drop(device.claim(MemoryUse { staging: 150, ..MemoryUse::default() }));
        let peak = device.look().peak;
        assert_eq!((peak.planned, peak.constants, peak.staging), (500, 0, 0));
        assert_eq!(kept.bytes(), 300);
    }

    #[test]
    fn constants_count_once() {
        let device = CountingDevice::new(Profile::cpu(), String::new());
        let constant = |key: &str| CpuConstant {
            key: key.to_owned(),
            bytes: 1000,
            reading: 1000,
            make: Arc::new(|| panic!("a constant is not made")),
        };
        for key in ["a", "b", "a"] {
            device.cpu_constant(&constant(key));
        }
        let seen = device.look();
        assert_eq!((seen.live.constants, seen.peak.total()), (2000, 3000));
        device.forget_constants();
        assert_eq!(device.look().live.total(), 0);
    }

    #[test]
    fn texture_bytes_round_up_to_whole_rows() {
        assert_eq!([0, 1, 8192, 8193].map(texture_bytes), [131_072, 131_072, 131_072, 262_144]);
    }
}
