// Fully connected layer y = W x + b, and the gradient W^T dy, for a chunk of consecutive rows of W.
//
// W lies row by row, each row padded with zeros to whole 16-byte words. A word holds four columns in f32,
// or eight in f16 (two per u32, the lower half first); arithmetic is f32 in both. The vectors are f32,
// padded with zeros to whole quads. Large matrices come in chunks, one dispatch each, because a device
// binds only so many bytes at once; forward each chunk writes rows of its own, backward each adds to what
// the chunks before it wrote.

const HALF: u32 = 0u;   // 1: weights are f16
const RELU: u32 = 0u;   // forward: rectify the result; backward: mask the upstream gradient by y > 0
const GROUP: u32 = 64u; // invocations per workgroup
const ROWS: u32 = 8u;   // forward: rows per workgroup; chunks start at multiples of it
const QUADS: u32 = ROWS / 4u;
const SLICES: u32 = 4u; // backward: parts of the rows that a workgroup sums at the same time, a power of 2
const COLUMNS: u32 = GROUP / SLICES; // backward: words of columns per workgroup
const PARTIALS: u32 = GROUP * 2u;    // two quads per invocation: of rows forward, of columns backward

struct Params {
    rows: u32,         // of this chunk
    first: u32,        // row of W with which this chunk begins
    words: u32,        // per row
    column_quads: u32, // vec4 values of x or dx
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>; // x
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> activation: array<vec4<f32>>; // y
@group(0) @binding(4) var<storage, read> upstream: array<vec4<f32>>;   // dy
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

var<workgroup> partial: array<vec4<f32>, PARTIALS>;

// The first four columns of a word: all that an f32 word has.
fn low(word: vec4<u32>) -> vec4<f32> {
    if (HALF == 1u) {
        return vec4<f32>(unpack2x16float(word.x), unpack2x16float(word.y));
    }
    return bitcast<vec4<f32>>(word);
}

// The second four columns of an f16 word.
fn high(word: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(word.z), unpack2x16float(word.w));
}

// Each workgroup computes ROWS rows: its invocations stride over the columns, so that one row's words are
// read side by side and one read of x serves all rows, and then add up what they have.
@compute @workgroup_size(GROUP)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = (group.y * groups.x + group.x) * ROWS;
    // A surplus workgroup has nothing to sum, but may not leave: barriers follow.
    let words = select(0u, params.words, row < params.rows);
    var sums: array<f32, ROWS>;
    for (var i = local; i < words; i += GROUP) {
        var x = array<vec4<f32>, 2>();
        if (HALF == 1u) {
            x[0] = input[i * 2u];
            // The last word may reach past x by one quad, where its weights are zero.
            x[1] = input[min(i * 2u + 1u, params.column_quads - 1u)];
        } else {
            x[0] = input[i];
        }
        // unroll
        for (var r = 0u; r < ROWS; r++) {
            // Rows past the end repeat the last; their sums are dropped.
            let word = weights[min(row + r, params.rows - 1u) * params.words + i];
            sums[r] += dot(low(word), x[0]);
            if (HALF == 1u) {
                sums[r] += dot(high(word), x[1]);
            }
        }
    }
    // unroll
    for (var q = 0u; q < QUADS; q++) {
        partial[q * GROUP + local] = vec4<f32>(sums[q * 4u], sums[q * 4u + 1u], sums[q * 4u + 2u], sums[q * 4u + 3u]);
    }
    for (var stride = GROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            // unroll
            for (var q = 0u; q < QUADS; q++) {
                partial[q * GROUP + local] += partial[q * GROUP + local + stride];
            }
        }
    }
    workgroupBarrier();
    let first = row + local * 4u;
    if (local < QUADS && first < params.rows) {
        let quad = (params.first + first) / 4u;
        var y = partial[local * GROUP] + bias[quad];
        if (RELU == 1u) {
            y = max(y, vec4<f32>(0.0));
        }
        // Only the matrix's last chunk ends within a quad; what follows there is padding.
        let rows = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
        output[quad] = select(vec4<f32>(0.0), y, rows < vec4<u32>(params.rows));
    }
}

// Each invocation owns one word of columns and walks down the rows; SLICES invocations share the rows of
// one word and add up what they have.
@compute @workgroup_size(GROUP)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let word = (group.y * groups.x + group.x) * COLUMNS + local % COLUMNS;
    var sum_low = vec4<f32>(0.0);
    var sum_high = vec4<f32>(0.0);
    if (word < params.words) {
        for (var q = local / COLUMNS; q * 4u < params.rows; q += SLICES) {
            var d = upstream[params.first / 4u + q];
            if (RELU == 1u) {
                d = select(vec4<f32>(0.0), d, activation[params.first / 4u + q] > vec4<f32>(0.0));
            }
            // unroll
            for (var k = 0u; k < 4u; k++) {
                // Past the last row d is zero padding; any weights do.
                let weight = weights[min(q * 4u + k, params.rows - 1u) * params.words + word];
                sum_low += d[k] * low(weight);
                if (HALF == 1u) {
                    sum_high += d[k] * high(weight);
                }
            }
        }
    }
    partial[local] = sum_low;
    partial[GROUP + local] = sum_high;
    for (var stride = GROUP / 2u; stride >= COLUMNS; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            partial[local] += partial[local + stride];
            partial[GROUP + local] += partial[GROUP + local + stride];
        }
    }
    // After the tree each of these reads only what it wrote itself.
    if (local < COLUMNS && word < params.words) {
        let quad = select(word, word * 2u, HALF == 1u);
        var dx = partial[local];
        if (params.first > 0u) {
            dx += output[quad];
        }
        output[quad] = dx;
        if (HALF == 1u && quad + 1u < params.column_quads) {
            dx = partial[GROUP + local];
            if (params.first > 0u) {
                dx += output[quad + 1u];
            }
            output[quad + 1u] = dx;
        }
    }
}
