//! Memory by what it is for.

use serde::Serialize;
use std::ops::Add;

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryClasses {
    /// Weights as kernels read them, packed and transformed; and the network's file where it is part of the program.
    pub weights: u64,
    /// Activations, gradients and scratch memory of kernels.
    pub activations: u64,
    /// What the optimiser keeps, and the average of the pictures.
    pub optimizer: u64,
    /// What the losses compare with, at this and the earlier scales.
    pub targets: u64,
    /// The photo, the picture that is painted and what is kept of it.
    pub pictures: u64,
    /// On the way to the device and back: textures through which kernels read, staging buffers, copies.
    pub staging: u64,
    /// The program itself, and the graphics driver.
    pub program: u64,
}

impl MemoryClasses {
    /// Names and bytes, in the order in which they are stated.
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

    /// All of it.
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
