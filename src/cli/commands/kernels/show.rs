//! `mirage kernels show`: prints shaders as passed to the driver, or writes them as files to edit.

use super::{Filter, KernelDeviceArgs};
use crate::cli::output::escape::shown;
use crate::cli::output::streams;
use crate::error::{Error, Result};
use crate::files::{make_folder, write_whole};
use crate::gpu::Context;
use crate::shader::{Code, Emitter, SOURCES, Target};
use crate::workbench::{Pass, catalogue, typical};
use clap::Args;
use rspirv::binary::Disassemble as _;
use std::path::{Path, PathBuf};

/// Options of `mirage kernels show`.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Kernels whose name contains this, e.g. conv/texture_winograd4
    #[arg(
        value_name = "OP/VARIANT",
        required_unless_present = "files",
        default_value = "",
        hide_default_value = true
    )]
    filter: Filter,
    /// Language: wgsl, web (WGSL for browsers), spirv (disassembled), hlsl or msl
    #[arg(long, value_name = "LANGUAGE", default_value = "wgsl")]
    to: Target,
    /// Only this pass, counted from 1 [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pass: Option<u32>,
    /// Write the built-in shader files of the kernels to this folder, to edit and use with --shader-dir; existing files
    /// are kept [default: print]
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    #[command(flatten)]
    device: KernelDeviceArgs,
}

/// Prints each distinct pass of the kernels, or writes their shader files.
pub(super) fn run(args: &ShowArgs) -> Result<()> {
    // Only graphics devices have shaders.
    let profile = match Context::open(&args.device.options()) {
        Ok(context) => context.profile().clone(),
        Err(Error::NoAdapter(_)) => typical(),
        Err(error) => return Err(error),
    };
    let mut listed = catalogue(&profile, |op| args.filter.op(op))?;
    listed.retain(|kernel| args.filter.variant(kernel.variant));
    if listed.is_empty() {
        return Err(args.filter.nothing());
    }
    let mut passes: Vec<(String, &Pass)> = Vec::new();
    for kernel in &listed {
        for pass in &kernel.passes {
            if !passes.iter().any(|(_, earlier)| *earlier == pass) {
                passes.push((format!("{}/{}", kernel.op, kernel.variant), pass));
            }
        }
    }
    if let Some(folder) = &args.files {
        let used = |name: &str| passes.iter().any(|(_, pass)| pass.shader == name);
        return write_files(folder, used);
    }
    let count = passes.len();
    for (index, (kernel, pass)) in passes.iter().enumerate() {
        if args.pass.is_some_and(|pass| pass as usize != index + 1) {
            continue;
        }
        let comment = if args.to == Target::Spirv { ";" } else { "//" };
        streams::print(&format!("{comment} {}, pass {} of {count}: {}", kernel, index + 1, pass.name()))?;
        streams::print(&text(pass, args.to)?)?;
    }
    match args.pass {
        Some(pass) if pass as usize > count => {
            Err(Error::usage(format!("--pass {pass}: these kernels have {count} passes")))
        }
        _ => Ok(()),
    }
}

fn text(pass: &Pass, target: Target) -> Result<String> {
    match Emitter::new(pass.shader, pass.source()?.as_ref())?.emit(pass.entry, target)? {
        Code::Text(text) => Ok(text),
        Code::Words(words) => {
            let module = rspirv::dr::load_words(words)
                .map_err(|error| Error::shader(pass.name(), format!("it can't be disassembled: {error}")))?;
            Ok(module.disassemble())
        }
    }
}

fn write_files(folder: &Path, used: impl Fn(&str) -> bool) -> Result<()> {
    make_folder(folder)?;
    for (name, text) in SOURCES.iter().filter(|(name, _)| used(name)) {
        let path = folder.join(format!("{name}.wgsl"));
        if path.symlink_metadata().is_ok() {
            streams::print(&format!("{} already exists and was kept", shown(&path)))?;
        } else {
            write_whole(&path, text.as_bytes(), "writing", false)?;
            streams::print(&shown(&path))?;
        }
    }
    Ok(())
}
