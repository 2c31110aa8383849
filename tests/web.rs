//! The live page: its messages, and (with Chromium) what it shows.
//!
//! The tests with a browser need Debian's package `chromium`, so a plain `cargo test` leaves them out; `tools/test`
//! installs it and runs `cargo test --test web -- --ignored`. With MIRAGE_SCREENSHOTS=FOLDER they leave pictures.
#![cfg(feature = "cli")]

#[path = "web/browser.rs"]
mod browser;
#[path = "common/chromium.rs"]
mod chromium;
#[path = "web/client.rs"]
mod client;
#[path = "web/page.rs"]
mod page;
#[path = "web/real.rs"]
mod real;
#[path = "web/scales.rs"]
mod scales;
#[path = "web/stand_in.rs"]
mod stand_in;
#[path = "web/wire.rs"]
mod wire;
