//! Letting go of what owners no longer have. They are asked; layerd never guesses.

use layerd_store::{Attachment, Key, Owner};

use super::detach::inner_first;
use crate::Attachments;

/// Owners that still exist.
#[derive(Debug, Clone)]
pub enum Living {
    /// Of all owners of a kind, those with these ids.
    Owners {
        /// The kind.
        kind: String,
        /// The ids.
        ids: Vec<String>,
    },
    /// Of one owner's attachments, those with these keys.
    Keys {
        /// The owner.
        owner: Owner,
        /// The keys.
        keys: Vec<Key>,
    },
}

/// Outcome for attachments, or planned outcome.
#[derive(Debug, Clone, Default)]
pub struct Reconciled {
    /// Attachments whose owner still exists.
    pub kept: Vec<Key>,
    /// They were let go, or would be.
    pub released: Vec<Key>,
    /// They could not be let go.
    pub failed: Vec<(Key, String)>,
    /// Nothing is attached under these.
    pub unknown: Vec<Key>,
}

impl Attachments {
    /// Lets go of all attachments that `living` is about and does not name; with `dry_run` says
    /// which. One that cannot be let go does not keep the others.
    pub fn reconcile(&self, living: &Living, dry_run: bool) -> Reconciled {
        let view = self.root.store.records();
        let mut outcome = Reconciled::default();
        let mut ended = Vec::new();
        for attachment in view.volumes().attachments() {
            match living.has(attachment) {
                None => {}
                Some(true) => outcome.kept.push(attachment.key.clone()),
                Some(false) => ended.push(attachment.clone()),
            }
        }
        inner_first(&mut ended);
        for attachment in ended {
            let key = attachment.key.clone();
            let let_go = match dry_run {
                true => Ok(true),
                false => self.detach_one(&attachment, false),
            };
            match let_go {
                Ok(_) => outcome.released.push(key),
                Err(cause) => outcome.failed.push((key, cause.to_string())),
            }
        }
        if let Living::Keys { keys, .. } = living {
            let unknown = keys.iter().filter(|key| !outcome.kept.contains(key));
            outcome.unknown = unknown.cloned().collect();
        }
        outcome
    }
}

impl Living {
    /// True if the owner of an attachment still exists; `None` for owners that are not covered.
    fn has(&self, attachment: &Attachment) -> Option<bool> {
        let owner = &attachment.owner;
        match self {
            Self::Owners { kind, ids } => (owner.kind == *kind).then(|| ids.contains(&owner.id)),
            Self::Keys { owner: whose, keys } => {
                (owner == whose).then(|| keys.contains(&attachment.key))
            }
        }
    }
}
