//! The contact sheet of a sweep: a picture of all cells, and a page with the full cells.

use super::axes::{Cell, Table};
use crate::cli::class_names::ClassNames;
use crate::cli::output::escape::quoted;
use crate::cli::output::format::named_percent;
use crate::cli::own_files::{overwrite_if, overwrite_unchanged};
use crate::error::Result;
use crate::files::{Overwrite, read_text, write_whole};
use crate::hex::hex;
use crate::image_io::{self, Picture, Sheet, WriteOptions};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Metadata key that identifies the picture of a sheet.
const MARK: &str = "neural-mirage:sheet";
/// Beginning of the line of the page with the same.
const PAGE_MARK: &str = "<meta name=\"neural-mirage-sheet\" content=\"";
/// Template of the page.
const PAGE: &str = include_str!("page.html");
/// File name of the picture of all cells.
const PICTURE: &str = "sheet.png";
/// File name of the page.
const HTML: &str = "sheet.html";

/// Beginning of the last line of the page, which shows whether the page was changed.
const CHECKSUM: &str = "<!-- SHA-256 of the lines above: ";
/// Bytes of the largest page that is replaced.
const LARGEST_PAGE: u64 = 1 << 24;

/// A cell that is painted.
#[derive(Debug, Clone)]
pub(super) struct PaintedCell {
    pub picture: Picture,
    /// Classes that the network sees in it: index and probability.
    pub classes: Vec<(usize, f32)>,
    pub distance: Option<f32>,
    /// What may be replaced by painting the cell again: its file, as the sweep saved it.
    pub overwrite: Overwrite,
}

/// Writes the picture and the page of a sheet.
#[derive(Debug)]
pub(super) struct ContactSheet {
    /// Folder of both files and of the cells.
    pub folder: PathBuf,
    /// Heading of the sheet: the photo and what is varied.
    pub title: String,
    /// Network, size, seed.
    pub about: String,
    /// Hash of the pictures that the first run reads.
    pub pictures: String,
}

impl ContactSheet {
    pub(super) fn picture(&self) -> PathBuf {
        self.folder.join(PICTURE)
    }

    pub(super) fn page(&self) -> PathBuf {
        self.folder.join(HTML)
    }

    /// Returns the path of a cell's picture.
    pub(super) fn cell(&self, cell: &Cell) -> PathBuf {
        self.folder.join(format!("{}.png", cell.name()))
    }

    /// Checks before the runs that pictures of this size fit on a sheet.
    ///
    /// # Errors
    /// If the sheet would be too large.
    pub(super) fn check(&self, table: &Table, (width, height): (usize, usize)) -> Result<()> {
        let picture = Picture { width, height, rgb: vec![0.0; width * height * 3] };
        // The longest possible caption.
        let cell = image_io::Cell { picture, caption: "caption ".repeat(40) };
        let mut cells = vec![None; table.rows.len() * table.columns.len()];
        if let Some(first) = cells.first_mut() {
            *first = Some(cell);
        }
        self.sheet(table, cells).check()
    }

    fn sheet(&self, table: &Table, cells: Vec<Option<image_io::Cell>>) -> Sheet {
        Sheet {
            title: self.title.clone(),
            footer: self.about.clone(),
            columns: table.columns.clone(),
            rows: table.rows.clone(),
            cells,
        }
    }

    /// Writes the sheet with the cells painted so far; `painted` holds them row by row. With `overwrite`, any existing
    /// files are replaced, otherwise only a sheet that is as a sweep saved it.
    ///
    /// # Errors
    /// If the sheet would be too large, or can't be written.
    pub(super) fn write(
        &self,
        table: &Table,
        painted: &[Option<PaintedCell>],
        names: &ClassNames,
        overwrite: bool,
    ) -> Result<()> {
        let size = painted.iter().flatten().next().map(|cell| (cell.picture.width, cell.picture.height));
        let Some((width, height)) = size else { return Ok(()) };
        let may_replace =
            |path: &Path| if overwrite { Overwrite::Always } else { self.overwrite_own(table, path) };
        let (replace_picture, replace_page) = (may_replace(&self.picture()), may_replace(&self.page()));
        let mut cells = Vec::new();
        for cell in painted {
            cells.push(match cell {
                None => None,
                Some(cell) => {
                    let picture = image_io::resize(&cell.picture, width, height)?;
                    Some(image_io::Cell { picture, caption: caption(cell, names, 1) })
                }
            });
        }
        let sheet = self.sheet(table, cells);
        let metadata = vec![(MARK.to_owned(), self.mark(table))];
        let options = WriteOptions { overwrite: replace_picture, metadata, ..WriteOptions::default() };
        image_io::write(&self.picture(), &sheet.compose()?, &options)?;
        let mut page = self.html(table, painted, names, (width, height));
        page += &checksum_line(&page);
        write_whole(&self.page(), page.as_bytes(), "writing the contact sheet", replace_page).map(drop)
    }

    /// Returns whether a picture or a page may be replaced: only if it is this sweep's sheet, as that saved it.
    pub(super) fn overwrite_own(&self, table: &Table, path: &Path) -> Overwrite {
        if path.extension().is_some_and(|ending| ending == "png") {
            let overwrite = overwrite_unchanged(path);
            if overwrite == Overwrite::Never {
                return overwrite;
            }
            let metadata = image_io::read_metadata(path).unwrap_or_default();
            let is_sheet = metadata.iter().any(|(key, text)| key == MARK && self.is_own(table, text));
            return if is_sheet { overwrite } else { Overwrite::Never };
        }
        overwrite_if(path, LARGEST_PAGE, |path| {
            let page = read_text(path, LARGEST_PAGE).unwrap_or_default();
            let is_unchanged =
                page.rfind(CHECKSUM).is_some_and(|at| checksum_line(&page[..at]) == page[at..]);
            let mark = page.split_once(PAGE_MARK).and_then(|(_, rest)| rest.split_once('"'));
            is_unchanged && mark.is_some_and(|(mark, _)| self.is_own(table, &html_unescaped(mark)))
        })
    }

    /// Returns the text by which a sheet is recognised.
    fn mark(&self, table: &Table) -> String {
        json!({ "pictures": self.pictures, "about": self.about, "rows": table.rows, "columns": table.columns })
            .to_string()
    }

    /// True if a sheet with this mark is of this sweep, perhaps with fewer rows and columns.
    fn is_own(&self, table: &Table, mark: &str) -> bool {
        let mark: Value = serde_json::from_str(mark).unwrap_or_default();
        let within = |name: &str, all: &[String]| {
            let found = mark[name].as_array();
            found.is_some_and(|found| found.iter().all(|text| all.iter().any(|one| text == one)))
        };
        mark["pictures"] == *self.pictures
            && mark["about"] == *self.about
            && within("rows", &table.rows)
            && within("columns", &table.columns)
    }

    fn html(
        &self,
        table: &Table,
        painted: &[Option<PaintedCell>],
        names: &ClassNames,
        (width, height): (usize, usize),
    ) -> String {
        let mut rows = String::from("<tr><td class=\"corner\"></td>");
        for heading in &table.columns {
            rows += &format!("<th scope=\"col\">{}</th>", html_escaped(heading));
        }
        rows += "</tr>\n";
        for (row, heading) in table.rows.iter().enumerate() {
            rows += &format!("<tr><th scope=\"row\">{}</th>", html_escaped(heading));
            for (column, title) in table.columns.iter().enumerate() {
                let name = Cell { row, column, iterations: 0 }.name();
                let values = [heading.as_str(), title.as_str()];
                let values: Vec<&str> = values.into_iter().filter(|text| !text.is_empty()).collect();
                let values = html_escaped(&values.join(", "));
                rows += &match painted.get(row * table.columns.len() + column) {
                    Some(Some(cell)) => format!(
                        "<td id=\"{name}\"><figure><a href=\"{name}.png\"><img src=\"{name}.png\" alt=\"{values}\"></a>\
                         <figcaption><b>{values}</b><br>{}<code>{}</code></figcaption></figure></td>\n",
                        html_escaped(&caption(cell, names, 3)),
                        html_escaped(&self.command(&name))
                    ),
                    _ => format!("<td id=\"{name}\"><div class=\"empty\">not yet</div></td>\n"),
                };
            }
            rows += "</tr>\n";
        }
        // Not `format!`, because the style sheet contains braces.
        PAGE.replace("{title}", &html_escaped(&self.title))
            .replace("{about}", &html_escaped(&self.about))
            .replace("{mark}", &html_escaped(&self.mark(table)))
            .replace("{width}", &width.to_string())
            .replace("{height}", &height.to_string())
            .replace("{table}", &rows)
    }

    /// Returns the command that paints a cell at full size.
    fn command(&self, cell: &str) -> String {
        let page = self.page();
        let page = std::path::absolute(&page).unwrap_or(page);
        let mut place = page.into_os_string();
        place.push(format!("#{cell}"));
        format!("mirage sweep --continue {}", quoted(&place))
    }
}

/// Returns the last line of the page, with the checksum of those before it.
fn checksum_line(page: &str) -> String {
    format!("{CHECKSUM}{} -->\n", hex(&Sha256::digest(page)))
}

/// Formats the classes that the network sees in a cell, at most `most`.
fn caption(cell: &PaintedCell, names: &ClassNames, most: usize) -> String {
    let class = |&(index, probability): &(usize, f32)| named_percent(&names.name(index), probability);
    let mut parts: Vec<String> = cell.classes.iter().take(most).map(class).collect();
    if most > 1 {
        parts.extend(cell.distance.map(|distance| format!("{distance:.2} from the photo")));
    }
    parts.join(", ")
}

/// Reverses [`html_escaped`].
fn html_unescaped(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
}

fn html_escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Returns the picture of a cell that is named by its file, or by the page with the cell after `#`.
pub(super) fn cell_file(text: &Path) -> PathBuf {
    // The names of page and cell are ASCII, whatever the folder's is.
    let name = text.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((_, cell)) = name.rsplit_once('#').filter(|_| !text.exists()) else { return text.to_owned() };
    let path = text.with_file_name(format!("{cell}.png"));
    match path.to_str().and_then(|path| path.strip_prefix("file://")) {
        Some(path) => path.into(),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_found_by_file_or_by_page() {
        assert_eq!(cell_file(Path::new("a b/sheet.html#r2c3")), Path::new("a b/r2c3.png"));
        assert_eq!(cell_file(Path::new("file:///x/sheet.html#r1c1")), Path::new("/x/r1c1.png"));
        assert_eq!(cell_file(Path::new("a/r1c1.png")), Path::new("a/r1c1.png"));
    }

    #[test]
    fn sheet_text_is_html_escaped() {
        assert_eq!(html_escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
        assert_eq!(html_unescaped(&html_escaped("&lt;\"<&>")), "&lt;\"<&>");
    }
}
