//! Preparing a lowered program: its pipelines, its constants (which the device may make by programs of their own),
//! its memory.

use super::engine::Engine;
use super::lowered::{Lowered, LoweredConstant, PartProgram, Sections};
use super::memory::{Bindings, Packed};
use super::replay::{Replay, pipelines};
use super::steps::copy_to_texture;
use crate::error::{Error, Result};
use crate::ops::{Initializer, Shape, Storage, TexelCopy};

/// A program ready to be recorded.
///
/// # Errors
/// [`Error::OutOfMemory`] if the device has too little memory; [`Error::Gpu`] if it refuses a kernel.
pub(super) fn prepare(engine: &Engine, program: &Lowered, bound: &Bindings) -> Result<Replay> {
    // What the device refuses, it refuses here: before anything is allocated.
    let pipelines = pipelines(engine, &program.entries)?;
    let constants = program.constants.iter().map(|constant| make(engine, constant));
    let constants = constants.collect::<Result<Vec<Packed>>>()?;
    Replay::new(engine, program, &pipelines, bound, &constants)
}

/// The memory of a constant, filled on first use.
fn make(engine: &Engine, LoweredConstant { constant, parts }: &LoweredConstant) -> Result<Packed> {
    if let Some(memory) = engine.constant(constant) {
        return Ok(memory);
    }
    let (context, label) = (&engine.context, constant.key.as_str());
    let memory = match constant.storage {
        Storage::Buffer => Packed::Buffer(context.storage_buffer(label, constant.bytes)?),
        Storage::Texture => Packed::Texture(engine.staging_texture(label, constant.bytes / 16)?),
    };
    match (&constant.initializer, &memory) {
        (Initializer::Host(make), Packed::Buffer(buffer)) => context.upload(buffer, 0, &make()?)?,
        (Initializer::Host(make), Packed::Texture(_)) => {
            // Through a buffer, in the same way as activations.
            let bytes = make()?;
            let buffer = context.storage_buffer(label, bytes.len() as u64)?;
            context.upload(&buffer, 0, &bytes)?;
            let all = TexelCopy { from: 0, to: 0, texels: bytes.len() as u64 / 16 };
            place(engine, &buffer, &[all], &memory)?;
        }
        (Initializer::Device { parts: described, values }, _) => {
            let values = values()?;
            for (part, program) in described.iter().zip(parts) {
                let input = values.get(part.values.clone()).unwrap_or_default();
                let output = run(engine, label, program, input)?;
                place(engine, &output, &part.copies, &memory)?;
            }
        }
    }
    Ok(engine.keep_constant(constant, memory))
}

/// The output of a part's program.
fn run(engine: &Engine, label: &str, part: &PartProgram, values: &[f32]) -> Result<wgpu::Buffer> {
    let signature = part.program.nodes.first().map(|node| &node.signature);
    let shape = signature.map(|signature| signature.output).ok_or_else(|| Error::Gpu {
        what: label.to_owned(),
        message: "the program of a constant's part is empty".to_owned(),
    })?;
    let input = engine.tensor_with(label, Shape::Vector(values.len()), values)?;
    let output = engine.tensor(label, shape)?;
    let bound = Bindings::from([(part.input, input), (part.output, output.clone())]);
    let replay = prepare(engine, &part.program, &bound)?;
    let descriptor = wgpu::CommandEncoderDescriptor { label: Some(label) };
    let mut encoder = engine.context.device().create_command_encoder(&descriptor);
    replay.record(engine, &mut encoder, Sections::MAX);
    engine.context.submit(encoder, label)?;
    Ok(output.buffer().clone())
}

/// Has a buffer's texels copied to their places in a constant.
fn place(engine: &Engine, buffer: &wgpu::Buffer, copies: &[TexelCopy], memory: &Packed) -> Result<()> {
    let label = "uploading weights";
    let descriptor = wgpu::CommandEncoderDescriptor { label: Some(label) };
    let mut encoder = engine.context.device().create_command_encoder(&descriptor);
    for copy in copies {
        match memory {
            Packed::Texture(texture) => copy_to_texture(&mut encoder, buffer, texture, *copy),
            Packed::Buffer(to) => {
                encoder.copy_buffer_to_buffer(buffer, copy.from * 16, to, copy.to * 16, copy.texels * 16);
            }
        }
    }
    let fence = engine.context.submit(encoder, label)?;
    // The buffer lives until the device has copied it.
    engine.ahead(buffer.size(), &fence, label)
}
