//! Columns of text.

/// Rows with all cells of a column as wide as the widest; the first `left` columns flush left, the others right.
pub(super) struct Table {
    left: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(left: usize, head: [&str; N]) -> Self {
        Self { left, rows: vec![head.map(str::to_owned).to_vec()] }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                line += &if column < self.left {
                    format!("{cell:<width$}  ")
                } else {
                    format!("{cell:>width$}  ")
                };
            }
            let end = if index + 1 < self.rows.len() { "\n" } else { "" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A number with three significant digits, and a decimal prefix where it is large: `1.23 G`.
pub(super) fn metric(value: f64) -> String {
    let units = ["", "k", "M", "G", "T"];
    let mut value = value;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value == 0.0 || value.abs() >= 100.0 || value.fract() == 0.0 && unit == 0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", units[unit]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(1, ["op", "ms"]);
        table.row(["a longer name".to_owned(), "1.5".to_owned()]);
        table.row(["b".to_owned(), "120".to_owned()]);
        assert_eq!(table.to_string(), "op              ms\na longer name  1.5\nb              120");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.125, "0.12"),
            (999.0, "999"),
            (1234.0, "1.23 k"),
            (45_600_000.0, "45.6 M"),
            (4.84e9, "4.84 G"),
            (1e15, "1000 T"),
        ] {
            assert_eq!(metric(value), text);
        }
    }
}
