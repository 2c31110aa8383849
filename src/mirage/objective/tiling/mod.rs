//! Objectives computed tile by tile, for pictures whose feature maps exceed the device's memory.

pub(in crate::mirage) mod assembly;
pub(in crate::mirage) mod bands;
pub(in crate::mirage) mod graph;
pub(in crate::mirage) mod in_transit;
pub(in crate::mirage) mod layout;
pub(in crate::mirage) mod passes;
pub(in crate::mirage) mod planes;
pub(in crate::mirage) mod tiled_objective;
