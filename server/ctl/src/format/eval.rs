//! Evaluation of templates.

use serde_json::Value;

use super::{Call, Function, Operand, Part};
use crate::text::{escape, escape_json};

/// Fields that are maps with keys of users; a missing key is empty, as in Go.
const MAPS: [&str; 2] = ["Labels", "Options"];

/// Text of a row. Values are safe to print; the template is as it was typed.
pub(super) fn line(parts: &[Part], row: &Value) -> Result<String, String> {
    let mut line = String::new();
    for part in parts {
        match part {
            Part::Text(text) => line.push_str(text),
            Part::Action(calls) => line.push_str(&shown(calls, row)?),
        }
    }
    Ok(line)
}

fn shown(calls: &[Call], row: &Value) -> Result<String, String> {
    let mut value: Option<Value> = None;
    for call in calls {
        let mut arguments = Vec::new();
        for operand in &call.arguments {
            arguments.push(self::value(operand, row)?);
        }
        arguments.extend(value.take());
        value = Some(apply(call.function, arguments, row)?);
    }
    let is_json = calls
        .last()
        .is_some_and(|call| call.function == Some(Function::Json));
    let text = text(&value.unwrap_or_default());
    Ok(match is_json {
        true => escape_json(&text),
        false => escape(&text),
    })
}

fn value(operand: &Operand, row: &Value) -> Result<Value, String> {
    match operand {
        Operand::Text(text) => Ok(Value::from(text.as_str())),
        Operand::Path(names) => field(names, row),
    }
}

fn field(names: &[String], row: &Value) -> Result<Value, String> {
    let mut value = row;
    for (at, name) in names.iter().enumerate() {
        if at > 0 && MAPS.contains(&names[at - 1].as_str()) {
            return Ok(entry(value, &names[at..].join(".")));
        }
        value = value.get(name).ok_or_else(|| missing(name, value))?;
    }
    Ok(value.clone())
}

fn missing(name: &str, value: &Value) -> String {
    let fields = value.as_object().map(|object| {
        let names: Vec<&str> = object.keys().map(String::as_str).collect();
        names.join(", ")
    });
    match fields {
        Some(fields) => format!("there is no field {name}: {fields}"),
        None => format!("there is no field {name} in a plain value"),
    }
}

/// An entry of a map with keys of users.
fn entry(map: &Value, key: &str) -> Value {
    map.get(key).cloned().unwrap_or_else(|| Value::from(""))
}

fn apply(function: Option<Function>, arguments: Vec<Value>, row: &Value) -> Result<Value, String> {
    let mut arguments = arguments.into_iter();
    let first = arguments.next().unwrap_or_default();
    let second = arguments.next().unwrap_or_default();
    Ok(match function {
        None => first,
        Some(Function::Json) => Value::from(first.to_string()),
        Some(Function::Upper) => Value::from(text(&first).to_uppercase()),
        Some(Function::Lower) => Value::from(text(&first).to_lowercase()),
        Some(Function::Label) => entry(row.get("Labels").unwrap_or(&Value::Null), &text(&first)),
        Some(Function::Index) => match first {
            Value::Object(_) => entry(&first, &text(&second)),
            _ => return Err("index takes a map, such as .Labels, and a key".to_owned()),
        },
        Some(Function::Join) => match first {
            Value::Array(all) => {
                let all: Vec<String> = all.iter().map(text).collect();
                Value::from(all.join(&text(&second)))
            }
            _ => return Err("join takes a list and a separator".to_owned()),
        },
        Some(Function::Len) => Value::from(match &first {
            Value::Array(all) => all.len(),
            Value::Object(all) => all.len(),
            other => text(other).len(),
        }),
    })
}

/// A value as Docker prints it: maps as `KEY=VALUE,...`.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(all) => {
            let pairs = all
                .iter()
                .map(|(key, value)| format!("{key}={}", text(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
        plain => plain.to_string(),
    }
}
