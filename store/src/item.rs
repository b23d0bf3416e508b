//! A record of any kind.

use std::sync::Arc;

use crate::model::Record;
use crate::volume::{Attachment, Volume};

/// One record of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Snapshot(Arc<Record>),
    Volume(Arc<Volume>),
    Attachment(Arc<Attachment>),
}
