//! Pictures in files: read, written, on sheets, in films.

mod files;
#[cfg(feature = "film")]
mod film;
mod sheet;
