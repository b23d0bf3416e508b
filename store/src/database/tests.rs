use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::codec;
use crate::folder::copy_folder;
use crate::item::Item;
use crate::model::{Key, Kind, LABEL_MAX, Labels, LayerId, Record, Timestamp};

/// Records by id.
type Model = BTreeMap<u64, Item>;

/// A record with labels of about so many KiB.
fn item(id: u64, version: i64, size: u64) -> Item {
    let value = "v".repeat(LABEL_MAX - 8);
    let labels = (0..size.div_ceil(4)).map(|n| (format!("{n:04}"), value.clone()));
    Item::Snapshot(Arc::new(Record {
        id: LayerId(id),
        key: Key::parse("key", &format!("key {id}")).unwrap(),
        kind: Kind::Active,
        parent: None,
        created: Timestamp(0),
        updated: Timestamp(version),
        labels: Labels::parse(labels.collect()).unwrap(),
        usage: None,
        origin: None,
        removed: None,
        quarantine: None,
        has_deferred_parent: false,
    }))
}

/// Rows that make the record `id` equal `new`, in `model` as well.
fn change(model: &mut Model, id: u64, new: Option<Item>) -> Rows {
    let old = model.remove(&id);
    let gone = old.iter().flat_map(codec::rows).map(|(key, _)| (key, None));
    let come = new.iter().flat_map(codec::rows);
    let rows = gone.chain(come.map(|(key, value)| (key, Some(value))));
    let rows = rows.collect();
    model.extend(new.map(|item| (id, item)));
    rows
}

fn open(folder: &Path, fresh: bool) -> Opened {
    Db::open(folder, fresh).unwrap()
}

/// Records found by an opening after a kill at this moment.
fn after_a_kill(folder: &Path) -> Opened {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, &copy.path().join("meta")).unwrap();
    open(&copy.path().join("meta"), false)
}

fn assert_holds(opened: &Opened, model: &Model, sequence: u64) {
    let all: Vec<_> = model.values().cloned().collect();
    assert!(opened.records == all, "commit {sequence}: other records");
    assert_eq!(opened.wal.last(), sequence);
    assert_eq!(opened.ids_below, 1000 + sequence);
}

/// Commits of all sizes, most of one page, some of many, some larger than the journal; killed and
/// opened anew at any time, also while sled takes in.
#[test]
fn holds_what_was_committed_whenever_it_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let opened = open(root.path(), true);
    let mut sequence = opened.wal.last();
    let mut database = Database::new(opened, root.path()).unwrap();
    for step in 1..=900_u64 {
        // Records in the commit, and the size of each.
        let (count, size) = match step {
            300 | 302 | 603 => (6, 200),
            _ if step % 50 == 7 => (1, 150),
            _ => (1, 0),
        };
        let mut rows = Rows::new();
        for id in (step * 7..).take(count).map(|id| id % 40) {
            let new = (step % 7 != 0).then(|| item(id, i64::try_from(step).unwrap(), size));
            rows.extend(change(&mut model, id, new));
        }
        sequence += 1;
        assert_eq!(
            database
                .commit(rows, 1000 + sequence, step % 3 == 0)
                .unwrap(),
            sequence
        );
        if step % 61 == 0 || (298..=303).contains(&step) {
            assert_holds(&after_a_kill(root.path()), &model, sequence);
        }
        if step % 250 == 0 {
            assert!(database.close(LIMIT));
            let opened = open(root.path(), false);
            assert_holds(&opened, &model, sequence);
            database = Database::new(opened, root.path()).unwrap();
        }
    }
    database.finish().unwrap();
    assert!(database.close(LIMIT));
    let opened = open(root.path(), false);
    assert_holds(&opened, &model, sequence);
    assert_eq!(opened.db.sequence(), sequence, "sled has it all");
}

/// The sequence file also detects the loss of a commit that is in the write-ahead log only.
#[test]
fn a_journal_that_lost_its_end_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let mut database = Database::new(open(root.path(), true), root.path()).unwrap();
    for id in 1..=20 {
        let rows = change(&mut Model::new(), id, Some(item(id, 0, 0)));
        database.commit(rows, 100, false).unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    let meta = copy.path().join("meta");
    copy_folder(root.path(), &meta).unwrap();
    let wal = meta.join("db").join(crate::wal::NAME);
    let mut bytes = std::fs::read(&wal).unwrap();
    bytes[10 * 4096..].fill(7);
    std::fs::write(&wal, bytes).unwrap();
    let error = Db::open(&meta, false).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("acknowledged"), "{error}");
    std::fs::remove_file(&wal).unwrap();
    let error = Db::open(&meta, false).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(!wal.exists(), "nothing was touched");
}

/// Older releases had none.
#[test]
fn a_database_without_a_journal_gets_one_if_nothing_is_missing() {
    let (root, mut model) = (tempfile::tempdir().unwrap(), Model::new());
    let mut database = Database::new(open(root.path(), true), root.path()).unwrap();
    let rows = change(&mut model, 1, Some(item(1, 0, 0)));
    let sequence = database.commit(rows, 1002, false).unwrap();
    database.finish().unwrap();
    assert!(database.close(LIMIT));
    Db::forget_log(root.path());
    let opened = open(root.path(), false);
    assert_holds(&opened, &model, sequence);
    let rows = change(&mut model, 2, Some(item(2, 0, 0)));
    let mut database = Database::new(opened, root.path()).unwrap();
    database.commit(rows, 1000 + sequence + 1, true).unwrap();
    assert_holds(&after_a_kill(root.path()), &model, sequence + 1);
}

/// A closed database with ten records, and these.
fn closed(root: &Path) -> (Model, u64) {
    let mut model = Model::new();
    let mut database = Database::new(open(root, true), root).unwrap();
    let mut sequence = 0;
    for id in 1..=10 {
        let rows = change(&mut model, id, Some(item(id, 0, 0)));
        sequence = database.wal.last() + 1;
        database.commit(rows, 1000 + sequence, false).unwrap();
    }
    database.finish().unwrap();
    assert!(database.close(LIMIT));
    (model, sequence)
}

fn cut_off(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, "").unwrap();
        }
    }
}

/// Older releases put a copy in the place of a database that failed to open, and did not sync it:
/// a power cut leaves files without content there.
#[test]
fn a_database_that_an_older_release_moved_away_comes_back() {
    for unfinished in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let (model, sequence) = closed(root.path());
        let [db, copy, touched] =
            ["db", "db.copy", "db.touched"].map(|name| root.path().join(name));
        std::fs::rename(&db, &touched).unwrap();
        let empty = if unfinished { &copy } else { &db };
        copy_folder(&touched, empty).unwrap();
        cut_off(empty);
        let spare = tempfile::tempdir().unwrap();
        let inspected = Db::inspect(root.path(), spare.path()).unwrap();
        assert_holds(&inspected, &model, sequence);
        assert!(touched.exists() && empty.exists(), "nothing was touched");
        assert_holds(&open(root.path(), false), &model, sequence);
        assert!(db.exists() && !copy.exists() && !touched.exists());
    }
}

/// A replaced database gets a free name, whatever its number.
#[test]
fn databases_that_are_set_aside_are_all_kept() {
    let root = tempfile::tempdir().unwrap();
    let (_, sequence) = closed(root.path());
    let records = crate::records::Records::default();
    let rebuild = || Db::rebuild(root.path(), &records, sequence, 1).unwrap();
    let ((first, old), (second, older)) = (rebuild(), rebuild());
    assert_eq!(first.wal.last(), second.wal.last());
    assert_ne!(old, older);
    for old in [old, older] {
        assert!(old.join("journal").exists(), "{}", old.display());
    }
    assert!(!root.path().join("db.new").exists());
}

/// Commits may be in the log alone, and the number of the last one tells how many there were. If both
/// are gone, the database knows that there was a log.
#[test]
fn a_log_that_is_lost_with_the_number_of_the_last_commit_is_damage() {
    let root = tempfile::tempdir().unwrap();
    closed(root.path());
    std::fs::remove_file(root.path().join("db").join(crate::wal::NAME)).unwrap();
    std::fs::remove_file(root.path().join("sequence")).unwrap();
    for _ in 0..2 {
        let error = Db::open(root.path(), false).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        // Nor does a kill between the two leave a log that seems to have been there.
        assert!(!root.path().join("db").join(crate::wal::NAME).exists());
        assert!(!root.path().join("sequence").exists());
    }
}

/// A log of a release that left unused pages zeros gets them marked, and keeps its commits.
#[test]
fn a_log_of_an_older_release_is_marked() {
    use std::os::unix::fs::FileExt as _;

    let (root, mut model) = (tempfile::tempdir().unwrap(), Model::new());
    let mut database = Database::new(open(root.path(), true), root.path()).unwrap();
    let rows = change(&mut model, 1, Some(item(1, 0, 0)));
    let sequence = database.commit(rows, 1002, false).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let meta = copy.path().join("meta");
    copy_folder(root.path(), &meta).unwrap();
    let path = meta.join("db").join(crate::wal::NAME);
    let log = std::fs::File::options().write(true).open(&path).unwrap();
    log.write_all_at(&[0; 8], 24).unwrap();
    let pages = std::fs::metadata(&path).unwrap().len() / 4096;
    for page in 2..pages {
        log.write_all_at(&[0; 4096], page * 4096).unwrap();
    }
    assert_holds(&open(&meta, false), &model, sequence);
    assert_holds(&open(&meta, false), &model, sequence);
    // From now on zeros are a loss, whatever else is gone.
    log.write_all_at(&[0; 4096], 9 * 4096).unwrap();
    let error = Db::open(&meta, false).unwrap_err();
    assert!(error.to_string().contains("pages of zeros"), "{error}");
}

/// A kill while a log is added to a database of an older release leaves part of one.
#[test]
fn half_of_an_added_log_is_made_anew() {
    let (root, mut model) = (tempfile::tempdir().unwrap(), Model::new());
    let mut database = Database::new(open(root.path(), true), root.path()).unwrap();
    let rows = change(&mut model, 1, Some(item(1, 0, 0)));
    let sequence = database.commit(rows, 1002, false).unwrap();
    database.finish().unwrap();
    assert!(database.close(LIMIT));
    let log = root.path().join("db").join(crate::wal::NAME);
    Db::forget_log(root.path());
    std::fs::write(log.with_file_name("journal.new"), "half").unwrap();
    let opened = open(root.path(), false);
    assert_holds(&opened, &model, sequence);
    assert!(log.exists() && !log.with_file_name("journal.new").exists());
}
