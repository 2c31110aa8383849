//! The device: choice of the adapter, memory, pipelines, waiting. The only module that uses wgpu's instance and
//! adapter; all other modules work through [`Context`].

mod adapter;
mod budget;
mod buffer;
mod context;
mod hidden_gpus;
mod pipeline;
mod profile;
mod query_pool;
mod quirks;
mod read_back;
mod stopwatch;
mod trace;
mod wait;

pub use adapter::{AdapterChoice, AdapterKind, AdapterSummary, adapters};
pub use buffer::UPLOAD_CHUNK;
pub use context::{Context, DeviceOptions, Hardware, was_given_up};
pub use hidden_gpus::hidden_gpus;
pub use pipeline::{Pipeline, PipelineCache, PipelineKey};
pub use profile::{CoopMatrix, Family, Precision, Profile};
pub use quirks::{Effect, QUIRKS, Quirk, Version, quirks};
pub use read_back::{PendingRead, RecordedCopy, StagingPool};
pub use stopwatch::Stopwatch;
pub use trace::{Stamps, Trace};
pub use wait::Fence;
pub use wgpu::Buffer;
