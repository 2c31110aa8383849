// Fully connected layer y = W x + b, and the gradient W^T dy, for a chunk of consecutive rows of W.
//
// W is row-major, each row padded with zeros to whole 16-byte words. A word holds four columns in f32, or eight in f16
// (two per u32, the lower half first); arithmetic is f32 in both. The vectors are f32, padded with zeros to whole
// quads. Large matrices are split into chunks, one dispatch each, because a device limits the size of a binding.
// Forward, each chunk writes its own rows; backward, each adds to the result of the chunks before it.
//
// Mesa's software driver silently ends all loops of an invocation after 65535 iterations in total. The naive kernels
// come nearest: words of a row forward, rows of a chunk (see src/ops/linear/matrix.rs) backward.

const HALF: u32 = 0u;   // 1: weights are f16
const RELU: u32 = 0u;   // forward: rectify the result; backward: zero the upstream gradient where y <= 0
const GROUP: u32 = 64u; // invocations per workgroup
const ROWS: u32 = 8u;   // forward: rows per workgroup; chunks start at multiples of it
const QUADS: u32 = ROWS / 4u;
const SLICES: u32 = 4u; // backward: parts of the rows that a workgroup sums in parallel, a power of 2
const COLUMNS: u32 = GROUP / SLICES; // backward: invocations along the columns
const WORDS: u32 = 1u;  // backward: words of columns per invocation
const PARTIALS: u32 = GROUP * 2u;    // two quads per invocation: of rows forward, of columns backward

struct Params {
    rows: u32,         // of this chunk
    first: u32,        // first row of this chunk in W
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

// The first four columns of a word; an f32 word has only these.
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

// Each workgroup computes ROWS rows: its invocations stride over the columns, so that a row's words are read
// contiguously and one read of x serves all rows; then they add up their sums.
@compute @workgroup_size(GROUP)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = (group.y * groups.x + group.x) * ROWS;
    // Surplus workgroups have nothing to sum, but must reach the barriers.
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
            // Rows past the end repeat the last; their sums are not used.
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
            y = select(y, vec4<f32>(0.0), y < vec4<f32>(0.0)); // keeps NaN
        }
        // Only the matrix's last chunk can end within a quad; the rest is padding.
        let rows = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
        output[quad] = select(vec4<f32>(0.0), y, rows < vec4<u32>(params.rows));
    }
}

// Each invocation handles WORDS words of columns and loops over the rows; SLICES invocations split the rows of the same
// words and add up their sums.
@compute @workgroup_size(GROUP)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first_word = (group.y * groups.x + group.x) * (COLUMNS * WORDS) + local % COLUMNS;
    // Surplus workgroups have nothing to sum, but must reach the barriers.
    let rows = select(0u, params.rows, first_word - local % COLUMNS < params.words);
    var sums_low: array<vec4<f32>, WORDS>;
    var sums_high: array<vec4<f32>, WORDS>;
    for (var q = local / COLUMNS; q * 4u < rows; q += SLICES) {
        var d = upstream[params.first / 4u + q];
        if (RELU == 1u) {
            d = select(vec4<f32>(0.0), d, activation[params.first / 4u + q] > vec4<f32>(0.0));
        }
        // unroll
        for (var k = 0u; k < 4u; k++) {
            // After the last row d is zero padding, so any weights will do.
            let row = min(q * 4u + k, params.rows - 1u) * params.words;
            // unroll
            for (var w = 0u; w < WORDS; w++) {
                // Words past the last repeat it; their sums are not used.
                let word = weights[row + min(first_word + w * COLUMNS, params.words - 1u)];
                sums_low[w] += d[k] * low(word);
                if (HALF == 1u) {
                    sums_high[w] += d[k] * high(word);
                }
            }
        }
    }
    // unroll
    for (var w = 0u; w < WORDS; w++) {
        workgroupBarrier(); // reads of the previous word are done
        partial[local] = sums_low[w];
        partial[GROUP + local] = sums_high[w];
        for (var stride = GROUP / 2u; stride >= COLUMNS; stride /= 2u) {
            workgroupBarrier();
            if (local < stride) {
                partial[local] += partial[local + stride];
                partial[GROUP + local] += partial[GROUP + local + stride];
            }
        }
        // From here on each invocation accesses only its own elements, so no barrier is needed.
        let word = first_word + w * COLUMNS;
        if (local < COLUMNS && word < params.words) {
            let quad = select(word, word * 2u, HALF == 1u);
            add(quad, partial[local]);
            if (HALF == 1u && quad + 1u < params.column_quads) {
                add(quad + 1u, partial[GROUP + local]);
            }
        }
    }
}

// Adds this chunk's sum to a quad of dx.
fn add(quad: u32, value: vec4<f32>) {
    // The first chunk overwrites the old memory contents.
    if (params.first == 0u) {
        output[quad] = value;
    } else {
        output[quad] += value;
    }
}

// Naive kernel, the reference for those above: one invocation computes one quad of rows. (A single row would be unsafe:
// writing one component of a quad may touch the others.)
@compute @workgroup_size(64)
fn naive_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = ((group.y * groups.x + group.x) * 64u + local) * 4u;
    if (row >= params.rows) {
        return;
    }
    var sum = bias[(params.first + row) / 4u];
    for (var i = 0u; i < params.words; i++) {
        // unroll
        for (var r = 0u; r < 4u; r++) {
            if (row + r < params.rows) {
                let word = weights[(row + r) * params.words + i];
                if (HALF == 1u) {
                    sum[r] += dot(low(word), input[i * 2u]);
                    if (i * 2u + 1u < params.column_quads) {
                        sum[r] += dot(high(word), input[i * 2u + 1u]);
                    }
                } else {
                    sum[r] += dot(low(word), input[i]);
                }
            }
        }
    }
    if (RELU == 1u) {
        sum = select(sum, vec4<f32>(0.0), sum < vec4<f32>(0.0)); // keeps NaN
    }
    // Rows after the last are padding: their bias is zero, and nothing was added.
    output[(params.first + row) / 4u] = sum;
}

// Naive kernel of the gradient: one invocation computes one word of columns.
@compute @workgroup_size(64)
fn naive_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.words) {
        return;
    }
    var sum_low = vec4<f32>(0.0);
    var sum_high = vec4<f32>(0.0);
    for (var r = 0u; r < params.rows; r++) {
        let row = params.first + r;
        var d = upstream[row / 4u][row % 4u];
        if (RELU == 1u && !(activation[row / 4u][row % 4u] > 0.0)) {
            d = 0.0;
        }
        let word = weights[r * params.words + i];
        sum_low += d * low(word);
        if (HALF == 1u) {
            sum_high += d * high(word);
        }
    }
    if (HALF == 1u) {
        add(i * 2u, sum_low);
        if (i * 2u + 1u < params.column_quads) {
            add(i * 2u + 1u, sum_high);
        }
    } else {
        add(i, sum_low);
    }
}
