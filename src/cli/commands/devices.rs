//! `mirage devices`: lists the available devices.

use crate::cli::output::escape::one_line;
use crate::cli::output::format::bytes;
use crate::cli::output::streams;
use crate::error::Result;
use crate::gpu::{AdapterKind, AdapterSummary, CoopMatrix, adapters, hidden_gpus, quirks};
use crate::graph::Processor;
use std::fmt::Write as _;

/// Lists the graphics devices, best first, and the CPU.
pub(in crate::cli) fn run() -> Result<()> {
    let found = adapters()?;
    let hardware = found.first().is_some_and(|best| best.kind != AdapterKind::Software);
    let default = |is_default| if is_default { "  [default]" } else { "" };
    let mut texts: Vec<String> = Vec::new();
    for adapter in &found {
        texts.push(describe(adapter, default(hardware && adapter.index == 0)));
    }
    if !hardware {
        for hidden in hidden_gpus() {
            streams::note(&hidden);
        }
    }
    texts.push(describe_cpu(&Processor::detect(), default(!hardware)));
    streams::print(&texts.join("\n\n"))?;
    streams::print("\nChoose one with --adapter NUMBER, --adapter PART-OF-ITS-NAME or --adapter cpu.")
}

fn describe_cpu(processor: &Processor, default: &str) -> String {
    let Processor { name, threads, instructions } = processor;
    let line = |name: &str, value: &str| format!("\n   {name:<18} {value}");
    [
        format!("cpu: {}{default}", one_line(name)),
        line("type", "the CPU itself, without a graphics driver"),
        line("threads", &threads.to_string()),
        line("instructions", instructions),
    ]
    .concat()
}

fn describe(adapter: &AdapterSummary, default: &str) -> String {
    let AdapterSummary { index, info, limits, .. } = adapter;
    let kind = match adapter.kind {
        AdapterKind::Discrete => "discrete GPU",
        AdapterKind::Integrated => "integrated GPU",
        AdapterKind::Virtual => "virtual GPU",
        AdapterKind::Software => "software, runs shaders on the CPU",
        AdapterKind::Other => "other",
    };
    let subgroups = match (info.subgroup_min_size, info.subgroup_max_size) {
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low} to {high}"),
    };
    let yes_no = |is_there| if is_there { "yes" } else { "no" };
    let driver = one_line(&format!("{} {}", info.driver, info.driver_info)).into_owned();
    let mut text = format!("{index}: {}{default}", one_line(&info.name));
    let mut line = |name: &str, value: String| {
        // Writing to a String can't fail.
        let _ = write!(text, "\n   {name:<18} {value}");
    };
    line("backend", info.backend.to_string());
    line("type", kind.to_owned());
    line("driver", driver.trim().to_owned());
    line("largest buffer", bytes(limits.max_buffer_size));
    line("largest binding", bytes(limits.max_storage_buffer_binding_size));
    line("largest texture", format!("{0} x {0}", limits.max_texture_dimension_2d));
    line("workgroup memory", bytes(limits.max_compute_workgroup_storage_size.into()));
    line("invocations", format!("{} a workgroup", limits.max_compute_invocations_per_workgroup));
    line("subgroup size", subgroups);
    line(
        "features",
        format!(
            "f16 {}, subgroups {}, timestamps {}, cooperative matrices {}",
            yes_no(adapter.f16),
            yes_no(adapter.subgroups),
            yes_no(adapter.timestamps),
            adapter.coop_matrix.map_or("no".to_owned(), |CoopMatrix { side, .. }| format!("{side}x{side}"))
        ),
    );
    for quirk in quirks(info) {
        line("worked around", quirk.name.to_owned());
    }
    text
}
