//! The observers of a run. Each handles the events that concern it.

mod checkpoints;
mod film;
mod list;
mod log;
mod log_lines;
mod metadata;
mod page;
mod share_warnings;
mod snapshots;
mod status;
mod terminal;

pub(super) use checkpoints::Checkpoints;
pub(super) use film::FilmRecorder;
pub(super) use list::Observers;
pub(super) use log::Log;
pub(super) use metadata::MetadataRecorder;
pub(super) use page::Page;
pub(super) use share_warnings::ShareWarnings;
pub(super) use snapshots::Snapshots;
pub(super) use status::{RunStatus, SharedStatus};
pub(super) use terminal::RunTerminal;
