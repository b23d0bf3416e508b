//! Parser of templates.

use super::{Call, Function, Operand, Part};

const FUNCTIONS: [(&str, Function, usize); 6] = [
    ("json", Function::Json, 1),
    ("upper", Function::Upper, 1),
    ("lower", Function::Lower, 1),
    ("join", Function::Join, 2),
    ("index", Function::Index, 2),
    ("len", Function::Len, 1),
];

/// A word of an action.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Pipe,
    Text(String),
    Name(String),
}

/// Reads text with actions in it. `\t` and `\n` in the text are a tab and a line's end, as for
/// Docker.
pub(super) fn parts(mut text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    while let Some(start) = text.find("{{") {
        push_text(&mut parts, &text[..start]);
        let (words, rest) = action(&text[start + 2..])?;
        parts.push(Part::Action(pipeline(&words)?));
        text = rest;
    }
    push_text(&mut parts, text);
    Ok(parts)
}

/// Headings of the columns between tabs: the names of the fields in capital letters.
pub(super) fn headings(parts: &[Part]) -> Vec<String> {
    let mut line = String::new();
    for part in parts {
        match part {
            Part::Text(text) => line.push_str(text),
            Part::Action(calls) => line.push_str(&heading(calls)),
        }
    }
    line.split('\t').map(str::to_owned).collect()
}

fn heading(calls: &[Call]) -> String {
    let operands = calls.iter().flat_map(|call| &call.arguments);
    let mut names = operands.filter_map(|operand| match operand {
        Operand::Path(names) if !names.is_empty() => Some(names.join(".").to_uppercase()),
        Operand::Path(_) => None,
        Operand::Text(text) => Some(text.to_uppercase()),
    });
    names.next_back().unwrap_or_default()
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        parts.push(Part::Text(text));
    }
}

/// The words up to the end of an action, and the text after it.
fn action(text: &str) -> Result<(Vec<Word>, &str), String> {
    let mut rest = text.strip_prefix("- ").unwrap_or(text);
    let mut words = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("}}").or(rest.strip_prefix("-}}")) {
            return Ok((words, after));
        }
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after;
    }
}

fn word(text: &str) -> Result<(Word, &str), String> {
    if let Some(after) = text.strip_prefix('|') {
        return Ok((Word::Pipe, after));
    }
    if let Some(after) = text.strip_prefix('"') {
        let (quoted, rest) = after
            .split_once('"')
            .ok_or("a quote is not closed in the template")?;
        return Ok((Word::Text(quoted.to_owned()), rest));
    }
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '.';
    let length = text.find(|char| !is_name(char)).unwrap_or(text.len());
    match text.split_at(length) {
        ("", "") => Err("\"{{\" has no \"}}\" in the template".to_owned()),
        ("", rest) => {
            let char = rest.chars().next().unwrap_or_default();
            Err(format!("{char:?} is not understood in the template"))
        }
        (name, rest) => Ok((Word::Name(name.to_owned()), rest)),
    }
}

fn pipeline(words: &[Word]) -> Result<Vec<Call>, String> {
    let commands = words.split(|word| *word == Word::Pipe);
    let commands = commands.enumerate();
    commands.map(|(at, words)| call(words, at > 0)).collect()
}

/// A command; one after a pipe gets a value besides its own arguments.
fn call(words: &[Word], is_piped: bool) -> Result<Call, String> {
    let Some((first, rest)) = words.split_first() else {
        return Err("an action of the template is empty".to_owned());
    };
    let arguments = || rest.iter().map(operand).collect::<Result<Vec<_>, _>>();
    match first {
        Word::Name(name) if name == ".Label" && rest.len() == 1 && !is_piped => Ok(Call {
            function: Some(Function::Label),
            arguments: arguments()?,
        }),
        Word::Name(name) if !name.starts_with('.') => {
            let found = FUNCTIONS.iter().find(|(known, ..)| known == name);
            let (_, function, count) = found.ok_or_else(|| unknown(name))?;
            if rest.len() + usize::from(is_piped) != *count {
                return Err(format!("{name} takes {count} arguments in the template"));
            }
            Ok(Call {
                function: Some(*function),
                arguments: arguments()?,
            })
        }
        Word::Name(name) if !rest.is_empty() || is_piped => {
            Err(format!("{name} takes no arguments in the template"))
        }
        _ => Ok(Call {
            function: None,
            arguments: vec![operand(first)?],
        }),
    }
}

fn operand(word: &Word) -> Result<Operand, String> {
    match word {
        Word::Text(text) => Ok(Operand::Text(text.clone())),
        Word::Name(name) => {
            let path = name.strip_prefix('.').ok_or_else(|| unknown(name))?;
            let names = path.split('.').map(str::to_owned);
            Ok(Operand::Path(match path {
                "" => Vec::new(),
                _ => names.collect(),
            }))
        }
        Word::Pipe => Err("a pipe has no command before it in the template".to_owned()),
    }
}

fn unknown(name: &str) -> String {
    let known = FUNCTIONS.map(|(name, ..)| name).join(", ");
    format!("{name} is no function of templates: {known}; fields begin with a dot")
}
