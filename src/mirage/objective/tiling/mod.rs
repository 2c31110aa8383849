//! Objectives whose picture is computed tile by tile, so that it need not fit on the device with all its feature maps.

pub(in crate::mirage) mod assembly;
pub(in crate::mirage) mod bands;
pub(in crate::mirage) mod graph;
pub(in crate::mirage) mod in_transit;
pub(in crate::mirage) mod layout;
pub(in crate::mirage) mod passes;
pub(in crate::mirage) mod planes;
pub(in crate::mirage) mod tiled_objective;
