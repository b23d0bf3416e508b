//! One record of comma-separated values, by the rules that `--mount` follows: a field is quoted
//! as a whole or not at all, and a quote within quotes is doubled.

use super::Context;
use super::error::{Fault, Rule, control_character};

const QUOTE_IT: &str = "a field that holds one must be quoted as a whole";

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) text: String,
    /// Set if it stood in quotes.
    pub(super) quoted: bool,
}

/// The first record. Docker ignores empty lines before it and everything behind it; in our dialect
/// a control character can only stand in quotes, and means itself there.
pub(super) fn record(text: &str, context: Context<'_>) -> Result<Vec<Field>, Fault> {
    if context.is_strict() {
        return fields(text, true);
    }
    let text = text.replace("\r\n", "\n");
    let text = text.strip_suffix('\r').unwrap_or(&text);
    fields(text.trim_start_matches('\n'), false)
}

fn fields(original: &str, strict: bool) -> Result<Vec<Field>, Fault> {
    let mut rest = original;
    if rest.is_empty() {
        return Err(Fault::new("", Rule::Empty, "must not be empty"));
    }
    let mut fields = Vec::new();
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => in_quotes(quoted)?,
            None => plain(rest)?,
        };
        let bare = if field.quoted { "" } else { &field.text };
        let control = |(_, c): &(usize, char)| strict && c.is_control();
        if let Some((at, c)) = bare.char_indices().find(control) {
            let fault = control_character(key_of(bare), c, at);
            return Err(fault.hint(QUOTE_IT));
        }
        fields.push(field);
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None if strict && !behind.is_empty() => {
                let fault = control_character("", '\n', original.len() - behind.len());
                return Err(fault.hint(QUOTE_IT));
            }
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
    let plain = !field.contains([',', '"']) && !field.contains(char::is_control);
    if trimmed && value_trimmed && plain {
        return field.to_owned();
    }
    format!("\"{}\"", field.replace('"', "\"\""))
}
