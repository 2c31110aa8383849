//! The method: three factors steer a picture. [`Request`] says what is wanted, [`Session`] runs it and
//! reports [`Event`]s.

mod balance;
mod build;
mod capture;
mod checkpoint;
mod controls;
mod event;
mod layer_times;
mod network_graph;
mod objective;
pub mod optimizer;
mod readout;
mod request;
mod run;
mod session;
mod start;
mod state;
pub mod statistic;
mod targets;

pub use checkpoint::Checkpoint;
pub use controls::Controls;
pub use event::{Event, Readout, Report, Started, TermLoss};
pub use layer_times::{LayerTime, PartTime};
pub use readout::{activations, class_distance, classify};
pub use request::{AdamOptions, Balance, Factor, FactorKind, Init, LayerWeight, Request, Schedule};
pub use run::{Ending, Listener, Outcome};
pub use session::{Session, check_request};
pub use state::State;
