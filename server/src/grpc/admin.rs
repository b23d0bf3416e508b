//! `layerd.v1.Admin`: what an operator asks.

use layerd_proto::layerd::v1::admin_server::Admin;
use layerd_proto::layerd::v1::{Feature, InfoRequest, InfoResponse};
use nix::sys::statvfs::statvfs;
use tonic::{Request, Response, Status};

use super::Parts;

#[derive(Debug)]
pub(crate) struct Service {
    parts: Parts,
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts }
    }
}

#[tonic::async_trait]
impl Admin for Service {
    async fn info(&self, _request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let parts = self.parts.clone();
        let info = self.parts.tasks.call(move || info(&parts)).await;
        info.map(Response::new)
            .map_err(|lost| super::status::lost(&lost))
    }
}

/// Waits for the file system, which may hang.
fn info(parts: &Parts) -> InfoResponse {
    let engine = &parts.engine;
    let counts = engine.counts();
    let disk = statvfs(engine.root()).ok();
    let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
    let facts = engine.driver().describe();
    // The finding reads "ext4, DEVICE on MOUNT POINT".
    let backing = facts.iter().find(|(name, _)| name == "file system");
    let backing = backing.and_then(|(_, detail)| detail.split(',').next());
    InfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        root: engine.root().display().to_string(),
        driver: engine.driver().name().to_owned(),
        backing_filesystem: backing.unwrap_or_default().to_owned(),
        kernel: kernel_release(),
        features: facts
            .iter()
            .cloned()
            .map(|(name, value)| Feature { name, value })
            .collect(),
        active: counts.active,
        views: counts.views,
        committed: counts.committed,
        trash: counts.retired,
        bytes: counts.bytes,
        unmeasured: counts.unmeasured,
        disk_bytes: disk.map_or(0, |disk| bytes(disk.blocks(), disk.fragment_size())),
        disk_free_bytes: disk.map_or(0, |disk| {
            bytes(disk.blocks_available(), disk.fragment_size())
        }),
        uptime_seconds: parts.started.elapsed().as_secs(),
    }
}

fn kernel_release() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}
