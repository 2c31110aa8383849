//! Helpers shared by the test binaries: devices, comparators, random inputs; the modules serve some of them.
#![allow(dead_code, reason = "each test binary uses a part of these helpers")]

#[cfg(feature = "cli")]
pub mod chromium;
pub mod golden;
pub mod objective;
pub mod process;
pub mod runs;
pub mod statistics;
pub mod synthetic;
pub mod variants;

use neural_mirage::gpu::{AdapterChoice, Context, CoopMatrix, DeviceOptions, Family, Precision, Profile};
use neural_mirage::graph::Engine;
use neural_mirage::image_io::Picture;
use neural_mirage::ops::{CaseInput, Entry, Filter, REGISTRY, Shape};
#[allow(unused_imports, reason = "each test binary uses a part of these helpers")]
pub use neural_mirage::workbench::{distance, inputs, widen};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Returns the device with this kernel family that all tests of a binary share, so that each pipeline is compiled once.
/// Tests that change the device or count events on it use [`engine_with`]. Without an adapter the test fails; it is
/// not skipped.
pub fn engine(family: Family) -> Arc<Engine> {
    static SHARED: Mutex<Vec<(Family, Arc<Engine>)>> = Mutex::new(Vec::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, engine)) = shared.iter().find(|(other, _)| *other == family) {
        return engine.clone();
    }
    let engine = engine_with(&DeviceOptions { family, ..Default::default() }, |_| {});
    shared.push((family, engine.clone()));
    engine
}

/// Opens a device for one test and lowers its limits with `restrict`. The environment variable `MIRAGE_TEST_ADAPTER`
/// selects an adapter by a part of its name; `cpu` stands for the CPU device, whose limits are not lowered, for machines
/// without an adapter (tools/test_architectures).
pub fn engine_with(options: &DeviceOptions, restrict: impl FnOnce(&mut Profile)) -> Arc<Engine> {
    let mut options = options.clone();
    if let Ok(name) = std::env::var("MIRAGE_TEST_ADAPTER") {
        if name == "cpu" {
            return cpu(DeviceOptions { family: Family::Auto, minimal: false, ..options });
        }
        options.adapter = AdapterChoice::Name(name);
    }
    let opened = Context::open(&options);
    let mut context = opened.expect("the tests need an adapter: install mesa-vulkan-drivers");
    context.restrict(restrict);
    Engine::new(context)
}

/// Opens the CPU device for one test.
pub fn cpu(options: DeviceOptions) -> Arc<Engine> {
    Engine::open(&DeviceOptions { adapter: AdapterChoice::Cpu, ..options }).unwrap()
}

/// Returns the device of [`engine`] and the CPU device, for tests that run on both.
pub fn both_devices() -> [Arc<Engine>; 2] {
    [engine(Family::Auto), cpu(DeviceOptions::default())]
}

/// Returns the ops whose names contain the environment variable `KERNEL`; all ops if it is not set.
pub fn chosen_ops() -> Vec<&'static Entry> {
    let filter = std::env::var("KERNEL").unwrap_or_default();
    let chosen: Vec<_> = REGISTRY.iter().filter(|entry| entry.name.contains(&filter)).collect();
    assert!(!chosen.is_empty(), "no op has {filter} in its name");
    chosen
}

/// Records a check skipped because this machine lacks something. `tools/test` lists these at its end, since the output
/// of passing tests is not shown.
pub fn not_run(what: &str) {
    println!("NOT run: {what}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("not-run");
    // The file may not be writable, as in the chroots of tools/test_drivers. Then only the printed line remains.
    if let Ok(mut file) = File::options().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{what}\n").as_bytes());
    }
}

/// Creates a convolution filter with He-scaled random weights. Equal sizes give equal weights.
pub fn filter(out_channels: usize, in_channels: usize, kernel: [usize; 2]) -> Arc<Filter> {
    let fan_in = in_channels * kernel[0] * kernel[1];
    let values = move |count: usize, seed: u64| -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let values = CaseInput::Normal.draw(Shape::Vector(count), &mut random);
        values.iter().map(|value| value * (2.0 / fan_in as f32).sqrt()).collect()
    };
    Arc::new(Filter {
        id: format!("test {out_channels}x{in_channels}x{kernel:?}"),
        out_channels,
        in_channels,
        kernel,
        weights: Arc::new(move || Ok(values(out_channels * fan_in, 7))),
        bias: Arc::new(move || Ok(values(out_channels, 11))),
    })
}

/// Waits until fewer than two other tests use the device. With two, one prepares on the host while the other runs,
/// and memory suffices on machines with many cores.
pub fn turn() -> Turn {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    while *free == 0 {
        free = RETURNED.wait(free).unwrap_or_else(PoisonError::into_inner);
    }
    *free -= 1;
    Turn
}

static FREE: Mutex<u32> = Mutex::new(2);
static RETURNED: Condvar = Condvar::new();

/// A test's turn on the device, released on drop.
pub struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        RETURNED.notify_one();
    }
}

/// Fails unless the [`distance`] of `actual` from `expected` is at most `tolerance`.
pub fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    let distance = distance(actual, expected);
    let close = distance <= tolerance; // false for NaN
    if !close {
        let worst = actual.iter().zip(expected).enumerate().max_by(|(_, (a, e)), (_, (b, f))| {
            (f64::from(**a) - **e).abs().total_cmp(&(f64::from(**b) - **f).abs())
        });
        panic!(
            "{what}: distance {distance:.3e} exceeds {tolerance:.1e}; {} against {} values; worst (index, actual, expected): {worst:?}",
            actual.len(),
            expected.len()
        );
    }
}

/// Returns the relative L2 distance; infinity for NaN or different lengths.
pub fn relative_l2(actual: &[f32], expected: &[f64]) -> f64 {
    if actual.len() != expected.len() {
        return f64::INFINITY;
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut actual.iter().zip(expected).map(|(a, e)| f64::from(*a) - e));
    let result = difference / norm(&mut expected.iter().copied()).max(1e-30);
    if result.is_finite() { result } else { f64::INFINITY }
}

/// Returns a picture's values as planes, the order of the goldens.
pub fn planar(picture: &Picture) -> Vec<f32> {
    (0..3).flat_map(|channel| picture.rgb.iter().skip(channel).step_by(3).copied()).collect()
}

/// Draws random values of one kind.
pub fn draw(shape: Shape, kind: CaseInput, random: &mut impl Rng) -> Vec<f32> {
    kind.draw(shape, random)
}

/// Returns synthetic device profiles: each kernel family, the usual subgroup sizes, and WebGPU's minimum limits.
pub fn profiles() -> Vec<(String, Profile)> {
    // WebGPU's default limits, which every device supports.
    let minimal = Profile::minimal();
    let large = Profile {
        max_texture_side: 32_768,
        binding_alignment: 16,
        max_binding: 2 << 30,
        max_buffer: 4 << 30,
        max_workgroup_storage: 48 << 10,
        max_invocations: 1024,
        ..minimal.clone()
    };
    let mut profiles = Vec::new();
    for lanes in [4, 8, 16, 32, 64] {
        let profile =
            Profile { family: Family::Texture, software: true, lanes: Some(lanes), ..large.clone() };
        profiles.push((format!("texture {lanes}"), profile));
    }
    profiles
        .push(("buffer".to_owned(), Profile { family: Family::Buffer, lanes: Some(32), ..large.clone() }));
    profiles
        .push(("buffer without subgroups".to_owned(), Profile { family: Family::Buffer, ..minimal.clone() }));
    let half = Profile { family: Family::Buffer, precision: Precision::HalfWeights, ..minimal.clone() };
    profiles.push(("buffer with weights in f16".to_owned(), half));
    for side in [8, 16] {
        let coop_matrix = Some(CoopMatrix { side, lanes: 32 });
        let precision = Precision::Half;
        let profile = Profile { family: Family::Buffer, precision, coop_matrix, ..large.clone() };
        profiles.push((format!("buffer with matrices of {side}"), profile));
    }
    profiles.push(("naive".to_owned(), Profile { family: Family::Naive, ..large }));
    profiles.push(("minimal".to_owned(), minimal.clone()));
    profiles.push(("minimal software".to_owned(), Profile { software: true, ..minimal }));
    profiles
}
