//! Aligned columns of text. Each cell stays on one line.

use super::escape::{cut, one_line};

/// Maximum number of characters shown of a cell. Only text from files is longer.
const LONGEST: usize = 4096;
/// Maximum width that cells are padded to, so that one long cell doesn't widen every line.
const WIDEST: usize = 100;

/// Alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Align {
    /// Flush left.
    Left,
    /// Flush right.
    Right,
}

/// A table whose columns are as wide as their widest cell, up to [`WIDEST`].
pub(in crate::cli) struct Table<const N: usize> {
    columns: [Align; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Creates a table without rows.
    pub(in crate::cli) fn of(columns: [Align; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Creates a table with a row of headings. The first `left` columns are flush left, the others right.
    pub(in crate::cli) fn new(left: usize, head: [&str; N]) -> Self {
        let align = |column| if column < left { Align::Left } else { Align::Right };
        let mut table = Self::of(std::array::from_fn(align));
        table.row(head.map(str::to_owned));
        table
    }

    /// Adds a row.
    pub(in crate::cli) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| cut(&one_line(&cell), LONGEST)));
    }
}

impl<const N: usize> std::fmt::Display for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(|column| width(column).min(WIDEST));
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(self.columns).zip(widths) {
                line += &match align {
                    Align::Left => format!("{cell:<width$}  "),
                    Align::Right => format!("{cell:>width$}  "),
                };
            }
            let end = if index + 1 < self.rows.len() { "\n" } else { "" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(1, ["op", "ms"]);
        table.row(["a longer name".to_owned(), "1.5".to_owned()]);
        table.row(["b".to_owned(), "120".to_owned()]);
        assert_eq!(table.to_string(), "op              ms\na longer name  1.5\nb              120");
    }

    #[test]
    fn long_cells_are_cut_without_widening_columns() {
        let mut table = Table::of([Align::Left; 2]);
        table.row(["ü".repeat(70_000), "1".to_owned()]);
        table.row(["b".to_owned(), "x".repeat(70_000)]);
        let text = table.to_string();
        let lines: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(text.contains("… (70000 characters)  1\n") && text.ends_with("… (70000 characters)"));
        assert!(lines.iter().all(|count| *count < LONGEST + WIDEST + 40), "{lines:?}");
    }
}
