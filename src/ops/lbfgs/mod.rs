//! L-BFGS as a sequence of ops that keep all state on the device.
//!
//! A step runs `judge` (is the trial picture accepted?), `store` (appends the new pair, a step s and the change y of
//! the gradient, to the rings), `products` (of all rows of the rings with the gradient and the new y), `recursion` (the
//! two-loop recursion on these products: Chen, Wang and Zhou 2014, "Large-scale L-BFGS using MapReduce") and `move`
//! (sums the rings' rows to the direction and computes the next trial picture). The host makes no decisions: each op
//! reads the phase from the scalars.
//!
//! The *rings* of s and of y have one row more than the number of pairs: the new pair is written to the vacant row
//! after the newest, and if it is not kept, the next pair overwrites it.
//!
//! The *scalars* are a matrix of four columns, initially all zeros:
//!
//! | row | columns |
//! | --- | --- |
//! | 0 | phase; 1 once a picture is accepted; halvings along the current direction; step length |
//! | 1 | row of the newest pair; number of pairs; `s.y / y.y` of the newest; pictures accepted since the start |
//! | 2 | at the accepted picture: loss; L1 norm and squared L2 norm of the projected gradient; slope of the direction |
//! | 3 | counts, for tests and reports: accepted, rejected, restarts, discarded pairs |
//! | 4 | factor of the gradient in the direction; 0; 0; 0 |
//! | 5 + r | factors of the rings' rows `s_r` and `y_r` in the direction; 0; 0 |
//!
//! Phases: 1, the first picture is accepted; 2, a later picture is accepted and there is a new pair; 3, the picture is
//! rejected, and a shorter step along the same direction is tried; 4, the picture is rejected and all pairs are
//! dropped; 5, the first picture is not finite and the last accepted one is restored.

mod judge;
mod products;
mod recursion;
mod step;
mod store;

pub use judge::LbfgsJudge;
pub(super) use judge::cases as judge_cases;
pub use products::LbfgsProducts;
pub(super) use products::cases as products_cases;
pub use recursion::LbfgsRecursion;
pub(super) use recursion::cases as recursion_cases;
pub use step::LbfgsMove;
pub(super) use step::cases as move_cases;
pub use store::LbfgsStore;
pub(super) use store::cases as store_cases;

use super::shape::{mismatch, takes};
use super::{Dispatch, Shape};
use crate::error::Result;
use crate::gpu::Profile;
use std::ops::Range;

/// Rows of the rings are a multiple of this many floats, so that each starts at a binding offset of 256 bytes.
const ROW: usize = 64;
/// Rows of the scalars before the factors.
const HEADER: usize = 5;
/// Invocations of the recursion's workgroup, one per row of the rings; matches the shader.
const LARGEST: usize = 128;

const FIRST: f64 = 1.0;
const PAIR: f64 = 2.0;
const SHORTER: f64 = 3.0;
const RESTART: f64 = 4.0;
const BACK: f64 = 5.0;

/// Shapes of the state, for one picture shape and history length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Shape of the picture.
    pub picture: Shape,
    /// Number of pairs to keep, at most [`Ring::LONGEST`].
    pub history: usize,
}

impl Ring {
    /// The longest history.
    pub const LONGEST: usize = LARGEST - 1;

    /// Shape of the rings of s and of y: each row holds a stored picture, padded with zeros.
    pub fn shape(&self) -> Shape {
        Shape::Matrix { rows: self.history + 1, columns: self.picture.stored().next_multiple_of(ROW) }
    }

    /// Shape of the inner products of the rows: `s_i . y_j` in row i and column j, `y_i . y_j` in row `history + 1 +
    /// i`.
    pub fn products(&self) -> Shape {
        Shape::Matrix { rows: 2 * (self.history + 1), columns: self.history + 1 }
    }

    /// Shape of the scalars.
    pub fn scalars(&self) -> Shape {
        Shape::Matrix { rows: HEADER + self.history + 1, columns: 4 }
    }

    /// Derives the sizes from a picture's and a ring's shape.
    fn of(op: &str, picture: Shape, ring: Shape) -> Result<Self> {
        let Shape::Matrix { rows, .. } = ring else {
            return Err(mismatch(op, &format!("{ring} is not a ring of pictures")));
        };
        let found = Self { picture, history: rows.saturating_sub(1) };
        if found.history == 0 || found.history > Self::LONGEST || found.shape() != ring {
            return Err(mismatch(op, &format!("{ring} is not a ring of pictures {picture}")));
        }
        Ok(found)
    }

    /// Number of rows of the ring.
    fn rows(&self) -> usize {
        self.history + 1
    }

    /// Texels per row.
    fn stride(&self) -> usize {
        self.picture.stored().next_multiple_of(ROW) / 4
    }

    /// Range of a row's floats that hold the picture.
    fn stored_row(&self, row: usize) -> Range<usize> {
        let start = row * self.stride() * 4;
        start..start + self.picture.stored()
    }

    /// Ranges of rows, each of which fits a binding.
    fn windows(&self, device: &Profile) -> Vec<Range<usize>> {
        let most = (device.max_binding / (self.stride() as u64 * 16)).max(1) as usize;
        (0..self.rows()).step_by(most).map(|start| start..(start + most).min(self.rows())).collect()
    }

    /// Narrows the rings that a dispatch binds to a range of their rows.
    fn narrow(&self, dispatch: Dispatch, window: &Range<usize>) -> Dispatch {
        let texels = window.start * self.stride()..window.end * self.stride();
        dispatch.narrow_run(&["steps", "changes"], &texels, self.rows() * self.stride())
    }

    /// A row of a ring, in the picture's logical order.
    fn row(&self, ring: &[f64], row: usize) -> Vec<f64> {
        let start = row * self.stride() * 4;
        self.picture.positions().map(|position| ring[start + position]).collect()
    }
}

/// Checks the shapes of an op's inputs.
fn expect(op: &str, inputs: &[Shape], wanted: &[Shape]) -> Result<()> {
    if inputs == wanted {
        return Ok(());
    }
    let list = |shapes: &[Shape]| shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(", ");
    Err(takes(op, &format!("inputs {}", list(wanted)), list(inputs)))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
