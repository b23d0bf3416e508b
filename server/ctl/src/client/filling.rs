//! Calls that fill volumes: they may take long, and the daemon tells how far they are.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use layerd_proto::layerd::v1 as wire;
use tonic::{Response, Status, Streaming};

use super::{Client, answer, failed};
use crate::error::Error;
use crate::progress::Progress;
use crate::text::escape;

/// Follows a call that fills volumes. The limit for its answer begins anew whenever one of them
/// has come further.
pub(crate) struct Filling {
    /// `None` from a daemon that tells nothing.
    events: Option<Streaming<wire::VolumeEvent>>,
    volumes: Vec<String>,
    progress: Option<Progress>,
    /// Grows while this side does something for the call.
    pub(super) sent: Arc<AtomicU64>,
}

impl Client {
    /// Begins to watch the volumes of these names; call it before what fills them. With `shown`,
    /// how far they are is shown.
    pub(crate) async fn filling(
        &mut self,
        volumes: Vec<String>,
        shown: bool,
    ) -> Result<Filling, Error> {
        let progress = shown.then(|| {
            let names: Vec<String> = volumes.iter().map(|name| escape(name)).collect();
            Progress::new(format!("filling {}", names.join(", ")))
        });
        let request = wire::WatchVolumesRequest { progress: true };
        let events = match volumes.is_empty() {
            true => None,
            false => {
                Some(answer("watch volumes", self.timeout, self.volumes.watch(request)).await?)
            }
        };
        Ok(Filling {
            events,
            volumes,
            progress,
            sent: Arc::default(),
        })
    }
}

impl Filling {
    /// The answer of a call.
    pub(super) async fn answer<T>(
        mut self,
        what: &str,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let mut call = pin!(call);
        let mut sent = 0;
        loop {
            let patience = async {
                match limit.is_zero() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(limit).await,
                }
            };
            // Every branch can be dropped and begun again.
            tokio::select! {
                reply = &mut call => {
                    return reply
                        .map(Response::into_inner)
                        .map_err(|status| failed(what, status));
                }
                () = next(&mut self.events, &self.volumes, &mut self.progress) => {}
                () = patience => {
                    let now = self.sent.load(Ordering::Relaxed);
                    if now == sent {
                        return Err(Error::TimedOut { what: what.to_owned(), limit });
                    }
                    sent = now;
                }
            }
        }
    }
}

/// Waits until one of the volumes has come further, and shows it.
async fn next(
    events: &mut Option<Streaming<wire::VolumeEvent>>,
    volumes: &[String],
    progress: &mut Option<Progress>,
) {
    while let Some(stream) = events {
        match stream.message().await {
            Ok(Some(event)) if event.what == "filling" && volumes.contains(&event.subject) => {
                let expected = Some(event.files_expected);
                if let Some(progress) = progress {
                    progress.files(event.files, expected, event.bytes);
                }
                return;
            }
            Ok(Some(_)) => {}
            // The call goes on without.
            Ok(None) | Err(_) => *events = None,
        }
    }
    std::future::pending().await
}
