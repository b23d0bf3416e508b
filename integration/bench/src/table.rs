//! Tables in Markdown, as they go into docs/.

use std::fmt;

/// A table; every row has as many cells as the head.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self {
            title: title.into(),
            rows: vec![head.iter().map(ToString::to_string).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = 0..self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(move |row| row[column].len());
        columns
            .map(|column| width(column).max().unwrap_or(0))
            .collect()
    }
}

/// Text of a cell for a goal.
pub(crate) fn verdict(goal: impl fmt::Display, is_met: bool) -> String {
    format!("{goal}: {}", if is_met { "met" } else { "missed" })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        let widths = self.widths();
        for (index, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if index == 0 {
                let rules = widths.iter().map(|width| "-".repeat(width + 2));
                writeln!(f, "|{}|", rules.collect::<Vec<_>>().join("|"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new("Title:", &["a", "long"]);
        table.row(["wide".into(), "b".into()]);
        let wanted = "Title:\n\n| a    | long |\n|------|------|\n| wide | b    |\n";
        assert_eq!(table.to_string(), wanted);
    }
}
