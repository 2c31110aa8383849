//! The shader workbench: tests kernels against their references and times them on the present device.
//!
//! [`check()`] runs every kernel of a case on outputs filled with NaN and compares with the f64 reference;
//! [`network_cases`] builds the cases of a network's layers at one size; [`measure`] times prepared kernels and
//! [`Samples`] quantifies the uncertainty; [`Record`] stores the figures for later comparison; [`RunPlan`] runs a
//! user's shader on [`Array`]s from files.

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
