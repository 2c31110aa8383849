//! Account of allocated memory by class: current and peak.

use super::kernels::EntryKey;
use super::plan::MemoryUse;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts of a ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Memory allocated at present. Tensors of all programs and those that no program uses are `bound`.
    pub live: MemoryUse,
    /// Memory allocated at the peak since the counts were last read.
    pub peak: MemoryUse,
    /// Number of distinct entry points compiled so far.
    pub pipelines: usize,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    counted: Counted,
    pipelines: HashSet<EntryKey>,
    /// Scratch memory of each program. Programs run one after the other, so only the largest counts.
    scratch: Vec<u64>,
}

impl Ledger {
    /// Returns the counts and resets the peak to the current memory.
    pub fn look(&mut self) -> Counted {
        let counted = Counted { pipelines: self.pipelines.len(), ..self.counted };
        self.counted.peak = counted.live;
        counted
    }

    /// Records compiled entry points.
    pub fn compile(&mut self, entries: impl Iterator<Item = EntryKey>) {
        self.pipelines.extend(entries);
    }

    fn with_scratch(&self, taken: MemoryUse) -> MemoryUse {
        MemoryUse { scratch: self.scratch.iter().copied().max().unwrap_or(0), ..taken }
    }
}

/// A share of memory that counts as allocated until the claim is dropped.
#[derive(Debug)]
pub struct Claim {
    taken: MemoryUse,
    ledger: Arc<Mutex<Ledger>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut ledger = entered(&self.ledger);
        if let Some(at) = ledger.scratch.iter().position(|bytes| *bytes == self.taken.scratch) {
            ledger.scratch.swap_remove(at);
        }
        let live = ledger.counted.live.combined(self.taken, u64::saturating_sub);
        ledger.counted.live = ledger.with_scratch(live);
    }
}

impl Claim {
    /// Counts memory as allocated.
    pub fn new(ledger: &Arc<Mutex<Ledger>>, taken: MemoryUse) -> Self {
        let mut entries = entered(ledger);
        if taken.scratch > 0 {
            entries.scratch.push(taken.scratch);
        }
        let live = entries.counted.live.combined(taken, u64::saturating_add);
        let live = entries.with_scratch(live);
        let counted = &mut entries.counted;
        counted.live = live;
        if live.total() > counted.peak.total() {
            counted.peak = live;
        }
        drop(entries);
        Self { taken, ledger: ledger.clone() }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.taken.total()
    }
}

pub(super) fn entered(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
