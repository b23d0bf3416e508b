//! The shapes of mounts, to the letter, and the owners that id mappings give.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use layerd_integration::wire::Labels;
use layerd_proto::containerd::types::Mount;
use tonic::Code;

use crate::{World, option, upper};

const UID: &str = "containerd.io/snapshot/uidmapping";
const GID: &str = "containerd.io/snapshot/gidmapping";

fn bind(source: &str, options: &[&str]) -> Vec<Mount> {
    mount("bind", source, options)
}

fn overlay(options: &[&str]) -> Vec<Mount> {
    mount("overlay", "overlay", options)
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Vec<Mount> {
    vec![Mount {
        r#type: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(ToString::to_string).collect(),
    }]
}

/// Names below the root: layers and their work directories, as the mounts spell them.
struct Names {
    root: String,
}

impl Names {
    fn layer(&self, id: &str) -> String {
        format!("{}/l/{id}", self.root)
    }

    /// The number that names a directory, from a path to it.
    fn id<'p>(&self, path: &'p str) -> &'p str {
        let layers = format!("{}/l/", self.root);
        path.strip_prefix(&layers)
            .unwrap_or_else(|| panic!("{path} is not directly below {layers}"))
    }

    fn upper<'m>(&self, mounts: &'m [Mount]) -> &'m str {
        self.id(upper(mounts).to_str().unwrap())
    }
}

fn names(world: &World) -> Names {
    let root = world.daemon.root().canonicalize().unwrap();
    Names {
        root: root.to_str().unwrap().to_owned(),
    }
}

/// Expected mounts, with the options of an id mapping before their own.
struct Shapes<'s> {
    names: Names,
    maps: &'s [&'s str],
}

impl Shapes<'_> {
    fn bind(&self, id: &str, access: &str) -> Vec<Mount> {
        let source = self.names.layer(id);
        bind(&source, &[self.maps, &[access, "rbind"]].concat())
    }

    fn writable(&self, own: &str, lowers: &[&str]) -> Vec<Mount> {
        let work = format!("workdir={}/w/{own}", self.names.root);
        let upper = format!("upperdir={}", self.names.layer(own));
        self.stacked(&[&work, &upper], lowers)
    }

    fn stacked(&self, first: &[&str], lowers: &[&str]) -> Vec<Mount> {
        let lowers: Vec<String> = lowers.iter().map(|id| self.names.layer(id)).collect();
        let lowers = format!("lowerdir={}", lowers.join(":"));
        overlay(&[self.maps, first, &[&lowers, "index=off"]].concat())
    }
}

/// The shapes containerd's own overlayfs snapshotter gives, with labels or without.
fn assert_shapes(labels: Labels<'_>, maps: &[&str]) {
    let mut world = World::new();
    let names = names(&world);
    let shapes = Shapes { names, maps };
    let client = &mut world.client;

    let first = client.prepare("first", "", labels).unwrap();
    let one = shapes.names.upper(&first);
    assert_eq!(first, shapes.bind(one, "rw"));
    let empty = client.view("empty", "", labels).unwrap();
    let own = shapes.names.id(&empty[0].source);
    assert_ne!(own, one);
    assert_eq!(empty, shapes.bind(own, "ro"));
    client.commit("1", "first", labels).unwrap();
    let view = client.view("view of 1", "1", labels).unwrap();
    assert_eq!(view, shapes.bind(one, "ro"));

    let second = client.prepare("second", "1", labels).unwrap();
    let two = shapes.names.upper(&second);
    assert_eq!(second, shapes.writable(two, &[one]));
    client.commit("2", "second", labels).unwrap();
    let third = client.prepare("third", "2", labels).unwrap();
    let three = shapes.names.upper(&third);
    assert_eq!(third, shapes.writable(three, &[two, one]));
    let high = client.view("view of 2", "2", labels).unwrap();
    assert_eq!(high, shapes.stacked(&[], &[two, one]));

    let all = [
        ("empty", &empty),
        ("view of 1", &view),
        ("view of 2", &high),
        ("third", &third),
    ];
    for round in ["as made", "again", "after a crash"] {
        if round == "after a crash" {
            world.kill9_and_restart();
        }
        for (key, made) in &all {
            assert_eq!(world.client.mounts(key).unwrap(), **made, "{key}, {round}");
        }
    }
}

#[test]
fn root_mounts_have_the_built_in_shapes() {
    assert_shapes(&[("containerd.io/snapshot.ref", "x")], &[]);
}

#[test]
fn root_mapped_mounts_have_the_built_in_shapes() {
    let uid = "0:100000:65536";
    let gid = "0:200000:1000,1000:1000:1";
    assert_shapes(
        &[(UID, uid), (GID, gid)],
        &["uidmap=0:100000:65536", "gidmap=0:200000:1000,1000:1000:1"],
    );
}

#[test]
fn root_configured_options_come_last() {
    let mut world =
        World::configured("[overlayfs]\nmount_options = [\"redirect_dir=on\", \"index=on\"]");
    world.client.committed("1", "").unwrap();
    world.client.committed("2", "1").unwrap();
    let active = world.client.prepare("a", "2", &[]).unwrap();
    let view = world.client.view("v", "2", &[]).unwrap();
    let single = world.client.view("s", "1", &[]).unwrap();
    assert_eq!(active[0].options[3..], ["redirect_dir=on", "index=on"]);
    assert_eq!(view[0].options[1..], ["redirect_dir=on", "index=on"]);
    let source = &single[0].source;
    assert_eq!(single, bind(source, &["ro", "rbind"]), "binds take none");
}

fn owner(dir: &Path) -> (u32, u32, u32) {
    let meta = std::fs::metadata(dir).unwrap();
    (meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777)
}

#[test]
fn root_a_mapping_gives_the_top_directory_its_owner() {
    let mut world = World::new();
    let client = &mut world.client;
    let plain = client.prepare("plain", "", &[]).unwrap();
    assert_eq!(owner(upper(&plain)), (0, 0, 0o755));
    let mapped = [(UID, "65536:9:1,0:100000:65536"), (GID, "0:200000:65536")];
    let first = client.prepare("first", "", &mapped).unwrap();
    assert_eq!(owner(upper(&first)), (100_000, 200_000, 0o755));
    let view = client.view("view", "", &mapped).unwrap();
    assert_eq!(owner(Path::new(&view[0].source)), (100_000, 200_000, 0o755));
    client.commit("1", "first", &[]).unwrap();
    let heir = client.prepare("heir", "1", &[]).unwrap();
    assert_eq!(
        owner(upper(&heir)),
        (100_000, 200_000, 0o755),
        "as the parent"
    );
    assert!(option(&heir[0], "uidmap").is_none());
    let other = [(UID, "0:7:1"), (GID, "0:8:1")];
    let own = client.prepare("own", "1", &other).unwrap();
    assert_eq!(owner(upper(&own)), (7, 8, 0o755), "its labels win");
    std::os::unix::fs::chown(upper(&heir), Some(11), Some(12)).unwrap();
    client.commit("2", "heir", &[]).unwrap();
    let next = client.prepare("next", "2", &[]).unwrap();
    assert_eq!(owner(upper(&next)), (11, 12, 0o755), "the nearest parent's");
}

#[test]
fn root_bad_mappings_are_invalid() {
    let mut world = World::furnished();
    let good = "0:100000:65536";
    for bad in [
        "zero:100000:65536",
        "0:100000",
        "0:100000:65536:1",
        "0:100000:0",
        "0:-1:65536",
        "+0:100000:65536",
        "0:4294967295:1",
        "0:100000:4294967295",
        "0:100000:10,5:200000:10",
        "0:100000:10,10:100005:10",
        "0:100000:10,",
        " 0:100000:10",
        "1:100000:65535",
        "0:99999999999999999999:1",
        ",",
    ] {
        for labels in [[(UID, bad), (GID, good)], [(UID, good), (GID, bad)]] {
            let code = Code::InvalidArgument;
            world.refuses(bad, code, |c| c.prepare("new", "base", &labels));
            world.refuses(bad, code, |c| c.view("new", "base", &labels));
            world.refuses(bad, code, |c| c.view("new", "", &labels));
        }
    }
    for half in [(UID, good), (GID, good)] {
        world.refuses("half", Code::InvalidArgument, |c| {
            c.prepare("new", "base", &[half])
        });
    }
    let empty = [(UID, ""), (GID, "")];
    world
        .client
        .prepare("empty labels are none", "base", &empty)
        .unwrap();
}

#[test]
fn root_mappings_can_be_switched_off() {
    let mut world = World::configured("[overlayfs]\nid_mapping = false");
    let labels = [(UID, "0:1:1"), (GID, "0:1:1")];
    let message = world.refuses("off", Code::FailedPrecondition, |c| {
        c.prepare("k", "", &labels)
    });
    assert!(message.contains("id_mapping"), "{message}");
    world.client.prepare("k", "", &[]).unwrap();
}

/// overlayfs takes 500 lower layers; one more is refused before anything is made.
#[test]
fn root_a_stack_that_cannot_be_mounted_is_refused() {
    let mut world = World::new();
    let mut parent = String::new();
    for n in 1..=500 {
        let name = n.to_string();
        world.client.committed(&name, &parent).unwrap();
        parent = name;
    }
    let active = world.client.prepare("fits", &parent, &[]).unwrap();
    let lowers = option(&active[0], "lowerdir").unwrap().split(':').count();
    assert_eq!(lowers, 500);
    world.client.commit("501", "fits", &[]).unwrap();
    let message = world.refuses("501 lowers", Code::FailedPrecondition, |c| {
        c.prepare("too high", "501", &[])
    });
    assert!(
        message.contains("501") && message.contains("500"),
        "{message}"
    );
}
