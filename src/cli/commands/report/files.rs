//! Writes the files of a report.

use super::args::JSON;
use super::page;
use super::record::Record;
use crate::error::{Error, Result};
use crate::files::write_whole;

/// File name of the page.
pub(super) const PAGE: &str = "report.md";

/// Writes the data and the page, each as a whole file.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn save(record: &mut Record) -> Result<()> {
    let path = record.folder.join(JSON);
    let text = serde_json::to_string_pretty(record).map_err(|error| Error::Io {
        path: path.clone(),
        action: "writing the report",
        source: error.into(),
    })?;
    // Both are rewritten after each part; neither existed at the start.
    let [json, markdown] = record.saved;
    let json = write_whole(&path, (text + "\n").as_bytes(), "writing the report", json)?;
    let markdown = write_whole(
        &record.folder.join(PAGE),
        page::page(record).as_bytes(),
        "writing the report",
        markdown,
    )?;
    record.saved = [json, markdown];
    Ok(())
}
