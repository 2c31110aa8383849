//! The processes of a report: they describe the device, or time the iterations of one objective at one size.

use super::args::{Process, ReportArgs};
use super::device;
use crate::cli::output::streams;
use crate::error::Result;
use crate::gpu::{AdapterChoice, DeviceOptions};
use crate::graph::Engine;
use crate::mirage::{IterationTimes, Session};
use crate::tune::{Adapter, Cache, tune_all, uses};
use crate::vgg::Network;
use serde_json::json;
use std::sync::Arc;

/// Runs the process, prints the result as JSON, and returns the exit code.
pub(super) fn run(args: &ReportArgs, process: &Process) -> Result<u8> {
    let mut engine = Engine::open(&DeviceOptions {
        adapter: args.adapter.as_deref().map(AdapterChoice::from).unwrap_or_default(),
        threads: args.threads.map(usize::from),
        precision: args.precision.precision(),
        ..DeviceOptions::default()
    })?;
    let result = match *process {
        Process::Device => device::describe(&engine)?,
        Process::Iterations(benchmark, side, iterations) => {
            let network = Arc::new(Network::find(args.weights.as_deref(), None)?);
            if args.second_precision().is_some() {
                let session = benchmark.session(&engine, &network, side)?;
                tune_for(&mut engine, session)?;
            }
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

/// Tunes the kernels of a session, for this process only; no file is written.
fn tune_for(engine: &mut Arc<Engine>, session: Session) -> Result<()> {
    let Some(context) = engine.gpu() else { return Ok(()) };
    let adapter = Adapter::of(context);
    let uses = uses(engine, session.nodes())?;
    drop(session);
    let mut cache = Cache::default();
    tune_all(engine, &uses, &mut cache, |_, _, _, _| Ok(()))?;
    engine.forget_constants();
    let (choices, _) = cache.choices(&adapter, engine.profile().exact, engine.profile().precision);
    engine.use_choices(choices);
    Ok(())
}
