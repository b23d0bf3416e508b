//! No storage driver is named above the drivers: the engine and the daemon ask for capabilities, and
//! `layerd_drivers::factory` alone knows which drivers there are.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Code that would name one.
const NAMES: [&str; 18] = [
    "Aufs",
    "Overlay",
    "Overlay1",
    "Btrfs",
    "Native",
    "Memory::new",
    "layerd_drivers::Memory",
    "layerd_drivers::memory",
    "layerd_drivers::overlay",
    "layerd_drivers::overlay1",
    "layerd_drivers::aufs",
    "layerd_drivers::btrfs",
    "layerd_drivers::native",
    "\"overlay\"",
    "\"overlay1\"",
    "\"aufs\"",
    "\"native\"",
    "\"btrfs\"",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// True if a line of code has a name as a whole word.
fn names(line: &str, name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

#[test]
fn no_driver_is_named_above_the_drivers() {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in [engine.join("src"), engine.join("../src")] {
        sources(&folder, &mut files);
    }
    assert!(files.len() > 80, "the sources are found: {}", files.len());
    let mut named = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        // Unit tests choose a driver to test with.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            if NAMES.iter().any(|name| names(line, name)) {
                named.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(named.is_empty(), "{named:#?}");
}

#[test]
fn a_name_is_found() {
    assert!(names("let driver = Overlay::open(root)?;", "Overlay"));
    assert!(names(r#"if mount.kind == "overlay" {"#, "\"overlay\""));
    assert!(!names("// as Overlay does", "Overlay"));
    assert!(!names("overlayfs: RawOverlayfs,", "Overlay"));
}
