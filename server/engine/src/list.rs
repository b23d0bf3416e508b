//! Answers of Stat and List.

use std::sync::Arc;

use layerd_store::{Key, LayerId, Record, Records};

use crate::Error;
use crate::filter::{Field, Fields, Filter};

/// A snapshot as it is described to clients.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its record.
    pub record: Arc<Record>,
    /// Name of its parent; empty for none.
    pub parent: String,
}

impl Entry {
    pub(crate) fn new(view: &Records, record: Arc<Record>) -> Self {
        Self {
            parent: view.parent_name(&record).to_owned(),
            record,
        }
    }
}

/// A record with its parent's name, without copying either.
struct Seen<'v> {
    view: &'v Records,
    record: &'v Record,
}

impl Fields for Seen<'_> {
    fn field(&self, field: &Field) -> Option<&str> {
        match field {
            Field::Name => Some(self.record.key.as_str()),
            Field::Parent => Some(self.view.parent_name(self.record)),
            Field::Kind => Some(self.record.kind.as_str()),
            Field::Label(key) => self.record.labels.get(key),
            Field::Unknown => None,
        }
    }
}

/// A list of snapshots as of one moment, read in portions.
#[derive(Debug)]
pub struct Listing {
    view: Arc<Records>,
    filter: Filter,
    source: Source,
}

/// Snapshots still to filter.
#[derive(Debug)]
enum Source {
    /// Everything with an id above this one.
    After(LayerId),
    /// These.
    Given(std::vec::IntoIter<Arc<Record>>),
}

impl Listing {
    pub(crate) fn new(view: Arc<Records>, filters: &[String]) -> Result<Self, Error> {
        let filter = Filter::parse_all(filters)?;
        let source = narrowed(&view, &filter).map_or(Source::After(LayerId(0)), |records| {
            Source::Given(records.into_iter())
        });
        Ok(Self {
            view,
            filter,
            source,
        })
    }

    /// The next entries, at most `most`; none at the end.
    pub fn next_entries(&mut self, most: usize) -> Vec<Entry> {
        let Self {
            view,
            filter,
            source,
        } = self;
        let matches = |record: &&Arc<Record>| filter.matches(&Seen { view, record });
        let found: Vec<_> = match source {
            Source::After(id) => {
                let found: Vec<_> = view
                    .iter_after(*id)
                    .filter(matches)
                    .take(most)
                    .cloned()
                    .collect();
                *id = found.last().map_or(LayerId(u64::MAX), |last| last.id);
                found
            }
            Source::Given(records) => records
                .filter(|record| matches(&record))
                .take(most)
                .collect(),
        };
        found
            .into_iter()
            .map(|record| Entry::new(view, record))
            .collect()
    }
}

/// All that can match, where the filter leaves few to look at: containerd asks for the children of
/// one parent when it looks for a layer that is already there.
fn narrowed(view: &Records, filter: &Filter) -> Option<Vec<Arc<Record>>> {
    let find = |name: &str| {
        Key::parse("name", name)
            .ok()
            .and_then(|key| view.find(&key))
    };
    if let Some(name) = filter.required(&Field::Name) {
        return Some(find(name).into_iter().cloned().collect());
    }
    let parent = filter
        .required(&Field::Parent)
        .filter(|name| !name.is_empty())?;
    let children = find(parent)
        .into_iter()
        .flat_map(|parent| view.children(parent.id));
    Some(children.cloned().collect())
}
