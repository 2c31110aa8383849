//! Compiles every variant in Chromium's WebGPU implementation and runs a sample of the kernels there.

use super::browser::visit;
use super::lower::{Job, Left, Modules};
use crate::common::variants::{Variant, variants};
use crate::common::{distance, inputs, profiles, widen};
use neural_mirage::gpu::Profile;
use neural_mirage::graph::candidates;
use neural_mirage::ops::{Case, Kernel, REGISTRY, Shape, Signature, TEXTURE_WIDTH};
use neural_mirage::shader::{Code, Emitter, SOURCES, Shader, Target, needs_coop_matrix, needs_subgroups};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Several times the duration on two cores.
const LIMIT: Duration = Duration::from_secs(480);

/// The page's report about its adapter.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    vendor: String,
    architecture: String,
    subgroups: bool,
    subgroup_min_size: Option<u32>,
    subgroup_max_size: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Jobs<'a> {
    texture_width: u32,
    modules: Vec<Module<'a>>,
    runs: Vec<&'a Job>,
}

/// A shader text with the entry points to make pipelines of.
#[derive(Debug, Serialize)]
struct Module<'a> {
    what: String,
    code: String,
    entries: &'a [&'static str],
}

#[derive(Debug, Deserialize)]
struct Results {
    failure: Option<String>,
    #[serde(default)]
    modules: Vec<Compiled>,
    #[serde(default)]
    runs: Vec<KernelRun>,
    /// Seconds for compiling, making pipelines, and running.
    #[serde(default)]
    seconds: [f64; 3],
}

#[derive(Debug, Deserialize)]
struct Compiled {
    messages: Vec<String>,
    /// Error of each entry point, if any.
    pipelines: Vec<Option<String>>,
}

#[derive(Debug, Deserialize)]
struct KernelRun {
    words: Vec<Vec<u32>>,
    error: Option<String>,
}

/// A kernel of a case that the page runs.
struct Sample {
    case: Case,
    signature: Signature,
    values: Vec<Vec<f32>>,
    job: Job,
}

/// Everything that depends on the page's adapter.
struct Plan {
    about: About,
    lanes: Option<u32>,
    modules: Modules,
    /// Entry points of each module.
    entries: Vec<Vec<&'static str>>,
    samples: Vec<Sample>,
}

/// The profile of the page's device: WebGPU's default limits, and its subgroup size.
fn page_profile(lanes: Option<u32>) -> Profile {
    let minimal = profiles().into_iter().find(|(name, _)| name == "minimal software");
    Profile { lanes, ..minimal.expect("a synthetic device").1 }
}

/// Selects kernels of all cases that add an entry point or a variant of an op not yet covered. Each has the input seed
/// used by the tests on other devices.
fn sample(lanes: Option<u32>) -> Vec<(Case, Signature, Kernel, u64)> {
    let profile = page_profile(lanes);
    let (mut entries, mut kernels) = (BTreeSet::new(), BTreeSet::new());
    let mut chosen = Vec::new();
    for entry in REGISTRY {
        for (case, seed) in (entry.cases)().into_iter().zip(1..) {
            let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
            let signature = Signature::of(case.op.as_ref(), &shapes).unwrap();
            for kernel in candidates(case.op.as_ref(), &signature, &profile).unwrap() {
                let mut adds = kernels.insert((entry.name, kernel.variant));
                for dispatch in &kernel.dispatches {
                    adds |= entries.insert((dispatch.shader, dispatch.entry));
                }
                if adds {
                    chosen.push((case.clone(), signature.clone(), kernel, seed));
                }
            }
        }
    }
    // Without subgroups no kernel uses the files that need them. Browsers have no cooperative matrices, so the shaders
    // that prepare their operands are only compiled.
    let excused = |name: &str, text: &str| {
        (lanes.is_none() && needs_subgroups(text)) || needs_coop_matrix(text) || name.starts_with("half_")
    };
    for (name, text) in SOURCES {
        let runs = entries.iter().any(|(shader, _)| shader == name);
        assert!(runs || excused(name, text), "no kernel of {name}.wgsl would run in the browser");
    }
    chosen
}

/// Returns true for shaders of a subgroup size that differs from the adapter's.
fn foreign(name: &'static str, consts: &[(&'static str, u32)], lanes: Option<u32>) -> bool {
    let size = consts.iter().find(|(name, _)| *name == "LANES").map(|(_, lanes)| *lanes);
    size.is_some_and(|size| Some(size) != lanes)
        && needs_subgroups(&Shader::load(name, consts).unwrap().source)
}

/// Constants that switch a few lines on or off.
const SWITCHES: [&str; 3] = ["RELU", "MASK", "HALF"];

impl Plan {
    fn new(about: &str) -> Self {
        let about: About = serde_json::from_str(about).unwrap();
        let fixed = about.subgroups && about.subgroup_min_size == about.subgroup_max_size;
        let lanes = about.subgroup_min_size.filter(|_| fixed);
        let chosen = sample(lanes);
        let mut wanted: BTreeMap<_, BTreeSet<&'static str>> = BTreeMap::new();
        let dispatches = chosen.iter().flat_map(|(_, _, kernel, _)| &kernel.dispatches);
        let run: Vec<Variant> =
            dispatches.map(|dispatch| (dispatch.shader, dispatch.consts.clone(), dispatch.entry)).collect();
        let dispatched: BTreeSet<_> =
            run.iter().map(|(shader, consts, _)| (*shader, consts.clone())).collect();
        let on_matrices =
            |(name, consts, _): &Variant| needs_coop_matrix(&Shader::load(name, consts).unwrap().source);
        let compiled = variants().into_keys().filter(|variant| !on_matrices(variant));
        for (shader, consts, entry) in compiled.chain(run) {
            wanted.entry((shader, consts)).or_default().insert(entry);
        }
        let modules: Modules = wanted.keys().cloned().zip(0..).collect();
        // Large blocks of values take the browser's driver ten seconds or more each. Of shaders that are not run and
        // differ only in switches, make pipelines of one.
        let mut kinds = BTreeSet::new();
        let entries = wanted.into_iter().map(|((name, consts), entries)| {
            let sizes: Vec<_> = consts.iter().filter(|(name, _)| !SWITCHES.contains(name)).copied().collect();
            let is_new = kinds.insert((name, sizes, entries.clone()));
            let runs = dispatched.contains(&(name, consts.clone()));
            // Shaders of a different subgroup size could not run.
            let made = (is_new || runs) && !foreign(name, &consts, lanes);
            if made { entries.into_iter().collect() } else { Vec::new() }
        });
        let entries = entries.collect();
        let sample = |(case, signature, kernel, seed): (Case, Signature, Kernel, u64)| {
            let values = inputs(&case, seed);
            let what = format!("{:?}/{} on {:?}", case.op, kernel.variant, case.inputs);
            let shaped: Vec<_> = signature.inputs.iter().copied().zip(values.iter().cloned()).collect();
            let job = Job::new(&what, &case.op, kernel.variant, &shaped, &page_profile(lanes), &modules);
            Sample { case, signature, values, job }
        };
        let samples = chosen.into_iter().map(sample).collect();
        Self { about, lanes, modules, entries, samples }
    }

    /// Returns the page's jobs as JSON.
    fn jobs(&self) -> String {
        let modules = self.modules.keys().zip(&self.entries).map(|((name, consts), entries)| {
            let what = format!("{name} {consts:?}");
            let shader = Shader::load(name, consts).unwrap();
            let code = Emitter::new(&what, &shader)
                .unwrap()
                .emit(&shader.interface.entries[0].0, Target::Web)
                .unwrap();
            let Code::Text(code) = code else { panic!("{what}: no text") };
            Module { what, code, entries }
        });
        let modules = modules.collect();
        let runs = self.samples.iter().map(|sample| &sample.job).collect();
        serde_json::to_string(&Jobs { texture_width: TEXTURE_WIDTH, modules, runs }).unwrap()
    }

    /// Returns all faults.
    fn faults(&self, results: &Results) -> Vec<String> {
        let mut faults = Vec::new();
        for (((name, consts), entries), compiled) in
            self.modules.keys().zip(&self.entries).zip(&results.modules)
        {
            let messages = compiled.messages.iter().chain(compiled.pipelines.iter().flatten());
            faults.extend(messages.map(|message| format!("{name} {consts:?}: {message}")));
            if compiled.messages.is_empty() && compiled.pipelines.len() != entries.len() {
                faults.push(format!("{name} {consts:?}: {} pipelines", compiled.pipelines.len()));
            }
        }
        let samples = self.samples.iter().zip(&results.runs);
        faults.extend(
            samples.filter_map(|(sample, run)| Some(format!("{}: {}", sample.job.what, sample.fault(run)?))),
        );
        if results.modules.len() != self.modules.len() || results.runs.len() != self.samples.len() {
            faults.push(format!("{} modules, {} runs", results.modules.len(), results.runs.len()));
        }
        faults
    }

    /// Returns one line for the test's output.
    fn summary(&self, results: &Results) -> String {
        let ran: BTreeSet<usize> = self.samples.iter().flat_map(|sample| sample.job.modules()).collect();
        let foreign = self.modules.keys().filter(|(name, consts)| foreign(name, consts, self.lanes));
        let [compiling, making, running] = results.seconds;
        format!(
            "{} {}, subgroups of {:?}: {} texts compiled ({compiling:.1} s), {} pipelines made of them \
             ({making:.0} s), one of those that differ only in switches; {} kernels with {} of the texts ran and \
             were right ({running:.0} s); {} texts are for another subgroup size than this adapter's and can only be \
             compiled",
            self.about.vendor,
            self.about.architecture,
            self.lanes,
            self.modules.len(),
            self.entries.iter().map(Vec::len).sum::<usize>(),
            self.samples.len(),
            ran.len(),
            foreign.count(),
        )
    }
}

impl Sample {
    /// Returns the fault of a run, if any.
    fn fault(&self, run: &KernelRun) -> Option<String> {
        if let Some(error) = &run.error {
            return Some(error.clone());
        }
        let op = self.case.op.as_ref();
        let Some(Left { values, saved, clean }) = Job::left(op, &self.signature, &run.words) else {
            return Some("the results have the wrong number or sizes".to_owned());
        };
        let wide: Vec<Vec<f64>> = self.values.iter().map(|values| widen(values)).collect();
        let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
        let distance = distance(&values, &op.reference(&wide, &self.signature.inputs));
        let right = clean && distance <= self.case.tolerance; // false for NaN
        let saved = saved
            .and_then(|saved| op.saved_fault(&wide, &self.signature.inputs, &saved, self.case.tolerance));
        (!right || saved.is_some()).then(|| {
            format!("saved {saved:?}, distance {distance:e}, padding and guard zone untouched: {clean}")
        })
    }
}

#[test]
#[ignore = "needs the package chromium: see docs/portability.md"]
fn chromium_compiles_every_variant_and_matches_references() {
    let _turn = crate::common::turn();
    let made: Arc<OnceLock<Plan>> = Arc::default();
    let plan = made.clone();
    let answer = move |about: &str| plan.get_or_init(|| Plan::new(about)).jobs();
    let results: Results = serde_json::from_str(&visit(include_str!("page.html"), answer, LIMIT)).unwrap();
    assert_eq!(results.failure, None, "the page stopped");
    let plan = made.get().expect("the page asked for jobs");
    let faults = plan.faults(&results);
    let shown: Vec<&str> = faults.iter().take(10).map(String::as_str).collect();
    assert!(faults.is_empty(), "{} faults, for example:\n{}", faults.len(), shown.join("\n"));
    println!("{}", plan.summary(&results));
}
