//! kubectl's tables: upper-case headers, columns as wide as their widest cell, blanks between, nothing after the last.

use std::fmt::Write as _;

#[derive(Clone, Debug)]
pub(crate) struct Table {
    gap: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: AsRef<str>>(header: impl IntoIterator<Item = S>) -> Self {
        let mut table = Self {
            gap: 5,
            rows: Vec::new(),
        };
        table.row(header);
        table
    }

    /// An empty cell of a table with a header prints as blanks, as istioctl's do.
    pub(crate) fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells = cells.into_iter().map(|cell| cell.as_ref().to_owned());
        self.rows.push(cells.collect());
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let padded = width + self.gap;
                // Writing to a String cannot fail.
                let _infallible = write!(line, "{cell:<padded$}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "STATUS"]);
        table.row(["a-long-name", "OK"]);
        table.row(["é", ""]);
        assert_eq!(
            table.render(),
            "NAME            STATUS\na-long-name     OK\né\n"
        );
    }
}
