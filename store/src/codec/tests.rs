use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn snapshot(
    labels: BTreeMap<String, String>,
    origin: Option<String>,
    removed: Option<i64>,
) -> Record {
    Record {
        id: LayerId(7),
        key: Key::parse("key", "k8s.io/1/a b").unwrap(),
        kind: Kind::Committed,
        parent: Some(LayerId(3)),
        created: Timestamp(-1),
        updated: Timestamp(i64::MAX),
        labels: Labels::parse(labels).unwrap(),
        usage: Some(Usage {
            bytes: 1,
            inodes: 2,
        }),
        origin: origin.map(|origin| Key::parse("key", &origin).unwrap()),
        removed: removed.map(|time| Removal {
            time: Timestamp(time),
            steady: u64::try_from(time).ok().map(SteadyTime),
        }),
        quarantine: Some("none".into()),
        has_deferred_parent: true,
    }
}

fn assemble(rows: &BTreeMap<RowKey, Vec<u8>>) -> Result<Vec<Item>, BadRow> {
    let mut assembly = Assembly::default();
    for ((table, key), value) in rows {
        assembly.add(*table, key, value)?;
    }
    assembly.finish()
}

proptest! {
    #[test]
    fn a_record_survives_its_rows(
        labels in prop::collection::btree_map("[a-z./]{1,20}", "\\PC{1,20}", 0..9),
        origin in prop::option::of("[a-z]{1,9}"),
        removed in prop::option::of(any::<i64>()),
    ) {
        let record = snapshot(labels, origin, removed);
        let item = Item::Snapshot(record.into());
        prop_assert_eq!(assemble(&rows(&item)).unwrap(), vec![item]);
    }

    #[test]
    fn every_flipped_bit_is_found(row in 0usize..4, bit in 0usize..200) {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let mut rows = rows(&Item::Snapshot(snapshot(labels, Some("o".into()), None).into()));
        let value = rows.values_mut().nth(row).unwrap();
        let bit = bit % (value.len() * 8);
        value[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(assemble(&rows).is_err());
    }
}

#[test]
fn a_missing_or_spare_row_is_found() {
    let all = rows(&Item::Snapshot(
        snapshot(BTreeMap::new(), None, None).into(),
    ));
    for table in [Table::Snap, Table::Name] {
        let mut rows = all.clone();
        rows.retain(|(of, _), _| *of != table);
        assert!(assemble(&rows).is_err(), "{table:?}");
    }
}

#[test]
fn the_largest_record_fits_the_database() {
    let long = "k".repeat(crate::model::NAME_MAX);
    let labels = BTreeMap::from([("l".repeat(LABEL_MAX - 1), "v".to_owned())]);
    let mut record = snapshot(labels, Some(long.clone()), Some(i64::MIN));
    record.key = Key::parse("key", &long).unwrap();
    assert!(
        rows(&Item::Snapshot(record.into()))
            .values()
            .all(|value| value.len() <= VALUE_MAX)
    );
}

#[test]
fn what_an_earlier_version_removed_has_no_age_yet() {
    let mut row = snap_row(&snapshot(BTreeMap::new(), None, Some(5)));
    assert_eq!(row.removed_steady, Some(5));
    row.removed_steady = None;
    let record = snapshot(BTreeMap::new(), None, None);
    let mut rows = rows(&Item::Snapshot(record.into()));
    let id = 7_u64.to_be_bytes().to_vec();
    let value = frame(Table::Snap, &id, &row.encode_to_vec());
    rows.insert((Table::Snap, id), value);
    let read = assemble(&rows).unwrap();
    let [Item::Snapshot(read)] = &read[..] else {
        panic!("{read:?}");
    };
    let wanted = Removal {
        time: Timestamp(5),
        steady: None,
    };
    assert_eq!(read.removed, Some(wanted));

    let records = crate::records::Records::of(vec![Item::Snapshot(read.clone())], 1).unwrap();
    let (edits, ()) = crate::state::stamp(&records, SteadyTime(9)).unwrap();
    let mut stamped = records.clone();
    edits.iter().for_each(|edit| edit.apply(&mut stamped));
    assert!(records.has_unstamped() && !stamped.has_unstamped());
    assert_eq!(stamped.newest_stamp(), SteadyTime(9));
}
