//! `mirage kernels` and `--shader-dir`: the workbench on this device, and ten broken kernels that it must detect.

use crate::common::process::wait_for;
use crate::support::{Place, pixels};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

/// A deliberately broken kernel.
struct Broken {
    /// Description of the fault.
    fault: &'static str,
    shader: &'static str,
    /// The first occurrence of this text ...
    from: &'static str,
    /// ... is replaced by this.
    to: &'static str,
    /// A kernel that must fail.
    kernel: &'static str,
}

const BROKEN: &[Broken] = &[
    Broken {
        fault: "wrong index",
        shader: "relu",
        from: "let x = input[i];",
        to: "let x = input[i ^ 1u];",
        kernel: "relu/naive",
    },
    Broken {
        fault: "missing bias",
        shader: "conv_blocks",
        from: "var sum = bias[quad] + vec4<f32>(",
        to: "var sum = 0.0 * bias[quad] + vec4<f32>(",
        kernel: "conv/buffer_small",
    },
    Broken {
        fault: "off-by-one border",
        shader: "total_variation",
        from: "let inside = at.row < params.height &&",
        to: "let inside = at.row <= params.height &&",
        kernel: "total_variation/naive",
    },
    Broken {
        fault: "uninitialised output",
        shader: "conv",
        from: "output[i] = vec4<f32>(0.0);\n        return;",
        to: "return;",
        kernel: "conv/naive",
    },
    Broken {
        fault: "race without barrier",
        shader: "gram_blocks",
        from: "workgroupBarrier();\n        for (var k = 0u; k < DEPTH; k++) {\n            let a",
        to: "for (var k = 0u; k < DEPTH; k++) {\n            let a",
        kernel: "gram/buffer",
    },
    Broken {
        fault: "transposed weights",
        shader: "linear",
        from: "weights[min(row + r, params.rows - 1u) * params.words + i]",
        to: "weights[i * params.rows + min(row + r, params.rows - 1u)]",
        kernel: "linear/buffer",
    },
    Broken {
        fault: "swapped dimensions on non-square maps",
        shader: "winograd_input",
        from: "let pitch = params.width + 1u;\n    let first = quad * (params.height + 1u) * pitch",
        to: "let pitch = params.height + 1u;\n    let first = quad * (params.width + 1u) * pitch",
        kernel: "conv/texture_winograd4",
    },
    Broken {
        fault: "NaN on zero",
        shader: "relu",
        from: "output[i] = select(x, vec4<f32>(0.0), x < vec4<f32>(0.0))",
        // Through bits: compilers may remove a division that cancels with a multiplication.
        to: "output[i] = select(max(x, vec4<f32>(0.0)), bitcast<vec4<f32>>(vec4<u32>(0x7fc00000u | min(i, 1u))), \
             x == vec4<f32>(0.0))",
        kernel: "relu/naive",
    },
    Broken {
        fault: "overflow of a 16-bit index",
        shader: "add",
        from: "let i = (group.y * groups.x + group.x) * 64u + local;",
        to: "let i = ((group.y * groups.x + group.x) * 64u + local) & 0xffffu;",
        kernel: "add/naive",
    },
    Broken {
        fault: "dropped remainder tile",
        shader: "gram_blocks",
        from: "let end = min(start + params.chunk, params.plane);",
        to: "let end = start + (min(start + params.chunk, params.plane) - start) / DEPTH * DEPTH;",
        kernel: "gram/buffer",
    },
];

/// Writes a modified built-in shader to the folder `my shaders`.
fn broken(place: &Place, broken: &Broken) {
    let path = format!("{}/shaders/{}.wgsl", env!("CARGO_MANIFEST_DIR"), broken.shader);
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(broken.from), "{}: the shader has changed, change the test too", broken.fault);
    std::fs::create_dir_all(place.path("my shaders")).unwrap();
    let file = place.path("my shaders").join(format!("{}.wgsl", broken.shader));
    std::fs::write(file, text.replacen(broken.from, broken.to, 1)).unwrap();
}

#[test]
fn broken_kernels_fail_their_test() {
    assert_eq!(BROKEN.len(), 10);
    for case in BROKEN {
        let place = Place::with_adapter();
        broken(&place, case);
        let mut test = place.mirage();
        test.args(["kernels", "test", case.kernel, "--shader-dir", "my shaders", "--json", "out.json"]);
        let output = test.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{} was not detected:\n{printed}", case.fault);
        assert!(printed.contains(&format!("FAILED {}", case.kernel)), "{}:\n{printed}", case.fault);
        // Because of a wrong value, not because it failed to run.
        let results: Value = serde_json::from_slice(&std::fs::read(place.path("out.json")).unwrap()).unwrap();
        let results = results["results"].as_array().unwrap();
        let ran = |result: &&Value| {
            result["fault"].is_string() && !result["fault"].as_str().unwrap().contains("GPU")
        };
        assert!(results.iter().any(|result| ran(&result)), "{}:\n{printed}", case.fault);
    }
}

#[test]
fn correct_kernels_pass_and_are_reported() {
    let place = Place::with_adapter();
    let mut test = place.mirage();
    test.args(["kernels", "test", "add", "--json", "a report.json", "--junit", "a report.xml"]);
    test.assert().success().stdout(contains("add").and(contains("pass")).and(contains(" 0 failed")));
    let report: Value = serde_json::from_slice(&std::fs::read(place.path("a report.json")).unwrap()).unwrap();
    let results = report["results"].as_array().unwrap();
    assert!(results.len() > 1 && results.iter().all(|result| result["fault"].is_null()), "{report}");
    assert!(results.iter().all(|result| result["max_ulp"].as_f64() <= result["allowed_ulp"].as_f64()));
    let junit = std::fs::read_to_string(place.path("a report.xml")).unwrap();
    assert!(junit.contains("<testsuite name=\"add\"") && junit.contains("failures=\"0\""), "{junit}");
    assert_eq!(junit.matches("<testcase ").count(), results.len());
    // Equal seeds give equal inputs, different seeds different ones.
    let errors = |seed: &str| {
        let file = format!("{seed}.json");
        let args = ["kernels", "test", "gram/naive", "--shapes", "quick", "--seed", seed, "--json", &file];
        place.mirage().args(args).arg("--overwrite").assert().success();
        std::fs::read_to_string(place.path(&file)).unwrap().replace(&format!("\"seed\": {seed}"), "")
    };
    let first = errors("3");
    assert_eq!(first, errors("3"));
    assert_ne!(first, errors("4"));
}

#[test]
fn cpu_functions_are_tested_and_listed() {
    let place = Place::new();
    let on_cpu = |words: &[&str]| {
        let mut command = place.deviceless();
        command.arg("kernels").args(words).args(["--adapter", "cpu"]);
        command.assert()
    };
    let tested = on_cpu(&["test", "gram", "--shapes", "quick"]).success();
    tested.stdout(contains("cpu").and(contains(" 0 failed")));
    // CPU functions can't be shown, and user shaders need a graphics device.
    on_cpu(&["show", "gram/naive"]).code(2).stderr(contains("not --adapter cpu"));
    on_cpu(&["list", "gram"]).success().stdout(contains("cpu"));
    place.file("own.wgsl", b"@compute @workgroup_size(1) fn main() {}");
    on_cpu(&["run", "own.wgsl"]).code(2).stderr(contains("not --adapter cpu"));
}

#[test]
fn network_shapes_are_tested() {
    let place = Place::with_adapter();
    let args = ["kernels", "test", "conv/texture", "--shapes", "network", "--size", "4"];
    place.mirage().args(args).assert().success().stdout(contains("texture_winograd4"));
}

#[test]
fn bench_compares_with_earlier_results() {
    let place = Place::with_adapter();
    let bench = |words: &[&str]| {
        let mut command = place.mirage();
        command.args([
            "kernels",
            "bench",
            "conv 3->64",
            "--network",
            "vgg16",
            "--size",
            "16",
            "--rounds",
            "2",
        ]);
        command.args(words);
        command
    };
    bench(&["--json", "before.json"]).assert().success().stdout(contains("measured peaks"));
    let mut before: Value =
        serde_json::from_slice(&std::fs::read(place.path("before.json")).unwrap()).unwrap();
    assert_eq!(before["rows"].as_array().unwrap().len(), 1);
    assert_eq!(before["rows"][0]["case"], "conv 3->64@16");
    let slower: Vec<f64> = before["rows"][0]["quartiles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|q| q.as_f64().unwrap() * 1e3)
        .collect();
    before["rows"][0]["quartiles"] = slower.into();
    before["device"] = "another".into();
    place.file("slow.json", before.to_string().as_bytes());
    bench(&["--compare", "slow.json", "--all"]).assert().success().stdout(
        contains("FASTER").and(contains("from another device")).and(contains("naive")).and(contains("new")),
    );
    place.file("nonsense.json", b"{}");
    bench(&["--compare", "nonsense.json"]).assert().code(2).stderr(contains("nonsense.json"));
    let unknown = ["kernels", "bench", "--network", "resnet.safetensors"];
    place.mirage().args(unknown).assert().code(2).stderr(contains("resnet.safetensors"));
}

#[test]
fn kernels_are_listed_and_shown_without_a_device() {
    let place = Place::new();
    place.deviceless().args(["kernels", "list", "gram"]).assert().success().stdout(
        contains("no device was found")
            .and(contains("gram_tiles/forward"))
            .and(contains("workgroup 256x1x1")),
    );
    let json = place.deviceless().args(["kernels", "list", "--json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(list.as_array().unwrap().len() > 40, "{list}");
    for (language, sign) in [
        ("wgsl", "@compute"),
        ("web", "@compute"),
        ("spirv", "OpEntryPoint GLCompute"),
        ("hlsl", "[numthreads(64, 1, 1)]"),
        ("msl", "kernel void"),
    ] {
        let args = ["kernels", "show", "relu/naive", "--to", language, "--pass", "1"];
        place.deviceless().args(args).assert().success().stdout(contains(sign));
    }
    place
        .deviceless()
        .args(["kernels", "show", "conv/fastest"])
        .assert()
        .code(2)
        .stderr(contains("kernels list"));
    let beyond = ["kernels", "show", "relu/naive", "--pass", "99"];
    place.deviceless().args(beyond).assert().code(2).stderr(contains("--pass 99"));
}

#[test]
fn exported_shaders_can_be_edited_and_used() {
    let place = Place::new();
    let files = ["kernels", "show", "add", "--files", "my shaders"];
    place.deviceless().args(files).assert().success().stdout(contains("add.wgsl"));
    let text = std::fs::read_to_string(place.path("my shaders/add.wgsl")).unwrap();
    assert!(text.contains("fn forward"));
    // Files that were edited are not overwritten.
    std::fs::write(place.path("my shaders/add.wgsl"), format!("// mine\n{text}")).unwrap();
    place.deviceless().args(files).assert().success().stdout(contains("was kept"));
    assert!(std::fs::read_to_string(place.path("my shaders/add.wgsl")).unwrap().starts_with("// mine"));
    // Any command accepts the folder.
    let args = ["kernels", "show", "add/naive", "--shader-dir", "my shaders"];
    place.deviceless().args(args).assert().success().stdout(contains("// mine"));
}

#[test]
fn bad_shader_folders_are_refused() {
    let place = Place::new();
    let with = |folder: &str| {
        let mut command = place.deviceless();
        command.args(["kernels", "list", "add", "--shader-dir", folder]);
        command
    };
    with("none").assert().code(2).stderr(contains("none"));
    std::fs::write(place.path("a file"), "").unwrap();
    with("a file").assert().code(2).stderr(contains("a file").and(contains("can't be read")));
    std::fs::create_dir(place.path("empty")).unwrap();
    with("empty").assert().code(2).stderr(contains("no .wgsl file"));
    std::fs::create_dir(place.path("strange")).unwrap();
    std::fs::write(place.path("strange/conv_fast.wgsl"), "").unwrap();
    with("strange").assert().code(2).stderr(contains("conv_fast.wgsl").and(contains("conv_tiles")));
    std::fs::create_dir(place.path("wrong")).unwrap();
    std::fs::write(place.path("wrong/add.wgsl"), "fn forward() -> f32 {\n    return 1u;\n}\n").unwrap();
    // Line and caret from naga.
    with("wrong").assert().code(2).stderr(contains("add.wgsl").and(contains("return 1u")).and(contains("^")));
    std::fs::write(place.path("wrong/add.wgsl"), "@compute @workgroup_size(1) fn main() {}\n").unwrap();
    with("wrong").assert().code(2).stderr(contains("entry point `forward` is missing"));
    place.deviceless().args(["kernels", "test", "--watch"]).assert().code(2).stderr(contains("--shader-dir"));
}

#[test]
fn options_that_a_command_does_not_use_are_refused() {
    let place = Place::new();
    std::fs::create_dir(place.path("mine")).unwrap();
    for command in
        [&["devices"][..], &["show", "photo.png"], &["weights"], &["completions", "bash"], &["man", "folder"]]
    {
        let refused = place.deviceless().args(command).args(["--shader-dir", "mine"]).assert().code(2);
        refused.stderr(contains("uses no shaders").and(contains("--shader-dir")));
    }
    let labels = place.deviceless().args(["tune", "--labels", "names.txt"]).assert().code(2);
    labels.stderr(contains("--labels"));
}

#[test]
fn watch_retests_saved_shaders_and_keeps_last_valid() {
    let place = Place::new();
    place.deviceless().args(["kernels", "show", "add", "--files", "mine"]).assert().success();
    let file = place.path("mine/add.wgsl");
    let good = std::fs::read_to_string(&file).unwrap();
    let mut command = place.mirage();
    command.args(["kernels", "test", "add", "--shapes", "quick", "--shader-dir", "mine", "--watch"]);
    let mut child = place.spawn(&command);
    let (sender, lines) = std::sync::mpsc::channel();
    let streams: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    for stream in streams {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
    }
    let mut all = Vec::new();
    let mut wait_for_line = |text: &str| {
        let end = Instant::now() + Duration::from_secs(60);
        while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            all.push(line.clone());
            if line.contains(text) {
                return;
            }
        }
        panic!("`{text}` was not printed: {all:#?}");
    };
    wait_for_line("1 kernels at 1 shapes: 0 failed");
    wait_for_line("Waiting for a shader");
    std::fs::write(&file, good.replace("a[i] + b[i]", "a[i] - b[i]")).unwrap();
    wait_for_line("FAILED add/naive");
    wait_for_line("Waiting for a shader");
    std::fs::write(&file, good.replace("a[i] + b[i]", "a[i] + b[j]")).unwrap();
    wait_for_line("no definition in scope for identifier: `j`");
    wait_for_line("The last valid version stays in use");
    std::fs::write(&file, &good).unwrap();
    wait_for_line("1 kernels at 1 shapes: 0 failed");
}

#[test]
fn verify_refuses_broken_kernels() {
    let place = Place::new();
    let photo = place.photo("photo.png", 48, 32);
    // The matrix roots of the default statistic would take most of the time.
    let style = ["--style-statistic", "gram"];
    let verify = |adapter: &str| {
        let mut run = place.render_to(&photo, &format!("{adapter}.png"), "2");
        run.args(style);
        run.args(["--verify", "--adapter", adapter]).assert().success().stderr(contains("Verified "))
    };
    // A graphics device is compared with the CPU device, the CPU device only with the references.
    verify("0").stderr(contains("Compared an iteration at 48x32 pixels").and(contains("limit 2e-2")));
    verify("cpu").stderr(contains("Compared").not());
    // Verification does not change the run.
    place.render_for(&photo, "2").args(style).args(["--adapter", "0"]).assert().success();
    assert!(pixels(&place.path("0.png")) == pixels(&place.path("out.png")));
    let shaders = BROKEN.iter().find(|case| case.shader == "total_variation").unwrap();
    broken(&place, shaders);
    let mut run = place.render_for(&photo, "1");
    run.args(style).args(["--verify", "--overwrite", "--kernels", "texture", "--shader-dir", "my shaders"]);
    run.assert()
        .code(1)
        .stderr(contains("wrong result: total_variation").and(contains("llvmpipe").or(contains("on "))));
}

#[test]
fn trace_has_host_and_device_events() {
    let place = Place::new();
    let photo = place.photo("photo.png", 48, 32);
    place
        .render_for(&photo, "2")
        .args(["--adapter", "0", "--trace", "a trace.json"])
        .assert()
        .success()
        .stderr(contains("Trace: "));
    let trace: Value = serde_json::from_slice(&std::fs::read(place.path("a trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |kind: &str| events.iter().filter(|event| event["cat"] == kind).count();
    for kind in ["device", "submission", "waiting", "reading back", "compiling", "host"] {
        assert!(of(kind) > 0, "no event of {kind}");
    }
    // Each dispatch has its name, a start after the beginning of the run, and a nonnegative duration.
    let conv = |event: &&Value| event["name"].as_str().unwrap().contains("conv") && event["tid"] == 0;
    assert!(events.iter().filter(conv).count() > 10);
    for event in events.iter().filter(|event| event["ph"] == "X") {
        assert!(event["ts"].as_f64().unwrap() >= 0.0 && event["dur"].as_f64().unwrap() >= 0.0, "{event}");
    }
    // The picture is the same as without a trace.
    let traced = std::fs::read(place.path("out.png")).unwrap();
    place.render_for(&photo, "2").args(["--adapter", "0", "--overwrite"]).assert().success();
    let traced = image::load_from_memory(&traced).unwrap().into_rgb8().into_raw();
    assert!(traced == pixels(&place.path("out.png")));
    let over = ["--overwrite", "--trace", "photo.png"];
    place.render_for(&photo, "1").args(over).assert().code(2).stderr(contains("which the run reads"));
}

#[test]
fn watch_reports_keep_unchanged_kernels() {
    let place = Place::with_adapter();
    place.deviceless().args(["kernels", "show", "multiply", "--files", "mine"]).assert().success();
    let shader = place.path("mine/multiply.wgsl");
    let good = std::fs::read_to_string(&shader).unwrap();
    let wrong = good.replacen("a[i] * b[i]", "a[i] + b[i]", 1);
    assert_ne!(good, wrong);
    // Matches two ops, each with its own shader.
    let words = ["kernels", "test", "ultiply/naive", "--shapes", "quick", "--shader-dir", "mine", "--watch"];
    let mut command = place.mirage();
    command.args(words).args(["--json", "out.json", "--junit", "out.xml"]);
    let mut child = place.spawn(&command);
    let verdicts = || -> Option<Vec<(String, bool)>> {
        let report: Value = serde_json::from_slice(&std::fs::read(place.path("out.json")).ok()?).ok()?;
        let verdict = |row: &Value| (row["op"].as_str().unwrap().to_owned(), row["fault"].is_null());
        let mut all: Vec<(String, bool)> = report["results"].as_array()?.iter().map(verdict).collect();
        all.sort();
        Some(all)
    };
    let junit = || std::fs::read_to_string(place.path("out.xml")).unwrap_or_default();
    let mut wait_until = |passes: bool| {
        let expected = [("multiply".to_owned(), passes), ("multiply_add".to_owned(), true)];
        let failures = format!("failures=\"{}\"", u32::from(!passes));
        // The second file is written after the first.
        wait_for("the expected results were not written", || {
            assert!(child.try_wait().unwrap().is_none(), "the watch has ended");
            verdicts().is_some_and(|found| found == expected) && junit().contains(&failures)
        });
    };
    wait_until(true);
    std::fs::write(&shader, wrong).unwrap();
    wait_until(false);
    std::fs::write(&shader, good).unwrap();
    wait_until(true);
    let junit = junit();
    assert_eq!(junit.matches("<testcase ").count(), 2, "{junit}");
    assert!(junit.contains("failures=\"0\""), "{junit}");
}

#[test]
fn killed_bench_keeps_measured_rows() {
    let place = Place::new();
    let words =
        ["kernels", "bench", "--adapter", "cpu", "--network", "vgg16", "--size", "64", "--rounds", "2"];
    let mut command = place.mirage();
    let mut child = place.spawn(command.args(words).args(["--json", "figures.json"]));
    let rows = || {
        let figures: Value = serde_json::from_slice(&std::fs::read(place.path("figures.json")).ok()?).ok()?;
        Some(figures["rows"].as_array()?.len())
    };
    wait_for("no row was written", || rows().is_some_and(|rows| rows > 0));
    assert!(child.try_wait().unwrap().is_none(), "the bench has ended");
    drop(child);
    assert!(rows().is_some_and(|rows| rows > 0));
}

/// Shaders in use count as files that the run reads.
#[test]
fn shaders_in_use_are_not_overwritten() {
    let place = Place::new();
    let photo = place.photo("photo.png", 48, 32);
    place.deviceless().args(["kernels", "show", "--files", "my shaders"]).assert().success();
    let shader = place.path("my shaders/gram.wgsl");
    let text = std::fs::read(&shader).unwrap();
    let refused = |command: &mut assert_cmd::Command| {
        command.args(["--overwrite", "--shader-dir", "my shaders"]);
        command.assert().code(2).stderr(contains("gram.wgsl, which the run reads"));
        assert!(std::fs::read(&shader).unwrap() == text);
    };
    for option in ["--log", "--trace"] {
        refused(place.render_for(&photo, "1").args([option, "my shaders/gram.wgsl"]));
    }
    refused(place.mirage().args(["kernels", "bench", "gram", "--json", "my shaders/gram.wgsl"]));
}
