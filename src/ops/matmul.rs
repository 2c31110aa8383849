//! Product of two matrices.

use super::product::{MatrixRef, product_of_rows};
use super::shape::{mismatch, takes};
use super::{
    Adjoint, AdjointOperand, Case, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature, TEXTURE_WIDTH,
};
use crate::error::Result;
use crate::gpu::{Family, Profile};

/// Quads of rows and of columns per lane in `matmul_tiles.wgsl`.
const TALL: usize = 2;
const WIDE: usize = 2;
/// Fewer large blocks than this leave cores of a GPU idle (it has 20 to 150).
const ENOUGH: usize = 128;

/// `D = A B`. Inputs: A and B, matrices, each optionally transposed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MatMul {
    /// For each input, true to use its transpose.
    pub transposed: [bool; 2],
}

/// Rows and columns of a matrix.
fn sizes(shape: Shape) -> Result<[usize; 2]> {
    match shape {
        Shape::Matrix { rows, columns } => Ok([rows, columns]),
        _ => Err(takes("matmul", "matrices", shape)),
    }
}

/// Block sizes of a workgroup in `matmul_blocks.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    variant: &'static str,
    /// Quads of rows and of columns.
    side: usize,
    /// Quads of depth per step.
    depth: usize,
}

/// 256 invocations for 64 x 64 values, 8.5 KiB.
const LARGE: Tile = Tile { variant: "buffer", side: 16, depth: 4 };
/// Four times as many workgroups of 64 invocations, with half as many steps, 9 KiB.
const SMALL: Tile = Tile { variant: "buffer_small", side: 8, depth: 8 };

/// Epilogue of a product: stores `scale * A B + plus * M` with M another matrix or, without `other`, the identity.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    pub scale: f32,
    pub plus: f32,
    pub other: Option<Operand>,
}

/// Adds the epilogue to a product's dispatch.
fn finished(dispatch: Dispatch, finish: Option<Finish>) -> Dispatch {
    let form = match &finish {
        None => 0,
        Some(Finish { other: None, .. }) => 1,
        Some(Finish { other: Some(_), .. }) => 2,
    };
    let Finish { scale, plus, other } = finish.unwrap_or(Finish { scale: 1.0, plus: 0.0, other: None });
    let dispatch = dispatch.consts(&[("FINISH", form)]).float("scale", scale).float("plus", plus);
    match other {
        Some(other) => dispatch.bind("other", other),
        None => dispatch,
    }
}

/// Implementation of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `matmul_tiles.wgsl` with this subgroup size.
    Texture(usize),
    /// `matmul_blocks.wgsl`.
    Buffer(Tile),
    /// `matmul.wgsl`.
    Naive,
}

impl Form {
    /// Implementations that this device supports for matrices of these shapes and a product of these rows and columns,
    /// the preferred first and the naive one last.
    pub(super) fn choices(matrices: &[Shape], product: [usize; 2], device: &Profile) -> Vec<Self> {
        let mut forms = Vec::new();
        if let Some(lanes) = device.lanes {
            let rows = |shape: &Shape| (shape.stored() / 4).div_ceil(TEXTURE_WIDTH as usize);
            let fits = lanes.is_power_of_two()
                && (4..=64).contains(&lanes)
                && TEXTURE_WIDTH <= device.max_texture_side
                && matrices.iter().all(|shape| rows(shape) <= device.max_texture_side as usize);
            if device.prefers(Family::Texture) && fits {
                forms.push(Self::Texture(lanes as usize));
            }
        }
        if device.prefers(Family::Buffer) {
            let tiles: usize = product.iter().map(|size| size.div_ceil(4 * LARGE.side)).product();
            let tiles = if tiles < ENOUGH { [SMALL, LARGE] } else { [LARGE, SMALL] };
            forms.extend(tiles.map(Self::Buffer));
        }
        forms.push(Self::Naive);
        forms
    }

    /// Name of the kernel variant.
    pub(super) fn variant(self) -> &'static str {
        match self {
            Self::Texture(_) => "texture",
            Self::Buffer(tile) => tile.variant,
            Self::Naive => "naive",
        }
    }

    /// Dispatch of a product of these operands and shapes.
    pub(super) fn dispatch(
        self,
        op: MatMul,
        operands: [Operand; 2],
        shapes: [[usize; 2]; 2],
        output: Operand,
        finish: Option<Finish>,
        device: &Profile,
    ) -> Dispatch {
        let [[a_rows, a_columns], [b_rows, b_columns]] = shapes;
        let [rows, depth] = if op.transposed[0] { [a_columns, a_rows] } else { [a_rows, a_columns] };
        let columns = if op.transposed[1] { b_rows } else { b_columns };
        let quads = columns.div_ceil(4);
        let [a, b] = operands;
        let shader = match self {
            Self::Texture(_) => "matmul_tiles",
            Self::Buffer(_) => "matmul_blocks",
            Self::Naive => "matmul",
        };
        let dispatch = Dispatch::new(shader, "forward")
            .consts(&[
                ("TRANSPOSE_A", u32::from(op.transposed[0])),
                ("TRANSPOSE_B", u32::from(op.transposed[1])),
            ])
            .bind("output", output)
            .size("rows", rows)
            .size("depth", depth)
            .size("a_rows", a_rows)
            .size("a_quads", a_columns.div_ceil(4))
            .size("b_rows", b_rows)
            .size("b_quads", b_columns.div_ceil(4))
            .size("quads", quads)
            .loops(depth.div_ceil(4));
        let dispatch = finished(dispatch, finish);
        let row_quads = rows.div_ceil(4);
        match self {
            Self::Texture(lanes) => {
                let strips = quads.div_ceil(lanes * WIDE);
                dispatch
                    .consts(&[("LANES", lanes as u32), ("TALL", TALL as u32), ("WIDE", WIDE as u32)])
                    .bind("a", a.staged_in(0))
                    .bind("b", b.staged_in(1))
                    .size("strips", strips)
                    .linear(row_quads.div_ceil(TALL) * strips, 1, device)
            }
            Self::Buffer(Tile { side, depth, .. }) => {
                let strips = quads.div_ceil(side);
                dispatch
                    .consts(&[("SIDE", side as u32), ("DEPTH", depth as u32)])
                    .bind("a", a)
                    .bind("b", b)
                    .size("strips", strips)
                    .linear(row_quads.div_ceil(side) * strips, 1, device)
            }
            Self::Naive => dispatch.bind("a", a).bind("b", b).linear(row_quads * quads, 64, device),
        }
    }
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let ([mut rows, mut depth], [mut other, mut columns]) = (sizes(inputs[0])?, sizes(inputs[1])?);
        if self.transposed[0] {
            [rows, depth] = [depth, rows];
        }
        if self.transposed[1] {
            [other, columns] = [columns, other];
        }
        if depth != other {
            let message =
                format!("{} and {} don't match, transposed: {:?}", inputs[0], inputs[1], self.transposed);
            return Err(mismatch("matmul", &message));
        }
        Ok(Shape::Matrix { rows, columns })
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let shapes = [sizes(signature.inputs[0])?, sizes(signature.inputs[1])?];
        let kernel = |form: Form| {
            let operands = [Operand::Input(0), Operand::Input(1)];
            let dispatch = form.dispatch(*self, operands, shapes, Operand::Output, None, device);
            Kernel::single(form.variant(), dispatch)
        };
        Ok(Form::choices(&signature.inputs, sizes(signature.output)?, device)
            .into_iter()
            .map(kernel)
            .collect())
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let shapes = [sizes(signature.inputs[0])?, sizes(signature.inputs[1])?];
        let transposed = self.transposed;
        Ok(CpuKernel::new(move |call| {
            let [a, b] = [0, 1].map(|index: usize| {
                let [rows, columns] = shapes[index];
                let matrix = MatrixRef::stored(call.inputs[index], rows, columns);
                if transposed[index] { matrix.transposed() } else { matrix }
            });
            product_of_rows(a, b, call.output);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let wide = [0, 1].map(|index: usize| {
            let [rows, columns] = sizes(shapes[index]).expect("a matrix");
            if self.transposed[index] {
                ([columns, rows], transpose(inputs[index], rows, columns))
            } else {
                ([rows, columns], inputs[index].to_vec())
            }
        });
        let [([rows, depth], a), ([_, columns], b)] = wide;
        multiply(&a, &b, [rows, depth, columns])
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        let [a, b] = self.transposed;
        let (own, other) = (AdjointOperand::Upstream, AdjointOperand::Input(1 - input));
        let (transposed, operands) = match (input, self.transposed[input]) {
            (0, false) => ([false, !b], [own, other]),
            (0, true) => ([b, true], [other, own]),
            (_, false) => ([!a, false], [other, own]),
            (_, true) => ([true, a], [own, other]),
        };
        Adjoint::new(Self { transposed }, &operands)
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let depth = sizes(signature.inputs[0]).map_or(
            0,
            |[rows, columns]| {
                if self.transposed[0] { rows } else { columns }
            },
        );
        2 * (signature.output.elements() * depth) as u64
    }
}

/// Transpose of a matrix in logical order.
fn transpose(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Product in f64; sizes are rows, depth, columns.
pub(super) fn multiply(a: &[f64], b: &[f64], [rows, depth, columns]: [usize; 3]) -> Vec<f64> {
    let mut product = vec![0.0; rows * columns];
    for row in 0..rows {
        for k in 0..depth {
            let factor = a[row * depth + k];
            for column in 0..columns {
                product[row * columns + column] += factor * b[k * columns + column];
            }
        }
    }
    product
}

/// f32 sums of at most 150 products of both signs: roundings of 6e-8 of partial sums no larger than the result, 6e-8 *
/// sqrt(150) = 7e-7 of the largest value.
const TOLERANCE: f64 = 1.5e-6;

pub(super) fn cases() -> Vec<Case> {
    // Rows, depth, columns: tiny, prime, and more than a tile of each family in each direction.
    let sizes = [[1, 1, 1], [3, 7, 5], [4, 4, 4], [67, 9, 2], [5, 131, 66], [70, 13, 137]];
    let flags = [[false, false], [true, false], [false, true], [true, true]];
    let case = |[rows, depth, columns]: [usize; 3], transposed: [bool; 2]| {
        let shape = |transposed, rows, columns| {
            if transposed {
                Shape::Matrix { rows: columns, columns: rows }
            } else {
                Shape::Matrix { rows, columns }
            }
        };
        let inputs = [shape(transposed[0], rows, depth), shape(transposed[1], depth, columns)];
        Case::normal(MatMul { transposed }, &inputs, TOLERANCE)
    };
    sizes.into_iter().flat_map(|sizes| flags.map(|flags| case(sizes, flags))).collect()
}
