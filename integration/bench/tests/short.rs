//! Every measurement, in a form so short that its figures mean nothing: it must come to its end,
//! with a row for each thing measured, and leave nothing behind.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this file is tests as a whole"
)]

use std::path::Path;
use std::process::Command;

/// Runs layerd-bench, requires success, and returns the rows of its tables, heads included.
fn rows(arguments: &[&str]) -> Vec<Vec<String>> {
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

#[test]
fn root_durability_compares_commits_and_unpacks() {
    let rows = rows(&["durability", "--short", "--fs", "target", "--rounds", "1"]);
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let wanted = [
        "layer",
        "10 files, dirty",
        "what",
        "prepare, tar, commit",
        "of it, the commits",
        "the same and a sync at the end",
    ];
    assert_eq!(names, wanted);
}

#[test]
fn root_volumes_are_removed_and_filled() {
    let rows = rows(&["volumes", "--short", "--fs", "target", "--rounds", "1"]);
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let wanted = [
        "files",
        "10",
        "1000",
        "how",
        "first use of the volume",
        "cp -a of the merged mount",
        "cp -a takes so many times as much",
    ];
    assert_eq!(names, wanted);
}

#[test]
fn root_attachments_are_found_by_a_restart() {
    let rows = rows(&["attachments", "--count", "10", "--rounds", "1"]);
    assert_eq!(rows.len(), 5, "{rows:#?}");
}

#[test]
fn root_flushes_are_counted_for_each_operation() {
    let rows = rows(&["flushes", "--fs", "target", "--clients", "2"]);
    assert_eq!(rows.len(), 8, "{rows:#?}");
    for row in &rows[1..] {
        let calls = row[2..6].iter().map(|cell| cell.parse::<f64>());
        let calls: f64 = calls.map(|count| count.expect("a number")).sum();
        assert!(calls > 0.0, "answered without a flush: {row:?}");
    }
}

#[test]
fn root_ops_give_a_rate_for_each_operation_and_server() {
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/again.sh");
    let arguments = ["ops", "--fs", "target", "--rounds", "1", "--clients", "1,4"];
    let rows = rows(&[&arguments[..], &["--calls", "8", "--peer", peer]].concat());
    // A head, and six operations with two numbers of clients on two servers.
    assert_eq!(rows.len(), 1 + 6 * 2 * 2, "{rows:#?}");
    for row in &rows[1..] {
        let rate = row[3].split(' ').next().expect("a cell has words");
        let rate: f64 = rate.parse().expect("a number");
        assert!(rate > 1.0, "{row:?}");
        assert_eq!(row[6].is_empty(), row[2] == "layerd, full", "{row:?}");
    }
}
