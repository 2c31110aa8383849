//! Estimates of a run's memory, by class, and of its time.

pub(in crate::mirage) mod host_memory;
pub(in crate::mirage) mod memory_classes;
pub(in crate::mirage) mod memory_plan;
pub(in crate::mirage) mod scale_work;
pub(in crate::mirage) mod speed;
