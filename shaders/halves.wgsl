// Maps kept in 16 bits a value (see src/ops/halves.rs): `store` puts a map into a part of one that is kept so, `load` takes a
// part of it. Maps are bordered quads (see src/ops/core/shape.rs); a texel of the packed one holds two quads, the first in the
// upper bits. Row and column at which the part starts are values of `places`; a part that would reach beyond the map is
// moved back into it.

struct Params {
    height: u32, // of the whole
    width: u32,
    part_height: u32,
    part_width: u32,
    part_quads: u32,
    first: u32, // packed quad that is bound first
    quads: u32, // packed quads that are bound
    at: u32,    // index of the row in `places`; the column follows
}

@group(0) @binding(0) var<storage, read_write> whole: array<vec4<u32>>; // packed, to be changed
@group(0) @binding(1) var<storage, read> packed: array<vec4<u32>>;      // the same, to be read
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;           // the part, to be stored
@group(0) @binding(3) var<storage, read> places: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

// The upper half of the nearest value with 8 bits of precision; of two, the one with an even last bit. NaN stays NaN.
fn rounded(value: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(value);
    let last = (bits >> vec4<u32>(16u)) & vec4<u32>(1u);
    let is_nan = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    let near = select(bits + vec4<u32>(0x7fffu) + last, bits | vec4<u32>(0x400000u), is_nan);
    return near & vec4<u32>(0xffff0000u);
}

// Texel of a packed quad's pixel at these row and column of the part, counted with its border.
fn texel(quad: u32, row: u32, column: u32) -> u32 {
    let room = vec2<u32>(params.height - params.part_height, params.width - params.part_width);
    let start = min(vec2<u32>(u32(places[params.at]), u32(places[params.at + 1u])), room);
    return (quad * (params.height + 1u) + start.x + row) * (params.width + 1u) + start.y + column;
}

@compute @workgroup_size(64)
fn store(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i == 0u) {
        output[0] = vec4<f32>(0.0);
    }
    let pitch = params.part_width + 1u;
    let plane = (params.part_height + 1u) * pitch;
    let quad = i / plane;
    let n = i - quad * plane;
    let row = n / pitch;
    let column = n - row * pitch;
    if (quad >= params.quads || row == 0u || column == 0u) {
        return;
    }
    let upper = 2u * (params.first + quad);
    var word = rounded(x[upper * plane + n]);
    if (upper + 1u < params.part_quads) {
        word |= rounded(x[(upper + 1u) * plane + n]) >> vec4<u32>(16u);
    }
    whole[texel(quad, row, column)] = word;
}

@compute @workgroup_size(64)
fn load(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let pitch = params.part_width + 1u;
    let plane = (params.part_height + 1u) * pitch;
    let end = min(2u * (params.first + params.quads), params.part_quads);
    let i = 2u * params.first * plane + (group.y * groups.x + group.x) * 64u + local;
    // Behind the last quad follows one more row of border and a texel.
    let quad = i / plane;
    if (quad >= end && (end < params.part_quads || i >= end * plane + pitch + 1u)) {
        return;
    }
    let n = i - quad * plane;
    let row = n / pitch;
    let column = n - row * pitch;
    var value = vec4<f32>(0.0);
    if (quad < end && row > 0u && column > 0u) {
        let word = packed[texel(quad / 2u - params.first, row, column)];
        if (quad % 2u == 0u) {
            value = bitcast<vec4<f32>>(word & vec4<u32>(0xffff0000u));
        } else {
            value = bitcast<vec4<f32>>(word << vec4<u32>(16u));
        }
    }
    output[i] = value;
}
