//! A run: the loop over iterations and scales, its state between iterations, and its events.

pub(in crate::mirage) mod controls;
pub(in crate::mirage) mod event;
pub(in crate::mirage) mod grain;
pub(in crate::mirage) mod loop_state;
pub(in crate::mirage) mod main_loop;
pub(in crate::mirage) mod next_scale;
pub(in crate::mirage) mod reporting;
pub(in crate::mirage) mod session;
pub(in crate::mirage) mod start;
pub(in crate::mirage) mod state;
