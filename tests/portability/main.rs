//! Portability tests without the hardware: compilers of other platforms, and a browser.
//!
//! These need Debian's packages `spirv-tools`, `glslang-tools` and `chromium`, so a plain `cargo test` leaves
//! them out; `tools/test` installs the packages and runs `cargo test --test portability -- --ignored`. See
//! docs/portability.md.

mod browser;
#[path = "../common/mod.rs"]
mod common;
mod compilers;
mod lower;
mod web;
