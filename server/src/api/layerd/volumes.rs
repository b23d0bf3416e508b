//! `layerd.v1.Volumes`.

mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;

use layerd_engine::layerd_layers::archive::Exported;
use layerd_engine::{
    CreateVolume, Error, Pruned, VolumeEntry, VolumeError, VolumeFilter, VolumeRef, limit_of,
    refuse_own_labels, size_asked,
};
use layerd_proto::layerd::v1::volumes_server::Volumes;
use layerd_proto::layerd::v1::{self as pb};
use layerd_store::{BadInput, LabelChange, Labels, Timestamp, Volume, VolumeId, VolumeName};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::chunks::{CHUNKS_WAITING, ChunkReader, ChunkWriter, forward};
use crate::api::outgoing::{Outgoing, Outlet};
use crate::api::wire::{optional, timestamp};
use crate::api::{Messages, Parts, csi, in_messages, status};
use crate::tasks::Lost;
use watch::Sender;

/// Events that a watcher may be behind before its stream ends.
const EVENTS_WAITING: usize = 1024;

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
impl Volumes for Service {
    type ListStream = Messages<pb::ListVolumesResponse>;
    type WatchStream = ReceiverStream<Result<pb::VolumeEvent, Status>>;
    type ExportStream = Outgoing<pb::ExportVolumeResponse>;

    async fn create(
        &self,
        request: Request<pb::CreateVolumeRequest>,
    ) -> Result<Response<pb::CreateVolumeResponse>, Status> {
        let request = create(request.into_inner())?;
        let (entry, created) = self
            .parts
            .call(move |engine| engine.volumes.create_volume(&request))
            .await?;
        let volume = Some(volume(entry));
        Ok(Response::new(pb::CreateVolumeResponse { volume, created }))
    }

    async fn get(
        &self,
        request: Request<pb::GetVolumeRequest>,
    ) -> Result<Response<pb::Volume>, Status> {
        let name = name("name", &request.into_inner().name)?;
        let found = self.parts.engine.volumes.volume(&name);
        let entry = found.map_err(|error| status::of(&error))?;
        Ok(Response::new(volume(entry)))
    }

    async fn list(
        &self,
        request: Request<pb::ListVolumesRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let filter = VolumeFilter {
            name: request.name,
            labels: request.labels,
            driver: request.driver,
            dangling: request.dangling,
            deleted: request.deleted,
        };
        let entries = self.parts.engine.volumes.volumes(&filter);
        let volumes: Vec<_> = entries.into_iter().map(volume).collect();
        Ok(Response::new(in_messages(volumes, |volumes| {
            pb::ListVolumesResponse { volumes }
        })))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateVolumeRequest>,
    ) -> Result<Response<pb::Volume>, Status> {
        let request = request.into_inner();
        let name = name("name", &request.name)?;
        refuse_own_labels(request.labels.keys()).map_err(status::bad)?;
        let changes = request
            .labels
            .iter()
            .map(|(key, value)| LabelChange::one(key, Some(value)));
        let changes = changes
            .collect::<Result<Vec<_>, _>>()
            .map_err(status::bad)?;
        let (size, force) = (size("size", &request.size)?, request.force);
        let entry = self
            .parts
            .call(move |engine| {
                let size = size.map(|size| {
                    let volume = VolumeRef::Name(name.clone());
                    engine.volumes.resize_volume(&volume, size, force)
                });
                match (size.transpose()?, changes.is_empty()) {
                    (Some(entry), true) => Ok(entry),
                    _ => engine.volumes.update_volume(&name, changes),
                }
            })
            .await?;
        Ok(Response::new(volume(entry)))
    }

    async fn rename(
        &self,
        request: Request<pb::RenameVolumeRequest>,
    ) -> Result<Response<pb::Volume>, Status> {
        let request = request.into_inner();
        let (old, new) = (
            name("name", &request.name)?,
            name("new_name", &request.new_name)?,
        );
        let entry = self
            .parts
            .call(move |engine| engine.volumes.rename_volume(&old, new))
            .await?;
        Ok(Response::new(volume(entry)))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteVolumeRequest>,
    ) -> Result<Response<pb::DeleteVolumeResponse>, Status> {
        let request = request.into_inner();
        let name = name("name", &request.name)?;
        let id = match self.parts.engine.volumes.volume(&name) {
            Err(Error::Volume(VolumeError::NoVolume { .. })) => {
                return Ok(Response::new(pb::DeleteVolumeResponse::default()));
            }
            Err(error) => return Err(status::of(&error)),
            Ok(entry) => match csi::keeps(&entry.volume) {
                Some(why) if !request.force => return Err(Status::failed_precondition(why)),
                _ => entry.volume.id,
            },
        };
        // By its id: a volume that took the name meanwhile is not the one that was looked at.
        let existed = self
            .parts
            .call(move |engine| engine.volumes.delete_volume_by_id(id))
            .await?;
        let id = existed.then(|| id.to_string());
        Ok(Response::new(pb::DeleteVolumeResponse {
            existed,
            id: id.unwrap_or_default(),
        }))
    }

    async fn undelete(
        &self,
        request: Request<pb::UndeleteVolumeRequest>,
    ) -> Result<Response<pb::Volume>, Status> {
        let request = request.into_inner();
        let id = optional("id", &request.id, VolumeId::parse)?;
        let old = optional("name", &request.name, VolumeName::parse)?;
        let new = optional("new_name", &request.new_name, VolumeName::parse)?;
        let entry = self
            .parts
            .call(move |engine| engine.volumes.undelete_volume(id, old.as_ref(), new))
            .await?;
        Ok(Response::new(volume(entry)))
    }

    async fn purge(
        &self,
        request: Request<pb::PurgeVolumeRequest>,
    ) -> Result<Response<pb::PurgeVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = optional("id", &request.id, VolumeId::parse)?;
        let name = optional("name", &request.name, VolumeName::parse)?;
        let purged = self
            .parts
            .call(move |engine| engine.volumes.purge_volume(id, name.as_ref()))
            .await?;
        Ok(Response::new(pb::PurgeVolumeResponse {
            volume: Some(volume(purged.volume)),
            left: purged.left as u64,
        }))
    }

    async fn plan_prune(
        &self,
        request: Request<pb::PlanPruneRequest>,
    ) -> Result<Response<pb::PrunePlan>, Status> {
        let request = request.into_inner();
        let (without, before) = (request.without_labels, request.created_before);
        let may_go = move |volume: &Volume| {
            csi::keeps(volume).is_none()
                && !without.iter().any(|label| volume.labels.matches(label))
                && before.is_none_or(|before| is_before(volume.created, before))
        };
        let (named, labels) = (request.include_named, request.labels);
        let plan = self
            .parts
            .call(move |engine| engine.volumes.plan_prune(named, labels, may_go))
            .await?;
        let candidates = plan
            .candidates
            .into_iter()
            .map(|candidate| pb::PruneCandidate {
                id: candidate.id.to_string(),
                name: candidate.name.as_str().to_owned(),
                reason: candidate.reason,
                bytes: candidate.bytes,
            });
        let candidates: Vec<_> = candidates.collect();
        Ok(Response::new(pb::PrunePlan {
            id: plan.id,
            bytes: candidates
                .iter()
                .filter_map(|candidate| candidate.bytes)
                .sum(),
            candidates,
        }))
    }

    async fn execute_prune(
        &self,
        request: Request<pb::ExecutePruneRequest>,
    ) -> Result<Response<pb::ExecutePruneResponse>, Status> {
        let id = request.into_inner().id;
        let outcomes = self
            .parts
            .call(move |engine| engine.volumes.execute_prune(&id))
            .await?;
        let outcomes = outcomes.into_iter().map(outcome).collect();
        Ok(Response::new(pb::ExecutePruneResponse { outcomes }))
    }

    async fn usage(
        &self,
        request: Request<pb::VolumeUsageRequest>,
    ) -> Result<Response<pb::VolumeUsageResponse>, Status> {
        let request = request.into_inner();
        let name = name("name", &request.name)?;
        let usage = self
            .parts
            .call(move |engine| engine.volumes.volume_usage(&name, request.exact));
        let (usage, as_of) = usage.await?;
        Ok(Response::new(pb::VolumeUsageResponse {
            bytes: usage.bytes,
            inodes: usage.inodes,
            as_of: Some(timestamp(as_of)),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotVolumeRequest>,
    ) -> Result<Response<pb::Volume>, Status> {
        let request = request.into_inner();
        let source = name("name", &request.name)?;
        let copy = match request.snapshot_name.as_str() {
            "" => dated(&source)?,
            given => name("snapshot_name", given)?,
        };
        let entry = self
            .parts
            .call(move |engine| {
                engine
                    .volumes
                    .snapshot_volume(&VolumeRef::Name(source), copy, Labels::default())
            })
            .await?;
        Ok(Response::new(volume(entry)))
    }

    async fn export(
        &self,
        request: Request<pb::ExportVolumeRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let name = name("name", &request.into_inner().name)?;
        self.parts
            .engine
            .volumes
            .volume(&name)
            .map_err(|error| status::of(&error))?;
        let (outlet, chunks) = Outlet::open(&self.parts.tasks, CHUNKS_WAITING);
        let parts = self.parts.clone();
        self.parts.tasks.spawn_with_peer(async move {
            let out = ChunkWriter::new(outlet.clone(), |data| pb::ExportVolumeResponse {
                data,
                done: None,
            });
            let exported = parts
                .call(move |engine| engine.volumes.export_volume(&name, out))
                .await;
            outlet.finish(exported.map(last_chunk)).await;
        });
        Ok(Response::new(chunks))
    }

    async fn import(
        &self,
        request: Request<Streaming<pb::ImportVolumeRequest>>,
    ) -> Result<Response<pb::ImportVolumeResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap_or_default();
        let missing = || status::bad(BadInput::new("volume", "must be set in the first message"));
        let request = create(first.volume.ok_or_else(missing)?)?;
        check_no_clone(&request, "the archive")?;
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        let input = ChunkReader::new(first.data, chunks);
        let filling = self
            .parts
            .call(move |engine| engine.volumes.import_volume(&request, input));
        let end = self.parts.tasks.peers_end();
        let feed = forward(messages, |message| message.data, sender, end.clone());
        let ((), filled) = tokio::join!(feed, filling);
        let filled = filled.map_err(|status| match end.is_cancelled() {
            // Without its end the archive fails, which is no fault of the archive.
            true => status::lost(&Lost::Stopping),
            false => status,
        })?;
        Ok(Response::new(pb::ImportVolumeResponse {
            volume: Some(volume(filled.volume)),
            files: filled.files,
            bytes: filled.bytes,
            verified: filled.verified,
        }))
    }

    async fn import_directory(
        &self,
        request: Request<pb::ImportDirectoryRequest>,
    ) -> Result<Response<pb::ImportDirectoryResponse>, Status> {
        let request = request.into_inner();
        let missing = || status::bad(BadInput::new("volume", "must be set"));
        let wanted = create(request.volume.ok_or_else(missing)?)?;
        check_no_clone(&wanted, "the directory")?;
        let source = PathBuf::from(request.source);
        let call =
            (self.parts).call(move |engine| engine.volumes.import_directory(&wanted, &source));
        let (entry, copied) = call.await?;
        Ok(Response::new(pb::ImportDirectoryResponse {
            volume: Some(volume(entry)),
            files: copied.files,
            bytes: copied.bytes,
            cloned_bytes: copied.cloned_bytes,
        }))
    }

    async fn watch(
        &self,
        request: Request<pb::WatchVolumesRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (events_in, events) = mpsc::channel(EVENTS_WAITING);
        let progress = request.into_inner().progress;
        self.parts.engine.watch(Box::new(Sender {
            events: events_in,
            progress,
        }));
        Ok(Response::new(ReceiverStream::new(events)))
    }
}

fn check_no_clone(request: &CreateVolume, source: &str) -> Result<(), Status> {
    if request.clone_of.is_none() {
        return Ok(());
    }
    let rule = format!("must be empty: {source} is what the volume is filled with");
    Err(status::bad(BadInput::new("volume.clone_of", rule)))
}

fn last_chunk(done: Exported) -> pb::ExportVolumeResponse {
    pb::ExportVolumeResponse {
        data: Vec::new(),
        done: Some(pb::ExportedVolume {
            bytes: done.bytes,
            files: done.files,
            left_out: done.left_out,
            changed: done.changed,
            sha256: done.sha256.to_vec(),
        }),
    }
}

fn name(field: &str, raw: &str) -> Result<VolumeName, Status> {
    VolumeName::parse(field, raw).map_err(status::bad)
}

/// A name for a copy that says of what and when.
fn dated(source: &VolumeName) -> Result<VolumeName, Status> {
    let seconds = Timestamp::now().0 / 1_000_000_000;
    name("snapshot_name", &format!("{source}-{seconds}"))
}

pub(crate) fn create(message: pb::CreateVolumeRequest) -> Result<CreateVolume, Status> {
    refuse_own_labels(message.labels.keys()).map_err(status::bad)?;
    Ok(CreateVolume {
        name: optional("name", &message.name, VolumeName::parse)?,
        driver: message.driver,
        options: bounded("options", message.options)?,
        labels: Labels::with_empty(message.labels).map_err(status::bad)?,
        clone_of: optional("clone_of", &message.clone_of, VolumeName::parse)?.map(VolumeRef::Name),
    })
}

/// Options are few and short; a record must not grow with what a client sends.
fn bounded(
    field: &str,
    options: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Status> {
    const MOST: usize = 4096;
    let total: usize = options
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if total <= MOST {
        return Ok(options);
    }
    let rule = format!("hold {total} bytes together, at most {MOST} are allowed");
    Err(status::bad(BadInput::new(field, rule)))
}

pub(crate) fn volume(entry: VolumeEntry) -> pb::Volume {
    let record: &Volume = &entry.volume;
    let labels = record.labels.iter();
    pb::Volume {
        id: record.id.to_string(),
        name: record.name.as_str().to_owned(),
        driver: record.driver.clone(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        created_at: Some(timestamp(record.created)),
        updated_at: Some(timestamp(record.updated)),
        path: entry.path.display().to_string(),
        anonymous: record.anonymous,
        attachments: entry.attachments as u64,
        filled_from: record.filled_from.clone(),
        snapshot_of: record
            .snapshot_of
            .map_or_else(String::new, |id| id.to_string()),
        deleted_at: record.removed.map(|removed| timestamp(removed.time)),
        options: record.options.clone(),
        bytes: record.usage.map(|(usage, _)| usage.bytes),
        limit: match (limit_of(record), size_asked(record)) {
            (Some(way), _) => way.to_owned(),
            (None, Some(_)) => "not enforced".to_owned(),
            (None, None) => String::new(),
        },
    }
}

/// A size in bytes or with a suffix; none if it is empty.
fn size(field: &str, text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = layerd_spec::size(text);
    let rule = || {
        format!(
            "{:?} is not a size above 0 such as 67108864, 64m or 10GiB",
            text.chars().take(64).collect::<String>()
        )
    };
    bytes
        .map(Some)
        .ok_or_else(|| status::bad(BadInput::new(field, rule())))
}

fn is_before(time: Timestamp, limit: prost_types::Timestamp) -> bool {
    let time = timestamp(time);
    (time.seconds, time.nanos) < (limit.seconds, limit.nanos)
}

fn outcome(pruned: Pruned) -> pb::PruneOutcome {
    pb::PruneOutcome {
        id: pruned.id.to_string(),
        name: pruned.name.as_str().to_owned(),
        skipped: pruned.skipped,
    }
}
