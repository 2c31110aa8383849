//! Saves the cells of one run of a sweep.

use super::axes::Cell;
use super::sheet::{ContactSheet, PaintedCell};
use crate::cli::checked_run::CheckedRun;
use crate::cli::files::rescue::{not_saved, rescue};
use crate::cli::observers::SharedStatus;
use crate::cli::output::escape::shown;
use crate::error::Result;
use crate::files::Overwrite;
use crate::image_io::{self, Picture, WriteOptions};
use crate::mirage::{Event, Observer, Readout, RunResult};
use std::ops::ControlFlow;

/// Writes each cell of a run as soon as its iterations are done.
pub(super) struct CellWriter<'a> {
    pub cells: &'a [Cell],
    pub contact: &'a ContactSheet,
    pub checked: &'a CheckedRun,
    pub status: SharedStatus,
    /// Painted cells, row by row.
    pub painted: &'a mut [Option<PaintedCell>],
    /// Columns of the sheet.
    pub columns: usize,
    /// Classes seen in the last picture.
    pub last_readout: Readout,
    /// True if files other than the sweep's may be replaced.
    pub overwrite: bool,
}

impl CellWriter<'_> {
    /// Writes the cells that show the run's end: the last one and, if the run ended early, those after its end.
    ///
    /// # Errors
    /// If a cell can't be written.
    pub(super) fn finish(&mut self, outcome: &RunResult) -> Result<()> {
        self.status.borrow_mut().metadata.seconds = outcome.seconds;
        let readout = std::mem::take(&mut self.last_readout);
        let cells = self.cells;
        let rest = cells.iter().filter(|cell| cell.iterations >= outcome.iterations);
        for cell in rest {
            self.write(cell, &outcome.picture, &readout)?;
        }
        Ok(())
    }

    fn write(&mut self, cell: &Cell, picture: &Picture, readout: &Readout) -> Result<()> {
        let path = self.contact.cell(cell);
        let picture = &*self.checked.at_full_size(picture)?;
        let options = self.checked.options.of_cell(&path, cell.stops_before(self.checked.iterations));
        let metadata = self.status.borrow().metadata.texts(&options, cell.iterations);
        let painted = &mut self.painted[cell.row * self.columns + cell.column];
        // An existing cell is replaced if its run had to start again, but not one that was edited.
        let overwrite = match painted {
            _ if self.overwrite && !self.checked.files.reads(&path) => Overwrite::Always,
            Some(found) => found.overwrite,
            None => Overwrite::Never,
        };
        if !overwrite.allows(&path) && painted.is_some() && path.symlink_metadata().is_ok() {
            let problem = format!("{}: kept, as it was changed since this sweep saved it", shown(&path));
            self.status.borrow_mut().problems.push(problem);
            return Ok(());
        }
        let alpha = self.checked.files.alpha();
        let options = WriteOptions { metadata, overwrite, alpha, ..WriteOptions::default() };
        let overwrite = image_io::write(&path, picture, &options).map_err(|error| {
            let options = WriteOptions { overwrite: Overwrite::Never, ..options };
            let rescued = rescue(&path, |place| image_io::write(place, picture, &options).map(drop));
            not_saved(&path, &error, rescued.as_deref())
        })?;
        let (classes, distance) = (readout.classes.clone(), readout.distance);
        *painted = Some(PaintedCell { picture: picture.clone(), classes, distance, overwrite });
        Ok(())
    }
}

impl Observer for CellWriter<'_> {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        match event {
            Event::Report(report) => self.last_readout.clone_from(&report.readout),
            Event::Snapshot { iteration, picture, readout, .. } => {
                let cells = self.cells;
                if let Some(cell) = cells.iter().find(|cell| cell.iterations == iteration) {
                    self.write(cell, picture, readout)?;
                }
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}
