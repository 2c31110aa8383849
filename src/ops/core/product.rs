//! Matrix products in f32 by the crate `gemm`. The only file of the CPU kernels with `unsafe`: the crate takes pointers
//! and strides, which are checked here.

use super::shape::Shape;
use gemm::Parallelism;
use rayon::prelude::*;

/// Most row blocks that [`product_of_rows`] computes in parallel, and fewest rows per block.
const BLOCKS: usize = 8;
const BLOCK_ROWS: usize = 32;
/// Rows per block of [`symmetric_product`]. Elements left of a block's diagonal part are not computed.
const SYMMETRIC_ROWS: usize = 64;

/// A matrix in a slice: element `(r, c)` is at `r * strides[0] + c * strides[1]`.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct MatrixRef<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    strides: [usize; 2],
}

impl<'a> MatrixRef<'a> {
    /// A row-major matrix with `stride` floats from one row to the next.
    pub(in crate::ops) fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { values, rows, columns, strides: [stride, 1] }
    }

    /// A stored tensor of shape [`Shape::Matrix`].
    pub(in crate::ops) fn stored(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::new(values, rows, columns, columns.next_multiple_of(4))
    }

    /// Transpose, without moving any values.
    pub(in crate::ops) fn transposed(self) -> Self {
        let [row, column] = self.strides;
        Self { rows: self.columns, columns: self.rows, strides: [column, row], ..self }
    }

    /// Rows `first..first + rows`.
    pub(in crate::ops) fn some_rows(self, first: usize, rows: usize) -> Self {
        let values = if rows == 0 { &[] } else { &self.values[first * self.strides[0]..] };
        Self { values, rows, ..self }
    }

    /// The first `columns` columns.
    pub(in crate::ops) fn first_columns(self, columns: usize) -> Self {
        debug_assert!(columns <= self.columns);
        Self { columns, ..self }
    }

    /// The columns starting at `first`.
    pub(in crate::ops) fn columns_from(self, first: usize) -> Self {
        debug_assert!(first <= self.columns);
        let values = if first == self.columns { &[] } else { &self.values[first * self.strides[1]..] };
        Self { values, columns: self.columns - first, ..self }
    }

    /// True if every element is inside the slice.
    fn fits(&self) -> bool {
        let last = |size: usize, stride: usize| (size - 1).checked_mul(stride);
        self.rows == 0
            || self.columns == 0
            || last(self.rows, self.strides[0])
                .zip(last(self.columns, self.strides[1]))
                .and_then(|(row, column)| row.checked_add(column))
                .is_some_and(|end| end < self.values.len())
    }
}

/// `C = factor * A B`, or `C += factor * A B` if `accumulate`, on the calling thread. C is row-major with `stride`
/// floats from one row to the next; values between the rows are unchanged.
///
/// # Panics
/// If the sizes don't match or a matrix is larger than its slice.
#[allow(unsafe_code, reason = "gemm takes pointers")]
pub(in crate::ops) fn product(
    a: MatrixRef<'_>,
    b: MatrixRef<'_>,
    c: &mut [f32],
    stride: usize,
    factor: f32,
    accumulate: bool,
) {
    assert_eq!(a.columns, b.rows, "the depth of a product");
    let (rows, columns) = (a.rows, b.columns);
    let whole = MatrixRef::new(c, rows, columns, stride).fits() && a.fits() && b.fits();
    assert!(whole && columns <= stride.max(1), "a product of {rows}x{columns} in memory");
    // A slice has at most isize::MAX bytes, so every offset below fits an isize, and so does every stride with more
    // than one row or column; gemm reads no other.
    let [[a_row, a_column], [b_row, b_column]] =
        [a.strides, b.strides].map(|strides| strides.map(|s| s as isize));
    // SAFETY: `fits` has checked that every element addressed by the sizes and strides is inside its slice. `c` is
    // borrowed mutably, so it overlaps neither input, and `columns <= stride` keeps its rows disjoint.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            a.columns,
            c.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Product of two matrices as a stored tensor of shape [`Shape::Matrix`], padding included. Blocks of rows are computed
/// in parallel; the block sizes depend only on the matrix.
pub(in crate::ops) fn product_of_rows(a: MatrixRef<'_>, b: MatrixRef<'_>, output: &mut [f32]) {
    let (rows, columns) = (a.rows, b.columns);
    let stride = columns.next_multiple_of(4).max(4);
    debug_assert_eq!(output.len(), Shape::Matrix { rows, columns }.stored());
    let block = rows.div_ceil(BLOCKS).next_multiple_of(8).max(BLOCK_ROWS);
    output.par_chunks_mut(block * stride).enumerate().for_each(|(index, part)| {
        part.chunks_exact_mut(stride).for_each(|row| row[columns..].fill(0.0));
        let rows = part.len() / stride;
        product(a.some_rows(index * block, rows), b, part, stride, 1.0, false);
    });
}

/// Product of two matrices that are symmetric, at least up to rounding, and commute. The product is symmetric too: only
/// its upper half is computed, and copied to the lower half, so the result is symmetric to the bit. All are stored
/// tensors of shape [`Shape::Matrix`]; `upper` is scratch memory of the same size. The block sizes depend only on the
/// matrix.
pub(in crate::ops) fn symmetric_product(
    [a, b]: [&[f32]; 2],
    side: usize,
    upper: &mut [f32],
    output: &mut [f32],
) {
    let stride = side.next_multiple_of(4).max(4);
    let stored = Shape::Matrix { rows: side, columns: side }.stored();
    debug_assert!([a.len(), b.len(), upper.len(), output.len()] == [stored; 4]);
    let [a, b] = [a, b].map(|values| MatrixRef::stored(values, side, side));
    upper.par_chunks_mut(SYMMETRIC_ROWS * stride).enumerate().for_each(|(index, part)| {
        let first = index * SYMMETRIC_ROWS;
        let rows = part.len() / stride;
        let columns = b.columns_from(first);
        product(a.some_rows(first, rows), columns, &mut part[first..], stride, 1.0, false);
    });
    mirror(upper, side, output);
}

/// Writes a symmetric matrix from the upper half of another. Both are stored tensors of shape [`Shape::Matrix`].
pub(in crate::ops) fn mirror(upper: &[f32], side: usize, output: &mut [f32]) {
    let stride = side.next_multiple_of(4).max(4);
    output.par_chunks_mut(SYMMETRIC_ROWS * stride).enumerate().for_each(|(index, part)| {
        let first = index * SYMMETRIC_ROWS;
        for (row, values) in part.chunks_exact_mut(stride).enumerate() {
            let row = first + row;
            for (column, value) in values[..row].iter_mut().enumerate() {
                *value = upper[column * stride + row];
            }
            values[row..side].copy_from_slice(&upper[row * stride..][row..side]);
            values[side..].fill(0.0);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 37 % 23) as f32 - 11.0) / 8.0).collect()
    }

    /// The values are small eighths, so f32 results are exact.
    #[test]
    fn products_respect_strides_and_keep_row_gaps() {
        for [rows, depth, columns] in [[1, 1, 1], [3, 5, 2], [7, 2, 9], [20, 33, 17], [1, 9, 4], [6, 40, 1]] {
            for [transpose_a, transpose_b, accumulate] in
                [[false, false, false], [true, false, true], [false, true, false], [true, true, true]]
            {
                let (a, b) = (values(rows.max(depth) * 50), values(depth.max(columns) * 50 + 3));
                let matrix = |values, transposed, rows, columns| {
                    if transposed {
                        MatrixRef::new(values, columns, rows, 50).transposed()
                    } else {
                        MatrixRef::new(values, rows, columns, 50)
                    }
                };
                let (a, b) =
                    (matrix(&a, transpose_a, rows, depth), matrix(&b[3..], transpose_b, depth, columns));
                let at =
                    |m: &MatrixRef<'_>, r: usize, c: usize| m.values[r * m.strides[0] + c * m.strides[1]];
                let stride = columns + 3;
                let mut c = vec![0.25; rows * stride];
                product(a, b, &mut c, stride, 2.0, accumulate);
                for (index, found) in c.iter().enumerate() {
                    let (r, column) = (index / stride, index % stride);
                    let sum = || (0..depth).map(|k| at(&a, r, k) * at(&b, k, column)).sum::<f32>();
                    let expected = match (column < columns, accumulate) {
                        (true, true) => 0.25 + 2.0 * sum(),
                        (true, false) => 2.0 * sum(),
                        (false, _) => 0.25,
                    };
                    assert_eq!(*found, expected, "{rows}x{depth}x{columns}, element {r}, {column}");
                }
            }
        }
    }

    /// Powers of a symmetric matrix commute. The values are small integers, so all sums are exact.
    #[test]
    fn symmetric_products_are_complete_and_symmetric() {
        for side in [1, 3, 63, 64, 65, 130] {
            let shape = Shape::Matrix { rows: side, columns: side };
            let value = |r: usize, c: usize| ((r * c + r + c) % 3) as f32 - 1.0;
            let stored = |value: &dyn Fn(usize, usize) -> f32| {
                shape.pack(&(0..side * side).map(|n| value(n / side, n % side)).collect::<Vec<_>>())
            };
            let matrix = stored(&value);
            let expected = stored(&|r, c| (0..side).map(|k| value(r, k) * value(k, c)).sum::<f32>());
            let (mut upper, mut output) = (vec![f32::NAN; matrix.len()], vec![f32::NAN; matrix.len()]);
            symmetric_product([&matrix, &matrix], side, &mut upper, &mut output);
            assert_eq!(output, expected, "side {side}");
        }
    }

    #[test]
    fn product_of_depth_zero_is_zero() {
        let mut c = [f32::NAN; 6];
        product(MatrixRef::new(&[], 2, 0, 0), MatrixRef::new(&[], 0, 3, 3), &mut c, 3, 1.0, false);
        assert_eq!(c, [0.0; 6]);
    }

    #[test]
    #[should_panic(expected = "a product of 3x2 in memory")]
    fn matrix_larger_than_its_slice_panics() {
        let (a, b) = ([1.0; 11], [1.0; 8]);
        let matrices = (MatrixRef::new(&a, 3, 4, 4), MatrixRef::new(&b, 4, 2, 2));
        product(matrices.0, matrices.1, &mut [0.0; 6], 2, 1.0, false);
    }

    #[test]
    #[should_panic(expected = "a product of 3x2 in memory")]
    fn overlapping_rows_panic() {
        let (a, b) = ([1.0; 12], [1.0; 8]);
        let matrices = (MatrixRef::new(&a, 3, 4, 4), MatrixRef::new(&b, 4, 2, 2));
        product(matrices.0, matrices.1, &mut [0.0; 6], 1, 1.0, false);
    }
}
