//! Rung 1: every shader variant that any registry case yields on several invented devices, without a GPU:
//! it is valid with no more capabilities than it declares, fits its call and the device's limits, and
//! every backend's writer takes it.

mod common;

use common::profiles;
use naga::valid::ModuleInfo;
use neural_mirage::gpu::{Family, Profile};
use neural_mirage::ops::{Case, Dispatch, REGISTRY, Shape, Signature};
use neural_mirage::shader::{Interface, SOURCES, Shader, validator};
use std::collections::{BTreeMap, BTreeSet};

/// What makes a variant: file, constants, entry point.
type Variant = (&'static str, Vec<(&'static str, u32)>, &'static str);

/// Calls `visit` for each dispatch of each kernel of each case on each invented device.
fn for_each_dispatch(mut visit: impl FnMut(&str, &Case, &Profile, &Dispatch)) {
    for entry in REGISTRY {
        for case in (entry.cases)() {
            let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
            let signature = Signature::of(case.op.as_ref(), &shapes).unwrap();
            for (device, profile) in profiles() {
                let kernels = case.op.kernels(&signature, &profile).unwrap();
                let last = kernels.last().map(|kernel| kernel.variant);
                assert_eq!(last, Some("naive"), "{} on {device}: the naive kernel comes last", entry.name);
                if profile.family == Family::Naive {
                    assert_eq!(kernels.len(), 1, "{} on {device}: nothing but the naive kernel", entry.name);
                }
                for kernel in &kernels {
                    let what = format!("{}/{} on {device} {shapes:?}", entry.name, kernel.variant);
                    kernel.dispatches.iter().for_each(|dispatch| visit(&what, &case, &profile, dispatch));
                }
            }
        }
    }
}

/// All variants, each with one of the dispatches that yield it.
fn variants() -> BTreeMap<Variant, String> {
    let mut found = BTreeMap::new();
    for_each_dispatch(|what, _, _, dispatch| {
        let key = (dispatch.shader, dispatch.consts.clone(), dispatch.entry);
        found.entry(key).or_insert_with(|| what.to_owned());
    });
    found
}

/// True if the code, comments aside, uses subgroups.
fn needs_subgroups(text: &str) -> bool {
    text.lines().any(|line| line.split("//").next().unwrap_or("").contains("subgroup"))
}

/// Parses, and validates without subgroups unless the text shows that it needs them.
fn validate(what: &str, text: &str) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(text)));
    let info = validator(needs_subgroups(text))
        .validate(&module)
        .unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(text)));
    (module, info)
}

fn emit(what: &str, module: &naga::Module, info: &ModuleInfo, entry: &str) {
    use naga::back::{hlsl, msl, spv};
    let stage = naga::ShaderStage::Compute;
    // wgpu targets SPIR-V 1.3 where subgroups are used.
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    let pipeline = spv::PipelineOptions { shader_stage: stage, entry_point: entry.to_owned() };
    let words = spv::write_vec(module, info, &options, Some(&pipeline))
        .unwrap_or_else(|error| panic!("{what}: SPIR-V: {error}"));
    assert!(words.len() > 20, "{what}: empty SPIR-V");

    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        // wgpu passes the number of workgroups in a constant of its own.
        special_constants_binding: Some(hlsl::BindTarget::default()),
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((stage, entry.to_owned())) };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .unwrap_or_else(|error| panic!("{what}: HLSL: {error}"));
    assert!(text.contains("numthreads"), "{what}: no entry point in the HLSL");

    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    let pipeline =
        msl::PipelineOptions { entry_point: Some((stage, entry.to_owned())), ..Default::default() };
    let (text, _) = msl::write_string(module, info, &options, &pipeline)
        .unwrap_or_else(|error| panic!("{what}: MSL: {error}"));
    assert!(text.contains("kernel void"), "{what}: no entry point in the MSL");
}

#[test]
fn every_variant_is_valid_and_every_backend_takes_it() {
    let variants = variants();
    for ((shader, consts, entry), example) in &variants {
        let what = format!("{shader} {consts:?} {entry} ({example})");
        let unrolled = Shader::load(shader, consts).unwrap_or_else(|error| panic!("{what}: {error}"));
        let (module, info) = validate(&what, &unrolled.source);
        emit(&what, &module, &info, entry);
    }
    println!("{} variants", variants.len());
}

#[test]
fn unrolled_and_plain_forms_have_one_interface() {
    for (shader, consts, _) in variants().keys() {
        let what = format!("{shader} {consts:?}");
        let unrolled = Shader::load(shader, consts).unwrap();
        let plain = Shader::load_form(shader, consts, false).unwrap();
        validate(&what, &plain.source);
        // Both are reflected from the plain text, so that of the unrolled text is reflected here.
        let reflected = Interface::reflect(shader, &unrolled.source).unwrap();
        assert_eq!(reflected, plain.interface, "{what}");
        assert_eq!(unrolled.source == plain.source, !plain.source.contains("// unroll"), "{what}");
    }
}

#[test]
fn every_call_fits_its_entry_point_and_its_device() {
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
    });
}

#[test]
fn the_files_as_they_stand_are_valid() {
    for (name, text) in SOURCES {
        let (module, info) = validate(name, text);
        for entry in &module.entry_points {
            emit(name, &module, &info, &entry.name);
        }
    }
}

#[test]
fn shaders_on_disk_listed_and_used_are_the_same() {
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
