//! Recording for a trace: each dispatch in its own pass, with timestamps at both ends.

use super::steps::Work;
use crate::gpu::{Context, Trace};

/// Records steps in order, as [`super::steps::record`] does, for `trace`. If the trace has no timestamps, the steps are
/// recorded without any, so a run does not depend on its trace.
pub(super) fn record<'a>(
    context: &Context,
    trace: &Trace,
    encoder: &mut wgpu::CommandEncoder,
    steps: impl Iterator<Item = (&'a str, &'a Work)>,
) {
    let mut stamps = trace.stamps(context);
    let mut staged = false;
    for (label, work) in steps {
        match work {
            Work::Stage { .. } | Work::Copy { .. } => staged = work.copy(encoder),
            Work::Dispatch { pipeline, bind_group, groups: [x, y, z] } => {
                if let Some(full) = stamps.take_if(|stamps| stamps.room() == 0) {
                    trace.recorded(context, encoder, full);
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
    if let Some(stamps) = stamps {
        trace.recorded(context, encoder, stamps);
    }
}
