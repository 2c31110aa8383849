// Fourth part of a step of L-BFGS: adds the new pair if its curvature is positive, and runs the two-loop recursion on
// dot products alone (vector-free L-BFGS): the direction is a linear combination of the projected gradient p and the
// rows of the rings, and this computes the factors. One workgroup; invocation j handles row j of the rings.
//
// inner: s_i . y_j (i not newer than j) in the first `rows` rows, y_i . y_j in the others.

const LINE_SEARCH: u32 = 1u;
const GROUP: u32 = 128u; // invocations, at least as many as rows

// Phases, see src/ops/lbfgs/mod.rs.
const FIRST: f32 = 1.0;
const PAIR: f32 = 2.0;
const RESTART: f32 = 4.0;

const CURVATURE: f32 = 1e-10; // smallest s . y of a pair

struct Params {
    rows: u32,   // rows of the rings
    stride: u32, // values per row of `inner`
}

@group(0) @binding(0) var<storage, read> products: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> control: array<vec4<f32>>; // the learning rate is the first value
@group(0) @binding(2) var<storage, read_write> inner: array<f32>;
@group(0) @binding(3) var<storage, read_write> scalars: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

var<workgroup> alphas: array<f32, GROUP>;  // by age
var<workgroup> weights: array<f32, GROUP>; // by age
var<workgroup> slopes: array<f32, GROUP>;

@compute @workgroup_size(GROUP)
fn recursion(@builtin(local_invocation_index) j: u32) {
    let rows = params.rows;
    let phase = scalars[0].x;
    let ring = scalars[1];
    var head = u32(ring.x);
    var pairs = u32(ring.y);
    var gamma = ring.z;
    let mine = products[min(j, rows - 1u)]; // s_j . p, s_j . y, y_j . p, y_j . y
    var skipped = 0.0;
    if (phase == PAIR) {
        let next = (head + 1u) % rows;
        let curvature = products[next].y;
        if (curvature > CURVATURE) {
            head = next;
            pairs = min(pairs + 1u, rows - 1u);
            gamma = curvature / products[next].w;
            if (j < rows) {
                inner[j * params.stride + head] = mine.y;
                inner[(rows + j) * params.stride + head] = mine.w;
                inner[(rows + head) * params.stride + j] = mine.w;
            }
        } else {
            skipped = 1.0;
        }
    }
    storageBarrier();
    workgroupBarrier();

    // s_j . q and y_j . q, where q is initially p.
    var along_s = mine.x;
    var along_y = mine.z;
    let age = (head + rows - min(j, rows - 1u)) % rows;
    let alive = j < rows && age < pairs;
    // Invocations beyond the ring read another row's values, which are not used.
    let own_s = min(j, rows - 1u) * params.stride;
    let own_y = (rows + min(j, rows - 1u)) * params.stride;
    let rho = 1.0 / select(1.0, inner[own_s + min(j, rows - 1u)], alive);
    // From the newest pair to the oldest.
    for (var a = 0u; a < rows; a++) {
        if (j < rows && age == a) {
            alphas[a] = select(0.0, rho * along_s, alive);
        }
        workgroupBarrier();
        let i = (head + rows - a) % rows;
        let alpha = alphas[a];
        if (alive && a < pairs) {
            along_y -= alpha * inner[own_y + i];
            if (age > a) {
                along_s -= alpha * inner[own_s + i];
            }
        }
    }
    along_y *= gamma;
    // From the oldest pair to the newest.
    for (var b = 0u; b < rows; b++) {
        let a = rows - 1u - b;
        if (j < rows && age == a) {
            weights[a] = select(0.0, alphas[a] - rho * along_y, alive);
        }
        workgroupBarrier();
        let i = (head + rows - a) % rows;
        if (alive && a < pairs && age < a) {
            along_y += weights[a] * inner[i * params.stride + min(j, rows - 1u)];
        }
    }
    var of_s = 0.0;
    var of_y = 0.0;
    if (alive) {
        of_s = -weights[age];
        of_y = gamma * alphas[age];
    }
    slopes[j] = of_s * mine.x + of_y * mine.z;
    workgroupBarrier();

    var slope = -gamma * scalars[2].z;
    for (var i = 0u; i < rows; i++) {
        slope += slopes[i];
    }
    let counts = scalars[3];
    let l1 = scalars[2].y;
    let square = scalars[2].z;
    // All invocations must have read the scalars before one writes them.
    storageBarrier();
    workgroupBarrier();
    if (phase != FIRST && phase != PAIR && phase != RESTART) {
        if (j == 0u) {
            output[0] = vec4<f32>(phase, 0.0, 0.0, 0.0);
        }
        return;
    }
    // A NaN slope is no descent either.
    let descends = (bitcast<u32>(slope) & 0x7f800000u) != 0x7f800000u && slope < 0.0;
    let restart = LINE_SEARCH == 1u && !descends && pairs > 0u;
    if (restart) {
        pairs = 0u;
        gamma = 1.0;
        of_s = 0.0;
        of_y = 0.0;
        slope = -square;
    }
    if (j < rows) {
        scalars[5u + j] = vec4<f32>(of_s, of_y, 0.0, 0.0);
    }
    if (j == 0u) {
        let short = phase == FIRST || (LINE_SEARCH == 1u && pairs == 0u);
        scalars[0].w = control[0].x / select(1.0, max(1.0, l1), short);
        scalars[1] = vec4<f32>(f32(head), f32(pairs), gamma, ring.w);
        scalars[2].w = slope;
        scalars[3] = counts + vec4<f32>(0.0, 0.0, select(0.0, 1.0, restart), skipped);
        scalars[4] = vec4<f32>(-gamma, 0.0, 0.0, 0.0);
        output[0] = vec4<f32>(phase, 0.0, 0.0, 0.0);
    }
}
