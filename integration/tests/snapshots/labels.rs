//! Labels: limits, masks, and what Update leaves alone.

use layerd_integration::Snapshots;
use layerd_integration::wire::{Answer, Labels};
use layerd_proto::containerd::services::snapshots::v1::{Info, Kind};
use prost_types::Timestamp;
use tonic::Code;

use crate::World;

struct Case {
    mask: Option<&'static [&'static str]>,
    given: Labels<'static>,
    /// Every case starts from a=1, b=2 and c.d=3.
    after: Labels<'static>,
}

const START: Labels<'_> = &[("a", "1"), ("b", "2"), ("c.d", "3")];

const CASES: &[Case] = &[
    Case {
        mask: None,
        given: &[("x", "9")],
        after: &[("x", "9")],
    },
    Case {
        mask: Some(&[]),
        given: &[("x", "9")],
        after: &[("x", "9")],
    },
    Case {
        mask: Some(&[]),
        given: &[],
        after: &[],
    },
    Case {
        mask: Some(&["labels"]),
        given: &[("a", "7")],
        after: &[("a", "7")],
    },
    Case {
        mask: Some(&["labels"]),
        given: &[("a", ""), ("x", "9")],
        after: &[("x", "9")],
    },
    Case {
        mask: Some(&["labels.a"]),
        given: &[("a", "7"), ("b", "not named")],
        after: &[("a", "7"), ("b", "2"), ("c.d", "3")],
    },
    Case {
        mask: Some(&["labels.a"]),
        given: &[],
        after: &[("b", "2"), ("c.d", "3")],
    },
    Case {
        mask: Some(&["labels.a"]),
        given: &[("a", "")],
        after: &[("b", "2"), ("c.d", "3")],
    },
    Case {
        mask: Some(&["labels.c.d"]),
        given: &[],
        after: &[("a", "1"), ("b", "2")],
    },
    Case {
        mask: Some(&["labels.containerd.io/snapshot/x"]),
        given: &[("containerd.io/snapshot/x", "9")],
        after: &[
            ("a", "1"),
            ("b", "2"),
            ("c.d", "3"),
            ("containerd.io/snapshot/x", "9"),
        ],
    },
    // Quotes are no quotes, and labels.labels.a is the label labels.a.
    Case {
        mask: Some(&["labels.\"a\""]),
        given: &[("a", "7")],
        after: START,
    },
    Case {
        mask: Some(&["labels.labels.a"]),
        given: &[("labels.a", "9")],
        after: &[("a", "1"), ("b", "2"), ("c.d", "3"), ("labels.a", "9")],
    },
    Case {
        mask: Some(&["labels.nope"]),
        given: &[],
        after: START,
    },
    Case {
        mask: Some(&["labels.a", "labels.b"]),
        given: &[("a", "7")],
        after: &[("a", "7"), ("c.d", "3")],
    },
    // In order: the second path undoes what the first one kept.
    Case {
        mask: Some(&["labels.a", "labels"]),
        given: &[("x", "9")],
        after: &[("x", "9")],
    },
    Case {
        mask: Some(&["labels", "labels.b"]),
        given: &[("a", "7"), ("b", "")],
        after: &[("a", "7")],
    },
];

#[test]
fn root_masks_say_what_an_update_changes() {
    let mut world = World::furnished();
    let client = &mut world.client;
    for key in ["active", "view", "top"] {
        for (at, case) in CASES.iter().enumerate() {
            let before = client.relabel(key, START, Some(&["labels"])).unwrap();
            let reply = client.relabel(key, case.given, case.mask).unwrap();
            let labels: Vec<(&str, &str)> = reply
                .labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            assert_eq!(labels, case.after, "case {at} on {key}");
            assert_eq!(client.stat(key).unwrap(), reply, "case {at} on {key}");
            assert_eq!(reply.created_at, before.created_at);
            let time = |info: &Info| info.updated_at.map(|t| (t.seconds, t.nanos));
            assert!(time(&reply) > time(&before), "case {at}: updated_at moves");
        }
    }
    let state = world.state();
    world.kill9_and_restart();
    assert_eq!(world.state(), state, "updates are durable");
    for mask in [
        "parent",
        "name",
        "kind",
        "created_at",
        "Labels",
        "labelsx",
        "labels.",
        "",
        "*",
    ] {
        let what = format!("mask {mask:?}");
        world.refuses(&what, Code::InvalidArgument, |c| {
            c.relabel("active", &[("a", "7")], Some(&["labels.a", mask]))
        });
    }
}

/// containerd fills the Info it sends with whatever it has, such as times of the year 1.
#[test]
fn root_update_reads_only_the_labels() {
    let mut world = World::furnished();
    let before = world.client.stat("active").unwrap();
    let year_one = Some(Timestamp {
        seconds: -62_135_596_800,
        nanos: 0,
    });
    let info = Info {
        name: "active".into(),
        parent: "nope".into(),
        kind: Kind::Committed.into(),
        created_at: year_one,
        updated_at: year_one,
        labels: [("a".into(), "1".into())].into(),
    };
    let after = world.client.update(info, Some(&["labels.a"])).unwrap();
    assert_eq!(after.labels["a"], "1");
    assert_eq!(after.labels["mark"], "active");
    let same = Info {
        labels: before.labels.clone(),
        updated_at: before.updated_at,
        ..after
    };
    assert_eq!(same, before, "name, parent, kind and created_at stay");
}

type Setter = (&'static str, fn(&mut Snapshots, &str, &str) -> Answer<()>);

/// The calls that take a label, and set it on a snapshot of their own.
const SETTERS: &[Setter] = &[
    ("prepare", |c, key, value| {
        c.prepare("made", "", &[(key, value)]).map(drop)
    }),
    ("view", |c, key, value| {
        c.view("made", "", &[(key, value)]).map(drop)
    }),
    ("commit", |c, key, value| {
        c.commit("made", "active", &[(key, value)])
    }),
    ("update all", |c, key, value| {
        c.relabel("active", &[(key, value)], None).map(drop)
    }),
    ("update one", |c, key, value| {
        c.relabel("active", &[(key, value)], Some(&[&format!("labels.{key}")]))
            .map(drop)
    }),
];

#[test]
fn root_a_label_holds_4096_bytes() {
    let mut world = World::new();
    for (what, set) in SETTERS {
        world.client.prepare("active", "", &[]).unwrap();
        for key_bytes in [1, 100, 4095] {
            let key = "k".repeat(key_bytes);
            let too_long = "v".repeat(4097 - key_bytes);
            let what = format!("{what}: {key_bytes} + {}", too_long.len());
            world.refuses(&what, Code::InvalidArgument, |c| set(c, &key, &too_long));
        }
        world.refuses(&format!("{what}: no key"), Code::InvalidArgument, |c| {
            set(c, "", "v")
        });
        world.refuses(&format!("{what}: NUL"), Code::InvalidArgument, |c| {
            set(c, "a\0b", "v")
        });
        // Bytes count, not letters: é is two.
        let wide = "é".repeat(2048);
        world.refuses(&format!("{what}: é"), Code::InvalidArgument, |c| {
            set(c, "k", &wide)
        });
        let (key, value) = ("k".repeat(100), "v".repeat(3996));
        set(&mut world.client, &key, &value).unwrap();
        let info = world.client.list().pop().unwrap();
        let found = world
            .client
            .list()
            .into_iter()
            .find_map(|info| info.labels.get(&key).cloned());
        assert_eq!(found, Some(value), "{what}: {info:?}");
        for name in world.client.names(&[]).unwrap() {
            world.client.remove(&name).unwrap();
        }
    }
}

/// 256 KiB of labels on one snapshot is the most; what is accepted comes back whole.
#[test]
fn root_all_labels_hold_256_kib() {
    let mut world = World::new();
    let value = "v".repeat(4094);
    let names: Vec<String> = (0..65).map(|n| format!("{n:02}")).collect();
    let all: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), value.as_str())).collect();
    let key = "k".repeat(4096);
    world.client.prepare(&key, "", &all[..64]).unwrap();
    assert_eq!(world.client.stat(&key).unwrap().labels.len(), 64);
    world.refuses("prepare", Code::InvalidArgument, |c| {
        c.prepare("new", "", &all)
    });
    world.refuses("update", Code::InvalidArgument, |c| {
        c.relabel(&key, &all[64..], Some(&["labels.64"]))
    });
    world.refuses("commit", Code::InvalidArgument, |c| {
        c.commit("new", &key, &all)
    });
    world
        .client
        .commit(&"n".repeat(4096), &key, &all[1..])
        .unwrap();
    let state = world.state();
    world.kill9_and_restart();
    assert_eq!(world.state(), state);
}
