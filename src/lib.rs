//! neural-mirage: re-imagines a photograph through a VGG network, on any Vulkan, Metal or DX12
//! device with hand-written WGSL compute kernels, or on the CPU.
//!
//! Three weighted factors steer the new picture (Töyrylä 2016, after Gatys et al. 2015): the *spatial*
//! factor keeps the photo's layout, the *abstract* factor the classes that the network recognises, the *style*
//! factor textures and colours.
//!
//! ```no_run
//! use neural_mirage::{gpu, graph, image_io, mirage, vgg};
//! use std::{ops::ControlFlow, path::Path, sync::Arc};
//!
//! fn main() -> neural_mirage::Result<()> {
//!     let network = Arc::new(vgg::Network::find(None, None)?);
//!     let photo = image_io::read(Path::new("photo.jpg"))?.picture;
//!     let (width, height) = image_io::fit(photo.width, photo.height, 384);
//!     let mut request = mirage::Request::new(image_io::resize(&photo, width, height)?);
//!     request.scales = mirage::Scales::single(100);
//!     request.schedule.snapshot_at = vec![5, 10, 20];
//!
//!     let engine = graph::Engine::open(&gpu::DeviceOptions::default())?;
//!     let mut session = mirage::Session::new(&engine, &network, request)?;
//!     let outcome = session.run(&mut |event: mirage::Event<'_>| {
//!         if let mirage::Event::Report(report) = event {
//!             println!("{:4} {:.4}", report.iteration, report.total);
//!         }
//!         Ok(ControlFlow::Continue(())) // Break would stop after this iteration
//!     })?;
//!     image_io::write(Path::new("mirage.png"), &outcome.picture, &image_io::WriteOptions::default())?;
//!     Ok(())
//! }
//! ```
//!
//! The modules, from the program down to the device: [`cli`] (the program) → [`web`] (the live page, which shows and
//! steers a run in a browser) → [`mirage`] (session, objective) → [`tune`] (autotuning) → [`workbench`] (tests and
//! timings of kernels) → [`graph`] (nodes, gradient, memory plan, replay) → [`ops`] (kernels) → [`shader`] (WGSL,
//! variants) → [`gpu`] (device). [`vgg`] reads networks, [`image_io`] reads and writes pictures. A module uses only
//! those to its right, these two, [`error`], and four small private ones.
//!
//! Without default features the crate is only the library. The feature `cli` adds the program and enables the other
//! features; `web`, `film` (animations), `fetch` (downloads of networks) and `workbench` (running any shader) can also
//! be enabled separately.
#![warn(missing_docs)]
#![deny(unsafe_code)]

mod allocation;
#[cfg(feature = "cli")]
pub mod cli;
pub mod error;
mod escape;
mod files;
pub mod gpu;
pub mod graph;
mod hex;
pub mod image_io;
pub mod mirage;
pub mod ops;
pub mod shader;
pub mod tune;
pub mod vgg;
#[cfg(feature = "web")]
pub mod web;
pub mod workbench;

pub use error::{Error, Result};
pub use files::{FileVersion, Overwrite};
