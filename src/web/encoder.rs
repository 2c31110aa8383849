//! Encodes pictures as JPEG in a separate thread.

use super::history::History;
use super::message::Snapshot;
use crate::error::{Error, Result};
use crate::image_io::Picture;
use image::codecs::jpeg::JpegEncoder;
use image::{ImageResult, RgbImage, imageops};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// JPEG quality of all pictures.
const QUALITY: u8 = 90;
/// Longest side of the photo and the newest picture, in pixels; larger ones are scaled down.
const PICTURE_SIDE: u32 = 2048;
/// Longest side of a snapshot in the strip.
const SNAPSHOT_SIDE: u32 = 1024;
/// Minimum time between pictures.
const PACE: Duration = Duration::from_millis(80);
/// Maximum bytes of queued snapshots; the newest one may exceed it.
const WAITING: usize = 64 << 20;

/// A picture with 8 bit values.
#[derive(Debug)]
pub(super) struct Frame {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Frame {
    /// Copies a picture whose size was checked.
    pub fn new(picture: &Picture) -> Self {
        // NaN becomes 0.
        let byte = |value: &f32| (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
        let side = |side: usize| u32::try_from(side).expect("at most MAX_SIDE");
        Self {
            width: side(picture.width),
            height: side(picture.height),
            rgb: picture.rgb.iter().map(byte).collect(),
        }
    }

    /// Encodes as JPEG, scaled down if the longer side exceeds `side` pixels.
    fn jpeg(self, side: u32) -> ImageResult<Vec<u8>> {
        let (width, height) = (self.width, self.height);
        let mut image = RgbImage::from_raw(width, height, self.rgb).expect("as many values as pixels");
        let longer = width.max(height);
        if longer > side {
            let scaled =
                |length: u32| ((f64::from(length) * f64::from(side) / f64::from(longer)) as u32).max(1);
            image = imageops::thumbnail(&image, scaled(width), scaled(height));
        }
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&image)?;
        Ok(jpeg)
    }
}

/// A job of the encoder.
#[derive(Debug)]
enum Job {
    Photo(Frame),
    Snapshot(Snapshot, Frame),
    Picture(u32, Frame),
}

#[derive(Debug, Default)]
struct Queue {
    photo: Option<Frame>,
    picture: Option<(u32, Frame)>,
    snapshots: VecDeque<(Snapshot, Frame)>,
    /// Whether a job is in progress.
    busy: bool,
    /// Time at which the last picture was encoded.
    last_picture: Option<Instant>,
    /// Whether the run is over: pictures are no longer paced.
    finishing: bool,
    /// Number of the run; pictures of an earlier one are dropped.
    run: u64,
}

/// The encoding thread. It ends after [`Encoder::finish`].
#[derive(Debug)]
pub(super) struct Encoder {
    history: Arc<History>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Encoder {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Io`] if the thread can't be started.
    pub fn start(history: Arc<History>) -> Result<Arc<Self>> {
        let encoder = Arc::new(Self { history, queue: Mutex::default(), changed: Condvar::new() });
        let worker = encoder.clone();
        std::thread::Builder::new()
            .name("live page pictures".into())
            .spawn(move || worker.work())
            .map_err(Error::io(Path::new("the live page"), "starting a thread for pictures"))?;
        Ok(encoder)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Queue)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Drops all pictures of the current run, because another one starts.
    pub fn forget(&self) {
        self.change(|queue| {
            *queue = Queue { busy: queue.busy, run: queue.run + 1, ..Queue::default() };
        });
    }

    /// Queues the photo.
    pub fn photo(&self, frame: Frame) {
        self.change(|queue| queue.photo = Some(frame));
    }

    /// Queues the newest picture. It replaces a queued one.
    pub fn picture(&self, iteration: u32, frame: Frame) {
        self.change(|queue| queue.picture = Some((iteration, frame)));
    }

    /// Queues a snapshot. If the queue is full, every other queued snapshot is dropped.
    pub fn snapshot(&self, about: Snapshot, frame: Frame) {
        self.change(|queue| {
            let bytes: usize = queue.snapshots.iter().map(|(_, frame)| frame.rgb.len()).sum();
            if bytes > WAITING {
                let mut keep = false;
                queue.snapshots.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            queue.snapshots.push_back((about, frame));
        });
    }

    /// Wakes the thread, because a viewer connected.
    pub fn wake(&self) {
        // Locks the queue, because the thread may be about to wait.
        self.change(|_| {});
    }

    /// Returns true if a picture queued now would be encoded immediately.
    pub fn is_free(&self) -> bool {
        let queue = self.lock();
        queue.picture.is_none() && !queue.busy && queue.last_picture.is_none_or(|last| last.elapsed() >= PACE)
    }

    /// Ends the thread after all pictures that a viewer will see are encoded. Waits for that until the deadline.
    pub fn finish(&self, deadline: Instant) {
        self.change(|queue| queue.finishing = true);
        let mut queue = self.lock();
        while queue.busy || self.has_job(&queue) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn has_job(&self, queue: &Queue) -> bool {
        let picture = queue.picture.is_some() && self.history.viewers() > 0;
        queue.photo.is_some() || !queue.snapshots.is_empty() || picture
    }

    /// Waits for the next job; `None` after [`Encoder::finish`] if no job is left.
    fn next(&self) -> Option<(Job, u64)> {
        let mut queue = self.lock();
        loop {
            let mut limit = None;
            let job = if let Some(frame) = queue.photo.take() {
                Some(Job::Photo(frame))
            } else if let Some((about, frame)) = queue.snapshots.pop_front() {
                Some(Job::Snapshot(about, frame))
            } else if self.history.viewers() > 0 {
                let rest =
                    queue.last_picture.map_or(Duration::ZERO, |last| PACE.saturating_sub(last.elapsed()));
                if rest.is_zero() || queue.finishing {
                    queue.picture.take().map(|(iteration, frame)| Job::Picture(iteration, frame))
                } else {
                    limit = queue.picture.is_some().then_some(rest);
                    None
                }
            } else {
                None
            };
            if let Some(job) = job {
                queue.busy = true;
                return Some((job, queue.run));
            }
            if queue.finishing {
                return None;
            }
            queue = match limit {
                Some(limit) => {
                    self.changed.wait_timeout(queue, limit).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn work(&self) {
        while let Some((job, run)) = self.next() {
            let is_picture = matches!(job, Job::Picture(..));
            let jpeg = match job {
                Job::Photo(frame) => frame.jpeg(PICTURE_SIDE).map(|jpeg| (None, None, jpeg)),
                Job::Picture(iteration, frame) => {
                    frame.jpeg(PICTURE_SIDE).map(|jpeg| (Some(iteration), None, jpeg))
                }
                Job::Snapshot(about, frame) => {
                    frame.jpeg(SNAPSHOT_SIDE).map(|jpeg| (None, Some(about), jpeg))
                }
            };
            let mut queue = self.lock();
            if queue.run == run {
                match jpeg {
                    Ok((_, Some(about), jpeg)) => self.history.snapshot(about, &jpeg),
                    Ok((Some(iteration), None, jpeg)) => self.history.picture(iteration, &jpeg),
                    Ok((None, None, jpeg)) => self.history.photo(&jpeg),
                    Err(error) => self.history.note(&format!("A picture can't be shown: {error}")),
                }
            }
            if is_picture {
                queue.last_picture = Some(Instant::now());
            }
            queue.busy = false;
            drop(queue);
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pictures_are_reduced_and_clamped() {
        let mut picture = Picture { width: 3000, height: 2, rgb: vec![0.5; 3000 * 2 * 3] };
        picture.rgb[..4].copy_from_slice(&[f32::NAN, f32::INFINITY, -1.0, 2.0]);
        let frame = Frame::new(&picture);
        assert_eq!(frame.rgb[..5], [0, 255, 0, 255, 128]);
        let jpeg = frame.jpeg(PICTURE_SIDE).unwrap();
        let decoded = image::load_from_memory(&jpeg).unwrap().to_rgb8();
        assert_eq!(decoded.dimensions(), (2048, 1));
        assert!(decoded.get_pixel(1500, 0).0.iter().all(|value| value.abs_diff(128) < 4));
    }
}
