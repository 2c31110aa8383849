//! The method: three factors steer a picture. [`Request`] says what is wanted, [`Session`] runs it and
//! reports [`Event`]s.

mod balance;
mod build;
mod capture;
mod event;
mod layer_times;
mod network_graph;
mod objective;
mod readout;
mod request;
mod session;
mod start;
mod targets;

pub use event::{Event, Report, Started, TermLoss};
pub use layer_times::{LayerTime, PartTime};
pub use readout::{activations, classify};
pub use request::{AdamOptions, Balance, Factor, FactorKind, Init, LayerWeight, Request, Schedule};
pub use session::{Ending, Listener, Outcome, Session, check_request};
