//! Every measurement, in a form so short that its figures mean nothing: it must come to its end,
//! with a row for each thing measured, and leave nothing behind.

#![expect(
    clippy::tests_outside_test_module,
    reason = "this file is tests as a whole"
)]

mod common;

use common::{number, rows};

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
fn root_images_are_measured_beside_directories() {
    let rows = rows(&[
        "images", "--images", "tiny", "--fs", "target", "--rounds", "1",
    ]);
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, ["form", "directories", "images"]);
    for row in &rows[1..] {
        assert!(number(&row[1]) > 0.0 && number(&row[8]) > 0.0, "{row:?}");
    }
}

#[test]
fn root_forms_of_layers_are_compared() {
    let rows = rows(&[
        "forms",
        "--fs",
        "target",
        "--rounds",
        "1",
        "--parts",
        "files,mounts",
        "--files",
        "2000",
        "--mounted",
        "0,3",
    ]);
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(
        names,
        ["form", "directories", "images", "mounted", "0", "3"]
    );
    for row in &rows[1..3] {
        assert!(number(&row[1]) > 0.0 && number(&row[5]) > 0.0, "{row:?}");
    }
    for row in &rows[4..] {
        assert!(number(&row[3]) >= 0.0 && number(&row[7]) > 0.0, "{row:?}");
    }
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
    let arguments = ["ops", "--fs", "target", "--rounds", "1", "--clients", "1,2"];
    let rows = rows(&[&arguments[..], &["--calls", "8", "--peer", peer]].concat());
    // A head, and ten operations with two numbers of clients on two servers.
    assert_eq!(rows.len(), 1 + 10 * 2 * 2, "{rows:#?}");
    for row in &rows[1..] {
        assert!(number(&row[3]) > 1.0, "{row:?}");
        let (is_layerd, is_read) = (
            row[2] == "layerd, full",
            ["stat", "mounts"].contains(&&*row[0]),
        );
        assert_eq!(row[7].is_empty(), is_layerd, "{row:?}");
        assert_eq!(row[9].is_empty(), is_layerd || !is_read, "{row:?}");
    }
}

#[test]
fn root_scale_compares_calls_memory_and_starts() {
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/again.sh");
    let arguments = ["scale", "--fs", "target", "--rounds", "1", "--calls", "8"];
    let rows = rows(&[&arguments[..], &["--snapshots", "12,60", "--peer", peer]].concat());
    // Eight steps on four stores; memory of an empty one and twice of two; two that start.
    assert_eq!(rows.len(), (1 + 8 * 4) + (1 + 5) + (1 + 2), "{rows:#?}");
    let (steps, costs) = rows.split_at(1 + 8 * 4);
    for row in &steps[1..] {
        assert!(number(&row[4]) > 1.0, "{row:?}");
    }
    for row in &costs[1..6] {
        assert!(number(&row[2]) > number(&row[3]), "{row:?}");
    }
    for row in &costs[7..] {
        assert!(number(&row[1]) > 0.0 && number(&row[3]) > 0.0, "{row:?}");
    }
}

#[test]
fn root_flat_compares_layers_of_few_and_many_files() {
    let arguments = [
        "flat", "--fs", "target", "--rounds", "1", "--layers", "2", "--files", "10,1000",
    ];
    let rows = rows(&arguments);
    assert_eq!(rows.len(), 1 + 5 * 2, "{rows:#?}");
    for row in &rows[1..] {
        assert!(number(&row[2]) > 0.0, "{row:?}");
        let has_goal = row[1] == "1000" && (row[0].starts_with("commit") || row[0] == "usage");
        assert_eq!(row[4].is_empty(), !has_goal, "{row:?}");
    }
}

#[test]
fn root_limits_are_measured_beside_layers_without() {
    let rows = rows(&[
        "limits", "--fs", "target", "--rounds", "1", "--layers", "2", "--sizes", "8m",
    ]);
    assert_eq!(rows.len(), 1 + 4 * 2, "{rows:#?}");
    for row in &rows[1..] {
        assert!(number(&row[2]) > 0.0 && number(&row[3]) > 0.0, "{row:?}");
    }
}

#[test]
fn root_remove_is_timed_beside_rm() {
    let extent = ["--snapshots", "20", "--files", "10", "--idle-secs", "1"];
    for layers in ["directories", "images"] {
        let arguments = [
            "remove", "--fs", "target", "--rounds", "1", "--layers", layers,
        ];
        let rows = rows(&[&arguments[..], &extent].concat());
        assert_eq!(rows.len(), 1 + 4, "{rows:#?}");
        for row in &rows[1..] {
            assert!(number(&row[1]) > 0.0 && number(&row[2]) > 0.0, "{row:?}");
        }
    }
}
