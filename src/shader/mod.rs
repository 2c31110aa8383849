//! Shader sources and what is derived from them: variants, unrolled text, reflected bindings, the code of each
//! target.
//!
//! A file under `shaders/` is complete, valid WGSL. A variant is data: other values for whole
//! `const NAME: u32 = value;` lines. (Where there are cooperative matrices the value of `SIDE` changes their types
//! too.) Of an `if` that follows a `// static if` comment only the branch that is taken stays, so that a variant binds
//! no more than it uses. Loops that follow an `// unroll` comment are written out before the driver sees them, because
//! drivers keep an array that a loop variable indexes in memory.

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
