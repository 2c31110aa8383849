//! `--film`: records the pictures of a run as an animation.

use super::status::SharedStatus;
use crate::cli::checked_run::CheckedRun;
use crate::cli::files::rescue::rescue;
use crate::cli::output::escape::shown;
use crate::error::{Error, Result};
use crate::image_io::{Film, FilmMark, FilmOptions};
use crate::mirage::{Event, Observer};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Duration of a frame, in milliseconds: 150 iterations make 72 frames, 6 seconds.
const FRAME: u32 = 80;

/// Records the frames of a film. A frame that can't be recorded is reported without ending the run.
#[derive(Debug)]
pub(in crate::cli) struct FilmRecorder {
    path: PathBuf,
    film: Film,
    checked: Rc<CheckedRun>,
    status: SharedStatus,
    failed: bool,
    /// Each recorded iteration, and the film before it.
    recorded: Vec<(u32, FilmMark)>,
}

impl FilmRecorder {
    /// Starts a film of the pictures in the schedule.
    ///
    /// # Errors
    /// See [`Film::create`].
    pub(in crate::cli) fn start(
        path: &Path,
        overwrite: bool,
        checked: &Rc<CheckedRun>,
        status: &SharedStatus,
    ) -> Result<Self> {
        let film = Film::create(path, FilmOptions { overwrite: overwrite.into(), ..FilmOptions::default() })?;
        Ok(Self {
            path: path.to_owned(),
            film,
            checked: checked.clone(),
            status: status.clone(),
            failed: false,
            recorded: Vec::new(),
        })
    }

    /// Drops the frames of this iteration and later ones, which the run has gone back to: after a setback, or when the
    /// device was lost.
    fn go_back_to(&mut self, iteration: u32) {
        let repeated = self.recorded.iter().position(|(recorded, _)| *recorded >= iteration);
        if let Some(repeated) = repeated {
            self.film.return_to(self.recorded[repeated].1);
            self.recorded.truncate(repeated);
        }
    }

    /// Writes the film of a run with these iterations, if it has a frame, or rescues it to another place. Returns a line
    /// for the user.
    ///
    /// # Errors
    /// See [`Film::finish`]. The error has the path of the rescued film.
    pub(in crate::cli) fn finish(mut self, iterations: u32, texts: &[(String, String)]) -> Result<String> {
        self.go_back_to(iterations.saturating_add(1));
        let frames = self.film.frames();
        if frames == 0 {
            return Ok("The film has no frames, and was not written".to_owned());
        }
        // Its name may lead to a file that the run reads by now.
        let is_free = self.checked.files.check_not_read(self.film.target(), "--film");
        let Err(error) = is_free.and_then(|()| self.film.finish(texts.to_vec())) else {
            return Ok(format!("Film of {frames} frames: {}", shown(&self.path)));
        };
        let rescued = rescue(&self.path, |place| self.film.finish_at(place, texts.to_vec()));
        Err(match rescued {
            None => error,
            Some(place) => {
                let reason = format!("{error}; the film of {frames} frames is in {}", shown(&place));
                Error::io(&self.path, "saving the film")(std::io::Error::other(reason))
            }
        })
    }
}

impl Observer for FilmRecorder {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        if let Event::Setback(setback) = event {
            self.go_back_to(setback.to.saturating_add(1));
        }
        // The live page asks for more pictures than the film shows.
        if let Event::Picture { iteration, picture, last } = event
            && (last || self.checked.request.schedule.picture_at.contains(&iteration))
        {
            self.go_back_to(iteration);
            let before = self.film.mark();
            let recorded = self.film.frame(&*self.checked.at_full_size(picture)?, FRAME);
            let failed = recorded.is_err();
            if let Err(error) = recorded
                && !self.failed
            {
                let problem = format!("the film lacks frames from iteration {iteration} on: {error}");
                self.status.borrow_mut().problems.push(problem);
            }
            self.failed = failed;
            if !failed {
                self.recorded.push((iteration, before));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
