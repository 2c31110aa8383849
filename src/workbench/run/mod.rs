//! Runs any compute shader on arrays from files.
//!
//! [`UserShader`] reflects the WGSL itself, not through [`crate::shader::Interface`], which rejects features that this
//! program's own kernels don't use. [`RunPlan`] matches inputs, outputs and parameters with the shader's variables
//! before a device is opened; [`RunPlan::run`] then runs it on memory filled with NaN and followed by a guard zone.

mod constants;
mod device;
mod form;
mod memory;
mod params;
mod plan;
mod shader;
mod spec;

pub use device::{RunResult, ShaderRun};
pub use form::{Form, Leaf, ListKind};
pub use memory::Memory;
pub use params::{Param, Params};
pub use plan::{ResultSpec, RunPlan, RunRequest};
pub use shader::{Bound, ShaderRequest, UserShader, Variable};
pub use spec::{ArraySource, Input, Output};
