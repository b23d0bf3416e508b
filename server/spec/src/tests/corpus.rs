//! The corpus says what both dialects make of each flag. Docker's column is replayed against a
//! real Docker by `integration/tests/mount_grammar.rs`.

use serde::Deserialize;

use super::super::{BadSpec, Dialect, MountSpec, parse};
use super::{request, strict};

const CORPUS: &str = include_str!("../corpus.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Corpus {
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some columns are for the replay")]
struct Row {
    flags: Vec<String>,
    strict: Answer,
    docker: Answer,
    docker28: Option<Answer>,
    #[serde(default)]
    start: bool,
    #[serde(default)]
    ours: bool,
    differs: Option<String>,
}

/// The mounts in their canonical form, or the first fault: `[number of the flag ]field: rule`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
enum Answer {
    Mounts(Vec<String>),
    Fault(String),
}

fn answer(result: Result<Vec<MountSpec>, BadSpec>) -> Answer {
    match result {
        Ok(specs) => Answer::Mounts(specs.iter().map(ToString::to_string).collect()),
        Err(bad) => {
            let number = match bad.index {
                0 => String::new(),
                index => format!("{} ", index + 1),
            };
            Answer::Fault(format!("{number}{}: {}", bad.field, bad.rule.code()))
        }
    }
}

fn expand(text: &str) -> String {
    text.replace("{dir}", "/corpus")
        .replace("{a255}", &"a".repeat(255))
        .replace("{a256}", &"a".repeat(256))
}

fn expanded(answer: &Answer) -> Answer {
    match answer {
        Answer::Mounts(mounts) => Answer::Mounts(mounts.iter().map(|text| expand(text)).collect()),
        Answer::Fault(fault) => Answer::Fault(expand(fault)),
    }
}

#[test]
fn both_dialects_answer_as_the_corpus_says() {
    let corpus: Corpus = toml::from_str(CORPUS).unwrap();
    assert!(corpus.rows.len() >= 150, "only {} rows", corpus.rows.len());
    let mut wrong = Vec::new();
    for row in &corpus.rows {
        let flags: Vec<String> = row.flags.iter().map(|flag| expand(flag)).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for (dialect, expected) in [
            (Dialect::Strict, &row.strict),
            (Dialect::Docker, &row.docker),
        ] {
            let got = answer(parse(&request(dialect, &flags)));
            if got != expanded(expected) {
                wrong.push(format!(
                    "{flags:?} {dialect:?}\n  is       {got:?}\n  expected {expected:?}"
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} answers differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn our_dialect_reads_what_either_column_shows() {
    let corpus: Corpus = toml::from_str(CORPUS).unwrap();
    let mut seen = 0;
    for row in &corpus.rows {
        for answer in [&row.strict, &row.docker] {
            let Answer::Mounts(mounts) = answer else {
                continue;
            };
            for mount in mounts.iter().map(|text| expand(text)) {
                let again =
                    strict(&format!("--mount {mount}")).unwrap_or_else(|bad| panic!("{bad}"));
                assert_eq!(again.to_string(), mount);
                seen += 1;
            }
        }
    }
    assert!(seen > 200, "only {seen} mounts");
}
