//! The grammar: selectors between commas, each a path of fields, perhaps an operator and a value.

use super::lexer::{Lexer, Token};

/// Test of a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    /// No operator: the field is there.
    Present,
    /// `==`
    Equal,
    /// `!=`
    Differs,
    /// `~=`
    Matches,
}

/// One selector as it was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawSelector {
    /// At least one part. Bytes, because an escape can write any byte.
    pub(super) path: Vec<Vec<u8>>,
    pub(super) operator: Operator,
    /// Empty for [`Operator::Present`].
    pub(super) value: Vec<u8>,
}

/// Where and why a filter is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) found: String,
    pub(super) allowed: &'static str,
}

const FIELD: &str = "a field: letters, digits and _, or text in double quotes";
const OPERATOR: &str = "one of == != ~=";
const VALUE: &str = "a value: plain text, or text in double quotes";
const PATTERN: &str = "a pattern: plain text, or text between double quotes, / or |";
const MORE: &str = "a comma or the end, without white space before it";

/// Parses a filter that is not empty.
pub(super) fn parse(input: &str) -> Result<Vec<RawSelector>, Fault> {
    let mut lexer = Lexer::new(input);
    let mut selectors = vec![selector(&mut lexer)?];
    while let Some(next) = lexer.peek() {
        if next != ',' {
            return Err(Fault {
                at: lexer.position(),
                found: format!("{next:?}"),
                allowed: MORE,
            });
        }
        lexer.next();
        selectors.push(selector(&mut lexer)?);
    }
    Ok(selectors)
}

fn selector(lexer: &mut Lexer<'_>) -> Result<RawSelector, Fault> {
    let path = path(lexer)?;
    // White space here means that an operator must follow: upstream looks at one character.
    if matches!(lexer.peek(), None | Some(',')) {
        return Ok(RawSelector {
            path,
            operator: Operator::Present,
            value: Vec::new(),
        });
    }
    let operator = operator(lexer)?;
    let value = value(lexer, operator)?;
    Ok(RawSelector {
        path,
        operator,
        value,
    })
}

fn path(lexer: &mut Lexer<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    let mut parts = vec![field(lexer)?];
    while lexer.peek() == Some('.') {
        lexer.next();
        parts.push(field(lexer)?);
    }
    Ok(parts)
}

fn field(lexer: &mut Lexer<'_>) -> Result<Vec<u8>, Fault> {
    match lexer.next() {
        (_, Token::Word(word)) => Ok(word.as_bytes().to_vec()),
        (_, Token::Quoted('"', text)) => Ok(text),
        (at, other) => Err(fault(at, &other, FIELD)),
    }
}

fn operator(lexer: &mut Lexer<'_>) -> Result<Operator, Fault> {
    match lexer.next() {
        (_, Token::Operator("==")) => Ok(Operator::Equal),
        (_, Token::Operator("!=")) => Ok(Operator::Differs),
        (_, Token::Operator("~=")) => Ok(Operator::Matches),
        (at, other) => Err(fault(at, &other, OPERATOR)),
    }
}

fn value(lexer: &mut Lexer<'_>, operator: Operator) -> Result<Vec<u8>, Fault> {
    let any_quote = operator == Operator::Matches;
    match lexer.next() {
        (_, Token::Word(word)) => Ok(word.as_bytes().to_vec()),
        (_, Token::Quoted(quote, text)) if any_quote || quote == '"' => Ok(text),
        (at, other) => Err(fault(at, &other, if any_quote { PATTERN } else { VALUE })),
    }
}

fn fault(at: usize, token: &Token<'_>, allowed: &'static str) -> Fault {
    let found = match token {
        Token::End => "the end".to_owned(),
        Token::Word(word) => super::quote(word),
        Token::Quoted(quote, _) => format!("text quoted with {quote}"),
        Token::Operator(operator) => format!("operator {}", super::quote(operator)),
        Token::Separator(char) | Token::Stray(char) => format!("{char:?}"),
        Token::Illegal(wrong) => (*wrong).to_owned(),
    };
    Fault { at, found, allowed }
}
