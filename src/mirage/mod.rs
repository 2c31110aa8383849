//! The method: optimises a picture against an objective made of losses. A [`Request`] describes a run, a [`Session`]
//! runs it and reports [`Event`]s, and [`preset`] builds neural-mirage's three factors.

mod agreement;
mod benchmark;
mod checkpoint;
mod estimate;
mod layer_times;
mod loss;
mod network_graph;
mod objective;
pub mod optimizer;
pub mod preset;
mod request;
mod run;
mod scales;
mod setback;
pub mod statistic;
mod weighting;

pub use agreement::{Agreement, CpuIteration, GRADIENT_LIMIT, LOSS_LIMIT};
pub use benchmark::{Benchmark, IterationTimes, forward_seconds};
pub use checkpoint::{Checkpoint, CheckpointFile};
pub use estimate::memory_classes::MemoryClasses;
pub use estimate::memory_plan::{MemoryPhase, MemoryPlan, PROGRAM_MEMORY, Phase};
pub use estimate::speed::Speed;
pub use layer_times::{LayerTime, PartTime};
pub use loss::{Group, Loss, Shares, Source, Strength, Target, effective_shares, not_negative};
pub use network_graph::Pooling;
pub use objective::readout::{activations, class_distance, classify};
pub use request::{Activations, Init, Request, Schedule, Tiling};
pub use run::controls::Controls;
pub use run::event::{Event, Observer, Readout, Report, ScaleStarted, Started, TermLoss};
pub use run::loop_state::Ending;
pub use run::main_loop::RunResult;
pub use run::next_scale::resize_map;
pub use run::session::{Session, check_request};
pub use run::state::{EarlierScale, State, check_done};
pub use scales::{Scale, ScaleCount, Scales, scale_at, work};
pub use setback::{Fault, MOST_SETBACKS, Setback};
pub use weighting::{GROWTH, GroupWeight, Weights};
