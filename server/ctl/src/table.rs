//! Columns for people. What does not fit a terminal wraps; nothing is cut off.

use std::io::{self, Write};

/// Colours, used sparingly: only where they carry meaning that the text has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Green,
    Cyan,
    Yellow,
    Red,
    Dim,
}

impl Colour {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Green => Some("\x1b[32m"),
            Self::Cyan => Some("\x1b[36m"),
            Self::Yellow => Some("\x1b[33m"),
            Self::Red => Some("\x1b[31m"),
            Self::Dim => Some("\x1b[2m"),
        }
    }
}

/// One cell, already safe to print.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    colour: Colour,
    right: bool,
}

impl Cell {
    pub(crate) fn left(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            colour: Colour::Plain,
            right: false,
        }
    }

    /// For numbers.
    pub(crate) fn right(text: impl Into<String>) -> Self {
        Self {
            right: true,
            ..Self::left(text)
        }
    }

    pub(crate) fn coloured(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// A heading and rows of as many cells. The last column is not padded, so long names go there.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self {
            rows: vec![heading.iter().map(|&name| Cell::left(name)).collect()],
        }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.rows[0].len(), "one cell a column");
        self.rows.push(row);
    }

    pub(crate) fn write(&self, out: &mut dyn Write, colour: bool) -> io::Result<()> {
        let widths = self.widths();
        for row in &self.rows {
            let last = row.len() - 1;
            for (column, cell) in row.iter().enumerate() {
                let padding = widths[column].saturating_sub(cell.width());
                let end = if column == last { "\n" } else { "  " };
                write_cell(out, cell, if column == last { 0 } else { padding }, colour)?;
                out.write_all(end.as_bytes())?;
            }
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows[0].len();
        (0..columns)
            .map(|column| {
                self.rows
                    .iter()
                    .map(|row| row[column].width())
                    .max()
                    .unwrap_or(0)
            })
            .collect()
    }
}

fn write_cell(out: &mut dyn Write, cell: &Cell, padding: usize, colour: bool) -> io::Result<()> {
    let (before, after) = if cell.right {
        (padding, 0)
    } else {
        (0, padding)
    };
    match cell.colour.code().filter(|_| colour) {
        Some(code) => write!(out, "{:before$}{code}{}\x1b[0m{:after$}", "", cell.text, ""),
        None => write!(out, "{:before$}{}{:after$}", "", cell.text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, Colour, Table};

    fn rendered(colour: bool) -> String {
        let mut table = Table::new(&["KIND", "SIZE", "NAME"]);
        table.push(vec![
            Cell::left("active").coloured(Colour::Green),
            Cell::right("7B"),
            Cell::left("é"),
        ]);
        let mut out = Vec::new();
        table.write(&mut out, colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up() {
        assert_eq!(rendered(false), "KIND    SIZE  NAME\nactive    7B  é\n");
    }

    #[test]
    fn colours_do_not_change_the_columns() {
        let text = rendered(true);
        assert_eq!(text, "KIND    SIZE  NAME\n\x1b[32mactive\x1b[0m    7B  é\n");
    }
}
