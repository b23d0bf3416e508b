//! One record of comma-separated values, by the rules that `--mount` follows: a field is quoted
//! as a whole or not at all, and a quote within quotes is doubled.

use super::error::{Fault, Rule};

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) text: String,
    /// Whether it stood in quotes.
    pub(super) quoted: bool,
}

/// The first record. Empty lines before it and everything behind it are ignored, as Docker does.
pub(super) fn record(text: &str) -> Result<Vec<Field>, Fault> {
    let text = text.replace("\r\n", "\n");
    let text = text.strip_suffix('\r').unwrap_or(&text);
    let mut rest = text.trim_start_matches('\n');
    if rest.is_empty() {
        return Err(Fault::new("", Rule::Empty, "must not be empty"));
    }
    let mut fields = Vec::new();
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => in_quotes(quoted)?,
            None => plain(rest)?,
        };
        fields.push(field);
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

fn plain(text: &str) -> Result<(Field, &str), Fault> {
    let end = text.find([',', '\n']).unwrap_or(text.len());
    let (field, behind) = text.split_at(end);
    if field.contains('"') {
        let detail = "a quote inside a field that does not begin with one";
        let hint = r#"quote the whole field and double the quotes in it: "key=a ""b"" c""#;
        return Err(Fault::new(key_of(field), Rule::Syntax, detail).hint(hint));
    }
    let field = Field {
        text: field.to_owned(),
        quoted: false,
    };
    Ok((field, behind))
}

/// `text` starts behind the opening quote.
fn in_quotes(text: &str) -> Result<(Field, &str), Fault> {
    let mut inner = String::new();
    let mut rest = text;
    loop {
        let Some((before, behind)) = rest.split_once('"') else {
            let detail = "a quoted field does not end";
            return Err(Fault::new(key_of(text), Rule::Syntax, detail));
        };
        inner.push_str(before);
        match behind.chars().next() {
            Some('"') => inner.push('"'),
            None | Some(',' | '\n') => {
                let field = Field {
                    text: inner,
                    quoted: true,
                };
                return Ok((field, behind));
            }
            Some(_) => {
                let detail = "something follows the end of a quoted field";
                return Err(Fault::new(key_of(text), Rule::Syntax, detail));
            }
        }
        rest = &behind[1..];
    }
}

fn key_of(field: &str) -> &str {
    field.split('=').next().unwrap_or_default()
}

/// The field as `record` reads it back.
pub(super) fn encode(field: &str) -> String {
    let trimmed = field.trim() == field;
    let value_trimmed = field
        .split_once('=')
        .is_none_or(|(_, value)| value.trim() == value);
    if trimmed && value_trimmed && !field.contains([',', '"', '\n', '\r']) {
        return field.to_owned();
    }
    format!("\"{}\"", field.replace('"', "\"\""))
}
