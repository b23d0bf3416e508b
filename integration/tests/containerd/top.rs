//! `layerctl top` beside containers: the one that writes is the first, by its name, and the others wrote
//! nothing.

use std::fs;
use std::process::Command;
use std::time::Duration;

use layerd_integration::process::{output, wait_until};
use layerd_integration::scratch::profile;
use layerd_integration::{Daemon, Scratch, Version, image};
use serde_json::Value;

use crate::{NAME, World};

/// Overwrites one file again and again, by processes that end: usage does not grow by it.
const WRITE: &str =
    "while :; do dd if=/dev/zero of=/file bs=65536 count=64 2> /dev/null; /bin/sleep 1; done";
const LABEL: &str = "containerd.io/snapshot/layerd.size=16m";

fn top(world: &World, arguments: &[&str]) -> String {
    let mut layerctl = Command::new(profile().join("layerctl"));
    layerctl.arg("--address").arg(world.daemon.socket());
    output(
        layerctl
            .args(["top", "--interval", "200ms"])
            .args(arguments),
    )
}

/// Rows of one table, which begins with the fastest.
fn rows(world: &World) -> Vec<Value> {
    let text = top(world, &["-n", "1", "-o", "json"]);
    let rows = text.lines().map(serde_json::from_str);
    rows.collect::<Result<_, _>>().unwrap()
}

fn the_writer_is_the_first(version: Version) {
    let scratch = Scratch::new();
    let config = scratch.path().join("config.toml");
    let socket = scratch.path().join("c/containerd.sock");
    fs::write(&config, format!("[containerd]\naddress = {socket:?}\n")).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let daemon = Daemon::start_with(&scratch.dir("d"), &arguments);
    let world = World::of(version, scratch, daemon);
    assert_eq!(world.containerd.socket(), socket);
    let image = world.image(NAME, &image::corpus());
    world.import(&image, "layerd");
    let names = ["held", "idle", "writer"].map(|name| format!("{}-{name}", world.container()));
    let [held, idle, writer] = &names;
    let sleep = ["/bin/sleep", "1000"];
    world.run_with(held, &["--snapshotter-label", LABEL], &sleep);
    world.run_with(idle, &[], &sleep);
    world.run_with(writer, &[], &["/bin/sh", "-c", WRITE]);

    let mut table = Vec::new();
    wait_until("a write to be seen", Duration::from_secs(60), || {
        table = rows(&world);
        table[0]["bytes_per_second"] != 0
    });
    let row = |name: &String| table.iter().find(|row| row["name"] == **name).unwrap();
    assert_eq!(table[0], *row(writer), "{table:?}");
    assert_eq!(table.len(), 3, "{table:?}");
    for name in &names {
        let row = row(name);
        assert_eq!(row["kind"], "container");
        assert_eq!(row["counted"], "processes", "{row}");
        let key = row["key"].as_str().unwrap();
        assert!(key.contains('/') && key.ends_with(name.as_str()), "{row}");
        assert_eq!(
            row["written_bytes"].as_u64().unwrap() > 0,
            name == writer,
            "{row}"
        );
        assert_eq!(row["fullness"].is_object(), name == held, "{row}");
    }

    let text = top(&world, &["-n", "2"]);
    let headings = text.lines().filter(|line| line.starts_with("WRITE/S"));
    assert_eq!(headings.count(), 2, "{text}");
    assert_eq!(
        text.lines().filter(|line| line.is_empty()).count(),
        1,
        "{text}"
    );
    assert!(
        !text.contains('\x1b') && text.contains(writer.as_str()),
        "{text}"
    );

    for name in &names {
        world.kill_and_remove(name);
    }
    world.remove_image(NAME);
    world.finish();
}

#[test]
fn root_containerd_1_7_shows_who_writes() {
    the_writer_is_the_first(Version::V1_7);
}

#[test]
fn root_containerd_2_1_shows_who_writes() {
    the_writer_is_the_first(Version::V2_1);
}
