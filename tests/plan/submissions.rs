//! Long work is split into several submissions, with bit-identical results.

use crate::common::golden::Golden;
use crate::common::objective::{iterate, network, picture, use_style_statistic, weigh};
use crate::common::runs::{CONTINUE, run, session};
use crate::common::{engine_with, turn};
use neural_mirage::gpu::{DeviceOptions, Trace};
use neural_mirage::graph::Engine;
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::{Event, Request};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

fn engine(longest_submission: Option<Duration>) -> Arc<Engine> {
    engine_with(&DeviceOptions { longest_submission, ..DeviceOptions::default() }, |_| {})
}

fn submissions(engine: &Engine) -> u64 {
    engine.gpu().expect("a graphics device").submissions()
}

fn request() -> Request {
    let golden = Golden::open("objective.safetensors");
    let mut request = Request::new(picture(&golden, "photo"));
    use_style_statistic(&mut request, "mean-covariance");
    weigh(&mut request, |_| 1.0);
    iterate(&mut request, 5);
    request.schedule.report_every = 2;
    request.schedule.snapshot_at = vec![1, 3];
    request.schedule.state_every = 2;
    request
}

/// Runs, and returns the picture, the snapshots, the losses, and the number of submissions after preparation.
fn paint(engine: &Arc<Engine>) -> (Picture, Vec<Picture>, Vec<f64>, u64) {
    let request = request();
    let mut session = session(&(engine.clone(), network(), request.clone()), request);
    let (mut snapshots, mut totals) = (Vec::new(), Vec::new());
    let before = submissions(engine);
    let result = run(&mut session, &mut |event: Event<'_>| {
        match event {
            Event::Snapshot { picture, .. } => snapshots.push(picture.clone()),
            Event::Report(report) => totals.push(report.total),
            _ => {}
        }
        CONTINUE
    });
    (Picture::clone(&result.picture), snapshots, totals, submissions(engine) - before)
}

#[test]
fn split_submissions_are_bit_identical() {
    let _turn = turn();
    let whole = paint(&engine(None));
    assert_eq!((whole.1.len(), whole.2.len()), (2, 4));
    let ample = paint(&engine(Some(Duration::from_secs(100))));
    assert_eq!(ample.3, whole.3, "work within the limit was split");
    for limit in [Duration::from_nanos(1), Duration::from_micros(200)] {
        let split = paint(&engine(Some(limit)));
        assert!(split.3 > 5 * whole.3, "{limit:?}: {} submissions instead of {}", split.3, whole.3);
        assert!(split.0 == whole.0 && split.1 == whole.1 && split.2 == whole.2, "{limit:?}");
    }
}

/// Returns the sorted labels of the device events in a trace, without copies, and the number of missing recordings.
fn device_spans(engine: &Engine, trace: &Trace) -> (Vec<String>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    engine.save_trace(trace, &path, false).unwrap();
    let saved: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let spans = saved["traceEvents"].as_array().unwrap().iter();
    let spans = spans.filter(|event| event["cat"] == "device" && event["name"] != "copies");
    let mut labels: Vec<String> = spans.map(|event| event["name"].as_str().unwrap().to_owned()).collect();
    labels.sort();
    (labels, saved["otherData"]["recordingsNotMeasured"].as_u64().unwrap())
}

/// Metal allows 32 query sets. With many more submissions, sets of earlier ones are reused.
#[test]
fn trace_covers_every_submission() {
    let _turn = turn();
    let [whole, split] = [None, Some(Duration::from_nanos(1))].map(|limit| {
        let engine = engine(limit);
        let trace = engine.start_trace();
        let painted = paint(&engine);
        (painted, device_spans(&engine, &trace))
    });
    assert!(split.0.3 > 100, "{} submissions", split.0.3);
    assert!(split.0.0 == whole.0.0 && split.0.2 == whole.0.2, "a trace changes no bit");
    assert_eq!(split.1, whole.1);
    assert_eq!(whole.1.1, 0, "recordings without timestamps");
}

/// The times of steps are measured in the second iteration. From the third on the loop does not wait in between, and
/// the number of submissions follows from these times.
#[test]
fn submissions_are_split_by_measured_time() {
    let _turn = turn();
    let (network, request) = (network(), request());
    let prepared =
        |engine: &Arc<Engine>| session(&(engine.clone(), network.clone(), request.clone()), request.clone());
    let times = prepared(&engine(None)).time_iterations(4).unwrap();
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let slow = engine(Some(Duration::from_secs_f64(least / 32.0)));
    let mut session = prepared(&slow);
    session.time_iterations(2).unwrap();
    let count = || (submissions(&slow), slow.gpu().unwrap().waits());
    let before = count();
    session.time_iterations(1).unwrap();
    let after = count();
    // 32 on an idle machine. If other tests kept the device busy while `least` was measured, it may be eight times too
    // long.
    assert!(after.0 - before.0 >= 4, "{} submissions", after.0 - before.0);
    assert_eq!(after.1 - before.1, 1, "only the last submission is waited for");
}
