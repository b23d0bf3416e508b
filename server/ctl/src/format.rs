//! `--format`: `json`, `table ...` and the part of Go's templates that Docker's users type.

mod eval;
mod parse;

use serde_json::Value;

use crate::error::Error;
use crate::output::Output;
use crate::table::{Cell, Table};

/// A form of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Template {
    /// The command's own table.
    Table,
    /// One JSON object a line.
    Json,
    /// Columns, each with its heading.
    Columns(Vec<Part>),
    /// A line for each row.
    Lines(Vec<Part>),
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    /// Calls, each of which gets the value of the one before it as its last argument.
    Action(Vec<Call>),
}

/// A function with its arguments; no function stands for the one argument itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    function: Option<Function>,
    arguments: Vec<Operand>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Json,
    Upper,
    Lower,
    Join,
    Index,
    Len,
    /// The method `.Label "KEY"`.
    Label,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operand {
    /// Names after dots; none for the row itself.
    Path(Vec<String>),
    Text(String),
}

impl Template {
    /// Reads a template. The error names the part that is not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("table") {
            _ if text == "json" => Ok(Self::Json),
            Some("") => Ok(Self::Table),
            Some(columns) if columns.starts_with([' ', '\t']) => {
                parse::parts(columns.trim_start()).map(Self::Columns)
            }
            _ => parse::parts(text).map(Self::Lines),
        }
    }

    /// True if the command prints its own table.
    pub(crate) fn is_table(&self) -> bool {
        *self == Self::Table
    }

    /// Prints objects. An unknown field is refused by name before anything is printed.
    pub(crate) fn print(&self, rows: &[Value], out: &mut Output) -> Result<(), Error> {
        match self {
            Self::Table | Self::Json => rows.iter().try_for_each(|row| out.object(row)),
            Self::Lines(parts) => {
                let lines: Vec<String> = rendered(parts, rows)?;
                lines.iter().try_for_each(|line| out.line(line))
            }
            Self::Columns(parts) => {
                let headings = parse::headings(parts);
                let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
                let mut table = Table::new(&headings);
                for line in rendered(parts, rows)? {
                    let mut cells: Vec<Cell> = line.split('\t').map(Cell::left).collect();
                    cells.resize_with(headings.len(), || Cell::left(""));
                    table.push(cells);
                }
                out.table(&table)
            }
        }
    }
}

fn rendered(parts: &[Part], rows: &[Value]) -> Result<Vec<String>, Error> {
    let rendered = rows.iter().map(|row| eval::line(parts, row));
    rendered
        .collect::<Result<_, _>>()
        .map_err(|why| Error::Invalid {
            what: "print with --format".to_owned(),
            why,
            hint: "`--format json` shows all fields.".to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Template, eval, parse};

    fn row() -> Value {
        json!({
            "Name": "data",
            "Labels": {"app": "web", "com.example/tier": "1", "a.b": "c\u{1b}[2J"},
            "UsageData": {"Size": 7},
            "Tags": ["x", "y"],
            "None": null,
        })
    }

    fn line(template: &str) -> Result<String, String> {
        match Template::parse(template)? {
            Template::Lines(parts) | Template::Columns(parts) => eval::line(&parts, &row()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn fields_and_functions_are_those_of_docker() {
        let table = [
            ("{{.Name}}", "data"),
            ("{{ .Name }}: {{.UsageData.Size}}", "data: 7"),
            ("{{- .Name -}}", "data"),
            ("{{.Labels.app}}", "web"),
            ("{{.Labels.a.b}}", "c\\u{1b}[2J"),
            ("{{.Labels.gone}}|", "|"),
            ("{{.Label \"com.example/tier\"}}", "1"),
            ("{{index .Labels \"com.example/tier\"}}", "1"),
            ("{{json .Tags}}", "[\"x\",\"y\"]"),
            ("{{.Tags | json}}", "[\"x\",\"y\"]"),
            ("{{join .Tags \"+\"}}", "x+y"),
            ("{{upper .Name}}{{lower \"A\"}}{{len .Tags}}", "DATAa2"),
            ("{{.None}}", "<nil>"),
            ("a\\tb{{\"}}\"}}", "a\tb}}"),
        ];
        for (template, wanted) in table {
            assert_eq!(line(template).as_deref(), Ok(wanted), "{template}");
        }
        assert!(line("{{.Labels}}").unwrap().starts_with("a.b=c"));
        assert!(line("{{json .}}").unwrap().contains("\"Name\":\"data\""));
    }

    #[test]
    fn mistakes_are_named() {
        let table = [
            ("{{.Nam}}", "Nam"),
            ("{{.UsageData.Sise}}", "Sise"),
            ("{{.Name.x}}", "x"),
            ("{{range .Tags}}", "range"),
            ("{{Name}}", "Name"),
            ("{{.Name", "}}"),
            ("{{}}", "empty"),
            ("{{join .Tags}}", "join"),
            ("{{.Name \"x\"}}", ".Name"),
            ("{{\"x}}", "quote"),
        ];
        for (template, part) in table {
            let error = line(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
        let error = line("{{.Nam}}").unwrap_err();
        assert!(
            error.contains("Labels") && error.contains("UsageData"),
            "{error}"
        );
    }

    #[test]
    fn tables_have_headings() {
        assert_eq!(Template::parse("table"), Ok(Template::Table));
        assert_eq!(Template::parse("json"), Ok(Template::Json));
        let Ok(Template::Columns(parts)) = Template::parse("table {{.Name}}\\t{{.Labels.app}} x")
        else {
            panic!("columns");
        };
        assert_eq!(parse::headings(&parts), ["NAME", "LABELS.APP x"]);
    }
}
