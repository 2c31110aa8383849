//! A trace of a run for Perfetto or Chrome: the host's work, submissions and waits, and the time of each dispatch on
//! the device.
//!
//! Tracing slows a run down: each dispatch is a pass of its own, with a timestamp at both ends.

use super::query_pool::{Next, QueryPool};
use super::wait::Fence;
use super::{Context, PendingRead, StagingPool};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

/// Maximum number of stamps of a query set: WebGPU's limit.
const MOST_STAMPS: usize = 4096;
/// Lane of the device; host threads are numbered from 1.
const DEVICE: u32 = 0;

/// Events recorded so far. All methods take `&self`; any thread may add events.
#[derive(Debug)]
pub struct Trace {
    begin: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spans: Vec<Span>,
    threads: HashMap<ThreadId, u32>,
    recorded: Vec<Recorded>,
    queries: QueryPool<Queries, Running>,
    measured: Vec<Measured>,
    /// Number of recordings that got no stamps.
    unmeasured: usize,
    fault: Option<Error>,
}

/// An event with start and end, in seconds since the trace began.
#[derive(Debug)]
struct Span {
    name: String,
    kind: &'static str,
    lane: u32,
    start: f64,
    end: f64,
}

/// A dispatch with stamps at both ends.
#[derive(Debug)]
struct Stamped {
    label: String,
    /// True if copies were recorded before it. They lie between the passes and have no stamps.
    after_copies: bool,
}

/// The query set that the device writes stamps to, and the buffers to read them.
#[derive(Debug)]
struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: StagingPool,
}

impl Queries {
    fn new(context: &Context) -> Result<Self> {
        let (device, label) = (context.device(), "trace");
        let set = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some(label),
            ty: wgpu::QueryType::Timestamp,
            count: MOST_STAMPS as u32,
        });
        let size = MOST_STAMPS as u64 * 8;
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        context.check_allocation(label, size)?;
        Ok(Self { set, resolved, staging: StagingPool::new(context, label, size, 1) })
    }
}

/// Stamped dispatches that are recorded but not yet submitted.
#[derive(Debug)]
struct Recorded {
    queries: Queries,
    dispatches: Vec<Stamped>,
    copy: super::RecordedCopy,
}

/// Stamped dispatches that are submitted.
#[derive(Debug)]
struct Running {
    queries: Queries,
    dispatches: Vec<Stamped>,
    submitted: f64,
    stamps: PendingRead,
}

/// Stamped dispatches whose stamps have been read.
#[derive(Debug)]
struct Measured {
    dispatches: Vec<Stamped>,
    submitted: f64,
    ticks: Vec<u64>,
}

/// Stamps for one recording.
#[derive(Debug)]
pub struct Stamps {
    queries: Queries,
    dispatches: Vec<Stamped>,
}

impl Stamps {
    /// Number of dispatches that can still be stamped.
    pub fn room(&self) -> usize {
        MOST_STAMPS / 2 - self.dispatches.len()
    }

    /// Begins a pass whose time is one span of the device. With `after_copies`, the time between it and the previous
    /// pass is another span.
    pub fn pass<'a>(
        &mut self,
        encoder: &'a mut wgpu::CommandEncoder,
        label: &str,
        after_copies: bool,
    ) -> wgpu::ComputePass<'a> {
        let first = 2 * self.dispatches.len() as u32;
        self.dispatches.push(Stamped { label: label.to_owned(), after_copies });
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(label),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries.set,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        })
    }
}

/// Ends a span of the host when it is dropped.
#[derive(Debug)]
pub struct Open<'a> {
    trace: &'a Trace,
    name: String,
    kind: &'static str,
    /// `None` for the lane of the thread.
    lane: Option<u32>,
    start: f64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let end = self.trace.now();
        let mut state = self.trace.state();
        let lane = self.lane.unwrap_or_else(|| {
            let next = state.threads.len() as u32 + 1;
            *state.threads.entry(std::thread::current().id()).or_insert(next)
        });
        let name = std::mem::take(&mut self.name);
        state.spans.push(Span { name, kind: self.kind, lane, start: self.start, end });
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self { begin: Instant::now(), state: Mutex::default() }
    }
}

impl Trace {
    fn now(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a span of the host. It ends when the returned guard is dropped. `kind` is its category.
    pub fn host(&self, kind: &'static str, name: impl Into<String>) -> Open<'_> {
        Open { trace: self, name: name.into(), kind, lane: None, start: self.now() }
    }

    /// Begins a span of a device that runs on the host. It ends when the returned guard is dropped.
    pub fn device(&self, name: impl Into<String>) -> Open<'_> {
        Open { trace: self, name: name.into(), kind: "device", lane: Some(DEVICE), start: self.now() }
    }

    /// Keeps the first error for [`Trace::save`]: a failing trace does not end the run.
    fn fail(&self, error: Error) {
        self.state().fault.get_or_insert(error);
    }

    /// Returns stamps for a recording; `None` if the device has no timestamps, the trace has failed, or unsubmitted
    /// recordings hold all query sets. If no set is free, waits for the oldest submitted work.
    pub fn stamps(&self, context: &Context) -> Option<Stamps> {
        if !context.device().features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let next = {
            let mut state = self.state();
            if state.fault.is_some() {
                return None;
            }
            state.queries.take()
        };
        // The state must not be locked here, because waiting is traced too.
        let queries = match next {
            Next::Free(queries) => Ok(queries),
            Next::New => Queries::new(context),
            Next::Of(running) => self.read(context, running),
            Next::Nowhere => {
                self.state().unmeasured += 1;
                return None;
            }
        };
        match queries {
            Ok(queries) => Some(Stamps { queries, dispatches: Vec::new() }),
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// Records the resolution and copy of stamps. They belong to the next submission.
    pub fn recorded(&self, context: &Context, encoder: &mut wgpu::CommandEncoder, stamps: Stamps) {
        let Stamps { queries, dispatches } = stamps;
        if dispatches.is_empty() {
            self.state().queries.give_back(queries);
            return;
        }
        encoder.resolve_query_set(&queries.set, 0..2 * dispatches.len() as u32, &queries.resolved, 0);
        match queries.staging.copy(context, encoder, &queries.resolved) {
            Ok(copy) => self.state().recorded.push(Recorded { queries, dispatches, copy }),
            Err(error) => self.fail(error),
        }
    }

    /// Waits for stamps and keeps them. Returns the query set for reuse.
    fn read(&self, context: &Context, running: Running) -> Result<Queries> {
        let Running { queries, dispatches, submitted, stamps } = running;
        let mut ticks: Vec<u64> = stamps.finish_as(context)?;
        ticks.truncate(2 * dispatches.len());
        ticks.shrink_to_fit();
        self.state().measured.push(Measured { dispatches, submitted, ticks });
        Ok(queries)
    }

    /// Marks the recorded dispatches as submitted. `started` is the time at which the submission began.
    pub(super) fn submitted(&self, started: Instant, fence: &Fence) {
        let submitted = started.saturating_duration_since(self.begin).as_secs_f64();
        let mut state = self.state();
        let recorded = std::mem::take(&mut state.recorded);
        let running = recorded.into_iter().map(|Recorded { queries, dispatches, copy }| Running {
            queries,
            dispatches,
            submitted,
            stamps: copy.read(fence),
        });
        state.queries.submitted(running);
    }

    /// Waits for traced work on the graphics device and writes the trace in Chrome's format. `device` names the device.
    /// Replaces an existing file only if `replace` is true.
    ///
    /// The device's clock is aligned with the host's by the submissions: as early as possible without any dispatch
    /// starting before its submission.
    ///
    /// # Errors
    /// If the device fails, [`Error::Io`], or [`Error::File`] if the file may not be replaced.
    pub fn save(&self, context: Option<&Context>, device: &str, path: &Path, replace: bool) -> Result<()> {
        let (running, spans, threads) = {
            let mut state = self.state();
            if let Some(fault) = state.fault.take() {
                return Err(fault);
            }
            (state.queries.take_submitted(), std::mem::take(&mut state.spans), state.threads.len())
        };
        let mut period = 0.0;
        if let Some(context) = context {
            period = f64::from(context.queue().get_timestamp_period()) * 1e-9;
            for running in running {
                self.read(context, running)?;
            }
        }
        let (measured, unmeasured) = {
            let mut state = self.state();
            (std::mem::take(&mut state.measured), state.unmeasured)
        };
        let first = measured.iter().filter_map(|measured| measured.ticks.first()).min().copied().unwrap_or(0);
        let seconds = |tick: u64| tick.wrapping_sub(first) as i64 as f64 * period;
        let offsets = measured.iter().map(|Measured { submitted, ticks, .. }| {
            submitted - ticks.first().map_or(0.0, |tick| seconds(*tick))
        });
        let offset = offsets.fold(f64::NEG_INFINITY, f64::max);
        let mut events = vec![thread(DEVICE, "device")];
        events.extend((1..=threads as u32).map(|lane| {
            thread(lane, &if lane == 1 { "host".to_owned() } else { format!("host thread {lane}") })
        }));
        events.extend(
            spans
                .iter()
                .map(|span| event(&span.name, span.kind, span.lane, span.start, span.end - span.start)),
        );
        for Measured { dispatches, ticks, .. } in &measured {
            let mut before: Option<f64> = None;
            for (dispatch, pair) in dispatches.iter().zip(ticks.chunks_exact(2)) {
                let (start, end) = (seconds(pair[0]) + offset, seconds(pair[1]) + offset);
                if let Some(before) = before
                    && dispatch.after_copies
                    && start > before
                {
                    events.push(event("copies", "device", DEVICE, before, start - before));
                }
                events.push(event(&dispatch.label, "device", DEVICE, start, (end - start).max(0.0)));
                before = Some(end);
            }
        }
        let version = env!("CARGO_PKG_VERSION");
        let other = json!({ "device": device, "version": version, "recordingsNotMeasured": unmeasured });
        let text = json!({ "traceEvents": events, "displayTimeUnit": "ms", "otherData": other }).to_string();
        crate::files::write_whole(path, text.as_bytes(), "writing the trace", replace).map(drop)
    }
}

fn thread(lane: u32, name: &str) -> Value {
    json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": lane, "args": { "name": name } })
}

/// Formats an event. The format's times are in microseconds.
fn event(name: &str, kind: &str, lane: u32, start: f64, seconds: f64) -> Value {
    let micro = |seconds: f64| (seconds * 1e9).round() / 1e3;
    json!({ "ph": "X", "name": name, "cat": kind, "pid": 1, "tid": lane, "ts": micro(start), "dur": micro(seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_separate_lanes() {
        let trace = Trace::default();
        drop(trace.host("work", "first"));
        std::thread::scope(|scope| drop(scope.spawn(|| drop(trace.host("work", "second"))).join()));
        let state = trace.state();
        let lanes: Vec<u32> = state.spans.iter().map(|span| span.lane).collect();
        assert_eq!(lanes, [1, 2]);
        assert!(state.spans.iter().all(|span| span.start <= span.end));
    }

    #[test]
    fn events_are_in_microseconds() {
        let event = event("x", "work", 3, 1.5, 0.25);
        assert_eq!((&event["ts"], &event["dur"]), (&json!(1_500_000.0), &json!(250_000.0)));
    }
}
