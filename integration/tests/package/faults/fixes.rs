//! The fixes that the sources of `layerctl doctor` and `layerd check` name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Code before the name of a fix.
const BEFORE: [&str; 5] = [
    "Action::safe(",
    "Action::fix(",
    ".setup(",
    "restart(",
    "fix_name:",
];
/// Code there in helpers that are given the name, and in declarations.
const HANDED_ON: [&str; 5] = [
    "name,",
    "self.fix_name.clone()",
    "String",
    "&'static str",
    "&self, name",
];

/// Names of all fixes.
pub(super) fn named() -> BTreeSet<String> {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server");
    let mut files = Vec::new();
    for dir in ["ctl/src/doctor", "ctl/src/cmd/doctor", "src/check"] {
        let dir = server.join(dir);
        files.push(dir.with_extension("rs"));
        collect(&dir, &mut files);
    }
    let sources = files.iter().map(|file| fs::read_to_string(file).unwrap());
    sources.flat_map(|text| names(&text)).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

/// Names in a file, without its tests.
fn names(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut all = Vec::new();
    for before in BEFORE {
        for (at, _) in code.match_indices(before) {
            let rest = code[at + before.len()..].trim_start();
            if let Some(rest) = rest.strip_prefix('"') {
                all.push(rest.split('"').next().unwrap_or_default().to_owned());
                continue;
            }
            let is_handed_on = HANDED_ON.iter().any(|word| rest.starts_with(word));
            let line = rest.lines().next();
            assert!(is_handed_on, "no name of a fix after {before} {line:?}");
        }
    }
    all
}
