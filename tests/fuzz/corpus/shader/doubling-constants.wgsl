const A0 = array(1, 2);const A1 = array(A0, A0);
const A2 = array(A1, A1);
const A3 = array(A2, A2);
const A4 = array(A3, A3);
const A5 = array(A4, A4);
const A6 = array(A5, A5);
const A7 = array(A6, A6);
const A8 = array(A7, A7);
const A9 = array(A8, A8);
const A10 = array(A9, A9);
const A11 = array(A10, A10);
const A12 = array(A11, A11);
const A13 = array(A12, A12);
const A14 = array(A13, A13);
const A15 = array(A14, A14);
const A16 = array(A15, A15);
const A17 = array(A16, A16);
const A18 = array(A17, A17);
const A19 = array(A18, A18);
const A20 = array(A19, A19);
const A21 = array(A20, A20);
const A22 = array(A21, A21);
const A23 = array(A22, A22);
const A24 = array(A23, A23);
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() {
let a: f32 = A24[1][1][0][0]; y[0] = a;}