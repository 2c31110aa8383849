//! Picture files: reading, refusing, writing, contact sheets and films.

mod alpha;
#[path = "../common/crc.rs"]
mod crc;
mod exif;
#[cfg(feature = "film")]
mod film;
#[cfg(feature = "film")]
mod film_files;
mod kinds;
mod large;
mod reading;
mod refusing;
mod sheet;
mod support;
mod tiff_kinds;
mod writing;
