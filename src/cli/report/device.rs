//! The device as JSON: adapter, driver, limits, features, known faults.

use crate::error::Result;
use crate::gpu::{AdapterSummary, adapters, quirks};
use crate::graph::Engine;
use serde_json::{Value, json};

/// Describes the device of an engine, and names the others.
pub(super) fn describe(engine: &Engine) -> Result<Value> {
    let found = adapters()?;
    let info = engine.context.info();
    let own = found.iter().find(|adapter| adapter.info == *info);
    let others = found.iter().filter(|adapter| adapter.info != *info);
    let others: Vec<String> = others.map(|AdapterSummary { info, .. }| one_line(info)).collect();
    let mut device = json!({ "description": engine.context.describe(), "other_adapters": others });
    if let (Value::Object(device), Some(own)) = (&mut device, own)
        && let Value::Object(more) = adapter(own)
    {
        device.extend(more);
    }
    Ok(device)
}

fn one_line(info: &wgpu::AdapterInfo) -> String {
    format!("{} ({}, {} {})", info.name, info.backend, info.driver, info.driver_info)
}

fn adapter(summary: &AdapterSummary) -> Value {
    let AdapterSummary { info, limits, features, .. } = summary;
    let features: Vec<&str> = features.iter_names().map(|(name, _)| name).collect();
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
        // Those that kernels, buffers and dispatches depend on.
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
