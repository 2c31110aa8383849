//! The device's own clock.

use super::{Context, StagingPool};
use crate::error::{Error, Result};
use std::time::Instant;

/// Times work on the device between two timestamps.
#[derive(Debug)]
pub struct Stopwatch {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: StagingPool,
    stamps: u32,
}

impl Stopwatch {
    /// Creates a stopwatch with this many stamps; `None` if the device has no timestamps.
    ///
    /// # Errors
    /// As [`Context::check`].
    pub fn new(context: &Context, stamps: u32) -> Result<Option<Self>> {
        let device = context.device();
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(None);
        }
        let label = Some("timestamps");
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label,
            ty: wgpu::QueryType::Timestamp,
            count: stamps,
        });
        let size = u64::from(stamps) * 8;
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label,
            size,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        context.check("creating a stopwatch")?;
        Ok(Some(Self {
            queries,
            resolved,
            staging: StagingPool::new(context, "timestamps", size, 1),
            stamps,
        }))
    }

    /// Records one stamp, taken when all previously recorded work is complete. (It is the end of an empty pass: stamps
    /// elsewhere are not portable.)
    pub fn stamp(&self, encoder: &mut wgpu::CommandEncoder, index: u32) {
        drop(encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("timestamp"),
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: None,
                end_of_pass_write_index: Some(index),
            }),
        }));
    }

    /// Submits the recorded commands, waits for them, and returns the stamps in seconds since the first.
    ///
    /// # Errors
    /// As [`Context::wait`].
    pub fn read(&self, context: &Context, mut encoder: wgpu::CommandEncoder, what: &str) -> Result<Vec<f64>> {
        encoder.resolve_query_set(&self.queries, 0..self.stamps, &self.resolved, 0);
        let copy = self.staging.copy(context, &mut encoder, &self.resolved)?;
        let submission = context.submit(encoder, what)?;
        let ticks: Vec<u64> = copy.read(&submission).finish_as(context)?;
        let period = f64::from(context.queue().get_timestamp_period()) * 1e-9;
        let Some(&first) = ticks.first() else {
            return Err(Error::gpu(what, "no timestamp was returned"));
        };
        // A driver's clock may run backwards; the difference is then negative and meaningless.
        Ok(ticks.iter().map(|tick| tick.wrapping_sub(first) as i64 as f64 * period).collect())
    }
}

impl Context {
    /// Records commands `runs` times, submits them together and waits for them. Returns the seconds per run by wall
    /// clock, and by the device's clock if a watch with two stamps is given and its time is credible (some drivers
    /// return zeros).
    ///
    /// # Errors
    /// As [`Context::wait`].
    pub fn time(
        &self,
        runs: usize,
        watch: Option<&Stopwatch>,
        record: impl Fn(&mut wgpu::CommandEncoder),
    ) -> Result<(f64, Option<f64>)> {
        let label = "timing";
        let begin = Instant::now();
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some(label) };
        let mut encoder = self.device().create_command_encoder(&descriptor);
        let each = |seconds: f64| seconds / runs as f64;
        let Some(watch) = watch else {
            (0..runs).for_each(|_| record(&mut encoder));
            let fence = self.submit(encoder, label)?;
            self.wait(&fence, label)?;
            return Ok((each(begin.elapsed().as_secs_f64()), None));
        };
        watch.stamp(&mut encoder, 0);
        (0..runs).for_each(|_| record(&mut encoder));
        watch.stamp(&mut encoder, 1);
        let stamps = watch.read(self, encoder, label)?;
        let wall = begin.elapsed().as_secs_f64();
        let device = stamps.get(1).copied().filter(|seconds| *seconds > 0.0 && *seconds <= wall);
        Ok((each(wall), device.map(each)))
    }
}
