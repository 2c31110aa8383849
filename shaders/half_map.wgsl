// Converts maps to half precision and back, and masks gradients by such maps. In half precision a texel has four f16 in
// two words. Maps are bordered quads (see src/ops/core/shape.rs); an invocation handles two texels, borders included.

const LARGEST: f32 = 65504.0;          // of f16
const SMALLEST: f32 = 0.00006103515625; // of normal f16; smaller ones may be flushed to zero

struct Params {
    count: u32, // texels
    first: u32, // unpack_to_texture: the first texel's index in the texture
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> packed: array<vec4<u32>>; // two texels
@group(0) @binding(2) var<storage, read_write> rounded: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var texels: texture_storage_2d<rgba32float, write>;
@group(0) @binding(5) var<uniform> params: Params;

fn index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * 64u + local;
}

// Rounds to f16 without losing the sign: no value becomes infinite or zero. Keeps NaN.
fn pack_texel(value: vec4<f32>) -> vec2<u32> {
    let largest = vec4<f32>(LARGEST);
    let smallest = vec4<f32>(SMALLEST);
    let zero = vec4<f32>(0.0);
    var kept = value;
    kept = select(kept, largest, kept > largest);
    kept = select(kept, -largest, kept < -largest);
    kept = select(kept, smallest, (kept > zero) & (kept < smallest));
    kept = select(kept, -smallest, (kept < zero) & (kept > -smallest));
    return vec2<u32>(pack2x16float(kept.xy), pack2x16float(kept.zw));
}

fn unpack_texel(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

@compute @workgroup_size(64)
fn pack(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (2u * i >= params.count) {
        return;
    }
    let first = pack_texel(input[2u * i]);
    // An odd last texel is followed by zeros.
    var second = vec2<u32>(0u);
    if (2u * i + 1u < params.count) {
        second = pack_texel(input[2u * i + 1u]);
    }
    rounded[i] = vec4<u32>(first, second);
}

@compute @workgroup_size(64)
fn unpack(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (2u * i >= params.count) {
        return;
    }
    let words = packed[i];
    output[2u * i] = unpack_texel(words.xy);
    if (2u * i + 1u < params.count) {
        output[2u * i + 1u] = unpack_texel(words.zw);
    }
}

fn store(n: u32, value: vec4<f32>) {
    textureStore(texels, vec2<u32>(n & 8191u, n >> 13u), value);
}

@compute @workgroup_size(64)
fn unpack_to_texture(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (2u * i >= params.count) {
        return;
    }
    let words = packed[i];
    store(params.first + 2u * i, unpack_texel(words.xy));
    if (2u * i + 1u < params.count) {
        store(params.first + 2u * i + 1u, unpack_texel(words.zw));
    }
}

// Zeroes the output, in place, where the packed map is not positive.
@compute @workgroup_size(64)
fn rectify(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (2u * i >= params.count) {
        return;
    }
    let words = packed[i];
    let zero = vec4<f32>(0.0);
    output[2u * i] = select(zero, output[2u * i], unpack_texel(words.xy) > zero);
    if (2u * i + 1u < params.count) {
        output[2u * i + 1u] = select(zero, output[2u * i + 1u], unpack_texel(words.zw) > zero);
    }
}
