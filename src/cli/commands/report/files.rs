//! The files of a report.

use super::args::JSON;
use super::page;
use super::record::Record;
use crate::error::{Error, Result};
use crate::files::write_whole;

/// Name of the readable file.
pub(super) const PAGE: &str = "report.md";

/// Writes data and page, each whole.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn save(record: &Record) -> Result<()> {
    let path = record.folder.join(JSON);
    let text = serde_json::to_string_pretty(record).map_err(|error| Error::Io {
        path: path.clone(),
        action: "writing the report",
        source: error.into(),
    })?;
    // Both are written again after each part, and were not there at the beginning.
    write_whole(&path, (text + "\n").as_bytes(), "writing the report", true)?;
    write_whole(&record.folder.join(PAGE), page::page(record).as_bytes(), "writing the report", true)
}
