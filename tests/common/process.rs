//! Child processes of tests.

use std::ops::{Deref, DerefMut};
use std::process::Child;
use std::time::{Duration, Instant};

/// Guards against hangs. Generous because a software device shared with other tests is slow.
const LIMIT: Duration = Duration::from_secs(300);

/// A process that is killed on drop, so that a failing test leaves nothing running.
pub struct Running(Child);

impl Running {
    pub fn new(child: Child) -> Self {
        Self(child)
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until a condition holds; panics with the message `what` after [`LIMIT`].
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a program and returns its exit code; `None` if a signal ended it.
#[track_caller]
pub fn code(child: &mut Child) -> Option<i32> {
    let mut ended = None;
    wait_for("the program doesn't stop", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    ended.and_then(|status| status.code())
}

/// Reads a process's memory in bytes (Linux): `VmRSS` for the resident size, `VmHWM` for its peak.
pub fn memory(process: u32, what: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}
