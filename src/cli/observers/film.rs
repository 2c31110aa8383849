//! `--film`: the pictures of a run as an animation.

use crate::cli::plan::Plan;
use crate::error::Result;
use crate::image_io::{Film, FilmOptions};
use crate::mirage::{Event, Observer};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How long a frame is shown, in milliseconds: 150 iterations make 72 frames, 6 seconds.
const FRAME: u32 = 80;

/// Records the frames of a film.
#[derive(Debug)]
pub(in crate::cli) struct FilmRecorder {
    pub path: PathBuf,
    film: Film,
    plan: Rc<Plan>,
}

impl FilmRecorder {
    /// Starts a film of the pictures that the schedule names.
    ///
    /// # Errors
    /// As [`Film::create`].
    pub(in crate::cli) fn start(path: &Path, overwrite: bool, plan: &Rc<Plan>) -> Result<Self> {
        let film = Film::create(path, FilmOptions { overwrite, ..FilmOptions::default() })?;
        Ok(Self { path: path.to_owned(), film, plan: plan.clone() })
    }

    /// Writes the film, if it has a frame, and returns how many it has.
    ///
    /// # Errors
    /// As [`Film::finish`].
    pub(in crate::cli) fn finish(self, texts: Vec<(String, String)>) -> Result<usize> {
        let frames = self.film.frames();
        if frames > 0 {
            self.film.finish(texts)?;
        }
        Ok(frames)
    }
}

impl Observer for FilmRecorder {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        // The live page asks for more pictures than the film shows.
        if let Event::Picture { iteration, picture, last } = event
            && (last || self.plan.request.schedule.picture_at.contains(&iteration))
        {
            self.film.frame(&*self.plan.at_full_size(picture)?, FRAME)?;
        }
        Ok(ControlFlow::Continue(()))
    }
}
