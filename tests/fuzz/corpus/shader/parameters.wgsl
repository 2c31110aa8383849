enable f16;
struct Params { a: f32, count: u32, matrix: mat3x2<f32>, list: array<vec4<i32>, 3> }
override LANES: u32 = 64u;
@id(7) override SCALE: f32 = 2.0;
const SIZE: u32 = 4u;
var<workgroup> parts: array<f32, LANES>;
var<immediate> step: u32;
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f16>;
@group(0) @binding(2) var<storage, read_write> bins: array<atomic<u32>, 16>;
@group(1) @binding(0) var image: texture_storage_2d<rgba32float, write>;
@compute @workgroup_size(LANES, SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    parts[lane] = SCALE * f32(x[min(id.x, arrayLength(&x) - 1u)]);
    workgroupBarrier();
    // unroll
    for (var i = 0u; i < 4u; i++) { atomicAdd(&bins[i], params.count + step); }
    textureStore(image, vec2<i32>(id.xy), vec4<f32>(parts[lane]));
}
