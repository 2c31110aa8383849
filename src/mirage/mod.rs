//! The method: an objective made of losses steers a picture. A [`Request`] describes a run, a [`Session`] runs it and
//! reports [`Event`]s; [`preset`] makes the three factors of neural-mirage.

mod agreement;
mod benchmark;
mod build;
mod capture;
mod checkpoint;
mod controls;
mod event;
mod layer_times;
mod loss;
mod network_graph;
mod next_scale;
mod objective;
pub mod optimizer;
pub mod preset;
mod readout;
mod request;
mod run;
mod scales;
mod session;
mod start;
mod state;
pub mod statistic;
mod targets;
mod weighting;

pub use agreement::{Agreement, GRADIENT_LIMIT, LOSS_LIMIT};
pub use benchmark::{Benchmark, IterationTimes, forward_seconds};
pub use checkpoint::Checkpoint;
pub use controls::Controls;
pub use event::{Event, Observer, Readout, Report, ScaleStarted, Started, TermLoss};
pub use layer_times::{LayerTime, PartTime};
pub use loss::{Group, Loss, Shares, Source, Strength, Target, effective_shares, not_negative};
pub use network_graph::Pooling;
pub use next_scale::resize_map;
pub use readout::{activations, class_distance, classify};
pub use request::{Init, Request, Schedule};
pub use run::{Ending, RunResult};
pub use scales::{Scale, ScaleCount, Scales, scale_at, work};
pub use session::{Session, check_request};
pub use state::State;
pub use weighting::{GROWTH, GroupWeight, Weights};
