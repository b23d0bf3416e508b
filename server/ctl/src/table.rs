//! Columns for people. Where the width is known, columns of names are cut to fit it; elsewhere
//! nothing is cut off.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row};

/// Headings of columns that may be cut.
const CUT: [&str; 8] = [
    "KEY", "NAME", "PARENT", "SNAPSHOT", "SOURCE", "TARGET", "OPTIONS", "IMAGE",
];
/// Columns between two cells.
const GAP: u16 = 2;

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

    fn rendered(&self) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(&self.text);
        let cell = match self.right {
            true => cell.set_alignment(CellAlignment::Right),
            false => cell,
        };
        match self.colour {
            Colour::Plain => cell,
            Colour::Green => cell.fg(Color::DarkGreen),
            Colour::Cyan => cell.fg(Color::DarkCyan),
            Colour::Yellow => cell.fg(Color::DarkYellow),
            Colour::Red => cell.fg(Color::DarkRed),
            Colour::Dim => cell.add_attribute(Attribute::Dim),
        }
    }
}

/// A heading and rows of as many cells.
#[derive(Debug)]
pub(crate) struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Self {
        let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
        Self {
            rows: vec![heading.iter().map(Cell::left).collect()],
            heading,
        }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.heading.len(), "one cell a column");
        self.rows.push(row);
    }

    /// Writes the table; with `columns`, the width of the terminal, no line is longer if that can be
    /// had by cutting names.
    pub(crate) fn write(
        &self,
        out: &mut dyn Write,
        colour: bool,
        columns: Option<u16>,
    ) -> io::Result<()> {
        let table = self.rendered(colour, columns);
        let mut lines = table.lines();
        lines.try_for_each(|line| writeln!(out, "{}", line.trim_end()))
    }

    fn rendered(&self, colour: bool, columns: Option<u16>) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).force_no_tty().style_text_only();
        if colour {
            table.enforce_styling();
        }
        for row in &self.rows {
            let mut row = Row::from(row.iter().map(Cell::rendered).collect::<Vec<_>>());
            row.max_height(1);
            table.add_row(row);
        }
        if let Some(columns) = columns {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(columns);
        }
        let last = self.heading.len().saturating_sub(1);
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if at == last { 0 } else { GAP }));
            // No character of a name: names are cut within, not between words.
            column.set_delimiter('\0');
            if !CUT.contains(&self.heading[at].as_str()) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, Colour, Table};

    fn rendered(colour: bool, columns: Option<u16>) -> String {
        let mut table = Table::new(&["KIND", "SIZE", "NAME"]);
        table.push(vec![
            Cell::left("active").coloured(Colour::Green),
            Cell::right("7B"),
            Cell::left("é"),
        ]);
        table.push(vec![
            Cell::left("view"),
            Cell::right("12KiB"),
            Cell::left("k8s.io/12/extract-1 sha256:0123456789abcdef"),
        ]);
        let mut out = Vec::new();
        table.write(&mut out, colour, columns).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up() {
        assert_eq!(
            rendered(false, None),
            "KIND    SIZE   NAME\n\
             active     7B  é\n\
             view    12KiB  k8s.io/12/extract-1 sha256:0123456789abcdef\n"
        );
    }

    #[test]
    fn names_are_cut_to_the_width() {
        assert_eq!(
            rendered(false, Some(40)),
            "KIND    SIZE   NAME\n\
             active     7B  é\n\
             view    12KiB  k8s.io/12/extract-1 sha2…\n"
        );
        assert_eq!(rendered(false, Some(200)), rendered(false, None));
    }

    #[test]
    fn colours_do_not_change_the_columns() {
        let text = rendered(true, None);
        let line = text.lines().nth(1).unwrap();
        assert!(
            line.starts_with("\u{1b}[") && line.contains("active\u{1b}["),
            "{line:?}"
        );
        assert!(line.ends_with("m     7B  é"), "{line:?}");
    }
}
