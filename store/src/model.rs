//! Types of snapshots' records, checked when they are made. No I/O.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use layerd_id::Slot;

/// Longest name of a snapshot, in bytes.
pub const NAME_MAX: usize = 4096;
/// Most that key and value of one label hold together, in bytes: containerd's own limit.
pub const LABEL_MAX: usize = 4096;
/// Most that all labels of one snapshot hold together, in bytes.
pub const LABELS_TOTAL_MAX: usize = 256 * 1024;

/// A value from outside that breaks a rule; the message names the field and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct BadInput {
    /// The field, as the wire names it.
    pub field: String,
    /// The fault, and the allowed values.
    pub rule: String,
}

impl BadInput {
    /// States that `field` breaks `rule`.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
        }
    }
}

/// Key of an active snapshot or view, or name of a committed one: 1 to 4096 bytes of UTF-8
/// without NUL. Slashes and dots are ordinary bytes; no key ever becomes a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks `raw`, which came in as `field`.
    ///
    /// # Errors
    /// [`BadInput`] if it is empty, too long or holds a NUL.
    pub fn parse(field: &str, raw: &str) -> Result<Self, BadInput> {
        if raw.is_empty() {
            return Err(BadInput::new(field, "must not be empty"));
        }
        if raw.len() > NAME_MAX {
            let rule = format!(
                "is {} bytes long, at most {NAME_MAX} are allowed",
                raw.len()
            );
            return Err(BadInput::new(field, rule));
        }
        if let Some(at) = raw.bytes().position(|byte| byte == 0) {
            let rule = format!("holds a NUL byte at offset {at}");
            return Err(BadInput::new(field, rule));
        }
        Ok(Self(raw.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Identity of a layer. Handed out once, never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u64);

impl LayerId {
    /// Reads the spelling that is shown and no other; `raw` came in as `field`.
    ///
    /// # Errors
    /// [`BadInput`] if no id is spelled so.
    pub fn parse(field: &str, raw: &str) -> Result<Self, BadInput> {
        parse_id(field, raw).map(Self)
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Slot(self.0).fmt(f)
    }
}

/// Number of an id as it is shown, which came in as `field`.
pub(crate) fn parse_id(field: &str, raw: &str) -> Result<u64, BadInput> {
    let slot: Result<Slot, _> = raw.parse();
    slot.map(|slot| slot.0).map_err(|_| {
        let shown: String = raw.chars().take(64).collect();
        let rule = "is no id: digits and lower-case letters, without leading zeros";
        BadInput::new(field, format!("{shown:?} {rule}"))
    })
}

/// Kind of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Read-only, cannot be a parent.
    View,
    /// Writable, cannot be a parent.
    Active,
    /// Read-only for ever, may be a parent.
    Committed,
}

impl Kind {
    /// The word containerd's filters use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// Nanoseconds since 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads the wall clock.
    #[must_use]
    pub fn now() -> Self {
        #[allow(
            clippy::disallowed_methods,
            reason = "the one place that reads the clock"
        )]
        std::time::SystemTime::now().into()
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// Nanoseconds on the clock of a store, which never jumps: see `clock.rs`. For ages, not for times
/// of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SteadyTime(pub u64);

impl SteadyTime {
    /// Time since an earlier reading; zero since a later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Time at which a snapshot or volume was moved to the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Wall clock, for display.
    pub time: Timestamp,
    /// Steady clock, for its age. `None` in records of earlier versions, until they are stamped.
    pub steady: Option<SteadyTime>,
}

/// Disk usage of one layer or volume; of a layer without its parents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of allocated disk blocks.
    pub bytes: u64,
    /// Inodes, directories included.
    pub inodes: u64,
}

/// Labels, each within [`LABEL_MAX`], all within [`LABELS_TOTAL_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks labels from outside. Those with an empty value are left out, as containerd does.
    ///
    /// # Errors
    /// [`BadInput`] naming the label and the rule it breaks.
    pub fn parse(raw: BTreeMap<String, String>) -> Result<Self, BadInput> {
        let mut labels = Self::with_empty(raw)?;
        labels.0.retain(|_, value| !value.is_empty());
        Ok(labels)
    }

    /// Checks labels from outside. Those with an empty value are kept, as Docker does.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn with_empty(raw: BTreeMap<String, String>) -> Result<Self, BadInput> {
        for (key, value) in &raw {
            check_label(key, value)?;
        }
        Self(raw).check_total()
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// True for `KEY=VALUE` if the label has this value, and for `KEY` if there is such a label.
    #[must_use]
    pub fn matches(&self, wanted: &str) -> bool {
        match wanted.split_once('=') {
            Some((key, value)) => self.get(key) == Some(value),
            None => self.get(wanted).is_some(),
        }
    }

    /// All labels in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// A copy with one more label, or another value of it.
    ///
    /// # Errors
    /// [`BadInput`] if the label breaks a rule, or the result exceeds [`LABELS_TOTAL_MAX`].
    pub fn with(&self, key: &str, value: &str) -> Result<Self, BadInput> {
        self.changed(&[LabelChange::one(key, Some(value))?])
    }

    /// A copy after `changes`, in order.
    ///
    /// # Errors
    /// [`BadInput`] if the result exceeds [`LABELS_TOTAL_MAX`].
    pub(crate) fn changed(&self, changes: &[LabelChange]) -> Result<Self, BadInput> {
        let mut labels = self.0.clone();
        for change in changes {
            match change {
                LabelChange::Replace(all) => labels.clone_from(&all.0),
                LabelChange::Set(key, value) => drop(labels.insert(key.clone(), value.clone())),
                LabelChange::Delete(key) => drop(labels.remove(key)),
            }
        }
        Self(labels).check_total()
    }

    /// Adds a label from the disk, unchecked: it was checked when it was written.
    pub(crate) fn insert_stored(&mut self, key: String, value: String) {
        self.0.insert(key, value);
    }

    fn check_total(self) -> Result<Self, BadInput> {
        let total: usize = self
            .0
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if total <= LABELS_TOTAL_MAX {
            return Ok(self);
        }
        let rule = format!("hold {total} bytes together, at most {LABELS_TOTAL_MAX} are allowed");
        Err(BadInput::new("labels", rule))
    }
}

/// One step of an update of labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelChange {
    /// The whole map becomes this one.
    Replace(Labels),
    /// One label gets a value, which is not empty.
    Set(String, String),
    /// One label goes; it need not be there.
    Delete(String),
}

impl LabelChange {
    /// Sets one label, or deletes it if the value is missing or empty, as containerd does.
    ///
    /// # Errors
    /// [`BadInput`] if the label breaks a rule.
    pub fn one(key: &str, value: Option<&str>) -> Result<Self, BadInput> {
        let value = value.unwrap_or_default();
        check_label(key, value)?;
        if value.is_empty() {
            return Ok(Self::Delete(key.to_owned()));
        }
        Ok(Self::Set(key.to_owned(), value.to_owned()))
    }
}

fn check_label(key: &str, value: &str) -> Result<(), BadInput> {
    let field = || format!("labels[{:?}]", abbreviated(key));
    if key.is_empty() {
        return Err(BadInput::new(
            "labels",
            "the key of a label must not be empty",
        ));
    }
    if key.contains('\0') {
        return Err(BadInput::new(field(), "the key holds a NUL byte"));
    }
    let total = key.len() + value.len();
    if total > LABEL_MAX {
        let rule = format!(
            "key and value are {total} bytes long together, at most {LABEL_MAX} are allowed"
        );
        return Err(BadInput::new(field(), rule));
    }
    Ok(())
}

fn abbreviated(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Record of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Identity; also names its directory.
    pub id: LayerId,
    /// Key, or name once committed.
    pub key: Key,
    /// Its kind.
    pub kind: Kind,
    /// The layer below.
    pub parent: Option<LayerId>,
    /// When it was created or, once committed, committed.
    pub created: Timestamp,
    /// When its labels last changed.
    pub updated: Timestamp,
    /// Its labels.
    pub labels: Labels,
    /// Its disk usage, once committed and measured.
    pub usage: Option<Usage>,
    /// The key it had before it was committed, to recognise a repeated Commit.
    pub origin: Option<Key>,
    /// Set once removed: its key is free, and its directory is deleted after the trash period.
    pub removed: Option<Removal>,
    /// Reason for its quarantine: its content differs from the committed content.
    pub quarantine: Option<String>,
    /// Set if it was created without a parent and may get one at Commit. Until then it is mounted
    /// over an empty lower directory, so that deletions leave whiteouts.
    pub has_deferred_parent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_length_and_no_nul() {
        assert!(Key::parse("key", &"k".repeat(NAME_MAX)).is_ok());
        assert!(Key::parse("key", "../..//a b").is_ok());
        for (raw, want) in [
            (String::new(), "key: must not be empty"),
            ("a\0b".into(), "key: holds a NUL byte at offset 1"),
            (
                "k".repeat(4097),
                "key: is 4097 bytes long, at most 4096 are allowed",
            ),
        ] {
            assert_eq!(Key::parse("key", &raw).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn a_label_holds_4096_bytes_and_all_labels_256_kib() {
        let one = |key: &str, len: usize| BTreeMap::from([(key.to_owned(), "v".repeat(len))]);
        assert!(Labels::parse(one("key", LABEL_MAX - 3)).is_ok());
        let error = Labels::parse(one("key", LABEL_MAX - 2)).unwrap_err();
        assert_eq!(error.field, "labels[\"key\"]");
        assert!(Labels::parse(one("", 1)).is_err());
        let many = (0..65)
            .map(|n| (format!("{n:02}"), "v".repeat(4094)))
            .collect();
        assert_eq!(Labels::parse(many).unwrap_err().field, "labels");
    }

    #[test]
    fn empty_values_are_never_stored() {
        let labels = Labels::parse(BTreeMap::from([("gone".into(), String::new())])).unwrap();
        assert_eq!(labels, Labels::default());
        assert_eq!(
            LabelChange::one("a", None).unwrap(),
            LabelChange::Delete("a".into())
        );
    }
}
