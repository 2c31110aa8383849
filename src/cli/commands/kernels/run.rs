//! `mirage kernels run`: runs any compute shader on arrays from files.

use super::check_written;
use crate::cli::output::escape::shown;
use crate::cli::output::format::{bytes, metric};
use crate::cli::output::streams;
use crate::error::Result;
use crate::gpu::{AdapterChoice, Context, DeviceOptions};
use crate::workbench::{
    Clock, Input, Output, Params, ResultSpec, RunPlan, RunRequest, RunResult, Samples, ShaderRequest, ULP,
    dimensions,
};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Default `--tolerance` for floating point.
const TOLERANCE: f64 = 1e-5;

const EXAMPLES: &str = "\
Examples:
  mirage kernels run sum.wgsl --input x.npy --output sums.npy:16 --workgroups 16
  mirage kernels run matmul.wgsl --input a.npy --input b.npy \\
      --params u32:64,columns=u32:32 --const TILE=16 --workgroups 4,4 \\
      --expect reference.npy --repeat 20
  mirage kernels run conv.wgsl --entry main --input random:64x32x32 \\
      --input w=net.safetensors:conv1_1.weight --output y=y.npy:64x32x32

Inputs and outputs are bound to the entry point's variables in the order of @group and @binding, or by name. Outputs \
are filled with NaN words and followed by a guard zone; unwritten elements and writes beyond the end are reported.

Exit codes: 0 for success, 1 if an expectation is not met or the guard zone was written, 2 for bad input.";

/// Options of `mirage kernels run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// The compute shader: any WGSL that naga and the device accept
    #[arg(value_name = "FILE.wgsl")]
    shader: PathBuf,
    /// The entry point to run [default: the only one]
    #[arg(long, value_name = "NAME", help_heading = "Shader")]
    entry: Option<String>,
    /// Workgroups along x, y and z
    #[arg(long, value_name = "X[,Y[,Z]]", default_value = "1", help_heading = "Shader")]
    workgroups: Groups,
    /// Values of uniforms and immediates, in order or by name: u32:64,f32:0.5,name=i32:-3; the type is optional; names
    /// are v.x in vectors, a[0] in arrays, and variable.member if there are several structs [default: none]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = "Shader")]
    params: Option<Params>,
    /// Value of an `override`, or of a whole line `const NAME: u32 = ...;`; repeat for several [default: as in the
    /// shader]
    #[arg(long = "const", value_name = "NAME=VALUE", value_parser = constant, help_heading = "Shader")]
    constants: Vec<(String, String)>,
    /// Unroll the loops that follow a line `// unroll`, as for the built-in kernels [default: off]
    #[arg(long, help_heading = "Shader")]
    unroll: bool,
    /// Fill a variable from a .npy file, FILE.safetensors:TENSOR (f16 and bf16 become f32 if the shader declares f32),
    /// zeros:64x32 or random:64x32[:SEED]; repeat for several. Structs of several types take raw bytes [default: none]
    #[arg(long, value_name = "[NAME=]SOURCE", help_heading = "Data")]
    input: Vec<Input>,
    /// Write a variable to a .npy file, in the type that the shader declares; repeat for several. The shape is optional
    /// if the declaration, the input or the expected values have it [default: none]
    #[arg(long, value_name = "[NAME=]FILE.npy[:SHAPE]", help_heading = "Data")]
    output: Vec<Output>,
    /// Replace existing files [default: refuse to]
    #[arg(long, help_heading = "Data")]
    overwrite: bool,
    /// Compare a variable with a .npy file or tensor of any number type; without a name, the only output
    /// [default: none]
    #[arg(long, value_name = "[NAME=]FILE", help_heading = "Check and time")]
    expect: Vec<Input>,
    /// Largest allowed difference, relative to the largest expected value [default: 1e-5; 0 for integers]
    #[arg(
        long,
        value_name = "PART",
        allow_negative_numbers = true,
        value_parser = tolerance,
        help_heading = "Check and time"
    )]
    tolerance: Option<f64>,
    /// Time the kernel with N samples after the first run; memory that it changes is refilled before each [default:
    /// off]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=100_000),
        help_heading = "Check and time"
    )]
    repeat: Option<u32>,
    /// Graphics device, by its number or part of its name in `mirage devices` [default: the most capable]
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Device")]
    adapter: Option<AdapterChoice>,
    /// Use no optional feature and no more than WebGPU's default limits [default: off]
    #[arg(long, help_heading = "Device")]
    minimal: bool,
    /// Treat the device as hung after this many seconds without an answer
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Device"
    )]
    patience: u64,
}

/// `--workgroups`.
#[derive(Debug, Clone, Copy)]
struct Groups([u32; 3]);

impl std::str::FromStr for Groups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("'{text}' is not one to three whole numbers >= 1, e.g. 16 or 16,8,1");
        let given: Vec<u32> = text
            .split(',')
            .map(|part| part.trim().parse().ok().filter(|groups| *groups > 0))
            .collect::<Option<_>>()
            .ok_or_else(refuse)?;
        let mut groups = [1; 3];
        groups.get_mut(..given.len()).ok_or_else(refuse)?.copy_from_slice(&given);
        Ok(Self(groups))
    }
}

fn constant(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("'{text}' is not NAME=VALUE")),
    }
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| format!("'{text}' is not a number >= 0, e.g. 1e-5"))
}

/// Runs the kernel, and returns the exit code: 1 if its results are wrong.
pub(super) fn run(args: &RunArgs) -> Result<u8> {
    args.check_files()?;
    let plan = RunPlan::new(&RunRequest {
        shader: ShaderRequest {
            path: args.shader.clone(),
            entry: args.entry.clone(),
            constants: args.constants.clone(),
            unroll: args.unroll,
        },
        inputs: args.input.clone(),
        outputs: args.output.clone(),
        expected: args.expect.clone(),
        params: args.params.clone().unwrap_or_default(),
        workgroups: args.workgroups.0,
    })?;
    let context = Context::open_for_any_shader(&DeviceOptions {
        adapter: args.adapter.clone().unwrap_or_default(),
        minimal: args.minimal,
        patience: Some(Duration::from_secs(args.patience)),
        ..DeviceOptions::default()
    })?;
    let outcome = plan.run(&context, args.repeat.map(|repeat| repeat as usize))?;
    let ([x, y, z], [i, j, k]) = (plan.workgroups, plan.shader.workgroup);
    streams::print(&format!(
        "{}\n{}: {x}x{y}x{z} workgroups of {i}x{j}x{k} invocations",
        context.describe(),
        plan.shader.entry
    ))?;
    for (variable, memory) in plan.shader.variables.iter().zip(&plan.memory) {
        if let Some(source) = &memory.source {
            streams::print(&format!("{} <- {source}", variable.describe()))?;
        }
    }
    for note in &plan.notes {
        streams::print(&format!("note: {note}"))?;
    }
    let mut good = true;
    for (spec, result) in plan.results.iter().zip(&outcome.results) {
        good &= args.print_result(spec, result)?;
    }
    for name in &outcome.overruns {
        streams::print(&format!("FAILED {name}: the shader wrote beyond its end"))?;
        good = false;
    }
    if let Some(samples) = &outcome.samples {
        streams::print(&times(samples, outcome.bytes))?;
    }
    Ok(u8::from(!good))
}

impl RunArgs {
    /// Refuses outputs that can't be written, or that would replace what the run reads.
    fn check_files(&self) -> Result<()> {
        let sources = self.input.iter().chain(&self.expect).filter_map(|input| input.source.path());
        let read: Vec<&Path> = sources.map(PathBuf::as_path).chain([self.shader.as_path()]).collect();
        let written: Vec<Option<&Path>> =
            self.output.iter().map(|output| Some(output.path.as_path())).collect();
        check_written(&written, &read, self.overwrite)
    }

    /// Writes and prints one result; false if it is wrong.
    fn print_result(&self, spec: &ResultSpec, result: &RunResult) -> Result<bool> {
        let RunResult { name, array, unwritten, first_unwritten } = result;
        let shape = dimensions(&array.shape);
        if let Some(path) = &spec.path {
            array.write_npy(path, self.overwrite)?;
            streams::print(&format!("{name}: {shape} {} -> {}", array.element, shown(&path)))?;
        }
        if let Some(first) = first_unwritten {
            let (all, place) = (array.elements(), place(*first, &array.shape));
            streams::print(&format!(
                "note: {name}: {unwritten} of {all} elements were not written, the first is {place}"
            ))?;
        }
        let Some(expected) = &spec.expected else { return Ok(true) };
        let difference = array.difference(expected);
        // Counts must be exact: 1e-5 of a large count would be more than 1.
        let tolerance = self.tolerance.unwrap_or(if array.element.is_float() { TOLERANCE } else { 0.0 });
        let good = difference.within(tolerance);
        let verdict = if good { "as expected" } else { "FAILED" };
        let ulps = |part: f64| {
            if part.is_finite() {
                format!("{:.3} ULP ({part:.2e})", part / ULP)
            } else {
                "not finite".to_owned()
            }
        };
        streams::print(&format!(
            "{verdict} {name}: largest error {}, RMS {}, allowed {}",
            ulps(difference.largest),
            ulps(difference.rms),
            ulps(tolerance)
        ))?;
        if let Some((index, ..)) = difference.worst.filter(|_| !good) {
            let [place, actual, expected] =
                [place(index, &array.shape), array.number(index), expected.number(index)];
            streams::print(&format!("  {place} is {actual}, expected {expected}"))?;
        }
        Ok(good)
    }
}

/// Formats the indices of an element: `[3, 17]`.
fn place(index: usize, shape: &[usize]) -> String {
    let mut rest = index;
    let mut indices: Vec<String> = Vec::new();
    for side in shape.iter().rev() {
        indices.push((rest % side.max(&1)).to_string());
        rest /= side.max(&1);
    }
    indices.reverse();
    format!("[{}]", indices.join(", "))
}

fn times(samples: &Samples, bound: u64) -> String {
    let median = samples.median();
    let clock = match samples.clock {
        Clock::Device => "the device's clock",
        Clock::Wall => "the wall clock, submission and wait included",
    };
    format!(
        "{:.4} ms by {clock} (median of {}, spread {:.1}%, least {:.4} ms): {}B/s of {} bound",
        median * 1e3,
        samples.seconds.len(),
        samples.spread() * 100.0,
        samples.quantile(0.0) * 1e3,
        metric(bound as f64 / median),
        bytes(bound)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_have_one_to_three_axes() {
        let groups = |text: &str| text.parse::<Groups>().map(|groups| groups.0);
        assert_eq!(groups("16"), Ok([16, 1, 1]));
        assert_eq!(groups("16, 8"), Ok([16, 8, 1]));
        assert_eq!(groups("1,2,3"), Ok([1, 2, 3]));
        for text in ["", "0", "1,2,3,4", "1,,2", "x", "-1", "5000000000"] {
            assert!(groups(text).is_err(), "{text}");
        }
    }

    #[test]
    fn constants_and_tolerances_are_parsed() {
        assert_eq!(constant("TILE = 16"), Ok(("TILE".to_owned(), "16".to_owned())));
        assert!(constant("TILE").is_err() && constant("=1").is_err() && constant("TILE=").is_err());
        assert_eq!(tolerance("1e-3"), Ok(1e-3));
        for text in ["-1", "nan", "inf", "much"] {
            assert!(tolerance(text).is_err(), "{text}");
        }
    }

    #[test]
    fn elements_are_named_by_their_indices() {
        assert_eq!(place(0, &[]), "[]");
        assert_eq!(place(7, &[9]), "[7]");
        assert_eq!(place(17, &[2, 3, 4]), "[1, 1, 1]");
    }
}
