//! Unpacking for containerd and for layerctl: a limit of concurrent layers, and cancellation soon after
//! the client has gone.

use std::future::Future;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use layerd_engine::layerd_layers::Progress;
use layerd_engine::layerd_layers::apply::{Applied, Blob, Compression};
use layerd_engine::layerd_layers::copy::Copied;
use layerd_engine::layerd_layers::diff::{DiffCompression, Diffed};
use layerd_engine::{Active, Changes, Pack, Unpack};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

use super::chunks::ChunkWriter;
use super::{Parts, status};
use crate::tasks::Lost;
use crate::traces;

/// A layer to unpack.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) active: Active,
    pub(crate) compression: Compression,
    pub(crate) blob: Blob,
    /// Durable when it is unpacked.
    pub(crate) sync: bool,
}

/// Unpacks and packs layers. Clones share their places.
#[derive(Debug, Clone)]
pub(crate) struct Unpacker {
    pub(crate) parts: Parts,
    places: Arc<Semaphore>,
}

impl Unpacker {
    /// One that works on `at_once` layers at a time; others wait.
    pub(crate) fn new(parts: Parts, at_once: usize) -> Self {
        let places = Arc::new(Semaphore::new(at_once));
        Self { parts, places }
    }

    /// Waits for its turn. A client that hangs up waits no longer.
    pub(crate) async fn place(&self) -> Result<SemaphorePermit<'_>, Status> {
        let begun = Instant::now();
        let place = self.places.acquire().await;
        traces::waited("waiting for other layers to be unpacked or packed", begun);
        place.map_err(|_| Status::unavailable("layerd is stopping"))
    }

    /// Unpacks a layer that `source` yields, with `feed` beside it, which may be what fills the
    /// source. Dropped, the thread that works ends soon.
    pub(crate) async fn apply(
        &self,
        layer: Layer,
        source: impl Read + Send + 'static,
        feed: impl Future<Output = ()>,
    ) -> Result<Applied, Status> {
        let wanted = Wanted::default();
        let hangup = Hangup(wanted.clone());
        let work = self.parts.call(move |engine| {
            let unpack = Unpack {
                compression: layer.compression,
                blob: layer.blob,
                sync: layer.sync,
                progress: &wanted,
            };
            engine.layers.apply(&layer.active, source, &unpack)
        });
        let stop = self.parts.tasks.stopping();
        // Before the feed is dropped: the source then fails, which is no error.
        let stop = async {
            stop.cancelled().await;
            hangup.0.end();
        };
        let mut stopped = false;
        let mut work = std::pin::pin!(work);
        tokio::select! {
            // The source may be done with before all of it was fed.
            applied = &mut work => return applied,
            () = feed => {}
            () = stop => stopped = true,
        }
        // Without its feed the source fails, also where the client sends nothing any more.
        let applied = work.await;
        if stopped {
            return applied.map_err(|_| status::lost(&Lost::Stopping));
        }
        applied
    }

    /// Fills a snapshot with a layer of the host. Dropped, the thread that works ends soon.
    pub(crate) async fn import(&self, active: Active, source: PathBuf) -> Result<Copied, Status> {
        let wanted = Wanted::default();
        let _hangup = Hangup(wanted.clone());
        let work = (self.parts).call(move |engine| engine.layers.import(&active, &source, &wanted));
        work.await
    }

    /// Makes a layer of what a snapshot changed. Dropped, the thread that works ends soon.
    pub(crate) async fn diff<M: Send + 'static>(
        &self,
        changes: Changes,
        compression: DiffCompression,
        source_date_epoch: Option<i64>,
        mut out: ChunkWriter<M>,
    ) -> Result<Diffed, Status> {
        let wanted = Wanted::default();
        let _hangup = Hangup(wanted.clone());
        let work = self.parts.call(move |engine| {
            let pack = Pack {
                compression,
                source_date_epoch,
                progress: &wanted,
            };
            engine.layers.diff(&changes, &pack, &mut out)
        });
        work.await
    }
}

/// True while the client waits for the call.
#[derive(Debug, Clone, Default)]
struct Wanted(Arc<AtomicBool>);

impl Wanted {
    fn end(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Progress for Wanted {
    fn advanced(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Goes with the client.
struct Hangup(Wanted);

impl Drop for Hangup {
    fn drop(&mut self) {
        self.0.end();
    }
}
