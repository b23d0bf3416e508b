//! Body of an entry of the write-ahead log.

use prost::Message as _;

use super::{Entry, HEAD, PAGE, Rows};
use crate::codec::{RowKey, Table};

/// Body of an entry.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Body {
    #[prost(uint64, tag = "1")]
    ids_below: u64,
    #[prost(message, repeated, tag = "2")]
    rows: Vec<Row>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(uint32, tag = "1")]
    table: u32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    /// None deletes the row.
    #[prost(bytes = "vec", optional, tag = "3")]
    value: Option<Vec<u8>>,
}

impl Body {
    pub(crate) fn new(rows: Rows, ids_below: u64) -> Self {
        let row = |((table, key), value): (RowKey, Option<Vec<u8>>)| Row {
            table: table as u32,
            key,
            value,
        };
        let rows = rows.into_iter().map(row).collect();
        Self { ids_below, rows }
    }

    /// None if a table is unknown.
    pub(crate) fn into_entry(self, sequence: u64) -> Option<Entry> {
        let row = |row: Row| {
            let table = *Table::ALL.get(usize::try_from(row.table).ok()?)?;
            Some(((table, row.key), row.value))
        };
        Some(Entry {
            sequence,
            ids_below: self.ids_below,
            rows: self.rows.into_iter().map(row).collect::<Option<_>>()?,
        })
    }

    /// Bytes of its entry in the file, padding included.
    pub(crate) fn size(&self) -> usize {
        (HEAD + self.encoded_len()).next_multiple_of(PAGE)
    }
}
