//! Shader sources and everything derived from them: variants, unrolled text, reflected bindings, code for each target.
//!
//! A file under `shaders/` is complete, valid WGSL. A variant is data: other values for whole
//! `const NAME: u32 = value;` lines. (With cooperative matrices, the value of `SIDE` changes their types too.) An `if`
//! after a `// static if` comment is replaced by the branch taken, so a variant binds only the resources that it uses.
//! Loops after an `// unroll` comment are unrolled before the driver sees them, because drivers keep arrays indexed by
//! a loop variable in memory.

mod bounds;
mod branch;
mod emit;
mod folder;
mod marks;
mod reflect;
mod source;
mod unroll;
mod variant;

pub(crate) use bounds::{LONGEST_TEXT, check as check_bounds};
use branch::keep_branches;
pub use emit::{Code, Emitter, Target};
pub use folder::{Folder, Reloaded};
pub use reflect::{
    Extensions, Interface, Member, Resource, ResourceKind, ScalarKind, needs_coop_matrix, needs_subgroups,
};
pub use source::{SOURCES, files, generation, source};
pub use unroll::unroll;
pub use variant::{Shader, set_const};
