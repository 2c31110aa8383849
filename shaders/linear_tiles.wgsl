// Fully connected layer y = W x + b, and the gradient W^T dy, for a chunk of consecutive rows of W, read from storage
// textures: the texture family's kernel for software drivers, which load storage textures for all lanes at once and
// buffers lane by lane. Weights are f32.
//
// W is row-major in a linear texture of 8192 columns, each row padded with zeros to whole texels (four columns of W).
// The vectors are padded with zeros to whole quads. Forward, each chunk writes its own rows; backward, each adds to the
// result of the chunks before it. A workgroup is one subgroup.

const LANES: u32 = 8u; // the device's subgroup size
const ROWS: u32 = 8u;  // forward: rows per workgroup; chunks start at multiples of it
const QUADS: u32 = ROWS / 4u;
const WORDS: u32 = 4u; // backward: runs of LANES texels of columns per workgroup
const RELU: u32 = 0u;  // forward: rectify the result; backward: zero the upstream gradient where y <= 0

struct Params {
    rows: u32,  // of this chunk
    first: u32, // first row of this chunk in W
    words: u32, // texels per row
}

@group(0) @binding(0) var input: texture_storage_2d<rgba32float, read>; // x
@group(0) @binding(1) var weights: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var activation: texture_storage_2d<rgba32float, read>; // y
@group(0) @binding(4) var upstream: texture_storage_2d<rgba32float, read>;   // dy
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

// The lanes stride over the columns, so that one texel of x serves all rows, and then add up their sums.
@compute @workgroup_size(LANES)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let row = (group.y * groups.x + group.x) * ROWS;
    var sums: array<f32, ROWS>;
    for (var i = lane; i < params.words; i += LANES) {
        let x = textureLoad(input, vec2<u32>(i & 8191u, i >> 13u));
        // unroll
        for (var r = 0u; r < ROWS; r++) {
            // Rows past the end repeat the last; their sums are not used.
            let n = min(row + r, params.rows - 1u) * params.words + i;
            sums[r] += dot(textureLoad(weights, vec2<u32>(n & 8191u, n >> 13u)), x);
        }
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
        sums[r] = subgroupAdd(sums[r]);
    }
    // unroll
    for (var q = 0u; q < QUADS; q++) {
        let first = row + q * 4u;
        if (lane == q && first < params.rows) {
            let quad = (params.first + first) / 4u;
            var y = bias[quad] + vec4<f32>(sums[q * 4u], sums[q * 4u + 1u], sums[q * 4u + 2u], sums[q * 4u + 3u]);
            if (RELU == 1u) {
                y = select(y, vec4<f32>(0.0), y < vec4<f32>(0.0)); // keeps NaN
            }
            // Only the matrix's last chunk can end within a quad; the rest is padding.
            let rows = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
            output[quad] = select(vec4<f32>(0.0), y, rows < vec4<u32>(params.rows));
        }
    }
}

// Each lane handles WORDS texels of columns and loops over the rows, four at a time.
@compute @workgroup_size(LANES)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let first_word = (group.y * groups.x + group.x) * (LANES * WORDS) + lane;
    var sums: array<vec4<f32>, WORDS>;
    for (var q = 0u; q * 4u < params.rows; q++) {
        let at = params.first / 4u + q;
        let place = vec2<u32>(at & 8191u, at >> 13u);
        var d = textureLoad(upstream, place);
        if (RELU == 1u) {
            d = select(vec4<f32>(0.0), d, textureLoad(activation, place) > vec4<f32>(0.0));
        }
        // unroll
        for (var k = 0u; k < 4u; k++) {
            // After the last row d is zero padding, so any weights will do.
            let row = min(q * 4u + k, params.rows - 1u) * params.words;
            // unroll
            for (var w = 0u; w < WORDS; w++) {
                // Texels past the last repeat it; their sums are not used.
                let n = row + min(first_word + w * LANES, params.words - 1u);
                sums[w] += d[k] * textureLoad(weights, vec2<u32>(n & 8191u, n >> 13u));
            }
        }
    }
    // unroll
    for (var w = 0u; w < WORDS; w++) {
        let word = first_word + w * LANES;
        if (word < params.words) {
            var dx = sums[w];
            if (params.first > 0u) {
                dx += output[word];
            }
            output[word] = dx;
        }
    }
}
