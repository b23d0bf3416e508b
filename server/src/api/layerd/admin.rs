//! `layerd.v1.Admin`: what an operator asks and decides.

use std::collections::BTreeMap;
use std::path::PathBuf;

use layerd_engine::{Discarded, Durability, Engine, Fullness, Removed, Reserved};
use layerd_proto::layerd::v1::admin_server::Admin;
use layerd_proto::layerd::v1::{self as pb, InfoRequest, InfoResponse};
use layerd_store::LayerId;
use nix::sys::statvfs::{FsFlags, Statvfs, statvfs};
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::events::{Ring, Watched};
use super::{alarms, content, finding};
use crate::api::wire::timestamp;
use crate::api::{Messages, Parts, in_messages, status};
use crate::config::Effective;
use crate::with_causes;

/// Bytes in one chunk of a file.
const CHUNK: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Service {
    parts: Parts,
    ring: Ring,
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        let ring = Ring::new(&parts.engine);
        Self { parts, ring }
    }
}

#[tonic::async_trait]
impl Admin for Service {
    type ListTrashStream = Messages<pb::ListTrashResponse>;
    type EventsStream = Watched;
    type FullnessStream = Messages<pb::FullnessResponse>;
    type BackupStream = Messages<pb::Chunk>;
    type CheckContentStream = content::Messages;

    async fn info(&self, _request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let uptime_seconds = self.parts.started.elapsed().as_secs();
        let effective = self.parts.effective.clone();
        let failing = self.parts.failures.all().into_iter();
        let failing = failing.map(|(key, reason)| (key.to_owned(), reason));
        let failing: BTreeMap<_, _> = failing.collect();
        let info = self.parts.call(move |engine| {
            let mut info = info(engine, uptime_seconds, &effective);
            let alarms = failing
                .iter()
                .map(|(key, reason)| format!("`{key}` does not work: {reason}"));
            info.alarms.extend(alarms);
            if let Some(health) = &mut info.health {
                health.failing = failing;
            }
            Ok(info)
        });
        info.await.map(Response::new)
    }

    async fn list_trash(
        &self,
        _request: Request<pb::ListTrashRequest>,
    ) -> Result<Response<Self::ListTrashStream>, Status> {
        let removed: Vec<_> = self
            .parts
            .engine
            .layers
            .trash()
            .into_iter()
            .map(removed)
            .collect();
        Ok(Response::new(in_messages(removed, |removed| {
            pb::ListTrashResponse { removed }
        })))
    }

    async fn restore_trash(
        &self,
        request: Request<pb::RestoreTrashRequest>,
    ) -> Result<Response<pb::RestoreTrashResponse>, Status> {
        let request = request.into_inner();
        if request.ids.is_empty() && !request.all {
            return Err(Status::invalid_argument(
                "ids: name at least one layer, or set all",
            ));
        }
        let ids = request.ids.iter().map(|id| LayerId::parse("ids", id));
        let ids: Vec<_> = ids.collect::<Result<_, _>>().map_err(status::bad)?;
        let restored = self
            .parts
            .call(move |engine| Ok(restore(engine, &ids, request.all)))
            .await?;
        Ok(Response::new(pb::RestoreTrashResponse { restored }))
    }

    async fn empty_trash(
        &self,
        request: Request<pb::EmptyTrashRequest>,
    ) -> Result<Response<pb::EmptyTrashResponse>, Status> {
        let engine = &self.parts.engine;
        if request.into_inner().only_release {
            engine.release_guard();
        } else {
            engine.empty_trash();
        }
        self.parts.waker.wake();
        Ok(Response::new(pb::EmptyTrashResponse {
            layers: engine.layers.trash().len() as u64,
            volumes: engine.volumes.volumes_in_trash() as u64,
        }))
    }

    async fn fsck(
        &self,
        request: Request<pb::FsckRequest>,
    ) -> Result<Response<pb::FsckResponse>, Status> {
        let repair = request.into_inner().repair;
        let findings = self.parts.call(move |engine| engine.fsck(repair)).await?;
        if repair {
            self.parts.waker.wake();
        }
        let findings = findings.iter().map(finding::message).collect();
        Ok(Response::new(pb::FsckResponse { findings }))
    }

    async fn check_content(
        &self,
        request: Request<pb::CheckContentRequest>,
    ) -> Result<Response<Self::CheckContentStream>, Status> {
        let repair = request.into_inner().repair;
        Ok(Response::new(content::check(&self.parts, repair)))
    }

    async fn events(
        &self,
        request: Request<pb::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        self.ring.watch(request.into_inner()).map(Response::new)
    }

    async fn fullness(
        &self,
        _request: Request<pb::FullnessRequest>,
    ) -> Result<Response<Self::FullnessStream>, Status> {
        let fullness = self.parts.call(|engine| {
            let layers = engine.layers.fullness().into_iter();
            let layers = layers.map(|(one, path)| pb::Fullness {
                written_path: path.unwrap_or_default(),
                ..fullness("snapshot", one)
            });
            let volumes = engine.volumes.fullness(usize::MAX).into_iter();
            let volumes = volumes.map(|one| fullness("volume", one));
            Ok(layers.chain(volumes).collect())
        });
        Ok(Response::new(in_messages(fullness.await?, |fullness| {
            pb::FullnessResponse { fullness }
        })))
    }

    async fn backup(
        &self,
        _request: Request<pb::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let file = self.parts.call(Engine::backup).await?;
        info!(bytes = file.len(), "backup taken");
        let chunks = file.chunks(CHUNK).map(|data| {
            Ok(pb::Chunk {
                data: data.to_vec(),
            })
        });
        Ok(Response::new(tokio_stream::iter(
            chunks.collect::<Vec<_>>(),
        )))
    }

    async fn restore_records(
        &self,
        _request: Request<Streaming<pb::Chunk>>,
    ) -> Result<Response<pb::RestoreRecordsResponse>, Status> {
        Err(Status::failed_precondition(
            "the records are sound; to go back to an older state all the same, stop layerd and run `layerd restore`",
        ))
    }
}

fn fullness(kind: &str, one: Fullness) -> pb::Fullness {
    pb::Fullness {
        kind: kind.to_owned(),
        name: one.name,
        used_bytes: one.used.map(|used| used.bytes),
        used_inodes: one.used.map(|used| used.inodes),
        limit_bytes: one.limit.map(|limit| limit.bytes),
        limit_inodes: one.limit.map(|limit| limit.inodes).filter(|all| *all > 0),
        written_path: String::new(),
    }
}

/// Waits for the file system, which may hang.
fn info(engine: &Engine, uptime_seconds: u64, effective: &Effective) -> InfoResponse {
    let counts = engine.layers.counts();
    let (layers_unpacked, layers_packed) = engine.layers.layers_moved();
    let disk = statvfs(engine.root()).ok();
    let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
    let driver = engine.driver().info();
    let mut info = InfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        root: engine.root().display().to_string(),
        driver: engine.driver().name().to_owned(),
        backing_filesystem: driver.backing_filesystem,
        kernel: kernel_release(),
        features: features(engine, &driver.facts),
        active: counts.active,
        views: counts.views,
        committed: counts.committed,
        trash: counts.removed,
        bytes: counts.bytes,
        unmeasured: counts.unmeasured,
        disk_bytes: disk.map_or(0, |disk| bytes(disk.blocks(), disk.fragment_size())),
        disk_free_bytes: disk.map_or(0, |disk| {
            bytes(disk.blocks_available(), disk.fragment_size())
        }),
        uptime_seconds,
        alarms: Vec::new(),
        quarantined: engine.layers.quarantined() as u64,
        layers_unpacked,
        layers_packed,
        durability: match engine.durability() {
            Durability::Full => "full",
            Durability::Metadata => "metadata",
        }
        .to_owned(),
        health: Some(health(engine, disk, effective)),
        newest_copy: String::new(),
    };
    info.alarms = alarms::of(&info);
    info
}

fn shown(paths: &[PathBuf]) -> Vec<String> {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

/// Properties of the driver, then features of the kernel.
fn features(engine: &Engine, facts: &[(String, String)]) -> Vec<pb::Feature> {
    let kernel = engine.attachments.kernel_features().iter();
    let kernel = kernel.map(|feature| (feature.name.to_owned(), feature.to_string()));
    let limits = ("volume limits".to_owned(), engine.volumes.enforcement());
    let containers = ("container limits".to_owned(), engine.layers.limits());
    let all = facts.iter().cloned().chain(kernel);
    let all = all.chain([limits, containers]);
    all.map(|(name, value)| pb::Feature { name, value })
        .collect()
}

fn health(engine: &Engine, disk: Option<Statvfs>, effective: &Effective) -> pb::Health {
    let health = engine.health();
    let read_only = disk.is_some_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY));
    let file = effective.file.as_ref();
    pb::Health {
        settings: effective.settings.clone(),
        overridden: effective.overridden.clone(),
        config_file: file.map_or_else(String::new, |file| file.display().to_string()),
        guard: engine.guard().unwrap_or_default(),
        database_failed: engine.has_failed(),
        ended_uncleanly: health.ended_uncleanly,
        exported_at: health.exported.map(timestamp),
        export_is_behind: health.export_is_behind,
        low_bytes: health.low.bytes,
        low_inodes: health.low.inodes,
        enough_bytes: health.enough.bytes,
        enough_inodes: health.enough.inodes,
        is_full: health.is_full,
        closed_folders: shown(&health.closed),
        inodes: disk.map_or(0, |disk| disk.files()),
        inodes_free: disk.map_or(0, |disk| disk.files_available()),
        records_are_older: engine.has_older_records(),
        stalled_seconds: health.writing_for.as_secs(),
        read_only,
        volumes_read_only: health.volumes_read_only && !read_only,
        newest_at: health.newest.map(timestamp),
        failing: BTreeMap::new(),
        reserves: engine.reserves().iter().map(reserve).collect(),
        failed_deletions: engine
            .failed_deletions()
            .into_iter()
            .map(|(what, reason)| failed_deletion(what, reason))
            .collect(),
    }
}

fn reserve(reserved: &Reserved) -> pb::Reserve {
    let space = &reserved.space;
    pb::Reserve {
        path: reserved.path.display().to_string(),
        level: reserved.level.name().to_owned(),
        bytes: space.bytes,
        bytes_free: space.bytes_free,
        bytes_kept: reserved.bytes(),
        inodes: space.inodes,
        inodes_free: space.inodes_free,
        inodes_kept: reserved.inodes(),
    }
}

fn failed_deletion(what: Discarded, reason: String) -> pb::FailedDeletion {
    let (id, is_volume) = match what {
        Discarded::Layer(id) => (id.to_string(), false),
        Discarded::Volume(id) => (id.to_string(), true),
    };
    pb::FailedDeletion {
        id,
        reason,
        is_volume,
    }
}

fn kernel_release() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn removed(removed: Removed) -> pb::Removed {
    let record = &removed.record;
    pb::Removed {
        id: record.id.to_string(),
        key: record.key.as_str().to_owned(),
        kind: record.kind.as_str().to_owned(),
        removed_at: record.removed.map(|removed| timestamp(removed.time)),
        bytes: record.usage.map(|usage| usage.bytes),
        parent: removed.parent,
    }
}

fn restore(engine: &Engine, ids: &[LayerId], all: bool) -> Vec<pb::Restored> {
    let trash = engine.layers.trash();
    let mut outcomes = Vec::new();
    let mut note = |id: LayerId, key: &str, outcome: Result<(), layerd_engine::Error>| {
        outcomes.push(pb::Restored {
            id: id.to_string(),
            key: key.to_owned(),
            error: outcome
                .err()
                .map(|error| with_causes(&error))
                .unwrap_or_default(),
        });
    };
    if all {
        for (removed, outcome) in engine.layers.restore_all() {
            note(removed.record.id, removed.record.key.as_str(), outcome);
        }
    }
    for &id in ids {
        let known = trash.iter().find(|removed| removed.record.id == id);
        let key = known.map_or("", |removed| removed.record.key.as_str());
        note(id, key, engine.layers.restore(id));
    }
    outcomes
}
