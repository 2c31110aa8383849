//! Prepares a lowered program: its pipelines, its constants (which may be computed by programs on the device), its
//! memory.

use super::super::lowered::{Lowered, LoweredConstant, PartProgram};
use super::super::memory::{Bindings, Memory, Workspace};
use super::device::{GpuDevice, Packed};
use super::replay::{Replay, pipelines};
use super::steps::copy_to_texture;
use crate::error::{Error, Result};
use crate::ops::{Initializer, Storage, TexelCopy};
use std::sync::Arc;

/// Prepares a program for recording.
///
/// # Errors
/// [`Error::OutOfMemory`] if the device has too little memory; [`Error::Gpu`] if it rejects a kernel.
pub fn prepare(
    device: &Arc<GpuDevice>,
    program: &Lowered,
    bound: &Bindings,
    workspace: &mut Workspace,
) -> Result<Replay> {
    // First, so a rejected kernel fails before anything is allocated.
    let pipelines = pipelines(device, &program.entries)?;
    let constants = program.constants.iter().map(|constant| make(device, constant));
    let constants = constants.collect::<Result<Vec<Packed>>>()?;
    Replay::new(device, program, &pipelines, (bound, workspace), &constants)
}

/// Returns the memory of a constant, filled on first use.
fn make(device: &Arc<GpuDevice>, LoweredConstant { constant, parts }: &LoweredConstant) -> Result<Packed> {
    if let Some(memory) = device.constant(constant) {
        return Ok(memory);
    }
    let (context, label) = (&device.context, constant.key.as_str());
    let memory = match constant.storage {
        Storage::Buffer => Packed::Buffer(context.storage_buffer(label, constant.bytes)?),
        Storage::Texture => Packed::Texture(device.staging_texture(label, constant.bytes / 16)?),
    };
    match (&constant.initializer, &memory) {
        (Initializer::Host(make), Packed::Buffer(buffer)) => context.upload(buffer, 0, &make()?)?,
        (Initializer::Host(make), Packed::Texture(_)) => {
            // Through a buffer, like activations.
            let bytes = make()?;
            let buffer = context.storage_buffer(label, bytes.len() as u64)?;
            context.upload(&buffer, 0, &bytes)?;
            let all = TexelCopy { from: 0, to: 0, texels: bytes.len() as u64 / 16 };
            place(device, &buffer, &[all], &memory)?;
        }
        (Initializer::Device { parts: described, values }, _) => {
            let values = values()?;
            for (part, program) in described.iter().zip(parts) {
                let input = values.get(part.values.clone()).unwrap_or_default();
                let output = run(device, label, program, input)?;
                place(device, &output, &part.copies, &memory)?;
            }
        }
    }
    Ok(device.keep_constant(constant, memory))
}

/// Runs the program of a constant's part and returns its output.
fn run(device: &Arc<GpuDevice>, label: &str, part: &PartProgram, values: &[f32]) -> Result<wgpu::Buffer> {
    let signature = part.program.nodes.first().map(|node| &node.signature);
    let shape = signature
        .map(|signature| signature.output)
        .ok_or_else(|| Error::internal(label, "the program of a constant's part is empty"))?;
    // Stored like a vector: zeros follow the values.
    let input = device.context.storage_buffer(label, values.len() as u64 * 4)?;
    device.context.upload(&input, 0, bytemuck::cast_slice(values))?;
    let output = device.context.storage_buffer(label, shape.bytes())?;
    let bound =
        Bindings::from([(part.input, Memory::on_gpu(input)), (part.output, Memory::on_gpu(output.clone()))]);
    let replay = prepare(device, &part.program, &bound, &mut Workspace::default())?;
    let mut encoder = device.encoder(label);
    replay.record(&part.program, &mut encoder);
    device.context.submit(encoder, label)?;
    Ok(output)
}

/// Copies a buffer's texels to their places in a constant.
fn place(device: &GpuDevice, buffer: &wgpu::Buffer, copies: &[TexelCopy], memory: &Packed) -> Result<()> {
    let label = "uploading weights";
    let mut encoder = device.encoder(label);
    for copy in copies {
        match memory {
            Packed::Texture(texture) => copy_to_texture(&mut encoder, buffer, texture, *copy),
            Packed::Buffer(to) => {
                encoder.copy_buffer_to_buffer(buffer, copy.from * 16, to, copy.to * 16, copy.texels * 16);
            }
        }
    }
    let fence = device.context.submit(encoder, label)?;
    // The buffer stays alive until the device has copied it.
    device.ahead(buffer.size(), &fence, label)
}
