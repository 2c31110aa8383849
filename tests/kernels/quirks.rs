//! The table of known driver bugs against the current driver: it has exactly the bugs listed for it, and the
//! workarounds are effective.

use crate::common::{assert_close, engine, engine_with, filter, inputs, turn, widen};
use neural_mirage::Error;
use neural_mirage::gpu::{Context, DeviceOptions, Family, PipelineCache, PipelineKey};
use neural_mirage::graph::{Engine, SingleOp};
use neural_mirage::ops::{Case, Conv, Shape};
use std::sync::Arc;

/// More iterations than the limit of any entry.
const ITERATIONS: u32 = 100_000;

/// Counts the iterations of two consecutive loops in a way that no compiler can shorten.
const COUNT: &str = "
    @group(0) @binding(0) var<storage, read_write> state: array<u32>;
    @compute @workgroup_size(1) fn main() {
        var value = state[0];
        for (var i = 0u; i < state[1]; i++) {
            value = value * 3u + 1u;
            state[2]++;
        }
        for (var i = 0u; i < state[1]; i++) {
            value = value ^ (value >> 3u);
            state[2]++;
        }
        state[0] = value;
    }
";

/// Returns how many of 2 x 100,000 loop iterations this device executes.
fn iterations(context: &Context) -> u32 {
    let layout = vec![wgpu::BindGroupLayoutEntry {
        binding: 0,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: false },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }];
    let key = PipelineKey {
        label: "count".to_owned(),
        source: COUNT.into(),
        built_in: false,
        entry: "main",
        layout,
    };
    let pipeline = PipelineCache::default().get(context, &[key]).unwrap().swap_remove(0);
    let buffer = context.storage_buffer("state", 16).unwrap();
    context.upload(&buffer, 0, bytemuck::cast_slice(&[1u32, ITERATIONS, 0, 0])).unwrap();
    let bind_group = context.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("count"),
        layout: &pipeline.layout,
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    let mut encoder =
        context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("count") });
    let mut pass = encoder
        .begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("count"), timestamp_writes: None });
    pass.set_pipeline(&pipeline.compute);
    pass.set_bind_group(0, &bind_group, &[]);
    pass.dispatch_workgroups(1, 1, 1);
    drop(pass);
    context.submit(encoder, "count").unwrap();
    let words = context.read_f32(&buffer, 3, "state").unwrap();
    words[2].to_bits()
}

#[test]
fn driver_loop_limit_matches_quirk_table() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let context = engine.gpu().unwrap();
    let made = iterations(context);
    println!("{:?}: {made} of {}", context.info(), 2 * ITERATIONS);
    match context.profile().loop_limit {
        // The second loop's body still runs once.
        Some(limit) => {
            assert!(
                made.abs_diff(limit) <= 2,
                "{made} iterations, expected {limit}: has the driver bug changed?"
            );
        }
        None => assert_eq!(made, 2 * ITERATIONS, "this driver drops loop iterations: add it to the table"),
    }
}

/// A case with 25 taps times 4000 quads of channels in one invocation.
fn long_case() -> Case {
    let conv = Conv { padding: [0, 0], ..Conv::same(filter(3, 16_000, [5, 5]), false) };
    Case::normal(conv, &[Shape::map(16_000, 5, 5)], 1e-5)
}

fn run(engine: &Arc<Engine>, case: &Case) -> Result<Vec<f32>, Error> {
    let single = SingleOp::new(engine, case.op.clone(), &[case.inputs[0].0]).unwrap();
    Ok(single.run(0, &inputs(case, 1))?.values)
}

#[test]
fn loops_beyond_driver_limit_are_refused() {
    let _turn = turn();
    let case = long_case();
    let limited = engine(Family::Naive);
    let careless = engine_with(&DeviceOptions { family: Family::Naive, ..Default::default() }, |profile| {
        profile.loop_limit = None;
    });
    let values: Vec<Vec<f64>> = inputs(&case, 1).iter().map(|values| widen(values)).collect();
    let expected = case.op.reference(&[&values[0]], &[case.inputs[0].0]);
    let found = run(&careless, &case).unwrap();
    if limited.profile().loop_limit.is_none() {
        assert_close("100,000 iterations", &found, &expected, case.tolerance);
        return;
    }
    let distance = crate::common::distance(&found, &expected);
    assert!(distance > 0.01, "the driver bug does not show: {distance}");
    let message = run(&limited, &case).unwrap_err().to_string();
    assert!(message.contains("silently drops all beyond 65535"), "{message}");
}
