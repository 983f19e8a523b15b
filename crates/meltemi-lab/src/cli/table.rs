//! kubectl's tables: upper-case headers, three blanks between columns, no borders.

use std::io::{self, Write};

pub(super) struct Table {
    rows: Vec<Vec<String>>,
    gap: usize,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self::with_gap(header, 3)
    }

    /// A table with that many blanks between columns.
    pub(super) fn with_gap(header: &[&str], gap: usize) -> Self {
        Self {
            rows: vec![header.iter().map(|cell| (*cell).to_owned()).collect()],
            gap,
        }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        let gap = self.gap;
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += &format!("{cell:<width$}{:gap$}", "");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// kubectl's age: the two largest units while they are small.
pub(super) fn age(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..600 => with_rest(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with_rest(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with_rest(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

fn with_rest(count: i64, unit: &str, rest: i64, rest_unit: &str) -> String {
    if rest == 0 {
        format!("{count}{unit}")
    } else {
        format!("{count}{unit}{rest}{rest_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["NAME", "AGE"]);
        table.row(vec!["reviews-v1".into(), "5s".into()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME         AGE\nreviews-v1   5s\n"
        );
    }

    #[test]
    fn ages_as_kubectl_prints_them() {
        let ages = [
            5, 119, 150, 180, 3599, 7200, 12_000, 100_000, 200_000, 900_000,
        ]
        .map(age);
        assert_eq!(
            ages,
            [
                "5s", "119s", "2m30s", "3m", "59m", "120m", "3h20m", "27h", "2d7h", "10d"
            ]
        );
    }
}
