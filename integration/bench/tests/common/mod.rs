//! Running layerd-bench and reading its tables.

use std::path::Path;
use std::process::Command;

/// Runs layerd-bench, requires success, and returns the rows of its tables, heads included.
pub(crate) fn rows(arguments: &[&str]) -> Vec<Vec<String>> {
    let program = Path::new(env!("CARGO_BIN_EXE_layerd-bench"));
    let mut command = Command::new(program);
    // For again.sh.
    command.env("LAYERD", program.with_file_name("layerd"));
    let output = command.args(arguments).output().expect("it is built");
    let (out, err) = (output.stdout, output.stderr);
    let err = String::from_utf8_lossy(&err);
    assert!(output.status.success(), "{arguments:?}:\n{err}");
    let out = String::from_utf8(out).expect("tables are text");
    out.lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// The figure that a cell begins with.
pub(crate) fn number(cell: &str) -> f64 {
    let word = cell.split(' ').next().expect("a cell has words");
    word.parse().expect("it begins with a figure")
}
