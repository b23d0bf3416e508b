//! From records to stacks: the layers that a snapshot shows, as drivers mount them.

use layerd_drivers::{Base, Content, Owner, Stack};
use layerd_mounts::limit::Limit;
use layerd_mounts::{IdMaps, Slot};
use layerd_store::{Claim, Create, Kind, LayerId, Record, Records};

use crate::slot;

/// Top of a stack: a snapshot, and what it stands on.
#[derive(Debug)]
pub(crate) struct Top<'r> {
    /// Its own layer, which only a writable snapshot or one without a parent has.
    id: LayerId,
    parent: Option<&'r Record>,
    /// Set if it gets its parent at Commit; until then an empty directory stands below it.
    has_deferred_parent: bool,
    writable: bool,
    ids: Option<IdMaps>,
    /// Limit of a layer that is being made.
    limit: Option<Limit>,
}

impl<'r> Top<'r> {
    /// A snapshot that is being created.
    pub(crate) fn new(create: &Create, claim: &'r Claim, ids: Option<IdMaps>) -> Self {
        Self {
            id: claim.id(),
            parent: claim.parent().map(AsRef::as_ref),
            has_deferred_parent: false,
            writable: create.kind == Kind::Active,
            ids,
            limit: None,
        }
    }

    /// The same, as a layer that gets its parent at Commit if `has_deferred_parent`.
    pub(crate) fn deferred(self, has_deferred_parent: bool) -> Self {
        Self {
            has_deferred_parent,
            ..self
        }
    }

    /// The same, held to a limit.
    pub(crate) fn limited(self, limit: Option<Limit>) -> Self {
        Self { limit, ..self }
    }

    /// A recorded snapshot, as its mounts show it.
    pub(crate) fn recorded(view: &'r Records, record: &Record, ids: Option<IdMaps>) -> Self {
        Self {
            id: record.id,
            parent: view.ancestors(record).next().map(AsRef::as_ref),
            has_deferred_parent: has_deferred_parent(record),
            writable: record.kind == Kind::Active,
            ids,
            limit: None,
        }
    }

    /// A view of a committed snapshot.
    pub(crate) fn view_of(committed: &'r Record) -> Self {
        Self {
            id: committed.id,
            parent: Some(committed),
            has_deferred_parent: false,
            writable: false,
            ids: None,
            limit: None,
        }
    }

    /// An active snapshot over the parent that it gets at Commit.
    pub(crate) fn rebased(active: &Record, parent: &'r Record) -> Self {
        Self {
            id: active.id,
            parent: Some(parent),
            has_deferred_parent: false,
            writable: true,
            ids: None,
            limit: None,
        }
    }

    /// The layers, topmost first.
    pub(crate) fn stack(self, view: &Records) -> Stack {
        let deferred = self.has_deferred_parent.then_some(Slot::EMPTY_LOWER);
        let below = self.parent.into_iter().flat_map(|one| lineage(view, one));
        let parents: Vec<_> = deferred.into_iter().chain(below).collect();
        Stack {
            own: (self.writable || parents.is_empty()).then(|| slot(self.id)),
            parents,
            writable: self.writable,
            ids: self.ids,
            limit: self.limit,
        }
    }
}

/// The layer of a snapshot and those below, topmost first.
pub(crate) fn lineage(view: &Records, record: &Record) -> impl Iterator<Item = Slot> {
    let below = view.ancestors(record).map(|layer| slot(layer.id));
    std::iter::once(slot(record.id)).chain(below)
}

/// True if an active snapshot is mounted over an empty directory instead of its parent.
fn has_deferred_parent(record: &Record) -> bool {
    record.has_deferred_parent && record.kind == Kind::Active
}

/// True if a snapshot has a directory of its own: all but views with a parent.
pub(crate) fn has_own(record: &Record) -> bool {
    record.kind != Kind::View || record.parent.is_none()
}

/// Start of the layer that a stack has of its own.
pub(crate) fn base(stack: &Stack) -> Base {
    let owner = stack.ids.as_ref().and_then(IdMaps::root);
    let content = match stack.parents.first() {
        None => Content::Empty,
        Some(&Slot::EMPTY_LOWER) => Content::Deferred,
        Some(parent) => Content::Of(*parent),
    };
    Base {
        content,
        owner: owner.map(|(uid, gid)| Owner { uid, gid }),
        writable: stack.writable,
        limit: stack.limit,
    }
}

/// Start of a snapshot's layer, as far as its record tells.
pub(crate) fn base_of(record: &Record) -> Base {
    let content = match record.parent {
        Some(parent) => Content::Of(slot(parent)),
        None if record.has_deferred_parent => Content::Deferred,
        None => Content::Empty,
    };
    Base {
        content,
        owner: None,
        writable: record.kind == Kind::Active,
        limit: None,
    }
}
