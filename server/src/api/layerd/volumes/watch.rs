//! Events of volumes and attachments on their way to a client.

use layerd_engine::{Event, Topic, Watcher};
use layerd_proto::layerd::v1 as pb;
use tokio::sync::mpsc;
use tonic::Status;

use crate::api::wire::timestamp;

/// Passes events on to a client, unless it is behind.
pub(super) struct Sender {
    pub(super) events: mpsc::Sender<Result<pb::VolumeEvent, Status>>,
    /// Set to receive progress of copies, too.
    pub(super) progress: bool,
}

impl Watcher for Sender {
    fn wants(&self, topic: Topic) -> bool {
        matches!(topic, Topic::Volume | Topic::Attachment)
    }

    fn tell(&self, event: &Event) -> bool {
        if event.amount.is_some() && !self.progress {
            return self.is_open();
        }
        self.events.try_send(Ok(happened(event))).is_ok()
    }

    fn is_open(&self) -> bool {
        !self.events.is_closed()
    }
}

fn happened(event: &Event) -> pb::VolumeEvent {
    let amount = event.amount.unwrap_or_default();
    pb::VolumeEvent {
        what: event.what.to_owned(),
        subject: event.subject.clone(),
        at: Some(timestamp(event.at)),
        files: amount.files,
        bytes: amount.bytes,
        files_expected: amount.files_expected,
    }
}
