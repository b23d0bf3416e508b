//! Files that are not what was unpacked are found, in a daemon that runs and beside one that does
//! not.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use layerd_integration::image::{busybox, corpus, write_layer};
use layerd_integration::process::output;
use layerd_integration::scratch::profile;
use layerd_integration::{Daemon, Entry, Scratch, Tree};
use serde_json::Value;

use super::command::layerctl;
use super::{daemon, daemon_with, text};

/// A daemon with two layers that were unpacked, `base` (layer 1) below `top` (2), and `by-hand` (3),
/// which was not.
pub(super) struct World {
    pub(super) daemon: Daemon,
    pub(super) scratch: Scratch,
}

impl World {
    fn new() -> Self {
        Self::with("directories", "")
    }

    /// With layers of this form, and `more` configuration.
    pub(super) fn with(layers: &str, more: &str) -> Self {
        let scratch = Scratch::new();
        let daemon = daemon_with(&scratch, layers, more);
        let world = Self { daemon, scratch };
        world.unpack("base", &[], &busybox());
        world.unpack("top", &["base"], &corpus()[1]);
        world.run(&["snapshot", "prepare", "c"]);
        world.run(&["snapshot", "commit", "by-hand", "c"]);
        world
    }

    pub(super) fn unpack(&self, name: &str, parent: &[&str], layer: &[Entry]) {
        let file = self.scratch.path().join("layer.tar");
        write_layer(&file, layer);
        self.run(&[&["snapshot", "prepare", "a"], parent].concat());
        self.run(&["layer", "apply", "a", text(&file)]);
        self.run(&["snapshot", "commit", name, "a"]);
    }

    pub(super) fn run(&self, arguments: &[&str]) -> String {
        output(&mut layerctl(&self.daemon, arguments))
    }

    /// Exit code and standard output.
    pub(super) fn ctl(&self, arguments: &[&str]) -> (i32, String) {
        ended(&mut layerctl(&self.daemon, arguments))
    }

    pub(super) fn offline(&self, more: &[&str]) -> (i32, String) {
        let mut command = Command::new(profile().join("layerd"));
        command.arg("fsck").arg("--root").arg(self.daemon.root());
        ended(command.args(more))
    }
}

fn ended(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), out)
}

pub(super) fn flip(path: &Path) {
    let file = std::fs::File::options().read(true).write(true).open(path);
    let file = file.unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
}

/// The largest file of a layer, relative to it.
fn largest(layer: &Path) -> String {
    let said = output(
        Command::new("find")
            .args([".", "-type", "f", "-printf", "%s %P\\n"])
            .current_dir(layer),
    );
    let sized = said.lines().map(|line| line.split_once(' ').unwrap());
    let largest = sized.max_by_key(|(size, _)| size.parse::<u64>().unwrap());
    largest.unwrap().1.to_owned()
}

#[test]
fn root_a_changed_byte_is_found_online_offline_and_after_a_restart() {
    let mut world = World::new();
    let (code, out) = world.ctl(&["fsck", "--content"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("No problems."), "{out}");
    assert!(out.contains("Layers compared: 2 ("), "{out}");
    assert!(out.contains("without file digests: 1."), "{out}");
    let layer = world.daemon.root().join("l/1");
    let name = largest(&layer);
    flip(&layer.join(&name));

    assert_eq!(world.run(&["fsck"]), "No problems.\n");
    let said = format!(
        "snapshot \"base\" (layer 1) does not hold what was unpacked: {name} has another content"
    );
    let (code, out) = world.ctl(&["fsck", "--content"]);
    assert_eq!(code, 11, "{out}");
    assert!(out.contains(&said), "{said}: {out}");
    world.run(&["snapshot", "show", "base"]);

    world.daemon.kill9();
    world.daemon.restart();
    assert_eq!(world.ctl(&["fsck", "--content"]), (code, out));
    world.daemon.stop();
    let before = Tree::read(world.daemon.root());
    let (code, out) = world.offline(&["--content"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains(&said), "{said}: {out}");
    assert!(out.contains("without file digests: 1\n"), "{out}");
    assert_eq!(world.offline(&[]), (0, "no problems\n".to_owned()));
    Tree::read(world.daemon.root()).assert_equals(&before);
    world.daemon.restart();
    world.daemon.stop();
}

/// Layers with everything a layer can hold, replaced and hidden in every way, are as they were.
#[test]
fn root_no_layer_that_was_left_alone_is_suspected() {
    let scratch = Scratch::new();
    let daemon = daemon(&scratch, "");
    let mut world = World { daemon, scratch };
    let layers = corpus();
    let names: Vec<String> = (0..layers.len())
        .map(|number| format!("n{number}"))
        .collect();
    for (number, layer) in layers.iter().enumerate() {
        let parent: Vec<&str> = names[..number]
            .last()
            .map(String::as_str)
            .into_iter()
            .collect();
        world.unpack(&names[number], &parent, layer);
    }
    let (code, out) = world.ctl(&["fsck", "--content"]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains(&format!("compared: {} (", layers.len())),
        "{out}"
    );
    world.daemon.stop();
}

#[test]
fn root_a_layer_that_is_not_what_was_unpacked_is_barred_on_request() {
    let mut world = World::new();
    let layer = world.daemon.root().join("l/1");
    flip(&layer.join(largest(&layer)));
    let (code, out) = world.ctl(&["-o", "json", "fsck", "--content", "--repair"]);
    assert_eq!(code, 11, "{out}");
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert_eq!(
        (&lines[0]["repaired"], &lines[0]["quarantined"]),
        (&false.into(), &true.into())
    );
    let counts = ["layers", "without_digests"].map(|name| lines[1][name].as_u64());
    assert_eq!(counts, [Some(2), Some(1)], "{out}");
    for again in [false, true] {
        if again {
            world.daemon.kill9();
            world.daemon.restart();
        }
        assert_eq!(world.ctl(&["snapshot", "show", "base"]).0, 9);
        assert_eq!(world.ctl(&["snapshot", "prepare", "x", "top"]).0, 9);
        assert_eq!(world.ctl(&["fsck"]).0, 11);
    }
    for name in ["top", "base"] {
        world.run(&["snapshot", "rm", name]);
    }
    world.unpack("base", &[], &busybox());
    let (code, out) = world.ctl(&["fsck", "--content"]);
    assert_eq!(code, 0, "{out}");
    world.daemon.stop();
}

#[test]
fn root_offline_repair_bars_as_well() {
    let mut world = World::new();
    let layer = world.daemon.root().join("l/2");
    std::fs::remove_file(layer.join(largest(&layer))).unwrap();
    world.daemon.stop();
    let (code, out) = world.offline(&["--content", "--repair"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("\"top\" (layer 2) cannot be trusted"), "{out}");
    world.daemon.restart();
    assert_eq!(world.ctl(&["snapshot", "show", "top"]).0, 9);
    world.run(&["snapshot", "show", "base"]);
    world.daemon.stop();
}
