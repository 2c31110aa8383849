// Total variation of a map, half the sum of squared differences, and its gradient. Differences to the
// right and below are taken at all pixels but those of the last row and column. Maps are bordered quads
// (see src/ops/core/shape.rs); their zero borders are no pixels and take no part.

const TERMS: u32 = 8u; // texels that an invocation of `forward` adds up

struct Params {
    height: u32,
    width: u32,
    quads: u32,
    texels: u32,   // of the whole map, closing border included
    partials: u32, // forward: numbers written, a multiple of the workgroup size
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> upstream: array<vec4<f32>>; // one number
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

struct Place {
    row: u32,    // 1 to height, 0 on the border
    column: u32, // 1 to width, 0 on the border
}

// Texels of the closing border get column 0 or row 0 too: they continue the pattern of planes.
fn place(i: u32) -> Place {
    let pitch = params.width + 1u;
    let n = i % ((params.height + 1u) * pitch);
    let row = n / pitch;
    return Place(row, n - row * pitch);
}

// Each invocation leaves one partial sum; sum.wgsl does the rest.
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.partials) {
        return;
    }
    var sum = vec4<f32>(0.0);
    // A workgroup reads one stretch, neighbouring invocations neighbouring texels.
    let start = (i - local) * TERMS + local;
    for (var k = 0u; k < TERMS; k++) {
        let n = start + k * 64u;
        let at = place(n);
        if (n < params.texels && at.row > 0u && at.row < params.height && at.column > 0u && at.column < params.width) {
            let here = input[n];
            let dx = input[n + 1u] - here;
            let dy = input[n + params.width + 1u] - here;
            sum += dx * dx + dy * dy;
        }
    }
    sums[i] = (sum.x + sum.y) + (sum.z + sum.w);
}

// One invocation computes one texel: what its pixel adds to its own term, its left neighbour's and that
// of the pixel above.
@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let n = (group.y * groups.x + group.x) * 64u + local;
    if (n >= params.texels) {
        return;
    }
    let at = place(n);
    var sum = vec4<f32>(0.0);
    if (at.row > 0u && at.column > 0u) {
        let pitch = params.width + 1u;
        let here = input[n];
        if (at.row < params.height && at.column < params.width) {
            sum += (here - input[n + 1u]) + (here - input[n + pitch]);
        }
        if (at.row < params.height && at.column > 1u) {
            sum += here - input[n - 1u];
        }
        if (at.row > 1u && at.column < params.width) {
            sum += here - input[n - pitch];
        }
    }
    output[n] = sum * upstream[0].x;
}
