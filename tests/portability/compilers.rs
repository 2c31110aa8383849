//! Every shader variant through third-party compilers and validators.

use crate::common::variants::{Variant, variants};
use neural_mirage::shader::{Emitter, Shader, Target, needs_coop_matrix};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Emits variants for `target`, either those with cooperative matrices or all others. Runs `check` on each file, on two
/// threads, and reports all failures.
fn check_all(
    target: Target,
    ending: &str,
    matrices: bool,
    check: impl Fn(&Path) -> Result<(), String> + Sync,
) {
    let folder = tempfile::tempdir().unwrap();
    let mut variants: Vec<Variant> = variants().into_keys().collect();
    variants.retain(|(name, consts, _)| {
        needs_coop_matrix(&Shader::load(name, consts).unwrap().source) == matrices
    });
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((name, consts, entry)) = variants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let what = format!("{name} {consts:?} {entry}");
                    let shader = Shader::load(name, consts).unwrap();
                    let code = Emitter::new(&what, &shader).unwrap().emit(entry, target).unwrap();
                    let number = variants.iter().position(|(n, c, e)| (n, c, e) == (name, consts, entry));
                    let file = folder.path().join(format!("{}.{ending}", number.unwrap()));
                    std::fs::write(&file, code.bytes()).unwrap();
                    if let Err(message) = check(&file) {
                        failures.lock().unwrap().push(format!("{what}: {message}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let shown: Vec<&str> = failures.iter().take(5).map(String::as_str).collect();
    assert!(
        failures.is_empty(),
        "{} of {} fail, for example:\n{}",
        failures.len(),
        variants.len(),
        shown.join("\n")
    );
    let of = if matrices { " with cooperative matrices" } else { "" };
    println!("{} variants{of} as {}", variants.len(), target.name());
}

/// Runs a tool of Debian's `package`. Returns its output as an error if it fails or warns.
fn run(command: &mut Command, package: &str) -> Result<(), String> {
    let outcome = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}. Install the package `{package}` (Debian's name), then start again")
    });
    let text = [outcome.stdout, outcome.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if outcome.status.success() && !text.to_lowercase().contains("warning") {
        return Ok(());
    }
    Err(format!("{}: {text}", outcome.status))
}

/// Returns year and number of the installed spirv-val's version.
fn spirv_val() -> [u32; 2] {
    let found = Command::new("spirv-val").arg("--version").output().expect("the package spirv-tools");
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    // SPIRV-Tools v2023.1 ...
    let numbers = text.split_whitespace().find_map(|word| word.strip_prefix('v')?.split_once('.'));
    let (year, number) = numbers.unwrap_or_else(|| panic!("no version: {text}"));
    [year, number].map(|part| part.parse().unwrap_or_else(|_| panic!("no version: {text}")))
}

#[test]
#[ignore = "needs the package spirv-tools: see docs/portability.md"]
fn spirv_is_valid_for_vulkan() {
    check_all(Target::Spirv, "spv", false, validate);
}

/// Needs a spirv-val that supports cooperative matrices, as those used by `tools/test_drivers` do.
#[test]
#[ignore = "needs the package spirv-tools: see docs/portability.md"]
fn spirv_with_coop_matrix_is_valid_for_vulkan() {
    let version = spirv_val();
    if version < [2023, 4] {
        return println!("spirv-val {version:?} does not support cooperative matrices: nothing was checked");
    }
    check_all(Target::Spirv, "spv", true, validate);
}

fn validate(file: &Path) -> Result<(), String> {
    run(Command::new("spirv-val").args(["--target-env", "vulkan1.1"]).arg(file), "spirv-tools")
}

/// Replaces casts of 0 to an array, such as `(float[64])0`, by lists: DirectX compilers accept them, glslang does
/// not. Everything else is unchanged.
fn spelled_for_glslang(text: &str) -> String {
    let spell = |line: &str| -> Option<String> {
        let (before, cast) = line.split_once("= (").or_else(|| line.split_once("return ("))?;
        let (element, length) = cast.strip_suffix("])0;")?.split_once('[')?;
        let list = vec![format!("({element})0"); length.parse().ok()?].join(", ");
        Some(match line.contains("return") {
            false => format!("{before}= {{{list}}};"),
            true => format!("{before}{element} zero[{length}] = {{{list}}}; return zero;"),
        })
    };
    text.lines().map(|line| spell(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
#[ignore = "needs the package glslang-tools: see docs/portability.md"]
fn hlsl_compiles() {
    check_all(Target::Hlsl, "hlsl", false, |file| {
        let text = std::fs::read_to_string(file).unwrap();
        // naga renames an entry point whose name is an HLSL keyword.
        let (_, after) = text.split_once("[numthreads(").unwrap();
        let (_, after) = after.split_once("void ").unwrap();
        let (entry, _) = after.split_once('(').unwrap();
        std::fs::write(file, spelled_for_glslang(&text)).unwrap();
        let mut command = Command::new("glslangValidator");
        command.args(["-D", "-S", "comp", "-e", entry, "--target-env", "vulkan1.1", "-o"]);
        run(command.arg(file.with_extension("spv")).arg(file), "glslang-tools")
    });
}
