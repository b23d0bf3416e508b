//! Sentences of the documents that can be checked: paths, commands, limits and rules that they name.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest line of prose, in characters.
const LINE_MAX: usize = 110;
/// Folders of the repository that documents name paths in.
const FOLDERS: [&str; 8] = [
    ".ci/",
    "deploy/",
    "docs/",
    "integration/",
    "mounts/",
    "proto/",
    "server/",
    "store/",
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|cause| panic!("{path}: {cause}"))
}

/// Paths of all documents but the raw tables.
fn documents() -> Vec<String> {
    let docs = fs::read_dir(top().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = docs.filter(|name| name.ends_with(".md"));
    let mut all: Vec<String> = pages.map(|name| format!("docs/{name}")).collect();
    all.extend(
        [
            "README",
            "ARCHITECTURE",
            "CHANGELOG",
            "CONTRIBUTING",
            "SECURITY",
        ]
        .map(|name| name.to_owned() + ".md"),
    );
    all.sort();
    all
}

/// Lines outside of code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        (!in_code && !is_fence).then_some((number + 1, line))
    })
}

/// Code spans of a text.
fn spans(text: &str) -> Vec<&str> {
    prose(text)
        .flat_map(|(_, line)| line.split('`').skip(1).step_by(2))
        .collect()
}

/// Sources of the programs, tests and examples left out.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["store", "mounts", "server", "proto"]
        .map(|name| top().join(name))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let is_left_out = [
                "tests",
                "tests.rs",
                "target",
                "fuzz",
                "libraries",
                "examples",
            ];
            if is_left_out.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let shown = path.strip_prefix(top()).unwrap().display().to_string();
                found.push((shown, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn readme_has_its_sections_in_order() {
    let readme = text("README.md");
    let sections: Vec<_> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let wanted = [
        "Install",
        "First container",
        "Volumes",
        "Look inside",
        "Compare",
        "Develop",
    ];
    assert_eq!(sections, wanted);
    let (_, compare) = readme.split_once("\n## Compare\n").unwrap();
    let (compare, _) = compare.split_once("\n## ").unwrap();
    let rows = compare
        .lines()
        .filter(|line| line.starts_with("| "))
        .count();
    assert_eq!(rows, 2 + 8, "a head, a rule and eight rows");
}

/// Tables of the pages below docs/ are as wide as their content.
#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    for path in documents() {
        let text = text(&path);
        let may_be_wide = |line: &str| path.starts_with("docs/") && line.starts_with('|');
        let lines: Vec<(usize, &str)> = match path.as_str() {
            "README.md" => text
                .lines()
                .enumerate()
                .map(|(at, line)| (at + 1, line))
                .collect(),
            _ => prose(&text).collect(),
        };
        for (number, line) in lines {
            if line.chars().count() > LINE_MAX && !may_be_wide(line) {
                long.push(format!("{path}:{number}"));
            }
        }
    }
    assert!(
        long.is_empty(),
        "more than {LINE_MAX} characters: {long:#?}"
    );
}

#[test]
fn paths_exist() {
    let mut missing = BTreeSet::new();
    for document in documents() {
        let text = text(&document);
        let folder = top().join(&document).parent().unwrap().to_owned();
        for span in spans(&text) {
            let is_path = FOLDERS.iter().any(|folder| span.starts_with(folder))
                && !span.contains([' ', '*', '<']);
            if is_path && !top().join(span).exists() {
                missing.insert(format!("{document}: {span}"));
            }
        }
        for (_, rest) in text
            .match_indices("](")
            .map(|(at, _)| (at, &text[at + 2..]))
        {
            let (target, _) = rest.split_once(')').unwrap();
            if !target.contains("://") && !folder.join(target).exists() {
                missing.insert(format!("{document}: {target}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Names of tests, `FILE::FUNCTION` or `root_...`, with a star for any end.
#[test]
fn tests_that_are_named_exist() {
    let tests = tests();
    let has = |file: &str, name: &str| {
        let fits = |one: &(String, String)| match name.strip_suffix('*') {
            Some(begin) => one.1.starts_with(begin),
            None => one.1 == name,
        };
        let mut found = tests.iter().filter(|one| file.is_empty() || one.0 == file);
        found.any(fits)
    };
    let mut missing = BTreeSet::new();
    for document in documents() {
        for span in spans(&text(&document)) {
            let (file, name) = span.split_once("::").unwrap_or(("", span));
            let is_file = tests.iter().any(|one| one.0 == file);
            let is_test = name.starts_with("root_") || (is_file && !file.is_empty());
            let is_rule = matches!(name, "root_" | "root_full_");
            if is_test && !is_rule && !name.contains([' ', '{']) && !has(file, name) {
                missing.insert(format!("{document}: {span}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Stem of the file and name of each function of the sources, tests among them.
fn tests() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = ["integration", "mounts", "server", "store"]
        .map(|name| top().join(name))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let source = fs::read_to_string(&path).unwrap();
                let functions = source
                    .lines()
                    .filter_map(|line| line.trim_start().strip_prefix("fn "))
                    .chain(names_of_macros(&source));
                let stem = path.file_stem().unwrap().to_str().unwrap();
                let name = |line: &str| line.split(['(', '<', ',']).next().unwrap().to_owned();
                found.extend(functions.map(|line| (stem.to_owned(), name(line))));
            }
        }
    }
    found
}

/// Names of tests that a macro makes: the first words of its calls.
fn names_of_macros(source: &str) -> impl Iterator<Item = &str> {
    let calls = source
        .lines()
        .filter_map(|line| line.trim_start().split_once("!("));
    calls
        .map(|(_, rest)| rest)
        .filter(|rest| rest.starts_with("root_"))
}

#[test]
fn commands_exist() {
    let makefile = text("Makefile");
    let cli = text("server/ctl/src/cli.rs").to_lowercase();
    let mut missing = BTreeSet::new();
    for document in documents() {
        let text = text(&document);
        let in_code = text
            .lines()
            .filter_map(|line| line.strip_prefix("# ").or(line.strip_prefix("$ ")));
        for command in spans(&text).into_iter().chain(in_code) {
            let mut words = command.split(' ');
            let known = match (words.next(), words.next()) {
                (Some("make"), Some(goal)) => makefile.contains(&format!("\n{goal}:")),
                (Some("layerctl"), Some(name)) if !name.starts_with('-') => {
                    cli.contains(&format!("\n    {}(", name.replace('-', "")))
                }
                _ => true,
            };
            if !known {
                missing.insert(format!("{document}: {command}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_page_is_in_the_index() {
    let index = text("docs/README.md");
    let pages = documents()
        .into_iter()
        .filter_map(|path| path.strip_prefix("docs/").map(str::to_owned));
    for page in pages.filter(|page| page != "README.md") {
        assert!(index.contains(&format!("({page})")), "{page}");
    }
}

#[test]
fn every_crate_is_on_the_map() {
    let architecture = text("ARCHITECTURE.md");
    let workspace = text("Cargo.toml");
    let (_, members) = workspace.split_once("\nmembers = [").unwrap();
    let (members, _) = members.split_once(']').unwrap();
    for member in members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
    {
        let manifest = text(&format!("{member}/Cargo.toml"));
        let name = manifest
            .lines()
            .find_map(|line| line.strip_prefix("name = "))
            .unwrap();
        let row = format!("| `{member}/` | `{}` |", name.trim_matches('"'));
        assert!(architecture.contains(&row), "{row}");
    }
}

/// Files that allow unsafe code, as the rules of ARCHITECTURE.md list them.
#[test]
fn unsafe_code_is_where_the_rules_say() {
    let architecture = text("ARCHITECTURE.md");
    let listed: BTreeSet<&str> = architecture
        .lines()
        .filter(|line| line.starts_with("| unsafe code: "))
        .flat_map(|rule| rule.split('`').skip(1).step_by(2))
        .filter(|path| path.ends_with(".rs"))
        .collect();
    let sources = sources();
    let found: BTreeSet<&str> = sources
        .iter()
        .filter(|(_, text)| {
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe("]
                .iter()
                .any(|part| text.contains(part))
        })
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(found, listed);
}

#[test]
fn one_file_names_sled() {
    let sources = sources();
    let found: Vec<&str> = sources
        .iter()
        .filter(|(_, text)| text.contains("sled::"))
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(found, ["store/src/db.rs"]);
}

#[test]
fn capabilities_are_those_of_the_unit() {
    let unit = text("deploy/layerd.service");
    let bounding = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .unwrap();
    let given: BTreeSet<&str> = bounding.split(' ').collect();
    let security = text("SECURITY.md");
    let rows = security
        .lines()
        .filter_map(|line| line.strip_prefix("| `CAP_"));
    let explained: BTreeSet<String> = rows
        .map(|row| format!("CAP_{}", row.split('`').next().unwrap()))
        .collect();
    assert_eq!(given, explained.iter().map(String::as_str).collect());
}

#[test]
fn formats_are_those_of_the_code() {
    let page = text("docs/formats.md");
    for (file, marks) in [
        ("store/src/wal.rs", vec!["layerdJ2"]),
        ("store/src/export.rs", vec!["layerd export 1\\n"]),
        ("mounts/layers/src/file_digests.rs", vec!["layerdm1"]),
        (
            "store/src/codec.rs",
            vec!["snap", "name", "origin", "label", "volume", "attachment"],
        ),
    ] {
        let source = text(file);
        for mark in marks {
            assert!(source.contains(&format!("\"{mark}\"")), "{file}: {mark}");
            let shown = [format!("\"{mark}\""), format!("`{mark}`")];
            assert!(shown.iter().any(|shown| page.contains(shown)), "{mark}");
        }
    }
}

#[test]
fn no_paragraph_begins_with_a_question_word() {
    let mut found = Vec::new();
    for path in documents() {
        let text = text(&path);
        let mut after_blank = true;
        for (number, line) in prose(&text) {
            let start = line.trim_start_matches(['#', '-', '*', ' ']);
            let word = start.split([' ', ',', '\'']).next().unwrap_or_default();
            let is_start = after_blank || line.starts_with(['#', '-']);
            if is_start && ["What", "Who", "Whose", "Whether", "How", "That"].contains(&word) {
                found.push(format!("{path}:{number}: {line}"));
            }
            after_blank = line.is_empty();
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Nothing was changed or fixed for users before the first release.
#[test]
fn changelog_of_an_unreleased_program_has_additions_alone() {
    let changelog = text("CHANGELOG.md");
    let headings: Vec<_> = changelog
        .lines()
        .filter(|line| line.starts_with("##"))
        .collect();
    let is_released = headings
        .iter()
        .any(|line| line.starts_with("## [") && *line != "## [Unreleased]");
    assert!(
        is_released || headings == ["## [Unreleased]", "### Added"],
        "{headings:?}"
    );
}
