//! Memory use by purpose.

use serde::Serialize;
use std::ops::Add;

/// Bytes by purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryClasses {
    /// Weights in the kernels' packed and transformed layout, and the network's file if it is embedded in the program.
    pub weights: u64,
    /// Activations, gradients and scratch memory of kernels.
    pub activations: u64,
    /// State of the optimiser, and the average of the pictures.
    pub optimizer: u64,
    /// Targets of the losses, at this and the earlier scales.
    pub targets: u64,
    /// The photo, the picture being optimised and kept copies of it.
    pub pictures: u64,
    /// Data in transit between host and device: textures that kernels read, staging buffers, copies.
    pub staging: u64,
    /// The program itself, and the graphics driver.
    pub program: u64,
}

impl MemoryClasses {
    /// Returns names and bytes, in the order of output.
    pub fn list(&self) -> [(&'static str, u64); 7] {
        [
            ("weights", self.weights),
            ("activations and gradients", self.activations),
            ("optimiser", self.optimizer),
            ("targets", self.targets),
            ("pictures", self.pictures),
            ("staging", self.staging),
            ("program", self.program),
        ]
    }

    /// Returns the sum of all classes.
    pub fn total(&self) -> u64 {
        self.list().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Add for MemoryClasses {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            activations: self.activations + other.activations,
            optimizer: self.optimizer + other.optimizer,
            targets: self.targets + other.targets,
            pictures: self.pictures + other.pictures,
            staging: self.staging + other.staging,
            program: self.program + other.program,
        }
    }
}
