//! Contact sheets: a grid of pictures of one size, with text around them.

mod text;

use noto_sans_mono_bitmap::RasterHeight;

use super::{MAX_PIXELS, MAX_SIDE, Picture, check_size};
use crate::allocation::zeros;
use crate::{Error, Result};
use text::Font;

/// Background and text colours from dark to faint, as sRGB-encoded grays. The contrast to the background is 15:1
/// (headings) and 7:1 (captions).
const PAPER: f32 = 0.98;
const INK: f32 = 0.13;
const SOFT_INK: f32 = 0.34;
const FAINT_INK: f32 = 0.58;
/// Fill and border of the box for a missing picture.
const BOX: f32 = 0.945;
const BORDER: f32 = 0.84;

/// Maximum number of lines of each kind of text.
const TITLE_LINES: usize = 3;
const HEADING_LINES: usize = 3;
const CAPTION_LINES: usize = 4;
const FOOTER_LINES: usize = 4;

/// Maximum width, in letters, of the column of row headings, and of a sheet that is widened for its title and footer.
const ROW_HEADING: usize = 20;
const WIDEST: usize = 56;

/// Minimum width of a cell, in letters, so that headings of tiny pictures are readable.
const CELL_LETTERS: usize = 10;

/// Size of the cells, in pixels, if no picture is present.
const DEFAULT_CELL: (usize, usize) = (160, 120);

/// A picture and its caption in a [`Sheet`].
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The picture, copied to the sheet unchanged.
    pub picture: Picture,
    /// Text below it; may be empty.
    pub caption: String,
}

/// A contact sheet: a grid of pictures of one size with headings, captions, a title and a footer.
///
/// Empty texts take no space. Long texts are wrapped, at spaces if possible, and finally shortened with three dots;
/// nothing overlaps. The font (Noto Sans Mono) grows with the pictures. It covers Latin-1 and Latin Extended-A;
/// typographic dashes and quotes become plain ones, and other characters a replacement character.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sheet {
    /// Title above the grid.
    pub title: String,
    /// Text below the grid, such as the options of the run.
    pub footer: String,
    /// Headings of the columns, from left to right; one for each column.
    pub columns: Vec<String>,
    /// Headings of the rows, from top to bottom, shown at the left; one for each row.
    pub rows: Vec<String>,
    /// `rows.len() * columns.len()` cells, row by row. A missing one is drawn as an empty box with "not yet".
    pub cells: Vec<Option<Cell>>,
}

impl Sheet {
    /// Checks that the sheet can be drawn. It needs only one of the pictures, for their size.
    ///
    /// # Errors
    /// The errors of [`Sheet::compose`], except for a lack of memory.
    pub fn check(&self) -> Result<()> {
        Layout::of(self).map(drop)
    }

    /// Draws the sheet.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are no rows or columns, the number of cells doesn't match them, the pictures
    /// differ in size or are malformed, or the sheet would be larger than [`MAX_SIDE`] or [`MAX_PIXELS`] or memory
    /// allows: the message says what to reduce.
    pub fn compose(&self) -> Result<Picture> {
        let layout = Layout::of(self)?;
        let mut picture = Picture {
            width: layout.width,
            height: layout.height,
            rgb: zeros(layout.width * layout.height * 3).map_err(|problem| {
                Error::usage(format!(
                    "not enough memory for a sheet of {}x{} pixels ({problem}). Make the pictures smaller",
                    layout.width, layout.height
                ))
            })?,
        };
        picture.rgb.fill(PAPER);
        for item in &layout.items {
            let Rect { left, top, width, height } = item.rect;
            match &item.content {
                Content::Line { text, font, ink } => font.draw(&mut picture, (left, top), text, *ink),
                Content::Picture(cell) => {
                    for (row, y) in cell.rgb.chunks_exact(width * 3).zip(top..) {
                        let at = (y * picture.width + left) * 3;
                        picture.rgb[at..at + width * 3].copy_from_slice(row);
                    }
                }
                Content::Missing { text, font } => {
                    for y in top..top + height {
                        let at = (y * picture.width + left) * 3;
                        let row = &mut picture.rgb[at..at + width * 3];
                        row.fill(if y == top || y + 1 == top + height { BORDER } else { BOX });
                        row[..3].fill(BORDER);
                        row[(width - 1) * 3..].fill(BORDER);
                    }
                    let place =
                        (left + (width - font.width(text)) / 2, top + height.saturating_sub(font.line()) / 2);
                    font.draw(&mut picture, place, text, FAINT_INK);
                }
            }
        }
        Ok(picture)
    }

    /// Returns the size of the pictures, which must be the same for all.
    fn cell_size(&self) -> Result<(usize, usize)> {
        let mut size: Option<((usize, usize), String)> = None;
        for (index, cell) in self.cells.iter().enumerate() {
            let Some(Cell { picture, .. }) = cell else { continue };
            let (column, row) = (index % self.columns.len(), index / self.columns.len());
            picture.check()?;
            let here = (picture.width, picture.height);
            let place = format!("in row {}, column {}", row + 1, column + 1);
            match &size {
                None => size = Some((here, place)),
                Some((first, first_place)) if *first != here => {
                    return Err(Error::usage(format!(
                        "the pictures of a sheet must have one size: {}x{} pixels {first_place}, but {}x{} {place}. Resize them first",
                        first.0, first.1, here.0, here.1
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(size.map_or(DEFAULT_CELL, |(size, _)| size))
    }
}

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rect {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

/// Something to draw.
#[derive(Debug)]
enum Content<'a> {
    Line { text: String, font: Font, ink: f32 },
    Picture(&'a Picture),
    Missing { text: &'static str, font: Font },
}

/// Something to draw, and its position.
#[derive(Debug)]
struct Item<'a> {
    rect: Rect,
    content: Content<'a>,
}

/// Horizontal alignment of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Centre,
    Right,
}

/// The sheet as rectangles, which don't overlap and are all inside.
#[derive(Debug)]
struct Layout<'a> {
    width: usize,
    height: usize,
    items: Vec<Item<'a>>,
}

/// Returns the font sizes of the title and of other text for a cell width in pixels.
fn sizes(cell: usize) -> (RasterHeight, RasterHeight) {
    match cell {
        0..=239 => (RasterHeight::Size20, RasterHeight::Size16),
        240..=479 => (RasterHeight::Size24, RasterHeight::Size20),
        480..=799 => (RasterHeight::Size32, RasterHeight::Size24),
        _ => (RasterHeight::Size32, RasterHeight::Size32),
    }
}

impl<'a> Layout<'a> {
    fn of(sheet: &'a Sheet) -> Result<Self> {
        let (columns, rows) = (sheet.columns.len(), sheet.rows.len());
        if columns == 0 || rows == 0 {
            return Err(Error::usage(format!(
                "a sheet of {columns} columns and {rows} rows has no cells. Use at least one of each"
            )));
        }
        if sheet.cells.len() != columns.saturating_mul(rows) {
            return Err(Error::usage(format!(
                "a sheet of {columns} columns and {rows} rows needs {} cells but has {}. This is a mistake in the calling code",
                columns.saturating_mul(rows),
                sheet.cells.len()
            )));
        }
        let (picture_width, picture_height) = sheet.cell_size()?;
        let (title_size, size) = sizes(picture_width);
        let (title_font, bold, regular) = (Font::bold(title_size), Font::bold(size), Font::regular(size));
        let unit = size.val();
        let (margin, gap, close) = (unit * 2, unit, unit / 4);

        // Horizontal layout.
        let cell_width = picture_width.max(CELL_LETTERS * bold.advance());
        let cell_height = picture_height.max(regular.line());
        let longest = sheet.rows.iter().map(|row| bold.width(row)).max().unwrap_or(0);
        let row_width = longest.min(ROW_HEADING * bold.advance());
        let row_lines = cell_height / bold.line();
        let headings: Vec<Vec<String>> =
            sheet.rows.iter().map(|row| bold.wrap(row, row_width, row_lines.max(1))).collect();
        // Wrapped headings may be narrower than the limit.
        let row_width = headings.iter().flatten().map(|line| bold.width(line)).max().unwrap_or(0);
        let beside = if row_width > 0 { row_width + gap } else { 0 };
        let grid = columns.saturating_mul(cell_width + gap) - gap + beside;
        let words = title_font.width(&sheet.title).max(regular.width(&sheet.footer));
        let content = grid.max(words.min(WIDEST * regular.advance()));
        let width = content.saturating_add(2 * margin);
        // Checked first, so that the arithmetic below can't overflow.
        too_large(sheet, (picture_width, picture_height), width, 1)?;
        let first_row_heading = margin + (content - grid) / 2;
        let first_cell = first_row_heading + beside;
        let column_at = |column: usize| first_cell + column * (cell_width + gap);

        // Vertical layout.
        let mut page = Page { items: Vec::new(), top: margin };
        let title = title_font.wrap(&sheet.title, content, TITLE_LINES);
        page.lines(&title, (title_font, INK), margin, content, Align::Left);
        page.space(!title.is_empty(), gap);

        let names: Vec<Vec<String>> =
            sheet.columns.iter().map(|name| bold.wrap(name, cell_width, HEADING_LINES)).collect();
        let most = names.iter().map(Vec::len).max().unwrap_or(0);
        for (column, name) in names.iter().enumerate() {
            let top = page.top + (most - name.len()) * bold.line();
            page.lines_at(name, (bold, INK), (column_at(column), top), cell_width, Align::Centre);
        }
        page.top += most * bold.line();
        page.space(most > 0, close);

        for (row, (cells, heading)) in sheet.cells.chunks_exact(columns).zip(&headings).enumerate() {
            page.space(row > 0, gap);
            let top = page.top + cell_height.saturating_sub(heading.len() * bold.line()) / 2;
            page.lines_at(heading, (bold, INK), (first_row_heading, top), row_width, Align::Right);
            let mut captions = Vec::with_capacity(columns);
            for (column, cell) in cells.iter().enumerate() {
                page.cell(cell.as_ref(), (column_at(column), cell_width, cell_height), regular);
                let caption = cell.as_ref().map_or("", |cell| &cell.caption);
                captions.push(regular.wrap(caption, cell_width, CAPTION_LINES));
            }
            page.top += cell_height;
            let most = captions.iter().map(Vec::len).max().unwrap_or(0);
            page.space(most > 0, close);
            for (column, caption) in captions.iter().enumerate() {
                let place = (column_at(column), page.top);
                page.lines_at(caption, (regular, SOFT_INK), place, cell_width, Align::Centre);
            }
            page.top += most * regular.line();
            too_large(sheet, (picture_width, picture_height), width, page.top)?;
        }

        let footer = regular.wrap(&sheet.footer, content, FOOTER_LINES);
        page.space(!footer.is_empty(), gap + close);
        page.lines(&footer, (regular, SOFT_INK), margin, content, Align::Left);
        let height = page.top + margin;
        too_large(sheet, (picture_width, picture_height), width, height)?;
        Ok(Self { width, height, items: page.items })
    }
}

/// A layout under construction.
struct Page<'a> {
    items: Vec<Item<'a>>,
    /// Vertical position of the next item.
    top: usize,
}

impl<'a> Page<'a> {
    /// Adds vertical space if `wanted`.
    fn space(&mut self, wanted: bool, pixels: usize) {
        self.top += if wanted { pixels } else { 0 };
    }

    /// Places lines and moves the position below them.
    fn lines(&mut self, lines: &[String], style: (Font, f32), left: usize, width: usize, align: Align) {
        self.lines_at(lines, style, (left, self.top), width, align);
        self.top += lines.len() * style.0.line();
    }

    /// Places lines between `left` and `left + width` without moving the position.
    fn lines_at(
        &mut self,
        lines: &[String],
        (font, ink): (Font, f32),
        (left, top): (usize, usize),
        width: usize,
        align: Align,
    ) {
        for (index, line) in lines.iter().enumerate() {
            // Lines are wrapped to this width.
            let spare = width.saturating_sub(font.width(line));
            let shift = match align {
                Align::Left => 0,
                Align::Centre => spare / 2,
                Align::Right => spare,
            };
            let rect = Rect {
                left: left + shift,
                top: top + index * font.line(),
                width: font.width(line),
                height: font.line(),
            };
            self.items.push(Item { rect, content: Content::Line { text: line.clone(), font, ink } });
        }
    }

    /// Places a picture in the centre of its cell, or a box that fills the cell.
    fn cell(&mut self, cell: Option<&'a Cell>, (left, width, height): (usize, usize, usize), font: Font) {
        let item = match cell {
            Some(Cell { picture, .. }) => Item {
                rect: Rect {
                    left: left + (width - picture.width) / 2,
                    top: self.top + (height - picture.height) / 2,
                    width: picture.width,
                    height: picture.height,
                },
                content: Content::Picture(picture),
            },
            None => Item {
                rect: Rect { left, top: self.top, width, height },
                content: Content::Missing { text: "not yet", font },
            },
        };
        self.items.push(item);
    }
}

/// Rejects a sheet that exceeds the limits of pictures.
fn too_large(sheet: &Sheet, cell: (usize, usize), width: usize, height: usize) -> Result<()> {
    check_size(width, height).map_err(|_| {
        let (columns, rows) = (sheet.columns.len(), sheet.rows.len());
        let remedy = if width > MAX_SIDE {
            "Use fewer columns, or make the pictures smaller"
        } else if height > MAX_SIDE {
            "Use fewer rows, or make the pictures smaller"
        } else {
            "Make the pictures smaller, or use fewer of them"
        };
        Error::usage(format!(
            "the sheet is too large: {columns} columns and {rows} rows of {}x{} pixels; the limits are {MAX_SIDE} pixels a side and {MAX_PIXELS} in all. {remedy}",
            cell.0, cell.1
        ))
    })
}

#[cfg(test)]
mod tests;
