//! Shared state of the three wings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_store::Store;

use crate::events::Events;
use crate::reap::Backlog;
use crate::trash::{self, Trash};
use crate::{Error, Options, meta_folder};

/// What all wings of an engine use: records, events, the trash, and the mark that the daemon stops.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) store: Arc<Store>,
    pub(crate) events: Events,
    pub(crate) backlog: Backlog,
    pub(crate) trash: Trash,
    pub(crate) options: Options,
    /// The data directory.
    pub(crate) path: PathBuf,
}

impl Root {
    /// Reads the state of the trash in `<path>/meta`.
    pub(crate) fn open(path: &Path, store: Store, options: Options) -> Result<Self, Error> {
        let meta = meta_folder(path);
        trash::hold_if_older(&meta, &store)?;
        let trash = Trash::open(
            &meta,
            options.trash.clone(),
            &store.records(),
            store.steady_now(),
        );
        Ok(Self {
            store: Arc::new(store),
            events: Events::default(),
            backlog: Backlog::default(),
            trash,
            options,
            path: path.to_owned(),
        })
    }
}
