//! Describes the device as JSON: adapter, driver, limits, features, known faults.

use crate::error::Result;
use crate::gpu::{AdapterSummary, adapters, quirks};
use crate::graph::{Engine, Processor};
use serde_json::{Value, json};

/// Describes the device of an engine, and names the other adapters.
pub(super) fn describe(engine: &Engine) -> Result<Value> {
    let found = adapters()?;
    let own = engine.gpu().map(|context| context.info());
    let others = found.iter().filter(|adapter| Some(&adapter.info) != own);
    let others: Vec<String> = others.map(one_line).collect();
    let mut device = json!({
        "description": engine.describe(),
        "note": engine.note(),
        "software": engine.profile().software,
        "other_adapters": others,
    });
    let more = match found.iter().find(|adapter| Some(&adapter.info) == own) {
        Some(own) => adapter(own),
        None => {
            let Processor { name, instructions, .. } = Processor::detect();
            json!({
                "name": name,
                "type": "the CPU itself",
                "threads": engine.threads(),
                "instructions": instructions,
            })
        }
    };
    if let (Value::Object(device), Value::Object(more)) = (&mut device, more) {
        device.extend(more);
    }
    Ok(device)
}

fn one_line(AdapterSummary { info, .. }: &AdapterSummary) -> String {
    format!("{} ({}, {} {})", info.name, info.backend, info.driver, info.driver_info)
}

fn adapter(summary: &AdapterSummary) -> Value {
    let AdapterSummary { info, limits, features, .. } = summary;
    let quirks: Vec<Value> = quirks(info)
        .map(|quirk| json!({ "name": quirk.name, "reason": quirk.reason, "link": quirk.link }))
        .collect();
    json!({
        "name": info.name,
        "backend": info.backend.to_string(),
        "type": format!("{:?}", info.device_type),
        "driver": info.driver,
        "driver_version": info.driver_info,
        "vendor_id": format!("{:#06x}", info.vendor),
        "device_id": format!("{:#06x}", info.device),
        "subgroup_sizes": [info.subgroup_min_size, info.subgroup_max_size],
        // Limits on which kernels, buffers and dispatches depend.
        "limits": {
            "max_buffer_size": limits.max_buffer_size,
            "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
            "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
            "max_storage_textures_per_shader_stage": limits.max_storage_textures_per_shader_stage,
            "max_texture_dimension_2d": limits.max_texture_dimension_2d,
            "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
            "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
            "max_compute_workgroup_size_x": limits.max_compute_workgroup_size_x,
            "max_compute_workgroups_per_dimension": limits.max_compute_workgroups_per_dimension,
            "min_storage_buffer_offset_alignment": limits.min_storage_buffer_offset_alignment,
        },
        "features": features,
        "worked_around": quirks,
    })
}
