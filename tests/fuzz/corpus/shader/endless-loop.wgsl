@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() {
// unroll
for (var i = 0u; i < 4000000000u; i++) { y[0] += 1.0; }
}
