// Packs a map as columns of f16 matrices for cooperative matrices (coop_products.wgsl, coop_gram.wgsl), and unpacks
// columns of sums to a map. A column has the channels of one matrix, ROW_QUADS quads per row, one row per texel. Values
// are multiplied by `scales[0]` (see half_scale.wgsl), sums by `scales[1]`. Maps are bordered quads (see
// src/ops/core/shape.rs).

const RELU: u32 = 0u;      // `unpack`: rectify the result
const ROW_QUADS: u32 = 4u; // quads per row of a matrix

struct Params {
    quads: u32,
    plane: u32, // texels per quad
    pitch: u32, // texels per row of the map
    front: u32, // `pack`: number of leading rows of zeros
    rows: u32,  // per column; `pack`: includes trailing rows of zeros
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> rows: array<vec2<u32>>; // a quad in f16
@group(0) @binding(2) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn pack(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    // Quad i in the order of the columns.
    let column = i / ROW_QUADS;
    let row = column % params.rows;
    let quad = column / params.rows * ROW_QUADS + i % ROW_QUADS;
    if (quad >= params.quads) {
        return;
    }
    var value = vec4<f32>(0.0);
    if (row >= params.front && row - params.front < params.plane) {
        value = input[quad * params.plane + row - params.front] * scales[0];
    }
    rows[i] = vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw));
}

@compute @workgroup_size(64)
fn unpack(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let quad = min(i / params.plane, params.quads - 1u);
    let n = i - quad * params.plane;
    // The closing border follows the last quad's plane.
    if (n > params.plane + params.pitch) {
        return;
    }
    var value = vec4<f32>(0.0);
    if (n < params.plane && n >= params.pitch && n % params.pitch != 0u) {
        let at = (quad / ROW_QUADS * params.rows + n) * ROW_QUADS + quad % ROW_QUADS;
        value = sums[at] * scales[1] + bias[quad];
        if (RELU == 1u) {
            value = select(value, vec4<f32>(0.0), value < vec4<f32>(0.0)); // keeps NaN
        }
    }
    output[i] = value;
}
