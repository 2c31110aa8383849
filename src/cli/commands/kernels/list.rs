//! `mirage kernels list`: lists all ops and kernels.

use super::{Filter, KernelDeviceArgs};
use crate::cli::output::format::{bytes, metric};
use crate::cli::output::streams;
use crate::error::{Error, Result};
use crate::workbench::{Listed, Pass, catalogue, typical};
use clap::Args;

/// Options of `mirage kernels list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only kernels whose name contains this, e.g. conv or conv/winograd [default: all]
    #[arg(value_name = "OP[/VARIANT]", default_value = "", hide_default_value = true)]
    filter: Filter,
    /// Print JSON: a list of the kernels with their passes [default: text]
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: KernelDeviceArgs,
}

/// Lists the kernels that the device can run; without a device, those of a typical one.
pub(super) fn run(args: &ListArgs) -> Result<()> {
    let (profile, device) = match args.device.open_graphics() {
        Ok(engine) => (engine.profile().clone(), engine.describe()),
        Err(Error::NoAdapter(_)) => (
            typical(),
            "no device was found: this is the list for a typical one with subgroups of 8".to_owned(),
        ),
        Err(error) => return Err(error),
    };
    let mut listed = catalogue(&profile, |op| args.filter.op(op))?;
    listed.retain(|kernel| args.filter.variant(kernel.variant));
    if listed.is_empty() {
        return Err(args.filter.nothing());
    }
    if args.json {
        let text = serde_json::to_string_pretty(&listed).map_err(|error| Error::Io {
            path: "standard output".into(),
            action: "writing",
            source: error.into(),
        })?;
        return streams::print(&text);
    }
    streams::print(&format!("{device}\n"))?;
    let mut op = "";
    for kernel in &listed {
        if kernel.op != op {
            op = kernel.op;
            streams::print(op)?;
        }
        streams::print(&describe(kernel))?;
    }
    Ok(())
}

fn describe(kernel: &Listed) -> String {
    let Listed { variant, preferred, shapes, flops, bytes: moved, scratch, passes, .. } = kernel;
    let first = if *preferred { " (first choice)" } else { "" };
    let scratch = if *scratch > 0 { format!(", {} of scratch", bytes(*scratch)) } else { String::new() };
    let mut text = format!(
        "  {variant}{first}: at {}: {}FLOP, {}{scratch}",
        shapes.join(", "),
        metric(*flops as f64),
        bytes(*moved)
    );
    for pass in passes {
        text += &format!("\n    {}\n      {}", pass.name(), limits(pass));
    }
    text
}

fn limits(pass: &Pass) -> String {
    let [x, y, z] = pass.workgroup;
    let shared = match pass.workgroup_bytes {
        0 => String::new(),
        shared => format!(", {} shared", bytes(u64::from(shared))),
    };
    let subgroups = if pass.subgroups { ", subgroups" } else { "" };
    format!("workgroup {x}x{y}x{z}{shared}{subgroups}; {}", pass.bindings.join(", "))
}
