//! `mirage kernels run`: correct and wrong user kernels.

use crate::support::Place;
use assert_cmd::Command;
use neural_mirage::workbench::{Array, Element};
use std::path::PathBuf;

pub const SAXPY: &str = "
struct Params { a: f32, count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.count { y[id.x] = params.a * x[id.x] + y[id.x]; }
}
";

/// Each of 64 invocations sums its part of the input into workgroup memory, then a tree with barriers sums those.
pub const SUM: &str = "
override LANES: u32 = 64u;
var<workgroup> parts: array<f32, LANES>;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let at = group.x * LANES + lane;
    parts[lane] = select(0.0, x[min(at, arrayLength(&x) - 1u)], at < arrayLength(&x));
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if lane < step { parts[lane] += parts[lane + step]; }
    }
    if lane == 0u { sums[group.x] = parts[0]; }
}
";

pub const HISTOGRAM: &str = "
@group(0) @binding(0) var<storage, read> values: array<u32>;
@group(0) @binding(1) var<storage, read_write> bins: array<atomic<u32>, 16>;

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&values) { atomicAdd(&bins[values[id.x] % 16u], 1u); }
}
";

const MATMUL: &str = "
const INNER: u32 = 1u;
struct Size { rows: u32, columns: u32 }
@group(1) @binding(0) var<storage, read> a: array<f32>;
@group(1) @binding(3) var<storage, read> b: array<f32>;
@group(2) @binding(1) var<storage, read_write> c: array<f32>;
@group(3) @binding(0) var<uniform> size: Size;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.y >= size.rows || id.x >= size.columns { return; }
    var sum = 0.0;
    // unroll
    for (var k = 0u; k < INNER; k++) {
        sum += a[id.y * INNER + k] * b[k * size.columns + id.x];
    }
    c[id.y * size.columns + id.x] = sum;
}
";

pub fn array<T: bytemuck::NoUninit>(element: Element, shape: &[usize], values: &[T]) -> Array {
    let bytes = bytemuck::cast_slice(values).to_vec();
    assert_eq!(bytes.len(), shape.iter().product::<usize>() * element.size());
    Array { element, shape: shape.to_vec(), bytes }
}

/// Returns pseudo-random values between -1 and 1.
fn values(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|index| {
            let hash = (index + seed * 7919).wrapping_mul(2_654_435_761) ^ 0x5bd1_e995;
            (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

pub fn f32s(place: &Place, name: &str, shape: &[usize], values: &[f32]) -> PathBuf {
    let path = place.path(name);
    array(Element::F32, shape, values).write_npy(&path, true).unwrap();
    path
}

pub fn command(place: &Place, words: &[&str]) -> Command {
    let mut command = place.mirage();
    command.args(["kernels", "run"]).args(words);
    command
}

/// Runs the command and returns its output. Checks the exit code.
#[track_caller]
pub fn run(place: &Place, code: i32, words: &[&str]) -> String {
    let output = command(place, words).arg("--overwrite").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words:?}\n{said}{errors}");
    said
}

/// Runs without a device. Checks for exit code 2, these words in the message, and no written files.
#[track_caller]
pub fn refuses(place: &Place, words: &[&str], parts: &[&str]) {
    let before = place.entries();
    let output = place.deviceless().args(["kernels", "run", "--overwrite"]).args(words).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words:?}: {message}");
    assert!(!message.contains("panicked") && !message.contains("mesa"), "{words:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{words:?}: no `{part}` in: {message}");
    }
    assert!(output.stdout.is_empty());
    assert_eq!(place.entries(), before);
}

#[test]
fn saxpy_binds_inputs_by_order_and_by_name() {
    let place = Place::new();
    place.file("saxpy kernel: 1.wgsl", SAXPY.as_bytes());
    let (x, y) = (values(1000, 1), values(1000, 2));
    f32s(&place, "an x: 1.npy", &[1000], &x);
    f32s(&place, "y.npy", &[1000], &y);
    let expected: Vec<f64> = x.iter().zip(&y).map(|(x, y)| 2.5 * f64::from(*x) + f64::from(*y)).collect();
    array(Element::F64, &[1000], &expected).write_npy(&place.path("ref.npy"), true).unwrap();
    for (words, out) in [
        (
            &["--input", "an x: 1.npy", "--input", "y.npy", "--output", "out 1.npy", "--params", "2.5,1000"]
                [..],
            "out 1.npy",
        ),
        (
            &[
                "--input",
                "y=y.npy",
                "--input",
                "x=an x: 1.npy",
                "--output",
                "y=out:2.npy:1000",
                "--params",
                "count=u32:1000,f32:2.5",
                "--entry",
                "main",
                "--repeat",
                "3",
            ],
            "out:2.npy",
        ),
    ] {
        let mut all =
            vec!["saxpy kernel: 1.wgsl", "--workgroups", "16", "--expect", "ref.npy", "--tolerance", "3e-7"];
        all.extend(words);
        let said = run(&place, 0, &all);
        assert!(
            said.contains("as expected y") && said.contains("ULP") && !said.contains("not written"),
            "{said}"
        );
        assert!(said.contains("x: array<f32>, read <- an x: 1.npy"), "{said}");
        assert_eq!(said.contains("B/s of 7.8 KiB bound"), words.contains(&"--repeat"), "{said}");
        // Timed runs also modify `y`: the written output must be that of the first run.
        let written = Array::read_npy(&place.path(out)).unwrap();
        assert_eq!((written.element, written.shape.as_slice()), (Element::F32, &[1000][..]));
        for (actual, expected) in written.widen().iter().zip(&expected) {
            assert!((actual - expected).abs() <= 4e-7, "{actual} {expected}");
        }
    }
}

#[test]
fn reduction_with_barriers_and_override() {
    let place = Place::new();
    place.file("sum.wgsl", SUM.as_bytes());
    let x = values(1000, 3);
    f32s(&place, "x.npy", &[10, 100], &x);
    for lanes in [64, 128] {
        let expected: Vec<f64> =
            x.chunks(lanes).map(|part| part.iter().map(|value| f64::from(*value)).sum()).collect();
        let groups = expected.len();
        array(Element::F64, &[groups], &expected).write_npy(&place.path("ref.npy"), true).unwrap();
        let (lanes, groups) = (format!("LANES={lanes}"), groups.to_string());
        // Seven steps of a tree, each rounding by 2^-24 of a sum of up to 128: 1e-6 is ample.
        let words =
            ["sum.wgsl", "--input", "x.npy", "--expect", "ref.npy", "--tolerance", "1e-6", "--const", &lanes];
        run(&place, 0, &[&words[..], &["--workgroups", &groups]].concat());
        // One workgroup too few: its sum is not written, and no tolerance accepts NaN.
        let fewer = (groups.parse::<u32>().unwrap() - 1).to_string();
        let mut words = [&words[..], &["--workgroups", &fewer]].concat();
        words[6] = "1e9";
        let said = run(&place, 1, &words);
        assert!(said.contains("FAILED sums") && said.contains("1 of "), "{said}");
    }
}

#[test]
fn atomic_histogram_in_u32() {
    let place = Place::new();
    place.file("histogram.wgsl", HISTOGRAM.as_bytes());
    let values: Vec<u32> = (0..997u32).map(|index| index.wrapping_mul(2_654_435_761) >> 20).collect();
    array(Element::U32, &[997], &values).write_npy(&place.path("values.npy"), true).unwrap();
    let mut bins = [0u32; 16];
    values.iter().for_each(|value| bins[*value as usize % 16] += 1);
    array(Element::U32, &[16], &bins).write_npy(&place.path("ref.npy"), true).unwrap();
    let words = ["histogram.wgsl", "--input", "values.npy", "--workgroups", "32", "--output", "bins=out.npy"];
    let expect = ["--input", "bins=zeros:16", "--expect", "ref.npy", "--repeat", "2"];
    run(&place, 0, &[&words[..], &expect].concat());
    assert_eq!(Array::read_npy(&place.path("out.npy")).unwrap(), array(Element::U32, &[16], &bins));
    // One in a million is too many: integers have no default tolerance.
    let start = [&[1_000_000u32][..], &[0; 15]].concat();
    array(Element::U32, &[16], &start).write_npy(&place.path("start.npy"), true).unwrap();
    bins[0] += 1_000_001;
    array(Element::U32, &[16], &bins).write_npy(&place.path("ref.npy"), true).unwrap();
    let late = ["--input", "bins=start.npy", "--expect", "ref.npy"];
    let said = run(&place, 1, &[&words[..], &late].concat());
    assert!(said.contains("FAILED bins") && said.contains("[0] is"), "{said}");
    run(&place, 0, &[&words[..], &late, &["--tolerance", "1e-5"]].concat());
    // Without zeros it counts from NaN bits, which a note explains.
    let said = run(&place, 0, &words);
    assert!(said.contains("--input bins=zeros:16"), "{said}");
}

#[test]
fn matrix_product_matches_f64_and_wrong_one_fails() {
    let place = Place::new();
    let (rows, inner, columns) = (13, 37, 11);
    let (a, b) = (values(rows * inner, 5), values(inner * columns, 6));
    f32s(&place, "a.npy", &[rows, inner], &a);
    f32s(&place, "b.npy", &[inner, columns], &b);
    let mut expected = vec![0.0; rows * columns];
    for (index, sum) in expected.iter_mut().enumerate() {
        let (row, column) = (index / columns, index % columns);
        *sum = (0..inner).map(|k| f64::from(a[row * inner + k]) * f64::from(b[k * columns + column])).sum();
    }
    array(Element::F64, &[rows, columns], &expected).write_npy(&place.path("ref.npy"), true).unwrap();
    place.file("matmul.wgsl", MATMUL.as_bytes());
    place.file(
        "wrong.wgsl",
        MATMUL.replace("k * size.columns + id.x", "k * size.columns + id.y % 11u").as_bytes(),
    );
    let words = ["--input", "a.npy", "--input", "b.npy", "--output", "c.npy:13x11", "--expect", "ref.npy"];
    let rest = ["--params", "13,11", "--const", "INNER=37", "--workgroups", "2,2", "--unroll"];
    let said = run(&place, 0, &[&["matmul.wgsl"], &words[..], &rest].concat());
    assert!(said.contains("as expected c"), "{said}");
    let said = run(&place, 1, &[&["wrong.wgsl"], &words[..], &rest].concat());
    assert!(said.contains("FAILED c") && said.contains("expected"), "{said}");
    // It is still written, so that it can be inspected.
    assert_eq!(Array::read_npy(&place.path("c.npy")).unwrap().shape, [rows, columns]);
    // A transposed reference has a different shape.
    let transposed = ["--expect", "b.npy", "--params", "13,11"];
    refuses(&place, &[&["matmul.wgsl"], &words[..6], &transposed].concat(), &["37x11", "13x11"]);
}

#[test]
fn unwritten_elements_and_writes_beyond_the_end_are_reported() {
    let place = Place::new();
    let kernel = "@group(0) @binding(0) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(1) fn even(@builtin(global_invocation_id) id: vec3<u32>) { y[2u * id.x] = id.x; }
        @compute @workgroup_size(1) fn all(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = id.x; }";
    place.file("y.wgsl", kernel.as_bytes());
    let words =
        |entry, groups, shape| ["y.wgsl", "--entry", entry, "--workgroups", groups, "--output", shape];
    let said = run(&place, 0, &words("even", "3", "y.npy:3x2"));
    assert!(said.contains("3 of 6 elements were not written, the first is [0, 1]"), "{said}");
    let said = run(&place, 1, &words("all", "7", "y.npy:6"));
    assert!(said.contains("FAILED y: the shader wrote beyond its end"), "{said}");
    let said = run(&place, 0, &words("all", "6", "y.npy:6"));
    assert!(!said.contains("not written") && !said.contains("beyond its end"), "{said}");
    assert_eq!(Array::read_npy(&place.path("y.npy")).unwrap().widen(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn vec3_struct_and_packed_f16_layouts() {
    let place = Place::new();
    let kernel = "
        struct Item { id: u32, at: vec3<f32> }
        @group(0) @binding(0) var<storage, read> points: array<vec3<f32>>;
        @group(0) @binding(1) var<storage, read> packed: array<u32>;
        @group(0) @binding(2) var<storage, read_write> moved: array<vec3<f32>>;
        @group(0) @binding(3) var<storage, read_write> items: array<Item>;
        @group(0) @binding(4) var<storage, read_write> wide: array<vec2<f32>>;
        @compute @workgroup_size(1)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            let i = id.x;
            moved[i] = points[i] + vec3(1.0, 2.0, 3.0);
            items[i].id = i + 7u;
            items[i].at = points[i];
            wide[i] = unpack2x16float(packed[i]);
        }";
    place.file("three.wgsl", kernel.as_bytes());
    let points = values(12, 4);
    f32s(&place, "points.npy", &[4, 3], &points);
    let halves: Vec<half::f16> = points[..8].iter().map(|value| half::f16::from_f32(*value)).collect();
    array(Element::F16, &[8], &halves).write_npy(&place.path("halves.npy"), true).unwrap();
    let words = ["three.wgsl", "--workgroups", "4", "--input", "points.npy", "--input", "halves.npy"];
    let outputs = ["--output", "moved.npy:4x3", "--output", "items.npy:128", "--output", "wide.npy:4x2"];
    let said = run(&place, 0, &[&words[..], &outputs].concat());
    assert!(said.contains("two f16 in each u32") && !said.contains("not written"), "{said}");
    let read = |name: &str| Array::read_npy(&place.path(name)).unwrap();
    let moved: Vec<f64> = points
        .iter()
        .enumerate()
        .map(|(index, value)| f64::from(value + [1.0, 2.0, 3.0][index % 3]))
        .collect();
    assert_eq!(read("moved.npy").widen(), moved);
    assert_eq!(read("wide.npy").widen(), halves.iter().map(|half| half.to_f64()).collect::<Vec<_>>());
    let items = read("items.npy");
    assert_eq!(items.element, Element::U8);
    assert_eq!(items.bytes[32..36], 8u32.to_le_bytes());
    assert_eq!(items.bytes[48..52], points[3].to_le_bytes());
    // All four words of each vector. The fourth is padding, which need not be written.
    let whole = ["--output", "moved=moved.npy:4x4", "--output", "items.npy:128", "--output", "wide.npy:4x2"];
    let said = run(&place, 0, &[&words[..], &whole].concat());
    assert!(!said.contains("not written"), "{said}");
    let rows = read("moved.npy").widen();
    assert_eq!(rows.chunks(4).flat_map(|row| row[..3].to_vec()).collect::<Vec<_>>(), moved);
    assert!(rows.chunks(4).all(|row| row[3].is_nan()));
}

#[test]
fn tensors_immediates_and_uniforms_of_several_kinds() {
    let place = Place::new();
    let kernel = "
        struct Inner { shift: i32, by: vec2<f32> }
        struct Params { scale: f32, @align(16) inner: Inner }
        @group(0) @binding(0) var<uniform> params: Params;
        @group(0) @binding(1) var<uniform> last: u32;
        @group(0) @binding(2) var<storage, read> w: array<f32>;
        @group(0) @binding(3) var<storage, read_write> y: array<f32>;
        var<immediate> add: vec2<f32>;
        @compute @workgroup_size(4)
        fn main(@builtin(local_invocation_index) i: u32) {
            y[i] = w[i] * params.scale + f32(params.inner.shift) * params.inner.by.y + add.y;
            if i == last { y[i] = add.x; }
        }";
    place.file("k.wgsl", kernel.as_bytes());
    let text = r#"{"conv.weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#;
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.as_bytes());
    file.extend(
        [1.5f32, -2.0, 0.25, 8.0].iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()),
    );
    place.file("a: net.safetensors", &file);
    let said = run(
        &place,
        0,
        &[
            "k.wgsl",
            "--input",
            "w=a: net.safetensors:conv.weight",
            "--output",
            "y.npy:2x2",
            "--params",
            "-2,i32:-3,f32:9,0.5,last=2,add.x=100,add.y=f32:10",
        ],
    );
    assert!(said.contains("bf16 widened to f32"), "{said}");
    // A uniform as raw bytes from a file.
    let block: Vec<u8> = [2f32.to_bits(), 0, 0, 0, 3, 0, 0, 0.5f32.to_bits()].map(u32::to_le_bytes).concat();
    array(Element::U8, &[block.len()], &block).write_npy(&place.path("block.npy"), true).unwrap();
    let words = ["k.wgsl", "--input", "w=random:4", "--input", "params=block.npy", "--output", "z.npy:4"];
    run(&place, 0, &[&words[..], &["--params", "9,0,0"]].concat());
    let y = Array::read_npy(&place.path("y.npy")).unwrap();
    assert_eq!(y.widen(), [-3.0 - 1.5 + 10.0, 4.0 - 1.5 + 10.0, 100.0, -16.0 - 1.5 + 10.0]);
}

#[test]
fn storage_textures_are_read_and_written() {
    let place = Place::new();
    let kernel = "
        @group(0) @binding(0) var source: texture_storage_2d<rgba32float, read>;
        @group(0) @binding(1) var flipped: texture_storage_2d<rgba32float, write>;
        @compute @workgroup_size(1)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            textureStore(flipped, id.xy, textureLoad(source, id.xy).wzyx);
        }";
    place.file("flip.wgsl", kernel.as_bytes());
    let texels = values(5 * 3 * 4, 8);
    f32s(&place, "from.npy", &[5, 3, 4], &texels);
    let words = ["flip.wgsl", "--input", "from.npy", "--output", "to.npy:5x3x4"];
    let said = run(&place, 0, &[&words[..], &["--workgroups", "3,5"]].concat());
    assert!(!said.contains("not written"), "{said}");
    let flipped: Vec<f64> =
        texels.chunks(4).flat_map(|texel| texel.iter().rev().map(|value| f64::from(*value))).collect();
    assert_eq!(Array::read_npy(&place.path("to.npy")).unwrap().widen(), flipped);
    let said = run(&place, 0, &[&words[..], &["--workgroups", "3,4"]].concat());
    assert!(said.contains("12 of 60 elements were not written, the first is [4, 0, 0]"), "{said}");
    refuses(&place, &["flip.wgsl", "--input", "from.npy", "--output", "to.npy:5x12"], &["HEIGHTxWIDTHx4"]);
    let one = "
        @group(0) @binding(0) var source: texture_storage_2d<r32uint, read>;
        @group(0) @binding(1) var<storage, read_write> sums: array<u32>;
        @compute @workgroup_size(1)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            for (var x = 0; x < 3; x++) { sums[id.x] += textureLoad(source, vec2(x, i32(id.x))).x; }
        }";
    place.file("one.wgsl", one.as_bytes());
    array(Element::U32, &[2, 3], &[1u32, 2, 3, 40, 50, 60])
        .write_npy(&place.path("counts.npy"), true)
        .unwrap();
    let words = [
        "one.wgsl",
        "--input",
        "counts.npy",
        "--input",
        "zeros:2",
        "--output",
        "sums.npy",
        "--workgroups",
        "2",
    ];
    run(&place, 0, &words);
    assert_eq!(Array::read_npy(&place.path("sums.npy")).unwrap().widen(), [6.0, 150.0]);
}

#[test]
fn half_precision_needs_device_support() {
    let place = Place::new();
    let kernel = "enable f16;
        @group(0) @binding(0) var<storage, read> x: array<f16>;
        @group(0) @binding(1) var<storage, read_write> y: array<f16>;
        @compute @workgroup_size(4) fn main(@builtin(local_invocation_index) i: u32) { y[i] = x[i] + 1.0h; }";
    place.file("half.wgsl", kernel.as_bytes());
    let x = [0.5f32, -2.0, 3.25, 100.0].map(half::f16::from_f32);
    array(Element::F16, &[4], &x).write_npy(&place.path("x.npy"), true).unwrap();
    let words = ["half.wgsl", "--input", "x.npy", "--output", "y.npy:4"];
    let output = command(&place, &words).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let y = Array::read_npy(&place.path("y.npy")).unwrap();
        assert_eq!((y.element, y.widen()), (Element::F16, vec![1.5, -1.0, 4.25, 101.0]));
    } else {
        assert!(message.contains("f16") && message.contains("--adapter"), "{message}");
    }
    // A minimal device has no f16. The message shows the shader's text.
    let output = command(&place, &words).args(["--minimal", "--overwrite"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("half.wgsl") && message.contains("enable f16;"), "{message}");
}

#[test]
fn structured_arrays_bind_to_structs() {
    let place = Place::new();
    let kernel = "
        struct Particle { at: vec2<f32>, by: vec2<f32> }
        @group(0) @binding(0) var<storage, read> p: array<Particle>;
        @group(0) @binding(1) var<storage, read_write> moved: array<Particle>;
        @compute @workgroup_size(1)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            moved[id.x] = Particle(p[id.x].at + p[id.x].by, p[id.x].by);
        }";
    place.file("move.wgsl", kernel.as_bytes());
    let structured = |name: &str, values: &[f32]| {
        let descr = "[('at', '<f4', (2,)), ('by', '<f4', (2,))]";
        let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (8,), }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        place.file(name, &bytes);
    };
    let mut particles = values(32, 9);
    structured("p.npy", &particles);
    for one in particles.chunks_mut(4) {
        (one[0], one[1]) = (one[0] + one[2], one[1] + one[3]);
    }
    structured("want.npy", &particles);
    let words = ["move.wgsl", "--input", "p.npy", "--expect", "want.npy", "--workgroups", "8"];
    let said = run(&place, 0, &words);
    assert!(said.contains("as expected moved") && !said.contains("not written"), "{said}");
    // In place and written to a file, with the element type of the members.
    place.file("move.wgsl", kernel.replace("storage, read>", "storage, read_write>").as_bytes());
    let output = ["--output", "p=out.npy", "--expect", "p=p.npy", "--expect", "moved=want.npy"];
    run(&place, 0, &[&words[..3], &words[5..], &output].concat());
    let out = Array::read_npy(&place.path("out.npy")).unwrap();
    assert_eq!((out.element, out.shape.as_slice()), (Element::F32, &[8, 4][..]));
    // A wrong number is detected and located.
    particles[5] += 1.0;
    structured("want.npy", &particles);
    let said = run(&place, 1, &[&words[..], &["--output", "moved=moved.npy"]].concat());
    assert!(said.contains("FAILED moved") && said.contains("[1, 1] is"), "{said}");
}
