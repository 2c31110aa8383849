//! The history of a run, for viewers that connect at any time. Its size is bounded, and the run never waits for it.
//!
//! Each entry is stamped with a counter, the clock. A viewer remembers the clock of its last read and gets the entries
//! with a later stamp ([`History::since`]). A slow viewer skips entries that were replaced in the meantime, and delays
//! no one.

use super::Start;
use super::message::{Item, Kind, Latest, Report, Snapshot, header, json};
use axum::body::Bytes;
use axum::extract::ws::Message;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// Maximum number of kept reports: about 2 MB.
const REPORTS: usize = 4096;
/// Number of newest reports that are not thinned.
const RECENT_REPORTS: usize = 1024;
/// Maximum number of kept changes of weights; the oldest are dropped.
const WEIGHTS: usize = 256;
/// Maximum number of kept notes; the oldest are dropped.
const NOTES: usize = 64;
/// Longest note, in characters.
const NOTE_LENGTH: usize = 2000;
/// Maximum number of kept snapshots.
const SNAPSHOTS: usize = 48;
/// Maximum total size of kept snapshots, in bytes.
const SNAPSHOT_BYTES: usize = 12 << 20;

/// A value and the clock at which it was stored.
#[derive(Debug)]
struct Stamped<T>(u64, T);

/// A snapshot in the strip.
#[derive(Debug)]
struct StoredSnapshot {
    about: Snapshot,
    jpeg: Bytes,
}

#[derive(Debug, Default)]
struct State {
    clock: u64,
    start: Option<Stamped<Item>>,
    scale: Option<Stamped<Item>>,
    requested: Option<Stamped<Item>>,
    progress: Option<Stamped<Item>>,
    paused: Option<Stamped<Item>>,
    strip: Option<Stamped<Item>>,
    end: Option<Stamped<Item>>,
    photo: Option<Stamped<Bytes>>,
    picture: Option<Stamped<Bytes>>,
    weights: VecDeque<Stamped<Item>>,
    /// Serialised as JSON.
    reports: VecDeque<Stamped<String>>,
    snapshots: Vec<Stamped<StoredSnapshot>>,
    next_snapshot: u32,
    notes: VecDeque<Stamped<Item>>,
    adjustable: Vec<String>,
}

impl State {
    /// Stamps a value with the next clock.
    fn stamp<T>(&mut self, value: T) -> Stamped<T> {
        self.clock += 1;
        Stamped(self.clock, value)
    }

    fn slot(&mut self, kind: Latest) -> &mut Option<Stamped<Item>> {
        match kind {
            Latest::Start => &mut self.start,
            Latest::Scale => &mut self.scale,
            Latest::Requested => &mut self.requested,
            Latest::Progress => &mut self.progress,
            Latest::Paused => &mut self.paused,
            Latest::Strip => &mut self.strip,
            Latest::End => &mut self.end,
        }
    }

    fn put(&mut self, kind: Latest, item: Item) {
        let stamped = self.stamp(item);
        *self.slot(kind) = Some(stamped);
    }

    /// Drops the snapshot with the smallest gap between its neighbours, but never the first or the last.
    fn thin_strip(&mut self) -> bool {
        let gap = |at: &usize| {
            let iteration = |index: usize| self.snapshots[index].1.about.iteration;
            iteration(at + 1).saturating_sub(iteration(at - 1))
        };
        let dropped = (1..self.snapshots.len().saturating_sub(1)).min_by_key(gap);
        if let Some(at) = dropped {
            self.snapshots.remove(at);
        }
        dropped.is_some()
    }
}

/// The state of a run so far.
#[derive(Debug)]
pub(super) struct History {
    state: Mutex<State>,
    /// The clock, on which viewers wait.
    updates: watch::Sender<u64>,
    /// Number of viewers, on which the run waits at its end.
    viewers: Mutex<usize>,
    gone: Condvar,
}

impl Default for History {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            updates: watch::Sender::new(0),
            viewers: Mutex::default(),
            gone: Condvar::new(),
        }
    }
}

/// Locks, ignoring poison: each value is stored in one assignment, so a panic leaves no partial state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// Changes the state, then wakes the viewers.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let clock = {
            let mut state = lock(&self.state);
            change(&mut state);
            state.clock
        };
        // Two callers may arrive in either order; viewers only need to wake.
        self.updates.send_replace(clock);
    }

    /// Starts a run; of an earlier one only the notes are kept.
    pub fn begin(&self, start: &Start<'_>) {
        self.change(|state| {
            let (clock, next_snapshot) = (state.clock, state.next_snapshot);
            let notes = std::mem::take(&mut state.notes);
            let adjustable = start.groups.iter().filter(|group| group.adjustable);
            let adjustable = adjustable.map(|group| group.name.to_owned()).collect();
            *state = State { clock, next_snapshot, notes, adjustable, ..State::default() };
            state.put(Latest::Start, Item::start(start));
        });
    }

    /// Records that a scale begins.
    pub fn scale(&self, index: usize) {
        self.change(|state| state.put(Latest::Scale, Item::Scale { index }));
    }

    /// Records shares requested by a viewer.
    pub fn requested(&self, shares: &[(String, f32)]) {
        let item = Item::Requested { shares: shares.to_vec() };
        self.change(|state| state.put(Latest::Requested, item));
    }

    /// Records the number of completed iterations.
    pub fn progress(&self, iteration: u32, seconds: f64) {
        self.change(|state| state.put(Latest::Progress, Item::Progress { iteration, seconds }));
    }

    /// Records that the run is paused or continues.
    pub fn paused(&self, paused: bool) {
        self.change(|state| state.put(Latest::Paused, Item::Paused { paused }));
    }

    /// Records a report.
    pub fn report(&self, report: &Report) {
        let text = json(report);
        self.change(|state| {
            let stamped = state.stamp(text);
            state.reports.push_back(stamped);
            if state.reports.len() > REPORTS {
                let old = state.reports.len() - RECENT_REPORTS;
                let mut index = 0;
                state.reports.retain(|_| {
                    index += 1;
                    index > old || index % 2 == 1
                });
            }
        });
    }

    /// Records the shares and weights in effect.
    pub fn weights(&self, iteration: u32, shares: &[(&str, f32)], weights: &[(&str, f32)]) {
        let owned =
            |pairs: &[(&str, f32)]| pairs.iter().map(|(name, value)| ((*name).into(), *value)).collect();
        let item = Item::Weights { iteration, shares: owned(shares), weights: owned(weights) };
        self.change(|state| {
            let stamped = state.stamp(item);
            state.weights.push_back(stamped);
            if state.weights.len() > WEIGHTS {
                state.weights.pop_front();
            }
        });
    }

    /// Records a text for the viewers.
    pub fn note(&self, text: &str) {
        let item = Item::Note { text: text.chars().take(NOTE_LENGTH).collect() };
        self.change(|state| {
            let stamped = state.stamp(item);
            state.notes.push_back(stamped);
            if state.notes.len() > NOTES {
                state.notes.pop_front();
            }
        });
    }

    /// Stores the photo, as JPEG.
    pub fn photo(&self, jpeg: &[u8]) {
        let bytes = framed(Kind::Photo, 0, 0, jpeg);
        self.change(|state| state.photo = Some(state.stamp(bytes)));
    }

    /// Stores the newest picture, as JPEG.
    pub fn picture(&self, iteration: u32, jpeg: &[u8]) {
        let bytes = framed(Kind::Picture, iteration, 0, jpeg);
        self.change(|state| state.picture = Some(state.stamp(bytes)));
    }

    /// Stores a snapshot for the strip, as JPEG.
    pub fn snapshot(&self, mut about: Snapshot, jpeg: &[u8]) {
        self.change(|state| {
            about.id = state.next_snapshot;
            state.next_snapshot = state.next_snapshot.wrapping_add(1);
            let jpeg = framed(Kind::Snapshot, about.iteration, about.id, jpeg);
            let kept = state.stamp(StoredSnapshot { about, jpeg });
            state.snapshots.push(kept);
            let bytes = |state: &State| state.snapshots.iter().map(|kept| kept.1.jpeg.len()).sum::<usize>();
            while (state.snapshots.len() > SNAPSHOTS || bytes(state) > SNAPSHOT_BYTES) && state.thin_strip() {
            }
            let kept = state.snapshots.iter().map(|kept| kept.1.about.id).collect();
            state.put(Latest::Strip, Item::Strip { kept });
        });
    }

    /// Records the end of the run.
    pub fn end(&self, ending: &str, output: &str) {
        let item = Item::End { ending: ending.to_owned(), output: output.to_owned() };
        self.change(|state| state.put(Latest::End, item));
    }

    /// Returns true if this run has an item of a kind.
    pub fn has(&self, kind: Latest) -> bool {
        lock(&self.state).slot(kind).is_some()
    }

    /// Returns the groups whose shares can be changed; none after the end of the run.
    pub fn adjustable(&self) -> Vec<String> {
        let state = lock(&self.state);
        if state.end.is_some() { Vec::new() } else { state.adjustable.clone() }
    }

    /// Returns the messages after `clock` in the order in which a page needs them, the clock for the next call, and
    /// whether the run is over.
    pub fn since(&self, clock: u64) -> (Vec<Message>, u64, bool) {
        let state = lock(&self.state);
        let mut messages = Vec::new();
        let mut text = |text: String| messages.push(Message::Text(text.into()));
        // The order shows whether the shares requested last are in effect.
        let mut shares: Vec<_> = state.start.iter().chain(&state.weights).chain(&state.requested).collect();
        shares.sort_by_key(|item| item.0);
        shares.iter().filter(|item| item.0 > clock).for_each(|item| text(item.1.json()));
        let reports: Vec<&str> =
            state.reports.iter().filter(|report| report.0 > clock).map(|report| report.1.as_str()).collect();
        if !reports.is_empty() {
            text(format!(r#"{{"type":"reports","reports":[{}]}}"#, reports.join(",")));
        }
        let latest = [&state.scale, &state.progress, &state.paused, &state.strip].into_iter().flatten();
        latest.filter(|item| item.0 > clock).for_each(|item| text(item.1.json()));
        let pictures = [&state.photo, &state.picture].into_iter().flatten();
        messages.extend(pictures.filter(|p| p.0 > clock).map(|p| Message::Binary(p.1.clone())));
        for Stamped(_, kept) in state.snapshots.iter().filter(|kept| kept.0 > clock) {
            messages.push(Message::Text(Item::Snapshot(kept.about.clone()).json().into()));
            messages.push(Message::Binary(kept.jpeg.clone()));
        }
        let last = state.notes.iter().chain(&state.end).filter(|item| item.0 > clock);
        messages.extend(last.map(|item| Message::Text(item.1.json().into())));
        (messages, state.clock, state.end.is_some())
    }

    /// Returns a receiver that is notified whenever something is stored.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.updates.subscribe()
    }

    /// Counts one more viewer until the returned value is dropped.
    pub fn enter(self: &Arc<Self>) -> Presence {
        *lock(&self.viewers) += 1;
        Presence(self.clone())
    }

    /// Returns the number of viewers.
    pub fn viewers(&self) -> usize {
        *lock(&self.viewers)
    }

    /// Waits until no viewer is left, or until the deadline.
    pub fn wait_for_viewers(&self, deadline: Instant) {
        let mut viewers = lock(&self.viewers);
        while *viewers > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            viewers = self.gone.wait_timeout(viewers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Prepends the header to a picture.
fn framed(kind: Kind, iteration: u32, id: u32, jpeg: &[u8]) -> Bytes {
    [header(kind, iteration, id).as_slice(), jpeg].concat().into()
}

/// A connected viewer.
#[derive(Debug)]
pub(super) struct Presence(Arc<History>);

impl Drop for Presence {
    fn drop(&mut self) {
        *lock(&self.0.viewers) -= 1;
        self.0.gone.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(iteration: u32) -> Report {
        Report {
            iteration,
            seconds: 0.0,
            total: 1.0,
            groups: Vec::new(),
            classes: Vec::new(),
            class_distance: None,
            change: None,
        }
    }

    /// Returns the iterations of the reports in messages.
    fn iterations(messages: &[Message]) -> Vec<u64> {
        messages
            .iter()
            .filter_map(|message| serde_json::from_str::<serde_json::Value>(message.to_text().ok()?).ok())
            .flat_map(|value| value["reports"].as_array().cloned().unwrap_or_default())
            .map(|report| report["iteration"].as_u64().unwrap())
            .collect()
    }

    #[test]
    fn long_history_keeps_first_and_last_report() {
        let history = History::default();
        for iteration in 0..20_000 {
            history.report(&report(iteration));
        }
        let (messages, clock, is_over) = history.since(0);
        let kept = iterations(&messages);
        assert!(kept.len() <= REPORTS && !is_over);
        assert_eq!((kept[0], kept[kept.len() - 1]), (0, 19_999));
        assert!(kept.is_sorted());
        assert!(kept[kept.len() - RECENT_REPORTS..].windows(2).all(|pair| pair[1] == pair[0] + 1));
        // The next read gets only what is new.
        assert!(history.since(clock).0.is_empty());
        history.report(&report(20_000));
        assert_eq!(iterations(&history.since(clock).0), [20_000]);
    }

    #[test]
    fn notes_are_bounded_in_length_and_number() {
        let history = History::default();
        for _ in 0..200 {
            history.note(&"\u{e4}".repeat(10_000));
        }
        let (messages, ..) = history.since(0);
        assert_eq!(messages.len(), NOTES);
        assert!(messages.iter().all(|note| note.to_text().unwrap().chars().count() < NOTE_LENGTH + 50));
    }
}
