//! The live page: its protocol and, with Chromium, its display.
//!
//! The tests with a browser need Debian's package `chromium`, so a plain `cargo test` leaves them out; `tools/test`
//! installs it and runs `cargo test --test web -- --ignored`. MIRAGE_SCREENSHOTS=FOLDER saves screenshots.
#![cfg(feature = "cli")]

mod browser;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod page;
mod real;
mod scales;
mod stand_in;
mod wire;
