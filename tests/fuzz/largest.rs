//! Files that are as large as their readers take, and made of what takes the most memory.

use super::mutations::mend_png;
use serde_json::{Value, json};

/// The start, then as many copies as fit into `size` bytes with the end, then the end.
fn filled(start: &str, copy: &str, end: &str, size: usize) -> String {
    let count = size.saturating_sub(start.len() + end.len()) / copy.len();
    [start, &copy.repeat(count), end].concat()
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A network's header of empty tensors, and one of texts.
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

/// The checkpoint `saved` with a record of many values.
pub fn checkpoint(saved: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(*saved.first_chunk().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&saved[8..8 + length]).unwrap();
    header["__metadata__"]["options"] = filled("{\"seed\":[0", ",[]", "]}", (1 << 21) - 2 * length).into();
    safetensors(&header.to_string(), &saved[8 + length..])
}

/// The picture `png` with a record of many values before its own.
pub fn record(png: &[u8]) -> Vec<u8> {
    let text = filled("{\"seed\":[0", ",[]", "]}", 1 << 20);
    let data = [b"neural-mirage:options\0\0\0\0\0", text.as_bytes()].concat();
    let chunk = [&(data.len() as u32).to_be_bytes()[..], b"iTXt", &data, &[0; 4]].concat();
    let mut bytes = [&png[..33], &chunk, &png[33..]].concat();
    mend_png(&mut bytes);
    bytes
}

/// Names of classes, and a tuning cache.
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

/// Many short statements: the longest text, and as many words as are taken.
pub fn shader() -> Vec<Vec<u8>> {
    let start = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1) fn main() {\n";
    let statement = "y[0]+=1;";
    let texts = [1 << 20, 12_000 / 3 * statement.len()].map(|size| filled(start, statement, "}", size));
    texts.map(String::into_bytes).into()
}

/// Many dimensions.
pub fn npy() -> Vec<u8> {
    let header = filled("{'descr': '<f4', 'fortran_order': False, 'shape': (1", ",1", ")}\n", (1 << 14) - 12);
    [b"\x93NUMPY\x02\0", &(header.len() as u32).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat()
}
