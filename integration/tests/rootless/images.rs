//! Images with owners of their own, deletions, attributes and devices.

use std::fs;
use std::process::Command;

use layerd_integration::image::{self, Layer};
use layerd_integration::namespace::{SUBORDINATE, USER};
use layerd_integration::process::output;
use layerd_integration::scratch::profile;
use layerd_integration::tree::{Content, Node};
use layerd_integration::{Containerd, Entry, Image, Tree, Version};

use super::{World, text};

const NAME: &str = "docker.io/test/rootless:1";

/// A file of ids that no subordinate range has.
const BEYOND: &str = "kinds/large-ids";

#[test]
fn root_containerd_1_7_and_layerd_make_the_same_trees() {
    make_the_same_trees(Version::V1_7, &[&["--local"]]);
}

#[test]
fn root_containerd_2_1_and_layerd_make_the_same_trees() {
    make_the_same_trees(Version::V2_1, &[&["--local"], &[]]);
}

fn make_the_same_trees(version: Version, imports: &[&[&str]]) {
    let mut world = World::new();
    let containerd = containerd(&world, version);
    let image = Image::build(&world.scratch.dir("i"), NAME, &layers());
    let wanted = mapped(image.tree());
    for how in imports {
        for snapshotter in ["layerd", "overlayfs"] {
            let import = ["images", "import", "--snapshotter", snapshotter];
            containerd.ctr(&[&import, *how, &[image.archive()]].concat());
            let tree = tree(&world, &containerd, snapshotter, image.top());
            tree.assert_equals(&wanted);
        }
        crash_keeps_it(&mut world, &containerd, image.top(), &wanted);
        containerd.ctr(&["images", "rm", "--sync", NAME]);
        containerd.ctr(&["content", "prune", "references"]);
        world
            .daemon
            .assert_empty_with(|| containerd.collect_garbage());
    }
    let left_out = |line: &str| line.contains("devices of a layer were left out");
    let log = world.daemon.log();
    let told: Vec<&str> = log.lines().filter(|line| left_out(line)).collect();
    assert_eq!(told.len(), imports.len(), "{told:?}");
    for line in told {
        assert!(line.contains("devices=2 first=kinds/null"), "{line}");
    }
    world.assert_log(&left_out);
    drop(containerd);
    world.daemon.stop();
}

/// An unpacked image is there after a kill, and fsck finds nothing.
fn crash_keeps_it(world: &mut World, containerd: &Containerd, top: &str, wanted: &Tree) {
    world.daemon.kill9();
    world.daemon.restart();
    containerd.wait_for_snapshotter();
    tree(world, containerd, "layerd", top).assert_equals(wanted);
    let said = world.layerctl(&["fsck", "--content"]);
    assert!(said.starts_with("Layers compared: 5 ("), "{said}");
}

/// Changes of a container come out as a layer with ids of the namespace, and go in again.
#[test]
fn root_changes_become_a_layer() {
    let mut world = World::new();
    let containerd = containerd(&world, Version::V2_1);
    let image = Image::build(&world.scratch.dir("i"), NAME, &layers());
    let import = ["images", "import", "--snapshotter", "layerd", "--local"];
    containerd.ctr(&[&import[..], &[image.archive()]].concat());
    containerd.snapshots(&["prepare", "changed", image.top()]);
    let target = world.scratch.dir("m");
    let mounts = containerd.snapshots(&["mounts", text(&target), "changed"]);
    assert!(mounts.contains("userxattr"), "{mounts}");
    let change = format!(
        "{mounts}
        cd {}
        rm etc/motd
        rm -r names/hidden; mkdir names/hidden; echo new > names/hidden/new
        cp kinds/capable kinds/capable-2
        setcap cap_net_raw,cap_chown=ep kinds/capable-2
        echo theirs > theirs; chown 1000:1001 theirs; chmod 4755 theirs
        mknod deleted c 0 0 2>/dev/null || true
        cd /; umount {0}",
        text(&target)
    );
    world.within(&change);
    let changed = tree(&world, &containerd, "layerd", "changed");
    assert!(!changed.0.contains_key("etc/motd") && !changed.0.contains_key("names/hidden/c"));
    let made = containerd.try_ctr(&["snapshots", "--snapshotter", "layerd", "diff", "changed"]);
    let archive = world.scratch.path().join("diff.tar.gz");
    fs::write(&archive, &made.stdout).unwrap();
    let listed = output(
        Command::new("tar")
            .arg("--numeric-owner")
            .arg("-tvf")
            .arg(&archive),
    );
    for wanted in [
        "etc/.wh.motd",
        "names/hidden/.wh.c",
        "names/hidden/new",
        " 1000/1001 ",
    ] {
        assert!(listed.contains(wanted), "no {wanted}: {listed}");
    }
    assert!(!listed.contains("300999"), "ids of the machine: {listed}");
    apply_again(&world, &containerd, image.top(), text(&archive)).assert_equals(&changed);
    containerd.snapshots(&["commit", "committed", "changed"]);
    world.daemon.kill9();
    world.daemon.restart();
    containerd.wait_for_snapshotter();
    tree(&world, &containerd, "layerd", "committed").assert_equals(&changed);
    assert_eq!(world.daemon.problems(), None);
    containerd.snapshots(&["rm", "committed"]);
    containerd.ctr(&["images", "rm", "--sync", NAME]);
    world
        .daemon
        .assert_empty_with(|| containerd.collect_garbage());
    drop(containerd);
    world.daemon.stop();
}

/// The tree of the layer in `archive`, unpacked upon `parent`.
fn apply_again(world: &World, containerd: &Containerd, parent: &str, archive: &str) -> Tree {
    containerd.snapshots(&["prepare", "again", parent]);
    let all = world.daemon.snapshots().list();
    let again = all.iter().find(|one| one.name.ends_with("/again")).unwrap();
    world.layerctl(&["layer", "apply", &again.name, archive]);
    let found = tree(world, containerd, "layerd", "again");
    containerd.snapshots(&["rm", "again"]);
    found
}

#[test]
fn root_other_drivers_keep_layers() {
    for driver in ["overlay1", "native"] {
        let mut world = World::with_driver(driver);
        let file = world.scratch.path().join("layer.tar");
        let base = ["a", "b"].map(|name| Entry::file(format!("dir/{name}"), name).owner(1000, 7));
        let top = [
            Entry::file("dir/.wh.a", ""),
            Entry::file("dir/c", "c").owner(0, 8),
        ];
        let mut parent = Vec::new();
        for (name, layer) in [("base", base), ("top", top)] {
            image::write_layer(&file, &layer);
            world.layerctl(&[&["snapshot", "prepare", "active"], &parent[..]].concat());
            world.layerctl(&["layer", "apply", "active", text(&file)]);
            world.layerctl(&["snapshot", "commit", name, "active"]);
            parent = vec![name];
        }
        world.daemon.kill9();
        world.daemon.restart();
        world.layerctl(&["snapshot", "prepare", "container", "top"]);
        let (target, socket) = (world.scratch.dir("m"), world.daemon.socket());
        let mut mount = world.namespace.command(&profile().join("layerctl"));
        mount.arg("--address").arg(socket);
        output(mount.args(["snapshot", "mount", "container", text(&target)]));
        let list = format!("cd {} && stat -c %n:%u:%g dir/*", text(&target));
        assert_eq!(world.within(&list), "dir/b:1000:7\ndir/c:0:8\n", "{driver}");
        world.within(&format!("umount {}", text(&target)));
        for name in ["container", "top", "base"] {
            world.layerctl(&["snapshot", "rm", name]);
        }
        assert_eq!(world.daemon.problems(), None);
        world.assert_log(&|_| false);
        world.daemon.stop();
    }
}

/// The owner that cannot be given is named, with where to get it.
#[test]
fn root_an_owner_outside_of_the_map_is_named() {
    let world = World::new();
    let file = world.scratch.path().join("layer.tar");
    image::write_layer(
        &file,
        &[Entry::file("theirs", "x").owner(65_534, 2_000_000)],
    );
    world.layerctl(&["snapshot", "prepare", "a"]);
    let said = world.refused(&["layer", "apply", "a", text(&file)]);
    for part in ["theirs", "user 65534", "group 2000000", "/etc/subgid"] {
        assert!(said.contains(part), "no {part}: {said}");
    }
    world.layerctl(&["snapshot", "rm", "a"]);
    world.daemon.assert_empty();
}

fn containerd(world: &World, version: Version) -> Containerd {
    let (dir, socket) = (world.scratch.dir("c"), world.daemon.socket());
    Containerd::start_unpacking_within(&world.namespace, version, &dir, socket)
}

/// All kinds of files that a subordinate range can own.
fn layers() -> Vec<Layer> {
    let mut layers = image::corpus();
    for layer in &mut layers {
        layer.retain(|entry| entry.path != BEYOND);
    }
    layers
}

/// The tree over a snapshot as root of the machine sees it, mounted in the namespace.
fn tree(world: &World, containerd: &Containerd, snapshotter: &str, key: &str) -> Tree {
    let ctr = |arguments: &[&str]| {
        containerd.ctr(&[&["snapshots", "--snapshotter", snapshotter], arguments].concat())
    };
    let target = world.scratch.dir("m");
    let is_active = !["sha256:", "committed"]
        .iter()
        .any(|start| key.starts_with(start));
    let shown = match is_active {
        true => key,
        false => {
            ctr(&["prepare", "look", key]);
            "look"
        }
    };
    world.within(&ctr(&["mounts", text(&target), shown]));
    let tree = Tree::read(&world.namespace.outside(&target));
    world.within(&format!("umount {}", text(&target)));
    if !is_active {
        ctr(&["rm", "look"]);
    }
    tree
}

/// A tree as root of the machine sees it in the namespace: without devices, with other ids, also in
/// capabilities, which belong to the namespace's root.
fn mapped(tree: &Tree) -> Tree {
    let is_device = |node: &Node| matches!(node.content, Content::Character(_) | Content::Block(_));
    let id = |id: u32| match id {
        0 => USER,
        id => SUBORDINATE.0 + id - 1,
    };
    let mut found = tree.clone();
    found.0.retain(|_, node| !is_device(node));
    for node in found.0.values_mut() {
        (node.uid, node.gid) = (id(node.uid), id(node.gid));
        if let Some(value) = node.xattrs.get_mut("security.capability") {
            value[3] = 3;
            value.extend(USER.to_le_bytes());
        }
    }
    found
}
