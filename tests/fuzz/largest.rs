//! Files of the largest size that their readers accept, filled with the content that needs the most memory.

use super::mutations::mend_png;
use serde_json::{Value, json};

/// Returns `start`, as many copies of `copy` as fit, and `end`, at most `size` bytes in all.
fn filled(start: &str, copy: &str, end: &str, size: usize) -> String {
    let count = size.saturating_sub(start.len() + end.len()) / copy.len();
    [start, &copy.repeat(count), end].concat()
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Networks whose headers consist of empty tensors, and of texts.
pub fn weights() -> Vec<Vec<u8>> {
    const SIZE: usize = (1 << 21) - 8;
    let tensor = |n: usize| format!("\"{n}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    let tensors: Vec<String> = (0..SIZE / 60).map(tensor).collect();
    let texts: Vec<String> = (0..SIZE / 12).map(|n| format!("\"{n}\":\"\"")).collect();
    let sides = filled(
        "{\"conv1_1.weight\":{\"dtype\":\"F32\",\"shape\":[0",
        ",0",
        "],\"data_offsets\":[0,0]}}",
        SIZE,
    );
    let headers = [
        format!("{{{}}}", tensors.join(",")),
        format!("{{\"__metadata__\":{{{}}}}}", texts.join(",")),
        sides,
    ];
    headers.iter().map(|header| safetensors(header, b"")).collect()
}

/// The checkpoint `saved` with a record of very many values.
pub fn checkpoint(saved: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(*saved.first_chunk().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&saved[8..8 + length]).unwrap();
    header["__metadata__"]["options"] = filled("{\"seed\":[0", ",[]", "]}", (1 << 21) - 2 * length).into();
    safetensors(&header.to_string(), &saved[8 + length..])
}

/// The picture `png` with a record of very many values in front of its own.
pub fn record(png: &[u8]) -> Vec<u8> {
    let text = filled("{\"seed\":[0", ",[]", "]}", 1 << 20);
    let data = [b"neural-mirage:options\0\0\0\0\0", text.as_bytes()].concat();
    let chunk = [&(data.len() as u32).to_be_bytes()[..], b"iTXt", &data, &[0; 4]].concat();
    let mut bytes = [&png[..33], &chunk, &png[33..]].concat();
    mend_png(&mut bytes);
    bytes
}

/// A file of class names, and a tuning cache.
pub fn configuration() -> Vec<Vec<u8>> {
    const SIZE: usize = 1 << 22;
    let entry = json!({
        "adapter": { "backend": "vulkan", "vendor": 1, "device": 2, "name": "a device", "driver": "driver 1.0" },
        "exact": false, "precision": "single", "op": "conv", "form": [], "channels": [], "sizes": [7], "content": "",
        "variant": "", "seconds": [],
    });
    let cache = json!({ "format": 3, "program": "", "entries": [entry] }).to_string();
    let (start, end) = cache.split_once("[7]").unwrap();
    let cache = filled(&format!("{start}[7"), ",7", &format!("]{end}"), SIZE);
    vec![filled("", "\n", "a", SIZE).into_bytes(), cache.into_bytes()]
}

/// Many short statements: the longest accepted text, and the largest accepted number of words.
pub fn shader() -> Vec<Vec<u8>> {
    let start = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1) fn main() {\n";
    let statement = "y[0]+=1;";
    let texts = [1 << 20, 12_000 / 3 * statement.len()].map(|size| filled(start, statement, "}", size));
    texts.map(String::into_bytes).into()
}

/// An array of very many dimensions.
pub fn npy() -> Vec<u8> {
    let header = filled("{'descr': '<f4', 'fortran_order': False, 'shape': (1", ",1", ")}\n", (1 << 14) - 12);
    [b"\x93NUMPY\x02\0", &(header.len() as u32).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat()
}

/// Progressive JPEGs of the largest size with 2:1 chroma: one without data, one with the DC values of all blocks and 98
/// empty AC scans, one with 98 empty refinement scans, one with thousands of scans.
pub fn jpeg() -> Vec<Vec<u8>> {
    const SIDE: u16 = 1 << 14;
    const BLOCKS: usize = 1 << 20;
    let segment = |marker: u8, data: &[u8]| {
        [&[0xff, marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat()
    };
    let table = |class: u8, symbol: u8| segment(0xc4, &[&[class, 1][..], &[0; 15], &[symbol]].concat());
    let [high, low] = SIDE.to_be_bytes();
    let frame = [8, high, low, high, low, 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0];
    // The minimum number of bytes required of a picture of this size.
    let filling = segment(0xfe, &[0; 60_000]).repeat(5);
    let quantization = segment(0xdb, &[&[0][..], &[1; 64]].concat());
    // The only codes, of one zero bit: an unchanged DC value, and an end-of-band run of 16384 blocks plus 14 bits.
    let tables = [table(0, 0), table(0x10, 0xe0)].concat();
    let start = [b"\xff\xd8", &filling[..], &quantization, &segment(0xc2, &frame), &tables].concat();
    let means = [&segment(0xda, &[3, 1, 0, 2, 0, 3, 0, 0, 0, 1])[..], &[0; BLOCKS * 6 / 8]].concat();
    let run = [0; (BLOCKS / 16_384 * 15).div_ceil(8)];
    let scan = |component: u8, approximation: u8| {
        [&segment(0xda, &[1, component, 0, 1, 63, approximation])[..], &run].concat()
    };
    let scans = |count: usize, approximation: u8| {
        (0..count).flat_map(|n| scan(2 + (n % 2) as u8, approximation)).collect::<Vec<u8>>()
    };
    [vec![], [means.clone(), scans(98, 1)].concat(), [means, scans(98, 0x10)].concat(), scans(5000, 1)]
        .map(|content| [&start[..], &content, b"\xff\xd9"].concat())
        .into()
}
