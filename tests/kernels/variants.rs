//! Every shader variant that any registry case yields on several synthetic devices, without a GPU: it is
//! valid with only the capabilities that it declares, fits its dispatch and the device's limits, and can be
//! emitted for every backend.

use crate::common::variants::{for_each_dispatch, variants};
use neural_mirage::ops::REGISTRY;
use neural_mirage::shader::{
    Code, Emitter, Interface, SOURCES, Shader, Target, needs_coop_matrix, needs_subgroups,
};
use std::collections::BTreeSet;

/// Parses and validates a shader, allowing subgroups and cooperative matrices only if its text uses them, and emits it
/// for every target that supports them.
fn emit(what: &str, shader: &Shader, entries: &[&str]) {
    let emitter = Emitter::new(what, shader).unwrap_or_else(|error| panic!("{error}"));
    for entry in entries {
        for target in Target::ALL {
            if needs_coop_matrix(&shader.source) && !target.has_coop_matrix() {
                assert!(emitter.emit(entry, target).is_err(), "{what} as {}", target.name());
                continue;
            }
            let code = emitter.emit(entry, target).unwrap_or_else(|error| panic!("{error}"));
            let whole = match &code {
                Code::Words(words) => words.len() > 20,
                Code::Text(text) => text.contains(match target {
                    Target::Hlsl => "numthreads",
                    Target::Msl => "kernel void",
                    _ => "@compute",
                }),
            };
            assert!(whole, "{what}: no entry point in the {}", target.name());
        }
    }
}

#[test]
fn every_variant_is_valid_for_every_backend() {
    let variants = variants();
    for ((shader, consts, entry), example) in &variants {
        let what = format!("{shader} {consts:?} {entry} ({example})");
        let unrolled = Shader::load(shader, consts).unwrap_or_else(|error| panic!("{what}: {error}"));
        emit(&what, &unrolled, &[entry]);
    }
    println!("{} variants", variants.len());
}

#[test]
fn unrolling_keeps_the_interface() {
    for (shader, consts, _) in variants().keys() {
        let what = format!("{shader} {consts:?}");
        let unrolled = Shader::load(shader, consts).unwrap();
        let plain = Shader::load_form(shader, consts, false).unwrap();
        Emitter::new(&what, &plain).unwrap_or_else(|error| panic!("{error}"));
        // Both interfaces come from the plain text, so reflect the unrolled text here.
        let reflected = Interface::reflect(shader, &unrolled.source).unwrap();
        assert_eq!(reflected, plain.interface, "{what}");
        assert_eq!(unrolled.source == plain.source, !plain.source.contains("// unroll"), "{what}");
    }
}

#[test]
fn every_dispatch_fits_entry_point_and_limits() {
    for_each_dispatch(|what, _, profile, dispatch| {
        let shader = Shader::load(dispatch.shader, &dispatch.consts).unwrap();
        let what = format!("{what}: {}/{}", dispatch.shader, dispatch.entry);
        dispatch.check(&shader.interface).unwrap_or_else(|error| panic!("{what}: {error}"));
        let (_, size) = shader.interface.entry(dispatch.entry).unwrap();
        let invocations: u32 = size.iter().product();
        assert!(invocations <= profile.max_invocations, "{what}: {size:?} invocations");
        let bytes = shader.interface.workgroup_bytes(dispatch.entry).unwrap();
        assert!(bytes <= profile.max_workgroup_storage, "{what}: {bytes} B of workgroup memory");
        assert!(dispatch.groups.iter().all(|count| (1..=profile.max_groups).contains(count)), "{what}");
        if profile.lanes.is_none() {
            assert!(!needs_subgroups(&shader.source), "{what}: needs subgroups, the device has none");
        }
        if profile.coop_matrix.is_none() {
            assert!(!needs_coop_matrix(&shader.source), "{what}: needs matrices, the device has none");
        }
    });
}

#[test]
fn shader_files_are_valid_wgsl() {
    for (name, text) in SOURCES {
        // Includes all branches of marked conditions.
        let interface = Interface::reflect(name, text).unwrap();
        let shader = Shader { source: (*text).into(), interface, built_in: true };
        let entries: Vec<&str> = shader.interface.entries.iter().map(|(entry, _)| entry.as_str()).collect();
        emit(name, &shader, &entries);
    }
}

/// The only `while` loop: `row` grows in each iteration, at most until `blocks - row` wraps around.
const WHILE: &str = "while (column >= params.blocks - row) {";

/// Checks a loop of the form `for (var i = a; i < b; i++) {`, counting up or halving. Returns the name of its counter,
/// or an error.
fn counter(header: &str) -> Result<&str, &'static str> {
    let inner = header
        .strip_prefix("for (var ")
        .and_then(|rest| rest.strip_suffix(") {"))
        .ok_or("not a plain for loop")?;
    let [start, condition, step] = inner.split("; ").collect::<Vec<_>>()[..] else {
        return Err("not three parts");
    };
    let (name, _) = start.split_once(" = ").ok_or("no start")?;
    let up = step == format!("{name}++") || step.starts_with(&format!("{name} += "));
    let down = step == format!("{name} /= 2u") || step == format!("{name} = {name} / 2u");
    let tested = condition.strip_prefix(name).ok_or("the condition does not test the counter")?;
    // Also accepts `i * 4u < limit`.
    let tested =
        tested.strip_prefix(" * ").and_then(|rest| rest.split_once(' ')).map_or(tested, |(_, rest)| rest);
    let tested = tested.trim_start();
    let below = tested.starts_with("< ") || tested.starts_with("<= ");
    let above = tested.starts_with("> 0u") || tested.starts_with(">= COLUMNS");
    ((up && below) || (down && above)).then_some(name).ok_or("does not count towards its limit")
}

/// Built-in shaders are compiled without wgpu's guards against infinite loops, so every loop must terminate.
#[test]
fn every_loop_counts_towards_a_limit() {
    let mut loops = 0;
    for (name, text) in SOURCES {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("").trim();
            let is_loop = ["for", "while", "loop"].iter().any(|word| {
                code.strip_prefix(word).is_some_and(|rest| rest.trim_start().starts_with(['(', '{']))
            });
            if !is_loop || code == WHILE {
                continue;
            }
            loops += 1;
            let what = format!("{name}.wgsl, line {}: {code}", index + 1);
            let counter = counter(code).unwrap_or_else(|fault| panic!("{what}: {fault}"));
            // The body must not write the counter.
            let indent = line.len() - line.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let body = lines[index + 1..].iter().take_while(|line| **line != end);
            for line in body.map(|line| line.trim()) {
                let rest = line.strip_prefix(counter).unwrap_or("");
                let writes = ["++", "--", " = ", " += ", " -= ", " *= ", " /= "];
                assert!(!writes.iter().any(|write| rest.starts_with(write)), "{what}: {line}");
            }
        }
    }
    assert!(loops > 100, "only {loops} loops were found");
    assert!(counter("for (var i = 0u; i < n; i--) {").is_err());
    assert!(counter("for (var i = 0u; i > 0u; i++) {").is_err());
    assert!(counter("for (var i = 0u; true; i++) {").is_err());
    assert!(counter("while (true) {").is_err() && counter("loop {").is_err());
}

#[test]
fn shader_files_match_sources_and_uses() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
    let on_disk: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "wgsl"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let listed: BTreeSet<String> = SOURCES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed.len(), SOURCES.len(), "a shader is listed twice");
    assert_eq!(on_disk, listed, "files under shaders/ against SOURCES");
    let used: BTreeSet<String> = variants().keys().map(|(shader, _, _)| (*shader).to_owned()).collect();
    assert_eq!(listed, used, "SOURCES against what the ops dispatch");
}

#[test]
fn every_entry_point_is_used() {
    let used: BTreeSet<(&str, &str)> =
        variants().keys().map(|(shader, _, entry)| (*shader, *entry)).collect();
    for (name, _) in SOURCES {
        for (entry, _) in &Shader::load(name, &[]).unwrap().interface.entries {
            assert!(used.contains(&(*name, entry.as_str())), "no op dispatches {name}/{entry}");
        }
    }
}

#[test]
fn each_op_is_registered_once() {
    let names: BTreeSet<&str> = REGISTRY.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), REGISTRY.len());
    for entry in REGISTRY {
        let cases = (entry.cases)();
        assert!(!cases.is_empty(), "{} has no case", entry.name);
        assert!(cases.iter().all(|case| case.op.name() == entry.name), "{}", entry.name);
    }
}
