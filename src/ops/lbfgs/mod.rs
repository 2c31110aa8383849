//! L-BFGS in parts, all of whose state stays on the device.
//!
//! A step is `judge` (is the picture that was tried accepted?), `store` (the new pair of a step s and the change y of
//! the gradient goes into the rings), `products` (of all rows of the rings with the gradient and the new y),
//! `recursion` (the two-loop recursion on these products: Chen, Wang and Zhou 2014, "Large-scale L-BFGS using
//! MapReduce") and `move` (the direction as a sum of the rings' rows, and the next picture to try). The host decides
//! nothing: each part reads from the scalars what it has to do.
//!
//! The *rings* of s and of y have a row more than pairs are kept: the new pair goes into the vacant row behind the
//! newest, and if it is not kept, it is written over by the next.
//!
//! The *scalars* are a matrix of four columns; all zeros mean that nothing is known yet:
//!
//! | row | columns |
//! | --- | --- |
//! | 0 | phase; 1 once a picture is accepted; halvings of the present direction; step length |
//! | 1 | row of the newest pair; number of pairs; `s.y / y.y` of the newest; pictures accepted since the start |
//! | 2 | of the accepted picture: loss; sum of absolute values and sum of squares of its free gradient; slope along the direction |
//! | 3 | counts, for tests and reports: accepted, rejected, restarts, pairs that were not kept |
//! | 4 | factor of the gradient in the direction; 0; 0; 0 |
//! | 5 + r | factors of the rings' rows `s_r` and `y_r` in the direction; 0; 0 |
//!
//! Phases: 1 the first picture is accepted, 2 another one is and there is a new pair, 3 the picture is rejected and a
//! shorter step along the same direction is tried, 4 it is rejected and all pairs are dropped, 5 the first picture is
//! not finite and the one accepted last is put in its place.

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

/// Floats that rows of the rings are a multiple of, so that each begins where a binding may: at 256 bytes.
const ROW: usize = 64;
/// Rows of the scalars before those of the factors.
const HEADER: usize = 5;
/// Invocations of the recursion's workgroup, one a row of the rings; matches the shader.
const LARGEST: usize = 128;

const FIRST: f64 = 1.0;
const PAIR: f64 = 2.0;
const SHORTER: f64 = 3.0;
const RESTART: f64 = 4.0;
const BACK: f64 = 5.0;

/// Shapes of the state, of one picture shape and one length of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Shape of the picture.
    pub picture: Shape,
    /// Number of pairs that are kept, at most [`Ring::LONGEST`].
    pub history: usize,
}

impl Ring {
    /// The longest history.
    pub const LONGEST: usize = LARGEST - 1;

    /// The ring of steps, and that of the gradient's changes: a row holds a picture as it lies in memory, and zeros.
    pub fn shape(&self) -> Shape {
        Shape::Matrix { rows: self.history + 1, columns: self.picture.stored().next_multiple_of(ROW) }
    }

    /// Inner products of the rows: in row i and column j `s_i . y_j`, in row `history + 1 + i` `y_i . y_j`.
    pub fn products(&self) -> Shape {
        Shape::Matrix { rows: 2 * (self.history + 1), columns: self.history + 1 }
    }

    /// The scalars.
    pub fn scalars(&self) -> Shape {
        Shape::Matrix { rows: HEADER + self.history + 1, columns: 4 }
    }

    /// Of these shapes.
    fn of(op: &str, picture: Shape, ring: Shape) -> Result<Self> {
        let Shape::Matrix { rows, .. } = ring else {
            return Err(mismatch(op, &format!("{ring} is no ring of pictures")));
        };
        let found = Self { picture, history: rows.saturating_sub(1) };
        if found.history == 0 || found.history > Self::LONGEST || found.shape() != ring {
            return Err(mismatch(op, &format!("{ring} is no ring of pictures {picture}")));
        }
        Ok(found)
    }

    /// Rows of the ring.
    fn rows(&self) -> usize {
        self.history + 1
    }

    /// Texels of a row.
    fn stride(&self) -> usize {
        self.picture.stored().next_multiple_of(ROW) / 4
    }

    /// The floats of a row that hold the picture.
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

/// Checks that inputs have the shapes that an op takes.
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
