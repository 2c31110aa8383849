//! VGG-shaped networks: what a weights file holds, and the topology derived from it.
