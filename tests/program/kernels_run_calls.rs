//! `mirage kernels run`: refused calls, limits, random inputs, help.

use crate::kernels_run::{HISTOGRAM, SAXPY, SUM, array, command, f32s, refuses, run};
use crate::support::Place;
use neural_mirage::workbench::{Array, Element};

#[test]
fn bad_calls_are_refused_before_a_device_is_opened() {
    let place = Place::new();
    place.file("saxpy.wgsl", SAXPY.as_bytes());
    place.file("sum.wgsl", SUM.as_bytes());
    place.file("two.wgsl", b"@compute @workgroup_size(1) fn a() {} @compute @workgroup_size(1) fn b() {} @vertex fn v() -> @builtin(position) vec4f { return vec4f(); }");
    place.file("syntax.wgsl", b"fn f() {\n    let x = 1 +;\n}\n");
    place.file("types.wgsl", b"@compute @workgroup_size(1)\nfn main() {\n    let x: u32 = 1.5;\n}\n");
    place.file("binary.wgsl", &[0xff, 0xfe, 0x00]);
    place.file("sampled.wgsl", b"@group(0) @binding(0) var t: texture_2d<f32>; @compute @workgroup_size(1) fn main() { _ = textureLoad(t, vec2(0, 0), 0); }");
    place.file("open.wgsl", b"override N: u32; @compute @workgroup_size(N) fn main() {}");
    place.file(
        "loop.wgsl",
        b"@compute @workgroup_size(1) fn main() {
        // unroll
        for (var i = 1u; i < 4u; i++) { } }",
    );
    place.file("text.npy", b"Dear diary");
    f32s(&place, "x.npy", &[8], &[0.0; 8]);
    f32s(&place, "seven.npy", &[7], &[0.0; 7]);
    array(Element::F64, &[8], &[0.0f64; 8]).write_npy(&place.path("double.npy"), true).unwrap();
    let npy = |descr: &str, fortran: &str| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': (2, 4), }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend([0; 32]);
        bytes
    };
    place.file("fortran.npy", &npy("<f4", "True"));
    place.file("big.npy", &npy(">f4", "False"));
    place.file("cut.npy", &npy("<f8", "False"));
    std::fs::create_dir(place.path("folder")).unwrap();
    let saxpy = |words: &[&'static str]| -> Vec<&'static str> {
        [&["saxpy.wgsl", "--params", "2,8"], words].concat()
    };
    for (words, parts) in [
        // The shader.
        (vec!["none.wgsl"], &["none.wgsl", "can't be read"][..]),
        (vec!["binary.wgsl"], &["binary.wgsl", "UTF-8"]),
        (vec!["syntax.wgsl"], &["syntax.wgsl:2:", "let x = 1 +;", "^"]),
        (vec!["types.wgsl"], &["types.wgsl:3:", "let x: u32 = 1.5;", "^"]),
        (vec!["sampled.wgsl"], &["`t` is a sampled texture", "storage"]),
        (vec!["two.wgsl"], &["--entry", "a, b"]),
        (vec!["two.wgsl", "--entry", "c"], &["--entry c", "a, b"]),
        (vec!["two.wgsl", "--entry", "v"], &["not a @compute"]),
        (vec!["two.wgsl", "--entry", "a", "--params", "1"], &["no uniform"]),
        (vec!["two.wgsl", "--entry", "a", "--workgroups", "0"], &["--workgroups", ">= 1"]),
        (vec!["two.wgsl", "--entry", "a", "--workgroups", "1,2,3,4"], &["three"]),
        (vec!["open.wgsl"], &["--const N=VALUE"]),
        (vec!["open.wgsl", "--const", "M=1"], &["--const M", "can set: N"]),
        (vec!["open.wgsl", "--const", "N=x"], &["--const N=x", "finite number"]),
        (vec!["open.wgsl", "--const", "N=0"], &["open.wgsl", "overrides"]),
        (vec!["open.wgsl", "--const", "N"], &["NAME=VALUE"]),
        (vec!["open.wgsl", "--const", "N=1", "--const", "N=2"], &["N twice"]),
        (vec!["loop.wgsl", "--unroll"], &["loop.wgsl", "can't be unrolled", "i = 1u"]),
        // Inputs.
        (saxpy(&["--input", "none.npy"]), &["none.npy", "can't be read"]),
        (saxpy(&["--input", "folder.npy"]), &["folder.npy"]),
        (saxpy(&["--input", "x.txt"]), &["x.txt", "FILE.npy"]),
        (saxpy(&["--input", "text.npy"]), &["text.npy", "numpy.save"]),
        (saxpy(&["--input", "fortran.npy"]), &["fortran.npy", "Fortran order", "ascontiguousarray"]),
        (saxpy(&["--input", "big.npy"]), &["big.npy", "highest byte first", "astype"]),
        (saxpy(&["--input", "cut.npy"]), &["cut.npy", "shorter"]),
        (saxpy(&["--input", "double.npy"]), &["double.npy", "f64", "f32", "astype(numpy.float32)"]),
        (saxpy(&["--input", "none.safetensors:w"]), &["none.safetensors"]),
        (saxpy(&["--input", "z=x.npy"]), &["`z`", "x: array<f32>, read"]),
        (saxpy(&["--input", "x=x.npy", "--input", "x=x.npy"]), &["`x` twice"]),
        (saxpy(&["--input", "x.npy", "--input", "x.npy", "--input", "x.npy"]), &["3 x --input"]),
        (saxpy(&["--input", "y=x.npy"]), &["nothing is given for `x`", "--input x=FILE"]),
        (saxpy(&["--input", "x=x.npy"]), &["nothing is given for `y`", "--output y="]),
        // Parameters.
        (vec!["saxpy.wgsl", "--params", "2"], &["params.count", "u32"]),
        (vec!["saxpy.wgsl", "--params", "u32:2,u32:8"], &["u32:2", "params.a", "f32"]),
        (vec!["saxpy.wgsl", "--params", "2,-8"], &["'-8' is not a u32"]),
        (vec!["saxpy.wgsl", "--params", "2,8,1"], &["3", "more than the 2"]),
        (vec!["saxpy.wgsl", "--params", "b=2"], &["`b`", "params.a: f32, params.count: u32"]),
        // Outputs.
        (saxpy(&["--input", "x=x.npy", "--output", "out.npy"]), &["out.npy", "add the shape"]),
        (saxpy(&["--input", "x=x.npy", "--output", "out.npy:0"]), &["shape such as 64x32"]),
        (saxpy(&["--input", "x=x.npy", "--output", "out.txt"]), &["out.txt", ".npy"]),
        (saxpy(&["--input", "x=x.npy", "--output", "x=out.npy:8"]), &["`x` can't be written"]),
        (saxpy(&["--input", "x=x.npy", "--output", "z=out.npy:8"]), &["`z` is not a variable"]),
        (saxpy(&["--input", "x.npy", "--input", "seven.npy", "--output", "out.npy:8"]), &["another length"]),
        (saxpy(&["--input", "x=x.npy", "--output", "x.npy:8"]), &["x.npy", "which the run reads"]),
        (saxpy(&["--input", "x=x.npy", "--output", "folder/../x.npy:8"]), &["which the run reads"]),
        (saxpy(&["--input", "x=x.npy", "--output", "no/out.npy:8"]), &["no", "doesn't exist"]),
        (saxpy(&["--output", "y=out.npy:8", "--output", "y=out.npy:8"]), &["two outputs"]),
        (saxpy(&["--input", "x=x.npy", "--output", "y=out.npy:8", "--output", "y=b.npy:8"]), &["`y` twice"]),
        // Expectations.
        (saxpy(&["--input", "x=x.npy", "--expect", "none.npy"]), &["none.npy"]),
        (saxpy(&["--input", "x=x.npy", "--expect", "zeros:8"]), &["zeros:8", "file"]),
        (saxpy(&["--input", "x=x.npy", "--output", "out.npy:8", "--expect", "seven.npy"]), &["7", "8"]),
        (saxpy(&["--input", "x=x.npy", "--expect", "y=x.npy", "--tolerance", "-1"]), &["--tolerance"]),
        (saxpy(&["--repeat", "0"]), &["--repeat"]),
    ] {
        refuses(&place, &words, parts);
    }
    let fixed = place.file(
        "fixed.wgsl",
        HISTOGRAM
            .replace("values: array<u32>", "values: array<u32, 9>")
            .replace("arrayLength(&values)", "9u")
            .as_bytes(),
    );
    array(Element::U32, &[8], &[0u32; 8]).write_npy(&place.path("eight.npy"), true).unwrap();
    refuses(&place, &[fixed.to_str().unwrap(), "--input", "eight.npy"], &["too few", "9 u32", "8 u32"]);
    refuses(&place, &[fixed.to_str().unwrap(), "--input", "zeros:10"], &["too many", "9 u32"]);
}

#[test]
fn missing_device_names_package_to_install() {
    let place = Place::new();
    place.file("sum.wgsl", SUM.as_bytes());
    let words = ["kernels", "run", "sum.wgsl", "--input", "random:64", "--output", "sums.npy:1"];
    let output = place.deviceless().args(words).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("mesa-vulkan-drivers") || !cfg!(target_os = "linux"), "{message}");
    assert_eq!(place.entries(), ["sum.wgsl"]);
}

#[test]
fn device_limits_are_enforced() {
    let place = Place::new();
    place.file("sum.wgsl", SUM.as_bytes());
    let words = ["sum.wgsl", "--input", "zeros:64", "--output", "sums.npy:1", "--minimal"];
    for (more, parts) in [
        (["--workgroups", "65536"], ["--workgroups", "65535"]),
        (["--workgroups", "1,1,70000"], ["70000", "spread"]),
        (["--const", "LANES=512"], ["512x1x1", "256"]),
        (["--adapter", "no such device"], ["no such device", "0: "]),
    ] {
        let output = command(&place, &[&words[..], &more].concat()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let shared = "var<workgroup> much: array<vec4<f32>, 1025>;
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3<u32>) { y[id.x] = much[id.x].x; }";
    place.file("shared.wgsl", shared.as_bytes());
    let output = command(&place, &["shared.wgsl", "--output", "y.npy:1", "--minimal"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("16400") && message.contains("16384"), "{message}");
    assert_eq!(place.entries(), ["shared.wgsl", "sum.wgsl"]);
}

#[test]
fn random_inputs_depend_only_on_seed() {
    let place = Place::new();
    let copy = "@group(0) @binding(0) var<storage, read> x: array<f32>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3<u32>) { y[id.x] = x[id.x]; }";
    place.file("copy.wgsl", copy.as_bytes());
    let draw = |source: &str| {
        run(&place, 0, &["copy.wgsl", "--input", source, "--output", "y.npy:32", "--workgroups", "32"]);
        Array::read_npy(&place.path("y.npy")).unwrap().widen()
    };
    let (first, again, other) = (draw("random:4x8:3"), draw("random:4x8:3"), draw("random:4x8:4"));
    assert!(first == again && first != other && first.iter().all(|value| value.abs() < 10.0));
    assert_eq!(draw("zeros:32"), [0.0; 32]);
    // Without a seed each variable has different numbers.
    let difference = copy.replace("y[id.x] = x[id.x]", "y[id.x] -= x[id.x]");
    place.file("copy.wgsl", difference.as_bytes());
    let words = [
        "copy.wgsl",
        "--input",
        "random:32",
        "--input",
        "random:32",
        "--output",
        "y.npy",
        "--workgroups",
        "32",
    ];
    run(&place, 0, &words);
    assert!(Array::read_npy(&place.path("y.npy")).unwrap().widen().iter().all(|value| *value != 0.0));
}

#[test]
fn help_lists_every_option_with_its_default() {
    let place = Place::new();
    let output = place.mirage().env("COLUMNS", "500").args(["kernels", "run", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for (option, default) in [
        ("--entry", "the only one"),
        ("--workgroups", "1"),
        ("--params", "none"),
        ("--const", "as in the shader"),
        ("--unroll", "off"),
        ("--input", "none"),
        ("--output", "none"),
        ("--expect", "none"),
        ("--tolerance", "1e-5"),
        ("--repeat", "off"),
        ("--adapter", "the most capable"),
        ("--minimal", "off"),
    ] {
        let line = help.lines().find(|line| line.trim_start().starts_with(&format!("{option} ")));
        let line = line.unwrap_or_else(|| panic!("{option} is missing from\n{help}"));
        assert!(line.contains(&format!("[default: {default}")), "{line}");
    }
    let headings =
        ["Shader:", "Data:", "Check and time:", "Device:"].map(|heading| help.find(heading).unwrap());
    assert!(headings.is_sorted());
}
