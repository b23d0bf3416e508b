//! The engine against a model in memory, over random operations, restarts, crashes and power cuts.
#![allow(
    clippy::panic,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::{commit_onto, create, entries, key, labels, open};
use layerd_drivers::Memory;
use layerd_engine::{Engine, Error, ErrorKind};
use layerd_mounts::Slot;
use layerd_store::{Kind, LabelChange};
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use tempfile::TempDir;

const NAMES: [&str; 5] = ["a", "b", "c", "d/e", ".."];

type Name = &'static str;

#[derive(Debug, Clone)]
enum Op {
    Create(Kind, Name, Option<Name>),
    Commit(Name, Name, Option<Name>),
    Remove(Name),
    Update(Name, Option<&'static str>),
    Usage(Name),
    Fill(Name, u16),
    Reap,
    Reopen,
    Crash,
    PowerCut,
}

fn name() -> impl Strategy<Value = Name> {
    proptest::sample::select(&NAMES[..])
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![2 => Just(Kind::Active), 1 => Just(Kind::View)];
    let parent = || proptest::option::of(name());
    prop_oneof![
        8 => (kind, name(), parent()).prop_map(|(kind, name, parent)| Op::Create(kind, name, parent)),
        6 => (name(), name(), proptest::option::weighted(0.3, name()))
            .prop_map(|(name, key, parent)| Op::Commit(name, key, parent)),
        4 => name().prop_map(Op::Remove),
        2 => (name(), proptest::option::of(Just("v"))).prop_map(|(name, value)| Op::Update(name, value)),
        3 => name().prop_map(Op::Usage),
        3 => (name(), any::<u16>()).prop_map(|(name, bytes)| Op::Fill(name, bytes)),
        2 => Just(Op::Reap),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
        1 => Just(Op::PowerCut),
    ]
}

/// A snapshot as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    kind: Kind,
    parent: Option<Name>,
    labels: BTreeMap<&'static str, &'static str>,
    /// Files written to it: their number and bytes.
    files: (u64, u64),
    /// The key it had before it was committed.
    origin: Option<Name>,
}

#[derive(Debug, Default)]
struct Model(BTreeMap<Name, Snapshot>);

impl Model {
    fn committed(&self, name: Name, otherwise: ErrorKind) -> Result<(), ErrorKind> {
        match self.0.get(name).map(|snapshot| snapshot.kind) {
            None => Err(ErrorKind::Missing),
            Some(Kind::Committed) => Ok(()),
            Some(_) => Err(otherwise),
        }
    }

    fn create(&mut self, kind: Kind, name: Name, parent: Option<Name>) -> Result<(), ErrorKind> {
        if let Some(parent) = parent {
            self.committed(parent, ErrorKind::Invalid)?;
        }
        if self.0.contains_key(name) {
            return Err(ErrorKind::Exists);
        }
        let labels = BTreeMap::from([("made", "yes")]);
        let (files, origin) = ((0, 0), None);
        self.0.insert(
            name,
            Snapshot {
                kind,
                parent,
                labels,
                files,
                origin,
            },
        );
        Ok(())
    }

    fn commit(&mut self, name: Name, key: Name, parent: Option<Name>) -> Result<(), ErrorKind> {
        let Some(active) = self.0.get(key).cloned() else {
            let done = self
                .0
                .get(name)
                .is_some_and(|done| done.origin == Some(key));
            return if done {
                Ok(())
            } else {
                Err(ErrorKind::Missing)
            };
        };
        if self.0.contains_key(name) {
            return Err(ErrorKind::Exists);
        }
        if active.kind != Kind::Active {
            return Err(ErrorKind::Refused);
        }
        if active.parent.is_some() && parent.is_some() && active.parent != parent {
            return Err(ErrorKind::Invalid);
        }
        if let Some(parent) = parent {
            self.committed(parent, ErrorKind::Refused)?;
        }
        self.0.remove(key);
        let committed = Snapshot {
            kind: Kind::Committed,
            parent: active.parent.or(parent),
            labels: BTreeMap::from([("committed", "yes")]),
            origin: Some(key),
            ..active
        };
        self.0.insert(name, committed);
        Ok(())
    }

    fn remove(&mut self, name: Name) -> Result<(), ErrorKind> {
        if !self.0.contains_key(name) {
            return Err(ErrorKind::Missing);
        }
        if self.0.values().any(|other| other.parent == Some(name)) {
            return Err(ErrorKind::Refused);
        }
        self.0.remove(name);
        Ok(())
    }

    fn update(&mut self, name: Name, value: Option<&'static str>) -> Result<(), ErrorKind> {
        let snapshot = self.0.get_mut(name).ok_or(ErrorKind::Missing)?;
        match value {
            Some(value) => drop(snapshot.labels.insert("l", value)),
            None => drop(snapshot.labels.remove("l")),
        }
        Ok(())
    }

    fn usage(&self, name: Name) -> Result<(u64, u64), ErrorKind> {
        let snapshot = self.0.get(name).ok_or(ErrorKind::Missing)?;
        let (files, bytes) = snapshot.files;
        Ok(match snapshot.kind {
            Kind::View => (0, 0),
            _ => (4096 + bytes, 1 + files),
        })
    }
}

/// The engine, its disk, and every id seen so far with the name it was first seen under.
struct Subject {
    root: TempDir,
    fake: Memory,
    engine: Option<Engine>,
    model: Model,
    seen: BTreeSet<u64>,
    alive: BTreeSet<u64>,
}

impl Subject {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let fake = Memory::new();
        let engine = Some(open(root.path(), &fake));
        Self {
            root,
            fake,
            engine,
            model: Model::default(),
            seen: BTreeSet::new(),
            alive: BTreeSet::new(),
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn slot(&self, name: Name) -> Option<Slot> {
        let entry = self.engine().layers.stat(&key(name)).ok()?;
        Some(Slot(entry.record.id.0))
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let kind = |done: Result<(), Error>| done.map_err(|error| error.kind());
        match *op {
            Op::Create(what, name, parent) => {
                let done = kind(create(self.engine(), what, name, parent));
                prop_assert_eq!(done, self.model.create(what, name, parent));
            }
            Op::Commit(name, from, parent) => {
                let done = kind(commit_onto(self.engine(), name, from, parent));
                prop_assert_eq!(done, self.model.commit(name, from, parent));
            }
            Op::Remove(name) => {
                let done = kind(self.engine().layers.remove(&key(name)));
                prop_assert_eq!(done, self.model.remove(name));
            }
            Op::Update(name, value) => {
                let change = LabelChange::one("l", value).unwrap();
                let done = kind(
                    self.engine()
                        .layers
                        .update(&key(name), vec![change])
                        .map(drop),
                );
                prop_assert_eq!(done, self.model.update(name, value));
            }
            Op::Usage(name) => {
                let figure = self.engine().layers.usage(&key(name));
                let figure = figure.map(|usage| (usage.bytes, usage.inodes));
                prop_assert_eq!(figure.map_err(|error| error.kind()), self.model.usage(name));
            }
            Op::Fill(name, bytes) => self.fill(name, bytes.into()),
            Op::Reap => {
                prop_assert_eq!(self.engine().reap().failed, 0);
                assert!(self.engine().is_reaped());
            }
            Op::Reopen => self.reopen(),
            Op::Crash => self.crash(),
            Op::PowerCut => self.cut_power(),
        }
        Ok(())
    }

    fn fill(&mut self, name: Name, bytes: u64) {
        let slot = self.slot(name);
        if let Some(snapshot) = self.model.0.get_mut(name)
            && snapshot.kind == Kind::Active
        {
            self.fake.fill(slot.unwrap(), bytes);
            snapshot.files.0 += 1;
            snapshot.files.1 += bytes;
        }
    }

    fn reopen(&mut self) {
        drop(self.engine.take());
        self.engine = Some(open(self.root.path(), &self.fake));
    }

    /// Crashes: the next engine gets the present state of the disk; the closing writes of the last one
    /// go to files that are not read again.
    fn crash(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(self.root.path(), copy.path());
        drop(self.engine.take());
        self.root = copy;
        self.engine = Some(open(self.root.path(), &self.fake));
    }

    /// Cuts the power: writes to active layers since the last sync may be lost.
    fn cut_power(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(self.root.path(), copy.path());
        drop(self.engine.take());
        self.root = copy;
        self.fake.cut_power();
        self.engine = Some(open(self.root.path(), &self.fake));
        let actives: Vec<Name> = self.model.0.keys().copied().collect();
        for name in actives {
            let slot = self.slot(name);
            let snapshot = self.model.0.get_mut(name).unwrap();
            if snapshot.kind == Kind::Active {
                let layer = self
                    .fake
                    .layer(slot.unwrap())
                    .expect("a record has its directory");
                snapshot.files = (layer.usage.inodes - 1, layer.usage.bytes - 4096);
            }
        }
    }

    /// Compares the engine's list with the model, and checks that no id was reused.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        let listed = entries(self.engine());
        prop_assert_eq!(listed.len(), self.model.0.len());
        for entry in &listed {
            let record = &entry.record;
            let name = record.key.as_str();
            let Some(wanted) = self.model.0.get(name) else {
                panic!("{name} is listed");
            };
            prop_assert_eq!(record.kind, wanted.kind);
            prop_assert_eq!(entry.parent.as_str(), wanted.parent.unwrap_or_default());
            let pairs: Vec<_> = wanted.labels.iter().map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(&record.labels, &labels(&pairs));
            let has_layer = record.kind != Kind::View || record.parent.is_none();
            let layer = self.fake.layer(Slot(record.id.0));
            prop_assert_eq!(layer.is_some(), has_layer);
        }
        let alive: BTreeSet<u64> = listed.iter().map(|entry| entry.record.id.0).collect();
        for id in alive.difference(&self.alive) {
            assert!(self.seen.insert(*id), "the id {id} was used twice");
        }
        self.alive = alive;
        Ok(())
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            // The reserve and temporary files come and go.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config {
        cases: 24,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn the_engine_does_what_the_model_does(ops in proptest::collection::vec(op(), 1..60)) {
        let mut subject = Subject::new();
        for op in &ops {
            subject.apply(op)?;
            subject.compare()?;
        }
        let names: Vec<Name> = subject.model.0.keys().copied().collect();
        for _ in 0..names.len() {
            for name in &names {
                subject.apply(&Op::Remove(name))?;
            }
        }
        subject.apply(&Op::Reap)?;
        subject.compare()?;
        use layerd_drivers::Survey as _;
        prop_assert_eq!(subject.fake.list().unwrap(), []);
    }
}
