//! The shader workbench: kernels tested against their references, and timed, on the present device.
//!
//! [`check()`] runs every kernel of a case on outputs full of NaN and compares with the f64 reference;
//! [`network_cases`] makes the cases of a network's layers at one size; [`measure`] times a prepared kernel and
//! [`Samples`] states how sure that is; [`Record`] keeps the figures, to be compared with later ones;
//! [`RunPlan`] runs a user's shader on [`Array`]s from files.

#[cfg(feature = "workbench")]
mod array;
mod case;
mod catalogue;
mod check;
mod compare;
mod measure;
mod naive;
mod network;
mod record;
#[cfg(feature = "workbench")]
mod run;
mod verify;

#[cfg(feature = "workbench")]
pub use array::{Array, Element, dimensions};
pub use case::{inputs, reference, samples, widen};
pub use catalogue::{Listed, Pass, catalogue, typical};
pub use check::{Checked, check, lost};
pub use compare::{Difference, HALF_TOLERANCE, ULP, distance};
pub use measure::{Clock, Samples, bytes, measure, measure_wall, seconds};
pub use naive::fault;
pub use network::{LayerShape, layers_of, network_cases, topology};
pub use record::{Change, Record, Row};
#[cfg(feature = "workbench")]
pub use run::{
    ArraySource, Bound, Form, Input, Leaf, ListKind, Memory, Output, Param, Params, ResultSpec, RunPlan,
    RunRequest, RunResult, ShaderRequest, ShaderRun, UserShader, Variable,
};
pub use verify::{Verified, verify};
