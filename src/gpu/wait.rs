//! Waiting for the device. No other file blocks on it.
//!
//! Work on the device is a future that a callback of wgpu completes. [`block_on`] waits for one on this thread and
//! polls the device meanwhile. With an event loop that polls the device, as in a browser, the futures can be awaited
//! directly.

use crate::error::{Error, Result};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Thread, ThreadId};
use std::time::{Duration, Instant};

/// Default time of one wait after which the device counts as hung. A software driver may need a minute for one
/// iteration on a large picture; a GPU's own watchdog acts within seconds.
pub(super) const LIMIT: Duration = Duration::from_secs(600);
/// Maximum time of one poll of the device, so a lost device is detected.
const SLICE: Duration = Duration::from_secs(2);
/// Time between checks for a callback that another thread is about to run, and maximum time between polls of a device
/// that several threads use.
const MOMENT: Duration = Duration::from_millis(5);
/// Minimum time between such polls.
const SHORTEST: Duration = Duration::from_micros(100);

/// A value that a callback delivers. Clones share it, and each may be awaited.
#[derive(Debug)]
pub(super) struct Answer<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    wakers: Vec<Waker>,
}

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone> Answer<T> {
    /// Creates an answer without a value.
    pub fn pending() -> Self {
        Self(Arc::new(Mutex::new(State { value: None, wakers: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers the value.
    pub fn deliver(&self, value: T) {
        let mut state = self.state();
        state.value = Some(value);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// True if the value has been delivered.
    pub fn has_come(&self) -> bool {
        self.state().value.is_some()
    }
}

impl<T: Clone> Future for Answer<T> {
    type Output = T;

    fn poll(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.state();
        match &state.value {
            Some(value) => Poll::Ready(value.clone()),
            None => {
                state.wakers.push(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Marks submitted work; complete once the device has executed it.
#[derive(Debug, Clone)]
pub struct Fence {
    index: wgpu::SubmissionIndex,
    done: Answer<()>,
}

impl Fence {
    /// Creates the fence of the queue's latest submission.
    pub(super) fn new(queue: &wgpu::Queue, index: wgpu::SubmissionIndex) -> Self {
        let done = Answer::pending();
        let deliver = done.clone();
        queue.on_submitted_work_done(move || deliver.deliver(()));
        Self { index, done }
    }

    /// Waits until the work is complete.
    pub async fn done(&self) {
        self.done.clone().await;
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks this thread until a future completes or the limit is reached. Meanwhile calls `drive` to advance the device,
/// each time for at most the duration passed to it.
///
/// # Errors
/// [`Error::Timeout`] at the limit; errors of `drive`.
pub(super) fn block_on<T>(
    what: &str,
    future: impl Future<Output = T>,
    mut drive: impl FnMut(Duration) -> Result<()>,
    limit: Duration,
) -> Result<T> {
    let begin = Instant::now();
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Ok(value);
        }
        let left = limit.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(Error::Timeout { doing: what.to_owned(), seconds: limit.as_secs() });
        }
        drive(left.min(SLICE))?;
    }
}

/// Parks this thread until it is woken: for futures that progress without polling the device.
pub(super) fn sleep(slice: Duration) -> Result<()> {
    std::thread::park_timeout(slice);
    Ok(())
}

/// Decides how threads that may share a device wait for it.
///
/// wgpu 30 panics if a wait reaches its time limit just as the poll or submission of another thread finds that all work
/// is done (gfx-rs/wgpu#9958). So a device is waited for only while a single thread uses it. One that several threads
/// use is polled from time to time.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    first: OnceLock<ThreadId>,
    is_shared: AtomicBool,
    /// Held during a wait.
    wait: Mutex<()>,
}

impl Sharing {
    fn wait(&self) -> MutexGuard<'_, ()> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers that this thread uses the device. To be called before it submits anything. Ends after a wait of the
    /// device's only other thread.
    pub fn register(&self) {
        let this = std::thread::current().id();
        if *self.first.get_or_init(|| this) != this && !self.is_shared.load(Ordering::Acquire) {
            let _end = self.wait();
            self.is_shared.store(true, Ordering::Release);
        }
    }

    /// Returns the permission to wait, if no other thread uses the device.
    fn alone(&self) -> Option<MutexGuard<'_, ()>> {
        self.register();
        let wait = (!self.is_shared.load(Ordering::Acquire)).then(|| self.wait())?;
        (!self.is_shared.load(Ordering::Acquire)).then_some(wait)
    }
}

/// Returns a function that waits until a device has passed a fence, or polls it; `check` reports the device's errors.
pub(super) fn drive<'a>(
    (device, sharing): (&'a wgpu::Device, &'a Sharing),
    fence: &'a Fence,
    what: &'a str,
    check: impl Fn() -> Result<()> + 'a,
) -> impl FnMut(Duration) -> Result<()> + 'a {
    let mut passed = false;
    let mut pause = SHORTEST;
    move |slice| {
        let alone = sharing.alone();
        let is_alone = alone.is_some();
        let submission_index = (!passed).then(|| fence.index.clone());
        let outcome = device.poll(match is_alone {
            true => wgpu::PollType::Wait { submission_index, timeout: Some(slice) },
            false => wgpu::PollType::Poll,
        });
        drop(alone);
        check()?;
        match outcome {
            Ok(_) if !is_alone => {
                // Seldom if the work takes long.
                pause = (pause * 5 / 4).min(MOMENT);
                sleep(pause.min(slice))
            }
            Ok(_) if passed => sleep(MOMENT),
            Ok(_) => {
                passed = true;
                Ok(())
            }
            Err(wgpu::PollError::Timeout) => Ok(()),
            Err(error) => Err(Error::gpu(what, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_reaches_every_clone() {
        let answer = Answer::pending();
        let (one, other) = (answer.clone(), answer.clone());
        let thread = std::thread::spawn(move || block_on("a clone", one, sleep, LIMIT));
        assert!(!answer.has_come());
        std::thread::sleep(Duration::from_millis(20));
        answer.deliver(7);
        assert_eq!(thread.join().unwrap().unwrap(), 7);
        // A delivered value needs no polling.
        assert_eq!(block_on("another", other, |_| panic!("nothing to wait for"), LIMIT).unwrap(), 7);
    }

    #[test]
    fn wait_ends_at_its_limit_or_on_error() {
        let limit = Duration::from_millis(30);
        let error = block_on("never", Answer::<()>::pending(), sleep, limit).unwrap_err();
        assert!(matches!(&error, Error::Timeout { doing, .. } if doing == "never"), "{error}");
        let lost = |_| Err(Error::DeviceLost("gone".to_owned()));
        let error = block_on("never", Answer::<()>::pending(), lost, LIMIT).unwrap_err();
        assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    }

    #[test]
    fn drive_slices_never_exceed_the_remaining_time() {
        let slices = |limit| {
            let mut slices = Vec::new();
            // Ends with an error, so slow and fast machines see the same number of slices.
            let drive = |slice: Duration| {
                slices.push(slice);
                if slices.len() == 3 {
                    return Err(Error::DeviceLost("gone".to_owned()));
                }
                sleep(Duration::from_millis(1))
            };
            let error = block_on("never", Answer::<()>::pending(), drive, limit).unwrap_err();
            assert!(matches!(error, Error::DeviceLost(_)), "{error}");
            slices
        };
        let limit = SLICE - Duration::from_millis(1);
        let short = slices(limit);
        assert!(short[0] <= limit && short.windows(2).all(|pair| pair[1] < pair[0]), "{short:?}");
        assert_eq!(slices(LIMIT), [SLICE; 3]);
    }
    #[test]
    fn device_is_waited_for_only_while_one_thread_uses_it() {
        let sharing = Sharing::default();
        assert!(sharing.alone().is_some() && sharing.alone().is_some());
        let wait = sharing.alone().unwrap();
        let registered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                sharing.register();
                registered.store(true, Ordering::Relaxed);
                sharing.alone().is_some()
            });
            std::thread::sleep(Duration::from_millis(30));
            assert!(!registered.load(Ordering::Relaxed), "registered during a wait");
            drop(wait);
            assert!(!other.join().unwrap());
        });
        assert!(sharing.alone().is_none());
    }
}
