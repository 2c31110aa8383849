//! What a report's own processes do: describe the device, time the iterations of one objective at one size.

use super::args::{Process, ReportArgs};
use super::device;
use crate::cli::streams;
use crate::error::Result;
use crate::gpu::{AdapterChoice, DeviceOptions};
use crate::graph::Engine;
use crate::mirage::IterationTimes;
use crate::vgg::Network;
use serde_json::json;
use std::sync::Arc;

/// Does it, prints the result as JSON, and returns the exit code.
pub(super) fn run(args: &ReportArgs, process: &Process) -> Result<u8> {
    // Parsing can't fail: what is not a number is part of a name.
    let adapter = args.adapter.as_ref().and_then(|text| text.parse::<AdapterChoice>().ok());
    let engine = Engine::open(&DeviceOptions {
        adapter: adapter.unwrap_or_default(),
        threads: args.threads.map(usize::from),
        ..DeviceOptions::default()
    })?;
    let result = match *process {
        Process::Device => device::describe(&engine)?,
        Process::Iterations(benchmark, side, iterations) => {
            let network = Arc::new(Network::find(args.weights.as_deref(), None)?);
            let mut session = benchmark.session(&engine, &network, side)?;
            let times = IterationTimes::measure(&mut session, iterations)?;
            json!({
                "iterations": iterations,
                "least_seconds": times.least,
                "median_seconds": times.median,
                "device_bytes": times.device_bytes,
            })
        }
    };
    streams::print(&result.to_string())?;
    Ok(0)
}
