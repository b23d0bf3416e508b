use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_drivers::{Found, Memory, SlotKind, Survey as _};
use layerd_mounts::Slot;
use layerd_store::{Commit, Create, Key, Kind, Labels, LayerId, Options, Records, Store};

use super::{Facts, Fix, Problem, problems};
use crate::stack::base_of;

/// `base` is 1 and committed; `active` is 2, on it; `view` is 3, on it; `bare` is 4, active;
/// `empty` is 5, a view of nothing; 6 is retired; 7 is being made.
fn records(folder: &Path) -> Arc<Records> {
    let barrier = Box::new(|_| Ok(()));
    let store = Store::open(
        folder,
        Options {
            barrier,
            shared_journal_device: None,
            ids_on_disk: Vec::new(),
        },
    )
    .unwrap();
    let create = |name: &str, kind, parent: Option<&str>| {
        let create = Create {
            key: key(name),
            kind,
            parent: parent.map(key),
            labels: Labels::default(),
        };
        let claim = store.claim(create).unwrap();
        store.record(claim, true).unwrap();
    };
    create("tmp", Kind::Active, None);
    let commit = Commit {
        name: key("base"),
        key: key("tmp"),
        labels: Labels::default(),
        parent: None,
        usage: None,
    };
    let checked = store.check_commit(&store.records(), &commit).unwrap();
    store.commit(commit, checked, false).unwrap();
    create("active", Kind::Active, Some("base"));
    create("view", Kind::View, Some("base"));
    create("bare", Kind::Active, None);
    create("empty", Kind::View, None);
    create("gone", Kind::Active, None);
    store.remove(&key("gone")).unwrap();
    store.records()
}

fn key(name: &str) -> Key {
    Key::parse("key", name).unwrap()
}

fn at(kind: SlotKind, id: u64) -> Found {
    Found::Slot(kind, Slot(id))
}

/// Directories without a problem.
fn well() -> Vec<Found> {
    vec![
        at(SlotKind::Layer, 1),
        at(SlotKind::Layer, 2),
        at(SlotKind::Work, 2),
        at(SlotKind::Layer, 4),
        at(SlotKind::Layer, 5),
        at(SlotKind::Layer, 6),
        at(SlotKind::Layer, 7),
    ]
}

/// Each: what is missing, what is there besides, and what must be found.
type Case = (&'static [(SlotKind, u64)], Vec<Found>, Vec<Problem>);

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let (active, base) = (key("active"), key("base"));
    let id = LayerId;
    let unknown_entry = PathBuf::from("/r/l/README");
    vec![
        (&[], vec![], vec![]),
        (&[(SlotKind::Layer, 6)], vec![], vec![]),
        (
            &[],
            vec![at(SlotKind::Trash, 8)],
            vec![Problem::Abandoned { id: id(8) }],
        ),
        (
            &[],
            vec![at(SlotKind::Layer, 8)],
            vec![Problem::Abandoned { id: id(8) }],
        ),
        (
            &[],
            vec![at(SlotKind::Work, 9)],
            vec![Problem::Abandoned { id: id(9) }],
        ),
        (&[], vec![at(SlotKind::Work, 7)], vec![]),
        (
            &[],
            vec![at(SlotKind::Layer, 10)],
            vec![Problem::UnknownLayer {
                kind: SlotKind::Layer,
                id: id(10),
            }],
        ),
        (
            &[],
            vec![Found::UnknownEntry(unknown_entry.clone())],
            vec![Problem::UnknownEntry {
                path: unknown_entry,
            }],
        ),
        (
            &[(SlotKind::Layer, 6)],
            vec![at(SlotKind::Trash, 6)],
            vec![],
        ),
        (&[], vec![at(SlotKind::Work, 6)], vec![]),
        (
            &[(SlotKind::Layer, 1)],
            vec![at(SlotKind::Trash, 1)],
            vec![
                Problem::InTrash {
                    id: id(1),
                    key: base.clone(),
                },
                Problem::NoDirectory {
                    id: id(1),
                    key: base.clone(),
                },
            ],
        ),
        (
            &[],
            vec![at(SlotKind::Trash, 1)],
            vec![Problem::InTrash {
                id: id(1),
                key: base.clone(),
            }],
        ),
        (
            &[(SlotKind::Work, 2)],
            vec![],
            vec![Problem::NoWorkDirectory {
                id: id(2),
                key: active.clone(),
            }],
        ),
        (
            &[],
            vec![at(SlotKind::Work, 1)],
            vec![Problem::SpareWorkDirectory {
                id: id(1),
                key: base.clone(),
            }],
        ),
        (
            &[(SlotKind::Layer, 1)],
            vec![],
            vec![Problem::NoDirectory {
                id: id(1),
                key: base,
            }],
        ),
        (
            &[(SlotKind::Layer, 2), (SlotKind::Work, 2)],
            vec![],
            vec![Problem::NoDirectory {
                id: id(2),
                key: active,
            }],
        ),
        (
            &[(SlotKind::Layer, 5)],
            vec![],
            vec![Problem::NoDirectory {
                id: id(5),
                key: key("empty"),
            }],
        ),
    ]
}

#[test]
fn what_is_found_becomes_problems() {
    let dir = tempfile::tempdir().unwrap();
    let view = records(dir.path());
    for (missing, besides, wanted) in cases() {
        let mut found = well();
        found.retain(|entry| !missing.iter().any(|(kind, id)| *entry == at(*kind, *id)));
        found.extend(besides.clone());
        let memory = Memory::new();
        let facts = Facts {
            found: &found,
            claimed: &[LayerId(7)],
            view: &view,
            is_issued: &|id| id < 10,
            is_used: &|_| false,
            needs_work: &|record| memory.needs_work(&base_of(record)),
        };
        let seen: Vec<_> = problems(&facts).into_iter().collect();
        assert_eq!(seen, wanted, "without {missing:?}, with {besides:?}");
    }
}

/// Nothing that a client was told exists is ever deleted without a person's word.
#[test]
fn only_unacknowledged_directories_are_deleted() {
    for (_, _, problems) in cases() {
        for problem in problems {
            if let Fix::Safe("delete it") = problem.fix() {
                assert!(
                    matches!(
                        problem,
                        Problem::Abandoned { .. } | Problem::SpareWorkDirectory { .. }
                    ),
                    "{problem:?}"
                );
            }
        }
    }
}

/// A power cut may leave the name of one with content of an older directory.
#[test]
fn a_work_directory_beside_no_layer_is_deleted_whatever_it_holds() {
    let found = [
        at(SlotKind::Work, 8),
        at(SlotKind::Work, 9),
        at(SlotKind::Layer, 9),
    ];
    let problems = problems(&Facts {
        found: &found,
        claimed: &[],
        view: &Records::default(),
        is_issued: &|_| true,
        is_used: &|_| true,
        needs_work: &|_| false,
    });
    let (alone, whole) = (LayerId(8), LayerId(9));
    let wanted = [
        Problem::Abandoned { id: alone },
        Problem::Unrecorded { id: whole },
    ];
    assert_eq!(problems, wanted.into());
}

#[test]
fn a_layer_that_waits_for_its_parent_needs_a_work_directory() {
    let dir = tempfile::tempdir().unwrap();
    let barrier = Box::new(|_| Ok(()));
    let store = Store::open(
        dir.path(),
        Options {
            barrier,
            shared_journal_device: None,
            ids_on_disk: Vec::new(),
        },
    )
    .unwrap();
    let create = Create {
        key: key("waits"),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    let claim = store.claim(create).unwrap().with_deferred_parent();
    store.record(claim, true).unwrap();
    let look = |found: &[Found]| {
        let memory = Memory::new();
        let facts = Facts {
            found,
            claimed: &[],
            view: &store.records(),
            is_issued: &|id| id < 2,
            is_used: &|_| false,
            needs_work: &|record| memory.needs_work(&base_of(record)),
        };
        problems(&facts).into_iter().collect::<Vec<_>>()
    };
    let (layer, work) = (at(SlotKind::Layer, 1), at(SlotKind::Work, 1));
    let (id, waits) = (LayerId(1), key("waits"));
    assert_eq!(look(&[layer.clone(), work.clone()]), []);
    assert_eq!(
        look(std::slice::from_ref(&layer)),
        [Problem::NoWorkDirectory { id, key: waits }]
    );
    let commit = Commit {
        name: key("done"),
        key: key("waits"),
        labels: Labels::default(),
        parent: None,
        usage: None,
    };
    let checked = store.check_commit(&store.records(), &commit).unwrap();
    store.commit(commit, checked, false).unwrap();
    let spare = Problem::SpareWorkDirectory {
        id,
        key: key("done"),
    };
    assert_eq!(look(&[layer, work]), [spare]);
}
