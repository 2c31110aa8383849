//! Portability without the hardware: compilers, drivers and a browser that the kernels meet elsewhere.
//!
//! These need Debian's packages `spirv-tools`, `glslang-tools` and `chromium`, so a plain `cargo test` leaves
//! them out; `tools/test` installs the packages and runs `cargo test --test portability -- --ignored`. See
//! docs/portability.md.

#[path = "portability/browser.rs"]
mod browser;
#[path = "common/chromium.rs"]
mod chromium;
mod common;
#[path = "portability/compilers.rs"]
mod compilers;
#[path = "portability/drivers.rs"]
mod drivers;
#[path = "portability/lower.rs"]
mod lower;
#[path = "portability/web.rs"]
mod web;
