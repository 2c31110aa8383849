//! Recording for a trace: each dispatch in a pass of its own, with stamps at both ends.

use super::steps::Work;
use crate::error::Result;
use crate::gpu::{Context, Trace};

/// Records steps in order, as [`super::steps::record`] does, for `trace`. An error is kept in the trace, which ends
/// with it, and the run goes on.
pub(super) fn record<'a>(
    context: &Context,
    trace: &Trace,
    encoder: &mut wgpu::CommandEncoder,
    steps: impl Iterator<Item = (&'a str, &'a Work)>,
) {
    if let Err(error) = record_steps(context, trace, encoder, steps) {
        trace.fail(error);
    }
}

fn record_steps<'a>(
    context: &Context,
    trace: &Trace,
    encoder: &mut wgpu::CommandEncoder,
    steps: impl Iterator<Item = (&'a str, &'a Work)>,
) -> Result<()> {
    let mut stamps = trace.stamps(context);
    let mut staged = false;
    for (label, work) in steps {
        match work {
            Work::Stage { .. } | Work::Copy { .. } => staged = work.copy(encoder),
            Work::Dispatch { pipeline, bind_group, groups: [x, y, z] } => {
                if let Some(full) = stamps.take_if(|stamps| stamps.room() == 0) {
                    trace.recorded(context, encoder, full)?;
                    stamps = trace.stamps(context);
                }
                let mut pass = match &mut stamps {
                    Some(stamps) => stamps.pass(encoder, label, std::mem::take(&mut staged)),
                    None => encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: Some(label),
                        timestamp_writes: None,
                    }),
                };
                pass.set_pipeline(&pipeline.compute);
                pass.set_bind_group(0, bind_group, &[]);
                pass.dispatch_workgroups(*x, *y, *z);
            }
        }
    }
    match stamps {
        Some(stamps) => trace.recorded(context, encoder, stamps),
        None => Ok(()),
    }
}
