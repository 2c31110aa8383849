//! Reuse of a trace's query sets.

use std::collections::VecDeque;

/// Maximum number of query sets: Metal allows 32 per process, and wgpu loses the device if more are created.
const MOST: usize = 8;

/// A few reusable query sets. A set is free, held by a recording, or held by submitted work until its stamps are read.
#[derive(Debug)]
pub(super) struct QueryPool<Set, Work> {
    free: Vec<Set>,
    made: usize,
    /// Submitted work, oldest first.
    submitted: VecDeque<Work>,
}

/// Source of the next query set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<Set, Work> {
    Free(Set),
    /// A new one is to be created.
    New,
    /// This work holds it and is to be waited for.
    Of(Work),
    /// Unsubmitted recordings hold all sets, so a wait would never end.
    Nowhere,
}

impl<Set, Work> Default for QueryPool<Set, Work> {
    fn default() -> Self {
        Self { free: Vec::new(), made: 0, submitted: VecDeque::new() }
    }
}

impl<Set, Work> QueryPool<Set, Work> {
    /// Takes a query set, or the work that holds one.
    pub fn take(&mut self) -> Next<Set, Work> {
        if let Some(set) = self.free.pop() {
            return Next::Free(set);
        }
        if self.made < MOST {
            self.made += 1;
            return Next::New;
        }
        self.submitted.pop_front().map_or(Next::Nowhere, Next::Of)
    }

    /// Returns a set to the pool.
    pub fn give_back(&mut self, set: Set) {
        self.free.push(set);
    }

    /// Adds submitted work, which holds its sets.
    pub fn submitted(&mut self, work: impl IntoIterator<Item = Work>) {
        self.submitted.extend(work);
    }

    /// Takes all submitted work, oldest first.
    pub fn take_submitted(&mut self) -> VecDeque<Work> {
        std::mem::take(&mut self.submitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_sets_are_reused() {
        let mut pool: QueryPool<usize, (usize, usize)> = QueryPool::default();
        let (mut made, mut waited_for) = (0, Vec::new());
        for part in 0..100 {
            let set = match pool.take() {
                Next::New => {
                    made += 1;
                    made - 1
                }
                Next::Of((set, older)) => {
                    waited_for.push(older);
                    set
                }
                other => panic!("{other:?}"),
            };
            pool.submitted([(set, part)]);
        }
        assert_eq!(made, MOST);
        assert!(waited_for.into_iter().eq(0..100 - MOST), "the oldest first, each once");
        let parts = pool.take_submitted().into_iter().map(|(_, part)| part);
        assert!(parts.eq(100 - MOST..100));
    }

    #[test]
    fn unsubmitted_sets_are_not_waited_for() {
        let mut pool: QueryPool<&str, &str> = QueryPool::default();
        (0..MOST).for_each(|_| assert_eq!(pool.take(), Next::New));
        assert_eq!(pool.take(), Next::Nowhere);
        pool.submitted(["first", "second"]);
        assert_eq!(pool.take(), Next::Of("first"));
        // A free set is used before any wait.
        pool.give_back("a set");
        assert_eq!(pool.take(), Next::Free("a set"));
        assert_eq!(pool.take(), Next::Of("second"));
        assert_eq!(pool.take(), Next::Nowhere);
    }
}
