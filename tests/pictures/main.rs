//! Pictures in files: read, refused, written, on sheets, in films.

#[cfg(feature = "film")]
mod film;
#[cfg(feature = "film")]
mod film_files;
mod reading;
mod refusing;
mod sheet;
mod support;
mod writing;
