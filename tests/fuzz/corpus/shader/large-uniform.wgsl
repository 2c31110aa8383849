@group(0) @binding(1) var<uniform> u: array<vec4<f32>, 4000000>;
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() {
y[0] = u[2].x;}