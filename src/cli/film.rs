//! `--film`: the chain of pictures as an animation.

use crate::error::Result;
use crate::image_io::{Film, FilmOptions, Picture};
use std::path::{Path, PathBuf};

/// The frames of a film are this part of the iterations before them apart.
const STEP: u32 = 20;
/// How long a frame is shown, in milliseconds: 150 iterations make 72 frames, 6 seconds.
const FRAME: u32 = 80;

/// The iterations that a film shows: each at first, then one after a twentieth more of all before it, as the picture
/// changes ever more slowly.
pub(super) fn frames(iterations: u32) -> Vec<u32> {
    let mut frames: Vec<u32> = std::iter::successors(Some(0_u32), |at| at.checked_add((at / STEP).max(1)))
        .take_while(|at| *at < iterations)
        .collect();
    frames.push(iterations);
    frames
}

/// A film in the making.
#[derive(Debug)]
pub(super) struct Filming {
    pub path: PathBuf,
    film: Film,
    frames: Vec<u32>,
}

impl Filming {
    /// Begins a film that shows the pictures after these iterations.
    ///
    /// # Errors
    /// As [`Film::create`].
    pub(super) fn begin(path: &Path, overwrite: bool, frames: &[u32]) -> Result<Self> {
        let film = Film::create(path, FilmOptions { overwrite, ..FilmOptions::default() })?;
        Ok(Self { path: path.to_owned(), film, frames: frames.to_vec() })
    }

    /// Takes a picture if it is one of the film's, or the last.
    ///
    /// # Errors
    /// As [`Film::frame`].
    pub(super) fn picture(&mut self, iteration: u32, picture: &Picture, last: bool) -> Result<()> {
        if last || self.frames.contains(&iteration) {
            self.film.frame(picture, FRAME)?;
        }
        Ok(())
    }

    /// Writes the film, if it has a frame; the answer is how many.
    ///
    /// # Errors
    /// As [`Film::finish`].
    pub(super) fn finish(self, record: Vec<(String, String)>) -> Result<usize> {
        let frames = self.film.frames();
        if frames > 0 {
            self.film.finish(record)?;
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::frames;

    #[test]
    fn frames_spread_with_the_run_and_end_with_it() {
        assert_eq!(frames(3), [0, 1, 2, 3]);
        let long = frames(150);
        assert_eq!((long.len(), long[40], long[41], *long.last().unwrap()), (72, 40, 42, 150));
        assert!(frames(1_000_000).len() < 300);
        assert!(long.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
