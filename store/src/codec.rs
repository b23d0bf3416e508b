//! Encoding of records in rows.
//!
//! A record is several rows, so that no value grows with what a client sends: sled moves large
//! values into files it never syncs. A row's value is one format byte, four bytes of CRC-32 (of
//! table, key and body, little-endian) and a protobuf body, which later formats can extend.
//!
//! | table  | key                   | body                                   |
//! |--------|-----------------------|----------------------------------------|
//! | snap   | id (8, big-endian)    | [`SnapRow`]: all of fixed size         |
//! | name   | id                    | [`TextRow`]: the key or name           |
//! | origin | id                    | [`TextRow`]: the key before the commit |
//! | label  | id, ordinal (4)       | [`LabelRow`]                           |
//! | volume | id, part (4)          | a part of a `body::VolumeBody`         |
//! | attachment | id, part (4)      | a part of a `body::AttachmentBody`     |

use std::collections::BTreeMap;

use prost::Message;

mod body;

use crate::item::Item;
use crate::model::{
    Key, Kind, LABEL_MAX, Labels, LayerId, Record, Removal, SteadyTime, Timestamp, Usage,
};

/// Longest value of a row, in bytes: a client's 4096 and the framing. sled made blob files of values
/// from 7.6 KB only.
pub(crate) const VALUE_MAX: usize = LABEL_MAX + 64;

/// Characters kept of the reason for a quarantine.
const QUARANTINE_CHARS: usize = 500;
const FORMAT: u8 = 1;
const HEADER: usize = 5;
/// Bytes in one part of a body.
const PART: usize = 4000;

/// The tables, in the order in which the database numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    Snap,
    Name,
    Origin,
    Label,
    Volume,
    Attachment,
}

impl Table {
    pub(crate) const ALL: [Self; 6] = [
        Self::Snap,
        Self::Name,
        Self::Origin,
        Self::Label,
        Self::Volume,
        Self::Attachment,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Snap => "snap",
            Self::Name => "name",
            Self::Origin => "origin",
            Self::Label => "label",
            Self::Volume => "volume",
            Self::Attachment => "attachment",
        }
    }
}

/// Table and key of a row.
pub(crate) type RowKey = (Table, Vec<u8>);

/// A row that cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadRow {
    #[error("table {}, key {key:02x?}: {what}", table.name())]
    Row {
        table: Table,
        key: Vec<u8>,
        what: &'static str,
    },
}

#[derive(Clone, PartialEq, Message)]
struct SnapRow {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, optional, tag = "2")]
    parent: Option<u64>,
    #[prost(sint64, tag = "3")]
    created: i64,
    #[prost(sint64, tag = "4")]
    updated: i64,
    #[prost(uint64, optional, tag = "5")]
    bytes: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    inodes: Option<u64>,
    #[prost(sint64, optional, tag = "7")]
    removed: Option<i64>,
    #[prost(string, optional, tag = "8")]
    quarantine: Option<String>,
    #[prost(bool, tag = "9")]
    has_deferred_parent: bool,
    #[prost(uint64, optional, tag = "10")]
    removed_steady: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct TextRow {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct LabelRow {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// All rows of one record of any kind.
pub(crate) fn rows(item: &Item) -> BTreeMap<RowKey, Vec<u8>> {
    match item {
        Item::Snapshot(record) => snapshot_rows(record),
        Item::Volume(volume) => parts(Table::Volume, volume.id.0, &body::of_volume(volume)),
        Item::Attachment(attachment) => parts(
            Table::Attachment,
            attachment.id.0,
            &body::of_attachment(attachment),
        ),
    }
}

/// A body of any length in rows of at most [`PART`] bytes.
fn parts(table: Table, id: u64, body: &[u8]) -> BTreeMap<RowKey, Vec<u8>> {
    let row = |(part, bytes): (u32, &[u8])| {
        let key = [&id.to_be_bytes()[..], &part.to_be_bytes()].concat();
        let value = frame(table, &key, bytes);
        ((table, key), value)
    };
    (0_u32..).zip(body.chunks(PART)).map(row).collect()
}

fn snapshot_rows(record: &Record) -> BTreeMap<RowKey, Vec<u8>> {
    let id = record.id.0.to_be_bytes().to_vec();
    let mut rows = BTreeMap::new();
    let mut add = |table: Table, key: Vec<u8>, body: Vec<u8>| {
        let value = frame(table, &key, &body);
        rows.insert((table, key), value);
    };
    add(Table::Snap, id.clone(), snap_row(record).encode_to_vec());
    add(Table::Name, id.clone(), text(&record.key));
    if let Some(origin) = &record.origin {
        add(Table::Origin, id.clone(), text(origin));
    }
    for (ordinal, (key, value)) in (0u32..).zip(record.labels.iter()) {
        let row = LabelRow {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let row_key = [id.as_slice(), &ordinal.to_be_bytes()].concat();
        add(Table::Label, row_key, row.encode_to_vec());
    }
    rows
}

/// Records under assembly from rows, each given once; tables in any order, rows of one by key.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    snaps: BTreeMap<u64, SnapRow>,
    names: BTreeMap<u64, String>,
    origins: BTreeMap<u64, String>,
    labels: BTreeMap<u64, Labels>,
    volumes: BTreeMap<u64, Vec<u8>>,
    attachments: BTreeMap<u64, Vec<u8>>,
}

impl Assembly {
    pub(crate) fn add(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), BadRow> {
        let bad = |what| BadRow::Row {
            table,
            key: key.to_vec(),
            what,
        };
        let body = unframe(table, key, value).map_err(bad)?;
        let id = leading_id(table, key).ok_or_else(|| bad("the key has a wrong length"))?;
        let malformed = |_| bad("the body is not what its table holds");
        match table {
            Table::Snap => drop(
                self.snaps
                    .insert(id, SnapRow::decode(body).map_err(malformed)?),
            ),
            Table::Name => drop(
                self.names
                    .insert(id, TextRow::decode(body).map_err(malformed)?.text),
            ),
            Table::Origin => drop(
                self.origins
                    .insert(id, TextRow::decode(body).map_err(malformed)?.text),
            ),
            Table::Label => {
                let row = LabelRow::decode(body).map_err(malformed)?;
                let labels = self.labels.entry(id).or_default();
                labels.insert_stored(row.key, row.value);
            }
            // Rows come in the order of their keys, so parts come in order.
            Table::Volume => self.volumes.entry(id).or_default().extend(body),
            Table::Attachment => self.attachments.entry(id).or_default().extend(body),
        }
        Ok(())
    }

    /// The records, snapshots first, in order of their ids.
    pub(crate) fn finish(mut self) -> Result<Vec<Item>, BadRow> {
        let snaps = std::mem::take(&mut self.snaps);
        let snapshots = snaps
            .into_iter()
            .map(|(id, row)| Ok(Item::Snapshot(self.record(id, &row)?.into())));
        let mut items = snapshots.collect::<Result<Vec<_>, _>>()?;
        let left = [
            (Table::Name, self.names.keys().next()),
            (Table::Origin, self.origins.keys().next()),
            (Table::Label, self.labels.keys().next()),
        ];
        if let Some((table, id)) = left.into_iter().find_map(|(table, id)| Some((table, *id?))) {
            return Err(bad_record(table, id, "belongs to no record"));
        }
        for (id, body) in self.volumes {
            let volume =
                body::to_volume(id, &body).map_err(|what| bad_record(Table::Volume, id, what))?;
            items.push(Item::Volume(volume.into()));
        }
        for (id, body) in self.attachments {
            let attachment = body::to_attachment(id, &body);
            let attachment = attachment.map_err(|what| bad_record(Table::Attachment, id, what))?;
            items.push(Item::Attachment(attachment.into()));
        }
        Ok(items)
    }

    fn record(&mut self, id: u64, row: &SnapRow) -> Result<Record, BadRow> {
        let bad = |what| bad_record(Table::Snap, id, what);
        let key =
            |text: String| Key::parse("name", &text).map_err(|_| bad("the name breaks a rule"));
        let name = self
            .names
            .remove(&id)
            .ok_or_else(|| bad("the name is missing"))?;
        Ok(Record {
            id: LayerId(id),
            key: key(name)?,
            kind: kind(row.kind).ok_or_else(|| bad("the kind is unknown"))?,
            parent: row.parent.map(LayerId),
            created: Timestamp(row.created),
            updated: Timestamp(row.updated),
            labels: self.labels.remove(&id).unwrap_or_default(),
            usage: row
                .bytes
                .zip(row.inodes)
                .map(|(bytes, inodes)| Usage { bytes, inodes }),
            origin: self.origins.remove(&id).map(key).transpose()?,
            removed: removed(row.removed, row.removed_steady),
            quarantine: row.quarantine.clone(),
            has_deferred_parent: row.has_deferred_parent,
        })
    }
}

fn bad_record(table: Table, id: u64, what: &'static str) -> BadRow {
    BadRow::Row {
        table,
        key: id.to_be_bytes().to_vec(),
        what,
    }
}

fn snap_row(record: &Record) -> SnapRow {
    SnapRow {
        kind: match record.kind {
            Kind::View => 1,
            Kind::Active => 2,
            Kind::Committed => 3,
        },
        parent: record.parent.map(|id| id.0),
        created: record.created.0,
        updated: record.updated.0,
        bytes: record.usage.map(|usage| usage.bytes),
        inodes: record.usage.map(|usage| usage.inodes),
        removed: record.removed.map(|removed| removed.time.0),
        removed_steady: steady(record.removed),
        quarantine: record
            .quarantine
            .as_ref()
            .map(|why| why.chars().take(QUARANTINE_CHARS).collect()),
        has_deferred_parent: record.has_deferred_parent,
    }
}

/// Records of earlier versions have no steady time.
fn removed(time: Option<i64>, steady: Option<u64>) -> Option<Removal> {
    time.map(|time| Removal {
        time: Timestamp(time),
        steady: steady.map(SteadyTime),
    })
}

fn steady(removed: Option<Removal>) -> Option<u64> {
    removed?.steady.map(|steady| steady.0)
}

fn kind(number: u32) -> Option<Kind> {
    Some(match number {
        1 => Kind::View,
        2 => Kind::Active,
        3 => Kind::Committed,
        _ => return None,
    })
}

fn text(key: &Key) -> Vec<u8> {
    let text = key.as_str().to_owned();
    TextRow { text }.encode_to_vec()
}

fn leading_id(table: Table, key: &[u8]) -> Option<u64> {
    let tail = match table {
        Table::Snap | Table::Name | Table::Origin => 0,
        Table::Label | Table::Volume | Table::Attachment => 4,
    };
    let (id, rest) = key.split_first_chunk::<8>()?;
    (rest.len() == tail).then(|| u64::from_be_bytes(*id))
}

/// Puts format byte and checksum before `body`.
pub(crate) fn frame(table: Table, key: &[u8], body: &[u8]) -> Vec<u8> {
    frame_as(table.name(), key, body)
}

fn frame_as(table: &str, key: &[u8], body: &[u8]) -> Vec<u8> {
    let crc = checksum(table, key, body);
    let mut value = Vec::with_capacity(HEADER + body.len());
    value.push(FORMAT);
    value.extend(crc.to_le_bytes());
    value.extend(body);
    value
}

fn unframe<'v>(table: Table, key: &[u8], value: &'v [u8]) -> Result<&'v [u8], &'static str> {
    unframe_as(table.name(), key, value)
}

fn unframe_as<'v>(table: &str, key: &[u8], value: &'v [u8]) -> Result<&'v [u8], &'static str> {
    let (header, body) = value
        .split_first_chunk::<HEADER>()
        .ok_or("the value is cut short")?;
    let [format, crc @ ..] = *header;
    if format != FORMAT {
        return Err("the record format is unknown");
    }
    if u32::from_le_bytes(crc) != checksum(table, key, body) {
        return Err("the checksum is wrong");
    }
    Ok(body)
}

fn checksum(table: &str, key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [table.as_bytes(), key, body] {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Counters and digest of the whole database, renewed with every commit: a database that lost its
/// tail, or everything, does not match them.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Meta {
    /// Number of commits so far.
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    /// Number of rows in all tables.
    #[prost(uint64, tag = "2")]
    pub(crate) rows: u64,
    /// Sum of a 128-bit hash of every row, in two halves.
    #[prost(fixed64, tag = "3")]
    pub(crate) digest_high: u64,
    #[prost(fixed64, tag = "4")]
    pub(crate) digest_low: u64,
    /// No id at or above this one was ever handed out.
    #[prost(uint64, tag = "5")]
    pub(crate) ids_below: u64,
    /// True if a write-ahead log stands beside the database, which may hold later commits.
    #[prost(bool, tag = "6")]
    pub(crate) has_log: bool,
    /// Salt of that log, its lower half; 0 if it is not known.
    #[prost(fixed64, tag = "7")]
    pub(crate) log_salt: u64,
    /// Number of the last commit that this log has held in any case; 0 if it is not known.
    #[prost(uint64, tag = "8")]
    pub(crate) log_last: u64,
    /// True if the sequence file had a durable number before.
    #[prost(bool, tag = "9")]
    pub(crate) has_sequence_file: bool,
}

const META: &str = "meta";

impl Meta {
    pub(crate) fn to_row(&self) -> Vec<u8> {
        frame_as(META, META.as_bytes(), &self.encode_to_vec())
    }

    pub(crate) fn from_row(value: &[u8]) -> Result<Self, &'static str> {
        let body = unframe_as(META, META.as_bytes(), value)?;
        Self::decode(body).map_err(|_| "the body is not what its table holds")
    }

    pub(crate) fn digest(&self) -> u128 {
        u128::from(self.digest_high) << 64 | u128::from(self.digest_low)
    }

    pub(crate) fn set_digest(&mut self, digest: u128) {
        let [high, low] = [digest >> 64, digest & u128::from(u64::MAX)];
        self.digest_high = u64::try_from(high).unwrap_or_default();
        self.digest_low = u64::try_from(low).unwrap_or_default();
    }
}

/// One row's share of the digest.
pub(crate) fn row_hash(table: Table, key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(table.name().as_bytes());
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.digest128()
}

#[cfg(test)]
mod tests;
