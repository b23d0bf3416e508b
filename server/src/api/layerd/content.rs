//! The comparison of layers with what was unpacked, told while it goes on.

use std::time::{Duration, Instant};

use layerd_engine::layerd_layers::Progress;
use layerd_engine::{ContentCounts, Finding};
use layerd_proto::layerd::v1::{self as pb, CheckContentResponse};
use parking_lot::Mutex;

use super::finding;
use crate::api::Parts;
use crate::api::outgoing::{Outgoing, Outlet};

/// Least time between two messages that only say how far it is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Messages that wait for the client.
const MESSAGES_WAITING: usize = 16;

pub(crate) type Messages = Outgoing<CheckContentResponse>;

/// Begins the comparison. It ends soon after the client has gone.
pub(crate) fn check(parts: &Parts, repair: bool) -> Messages {
    let (outlet, messages) = Outlet::open(&parts.tasks, MESSAGES_WAITING);
    let teller = Teller {
        outlet: outlet.clone(),
        sum: Mutex::new((0, 0, Instant::now())),
    };
    let work = parts.clone();
    parts.tasks.spawn(|_| async move {
        let checked = work.call(move |engine| {
            engine.check_content(repair, &teller, &mut |finding| teller.found(&finding))
        });
        outlet
            .finish(checked.await.map(|counts| last(&counts)))
            .await;
    });
    messages
}

fn last(counts: &ContentCounts) -> CheckContentResponse {
    CheckContentResponse {
        files: counts.files,
        bytes: counts.bytes,
        counts: Some(pb::ContentCounts {
            layers: counts.layers,
            without_digests: counts.without_digests,
        }),
        ..CheckContentResponse::default()
    }
}

/// Tells the client what there is to say.
struct Teller {
    outlet: Outlet<CheckContentResponse>,
    /// Files, bytes, and when they were told.
    sum: Mutex<(u64, u64, Instant)>,
}

impl Teller {
    fn found(&self, finding: &Finding) {
        let message = CheckContentResponse {
            findings: vec![finding::message(finding)],
            ..self.amount()
        };
        // Whether the client is still there is asked before the next file.
        let _ = self.outlet.blocking_send(Ok(message));
    }

    fn amount(&self) -> CheckContentResponse {
        let sum = self.sum.lock();
        CheckContentResponse {
            files: sum.0,
            bytes: sum.1,
            ..CheckContentResponse::default()
        }
    }
}

impl Progress for Teller {
    fn advanced(&self, files: u64, bytes: u64) {
        let mut sum = self.sum.lock();
        sum.0 += files;
        sum.1 += bytes;
        let is_time = sum.2.elapsed() >= TELL_EVERY;
        if is_time {
            sum.2 = Instant::now();
        }
        drop(sum);
        if is_time {
            // One that is slow learns it from a later message.
            self.outlet.try_send(Ok(self.amount()));
        }
    }

    fn cancelled(&self) -> bool {
        self.outlet.is_closed()
    }
}
