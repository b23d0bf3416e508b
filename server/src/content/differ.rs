//! containerd's own differs, for layers that layerd does not unpack.
//!
//! containerd's diff service asks its differs one after the other. Its transfer service has one
//! differ for a snapshotter and asks no other: an encrypted layer, which only containerd's stream
//! processors can read, could not be pulled. So layerd asks the diff service itself, which asks
//! layerd first, as it is configured to; that second question is answered with UNIMPLEMENTED.

use std::collections::HashSet;
use std::sync::Arc;

use layerd_proto::containerd::services::diff::v1::diff_client::DiffClient;
use layerd_proto::containerd::services::diff::v1::{ApplyRequest, ApplyResponse};
use layerd_store::Key;
use parking_lot::Mutex;
use tonic::Status;

use super::{Caller, Content};

/// Snapshots whose layer another differ is being asked to unpack. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Elsewhere(Arc<Mutex<HashSet<Key>>>);

/// Held while another differ is asked.
#[derive(Debug)]
pub(crate) struct Asking {
    elsewhere: Elsewhere,
    key: Key,
}

impl Elsewhere {
    /// Begins to ask; `None` if that is being done, so that this is the question coming back.
    pub(crate) fn ask(&self, key: &Key) -> Option<Asking> {
        let mut keys = self.0.lock();
        keys.insert(key.clone()).then(|| Asking {
            elsewhere: self.clone(),
            key: key.clone(),
        })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.elsewhere.0.lock().remove(&self.key);
    }
}

impl Content {
    /// Has containerd's diff service unpack a layer. The answer is that of the differ that did.
    pub(crate) async fn apply_elsewhere(
        &self,
        caller: &Caller,
        request: ApplyRequest,
    ) -> Result<ApplyResponse, Status> {
        let answer = DiffClient::new(self.channel.clone())
            .apply(caller.asks(request))
            .await;
        let answer = answer.map_err(|status| {
            self.explain_as(
                "have another differ unpack a layer, by",
                "diff service",
                status,
            )
        });
        answer.map(tonic::Response::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use layerd_store::Key;

    use super::Elsewhere;

    #[test]
    fn a_question_that_comes_back_is_known() {
        let (elsewhere, key) = (Elsewhere::default(), Key::parse("key", "a").unwrap());
        let asking = elsewhere.ask(&key).unwrap();
        assert!(elsewhere.ask(&key).is_none());
        assert!(elsewhere.ask(&Key::parse("key", "b").unwrap()).is_some());
        drop(asking);
        assert!(elsewhere.ask(&key).is_some());
    }
}
