//! `mirage kernels test`: checks every kernel on this device.

use super::watch::watch;
use super::{Filter, KernelDeviceArgs, check_written};
use crate::cli::output::streams;
use crate::cli::output::table::Table;
use crate::error::{Error, Result};
use crate::files::{Overwrite, write_whole};
use crate::graph::{Engine, candidates};
use crate::ops::{Case, REGISTRY, Shape, Signature};
use crate::shader::Folder;
use crate::workbench::{Checked, ULP, check, network_cases, topology};
use clap::{Args, ValueEnum};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Maximum number of failures that are printed; the files contain all.
const MOST_PRINTED: usize = 20;

/// Options of `mirage kernels test`.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Only kernels whose name contains this, e.g. conv or conv/winograd [default: all]
    #[arg(value_name = "OP[/VARIANT]", default_value = "", hide_default_value = true)]
    filter: Filter,
    /// Shapes to test: all (odd, tiny and prime ones that reach every branch), quick (the largest of these for each
    /// kernel) or network (VGG-19's channels on a picture of --size pixels)
    #[arg(long, value_name = "WHICH", default_value = "all")]
    shapes: Shapes,
    /// Side of the picture for --shapes network, in pixels; references in f64 are slow, so keep it small
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    size: u32,
    /// Seed of the random inputs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the result of each kernel at each shape, as JSON [default: none]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the same results in JUnit's format, for test servers [default: none]
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Replace existing files [default: refuse to]
    #[arg(long)]
    overwrite: bool,
    /// Keep running: whenever a shader in --shader-dir is saved, test the kernels that use it again; Ctrl-C ends
    /// [default: off]
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    device: KernelDeviceArgs,
}

/// `--shapes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shapes {
    Quick,
    All,
    Network,
}

/// Tests the kernels, and returns the exit code: 1 if one failed.
pub(super) fn run(args: &TestArgs, folder: Option<Folder>) -> Result<u8> {
    let watch = watch(args.watch, folder)?;
    check_written(&[args.json.as_deref(), args.junit.as_deref()], &[], args.overwrite)?;
    let mut engine = args.device.open()?;
    let cases = args.cases();
    streams::print(&engine.describe())?;
    let mut all = (Vec::new(), [args.overwrite.into(); 2]);
    let mut passed = args.round(&mut engine, &cases, None, &mut all)?;
    if let Some(watch) = watch {
        watch.each(|changed| {
            // Transformed weights on the device were computed by the old shader.
            engine.forget_constants();
            passed = args.round(&mut engine, &cases, Some(changed), &mut all)?;
            Ok(())
        })?;
    }
    Ok(u8::from(!passed))
}

impl TestArgs {
    fn cases(&self) -> Vec<(Case, u64)> {
        if self.shapes == Shapes::Network {
            let layers = topology("vgg19").unwrap_or_default();
            let cases = network_cases(&layers, self.size as usize).into_iter().map(|(_, case)| case);
            return cases.filter(|case| self.filter.op(case.op.name())).zip(self.seed..).collect();
        }
        let entries = REGISTRY.iter().filter(|entry| self.filter.op(entry.name));
        let mut cases: Vec<(Case, u64)> =
            entries.flat_map(|entry| (entry.cases)().into_iter().zip(self.seed..)).collect();
        if self.shapes == Shapes::Quick {
            // Only the first shape of each kernel is tested: start with the large ones, which reveal more.
            let elements = |case: &Case| case.inputs.iter().map(|(shape, _)| shape.elements()).sum::<usize>();
            cases.sort_by_key(|(case, _)| std::cmp::Reverse(elements(case)));
        }
        cases
    }

    /// Tests all cases, or those whose kernels use one of `shaders`, and prints the results; true if all passed. Merges
    /// them into the results of all rounds and writes the files; `json` and `junit` say what that may replace.
    fn round(
        &self,
        engine: &mut Arc<Engine>,
        cases: &[(Case, u64)],
        shaders: Option<&[&str]>,
        (all, [json, junit]): &mut (Vec<Checked>, [Overwrite; 2]),
    ) -> Result<bool> {
        let checked = self.check_all(engine, cases, shaders)?;
        if checked.is_empty() {
            return match shaders {
                Some(_) => streams::print("None of the tested kernels uses it.").map(|()| true),
                None => Err(self.filter.nothing()),
            };
        }
        self.print(&checked)?;
        let passed = checked.iter().all(|checked| checked.fault.is_none());
        join(all, checked);
        if let Some(path) = &self.json {
            *json = write_json(path, *json, &engine.describe(), all)?;
        }
        if let Some(path) = &self.junit {
            *junit = write_junit(path, *junit, &engine.describe(), all)?;
        }
        Ok(passed)
    }

    /// Returns the results of all cases, or of those whose kernels use one of `shaders`.
    fn check_all(
        &self,
        engine: &mut Arc<Engine>,
        cases: &[(Case, u64)],
        shaders: Option<&[&str]>,
    ) -> Result<Vec<Checked>> {
        let mut checked: Vec<Checked> = Vec::new();
        for (case, seed) in cases {
            if let Some(shaders) = shaders
                && !runs(engine, case, shaders)?
            {
                continue;
            }
            let quick = self.shapes == Shapes::Quick;
            let is_selected = |variant: &str| {
                // Kernels during which the device was lost are not tested again.
                let done = |earlier: &Checked| {
                    let same = earlier.op == case.op.name() && earlier.variant == variant;
                    same && (quick || earlier.lost_device)
                };
                self.filter.variant(variant) && !checked.iter().any(done)
            };
            let fresh = check(engine, case, *seed, is_selected)?;
            checked.extend(fresh);
        }
        Ok(checked)
    }

    /// Prints the table of one round, and its failures.
    fn print(&self, checked: &[Checked]) -> Result<()> {
        let kernels = kernels(checked);
        streams::print(&table(checked, &kernels))?;
        let failed: Vec<&Checked> = checked.iter().filter(|checked| checked.fault.is_some()).collect();
        for checked in failed.iter().take(MOST_PRINTED) {
            let fault = checked.fault.as_deref().unwrap_or_default();
            streams::print(&format!("FAILED {}: {fault}", name(checked)))?;
        }
        if failed.len() > MOST_PRINTED {
            streams::print(&format!("and {} more; --json writes all", failed.len() - MOST_PRINTED))?;
        }
        let wrong = kernels.iter().filter(|(op, variant)| {
            failed.iter().any(|checked| checked.op == *op && checked.variant == *variant)
        });
        streams::print(&format!(
            "{} kernels at {} shapes: {} failed",
            kernels.len(),
            checked.len(),
            wrong.count()
        ))
    }
}

/// Merges the results of a round, in place of earlier ones of the same kernels at the same shapes. If the device was
/// lost during a kernel, its results at other shapes are removed too: they are those of an earlier shader.
fn join(all: &mut Vec<Checked>, round: Vec<Checked>) {
    let replaces = |new: &Checked, old: &Checked| {
        let same = new.shapes == old.shapes && new.seed == old.seed;
        new.op == old.op && new.variant == old.variant && (same || new.lost_device)
    };
    all.retain(|old| !round.iter().any(|new| replaces(new, old)));
    all.extend(round);
}

/// True if a kernel of the case uses one of these shaders.
fn runs(engine: &Engine, case: &Case, shaders: &[&str]) -> Result<bool> {
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
    let signature = Signature::of(case.op.as_ref(), &shapes)?;
    let kernels = candidates(case.op.as_ref(), &signature, engine.profile())?;
    let mut dispatches = kernels.iter().flat_map(|kernel| &kernel.dispatches);
    Ok(dispatches.any(|dispatch| shaders.contains(&dispatch.shader)))
}

/// Returns op and variant of each kernel, without duplicates.
fn kernels(checked: &[Checked]) -> Vec<(&'static str, &'static str)> {
    let mut kernels = Vec::new();
    for checked in checked {
        if !kernels.contains(&(checked.op, checked.variant)) {
            kernels.push((checked.op, checked.variant));
        }
    }
    kernels.sort_by_key(|(op, _)| *op);
    kernels
}

fn name(checked: &Checked) -> String {
    format!("{}/{} at {} (seed {})", checked.op, checked.variant, shapes(checked), checked.seed)
}

fn shapes(checked: &Checked) -> String {
    checked.shapes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Formats a relative error in units in the last place of the largest expected value.
fn ulps(relative: f64) -> String {
    let ulps = relative / ULP;
    if ulps.is_finite() { format!("{ulps:.1}") } else { "not finite".to_owned() }
}

fn table(checked: &[Checked], kernels: &[(&str, &str)]) -> String {
    let mut table = Table::new(2, ["op", "kernel", "shapes", "max ULP", "RMS ULP", "allowed", "verdict"]);
    for (op, variant) in kernels {
        let of = || checked.iter().filter(|checked| checked.op == *op && checked.variant == *variant);
        let worst = |part: fn(&crate::workbench::Difference) -> f64| {
            let values = of().map(|checked| checked.difference.as_ref().map_or(f64::INFINITY, part));
            values.fold(0.0, f64::max)
        };
        // To find the case that is closest to its limit.
        let share = |checked: &&Checked| {
            checked.difference.map_or(f64::INFINITY, |difference| difference.largest / checked.tolerance)
        };
        let nearest = of().max_by(|a, b| share(a).total_cmp(&share(b)));
        let failed = of().filter(|checked| checked.fault.is_some()).count();
        table.row([
            (*op).to_owned(),
            (*variant).to_owned(),
            of().count().to_string(),
            ulps(worst(|difference| difference.largest)),
            ulps(worst(|difference| difference.rms)),
            nearest.map_or_else(String::new, |checked| ulps(checked.tolerance)),
            if failed == 0 { "pass".to_owned() } else { format!("{failed} FAILED") },
        ]);
    }
    format!(
        "{table}\nErrors in ULP of the largest expected value (2^-23 of it); allowed: the limit of the shape that came closest to its own."
    )
}

fn write_json(path: &Path, overwrite: Overwrite, device: &str, checked: &[Checked]) -> Result<Overwrite> {
    let rows: Vec<serde_json::Value> = checked
        .iter()
        .map(|checked| {
            // JSON has no infinity: null stands for values that are not finite.
            let ulps = |part: Option<f64>| part.map(|part| part / ULP).filter(|ulps| ulps.is_finite());
            json!({
                "op": checked.op,
                "variant": checked.variant,
                "shapes": checked.shapes.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "seed": checked.seed,
                "max_ulp": ulps(checked.difference.map(|difference| difference.largest)),
                "rms_ulp": ulps(checked.difference.map(|difference| difference.rms)),
                "allowed_ulp": checked.tolerance / ULP,
                "fault": checked.fault,
            })
        })
        .collect();
    let all = json!({ "version": env!("CARGO_PKG_VERSION"), "device": device, "results": rows });
    write_whole(path, format!("{all:#}\n").as_bytes(), "writing", overwrite)
}

/// Writes one suite per op, with one test for each kernel at each shape.
fn write_junit(path: &Path, overwrite: Overwrite, device: &str, checked: &[Checked]) -> Result<Overwrite> {
    let mut report = Report::new(format!("mirage kernels on {device}"));
    for op in REGISTRY.iter().map(|entry| entry.name) {
        let mut suite = TestSuite::new(op);
        for checked in checked.iter().filter(|checked| checked.op == op) {
            let status = match &checked.fault {
                None => TestCaseStatus::success(),
                Some(fault) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(fault.clone());
                    status
                }
            };
            let name = format!("{} at {} (seed {})", checked.variant, shapes(checked), checked.seed);
            let mut case = TestCase::new(name, status);
            case.set_classname(format!("{op}.{}", checked.variant));
            suite.add_test_case(case);
        }
        if suite.tests > 0 {
            report.add_test_suite(suite);
        }
    }
    let text = report.to_string().map_err(|error| Error::Io {
        path: path.to_owned(),
        action: "writing",
        source: std::io::Error::other(error.to_string()),
    })?;
    write_whole(path, text.as_bytes(), "writing", overwrite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_replaces_only_its_own_kernels() {
        let of = |op, variant, side, seed| Checked {
            op,
            variant,
            shapes: vec![Shape::map(3, side, side)],
            seed,
            difference: None,
            tolerance: 1e-5,
            fault: None,
            lost_device: false,
        };
        let failed = |checked| Checked { fault: Some("wrong".to_owned()), ..checked };
        let earlier =
            ["naive", "texture"].map(|variant| [of("conv", variant, 4, 1), of("conv", variant, 5, 2)]);
        let mut all = earlier.concat();
        all.push(of("relu", "naive", 4, 1));
        let names = |all: &[Checked]| {
            let name = |one: &Checked| {
                let verdict = if one.fault.is_some() { "!" } else { "" };
                format!("{}/{} {}{verdict}", one.op, one.variant, one.seed)
            };
            let mut names: Vec<String> = all.iter().map(name).collect();
            names.sort();
            names.join(", ")
        };
        join(&mut all, vec![failed(of("conv", "naive", 4, 1)), failed(of("conv", "texture", 4, 3))]);
        assert_eq!(
            names(&all),
            "conv/naive 1!, conv/naive 2, conv/texture 1, conv/texture 2, conv/texture 3!, relu/naive 1"
        );
        // The lost kernel was not tested at its other shapes.
        join(&mut all, vec![Checked { lost_device: true, ..failed(of("conv", "texture", 4, 1)) }]);
        assert_eq!(names(&all), "conv/naive 1!, conv/naive 2, conv/texture 1!, relu/naive 1");
        join(&mut all, vec![of("conv", "naive", 4, 1)]);
        assert_eq!(names(&all), "conv/naive 1, conv/naive 2, conv/texture 1!, relu/naive 1");
    }
}
