//! `layerctl top` where no container runs: growth of what has a limit.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::World;

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only where it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn append(path: &Path) {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).unwrap();
    file.write_all(&[7; 64 << 10]).unwrap();
}

#[test]
fn root_growth_of_what_has_a_limit_is_shown() {
    let mut world = World::new("");
    world.fill();
    for create in [&["data", "--size", "16m"][..], &["free"]] {
        let ended = world.ctl(&[&["volume", "create"], create].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    let limit = &[("containerd.io/snapshot/layerd.size", "16m")];
    let mounts = world.client.prepare("one", "top", limit).unwrap();
    let mut options = mounts[0].options.iter();
    let upper = options.find_map(|option| option.strip_prefix("upperdir="));
    let files = [
        world.daemon.root().join("volumes/by-name/data/file"),
        PathBuf::from(upper.unwrap()).join("file"),
    ];

    let mut top = world.command(&["-o", "json", "top", "--interval", "100ms"]);
    let mut top = Running(top.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(top.0.stdout.take().unwrap()).lines();
    let mut grown: BTreeMap<String, Value> = BTreeMap::new();
    // Each row that is read is followed by more to be seen.
    for line in lines.take(100) {
        let row: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let name = row["name"].as_str().unwrap().to_owned();
        assert!(["data", "one"].contains(&name.as_str()), "{row}");
        assert_eq!(row["counted"], "growth");
        if row["written_bytes"] != 0 {
            grown.insert(name, row);
        }
        if grown.len() == files.len() {
            break;
        }
        files.iter().for_each(|file| append(file));
    }
    drop(top);
    assert_eq!(grown["data"]["kind"], "volume");
    assert_eq!(grown["data"]["key"], "");
    assert_eq!(grown["one"]["kind"], "container");
    assert_eq!(grown["one"]["key"], "one");
    for row in grown.values() {
        let written = row["written_bytes"].as_u64().unwrap();
        let used = row["fullness"]["used_bytes"].as_u64().unwrap();
        assert!(written >= 64 << 10 && written <= used, "{row}");
        assert!(
            row["fullness"]["limit_bytes"].as_u64().unwrap() <= 16 << 20,
            "{row}"
        );
        assert!(row["at"].as_str().unwrap().ends_with('Z'), "{row}");
    }
    shows_the_rest(&world);
}

/// Rows of what nothing counts, and a bad interval.
fn shows_the_rest(world: &World) {
    let once = ["top", "--all", "-n", "1", "-d", "100ms", "--sort", "name"];
    let rows = world.json(&once);
    let names: Vec<_> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["data", "free", "one", "work"]);
    assert_eq!(rows[1]["counted"], Value::Null, "nothing counts it");
    assert_eq!(rows[1]["bytes_per_second"], Value::Null);
    let text = world.ctl(&once).out;
    let line = text.lines().find(|line| line.ends_with("work")).unwrap();
    assert!(line.trim_start().starts_with("-  "), "{text}");
    let refused = world.ctl(&["top", "--interval", "0"]);
    assert_eq!(refused.code, 2);
    assert!(refused.error.contains("above 0"), "{refused:?}");
}
