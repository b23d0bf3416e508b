//! The methods of the protocol.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layerd_engine::{
    Error, VolumeEntry, VolumeError, VolumeFilter, VolumeRef, is_nocopy, limit_of, size_asked,
};
use layerd_store::{VolumeId, VolumeName};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tonic::Code;
use tracing::warn;

use super::client::{Client, Program};
use super::wire::Asked;
use super::{Door, Refused, holders, reconcile, visible, wire};
use crate::api::csi;
use crate::api::wire::timestamp;

/// Docker waits two minutes for Create and Mount, one for the others: it is told what they wait for
/// before that.
const LONG: Duration = Duration::from_secs(110);
const SHORT: Duration = Duration::from_secs(50);

/// One method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Activate,
    Capabilities,
    Create,
    Remove,
    Mount,
    Unmount,
    Path,
    Get,
    List,
}

const ALL: [(Method, &str); 9] = [
    (Method::Activate, "/Plugin.Activate"),
    (Method::Capabilities, "/VolumeDriver.Capabilities"),
    (Method::Create, "/VolumeDriver.Create"),
    (Method::Remove, "/VolumeDriver.Remove"),
    (Method::Mount, "/VolumeDriver.Mount"),
    (Method::Unmount, "/VolumeDriver.Unmount"),
    (Method::Path, "/VolumeDriver.Path"),
    (Method::Get, "/VolumeDriver.Get"),
    (Method::List, "/VolumeDriver.List"),
];

impl Method {
    pub(super) fn of(path: &str) -> Option<Self> {
        let found = ALL.into_iter().find(|(_, known)| *known == path);
        found.map(|(method, _)| method)
    }

    /// All paths, for errors.
    pub(super) fn names() -> String {
        ALL.map(|(_, path)| path).join(", ")
    }

    pub(super) fn name(self) -> &'static str {
        let found = ALL.into_iter().find(|(method, _)| *method == self);
        let path = found.map_or("", |(_, path)| path);
        path.rsplit_once('.').map_or(path, |(_, name)| name)
    }

    /// True if the answer is constant.
    pub(super) fn is_constant(self) -> bool {
        matches!(self, Self::Activate | Self::Capabilities)
    }

    /// The answer of such a method.
    pub(super) fn constant(self) -> Value {
        match self {
            Self::Activate => json!({ "Implements": ["VolumeDriver"] }),
            _ => json!({ "Capabilities": { "Scope": "local" } }),
        }
    }

    /// Longest time until an answer; `None` for one from memory, which needs no permit.
    pub(super) fn limit(self) -> Option<Duration> {
        match self {
            Self::Create | Self::Mount => Some(LONG),
            Self::Remove | Self::Unmount => Some(SHORT),
            Self::Activate | Self::Capabilities | Self::Path | Self::Get | Self::List => None,
        }
    }

    pub(super) async fn run(
        self,
        door: &Door,
        client: Client,
        asked: Asked,
    ) -> Result<Value, Refused> {
        match self {
            Self::Activate | Self::Capabilities => Ok(self.constant()),
            Self::Create => create(door, &asked).await,
            Self::Remove => remove(door, &client, &asked).await,
            Self::Mount => mount(door, client, &asked).await,
            Self::Unmount => unmount(door, &client, &asked).await,
            Self::Path => path(door, &asked),
            Self::Get => get(door, &asked),
            Self::List => Ok(list(door)),
        }
    }
}

async fn create(door: &Door, asked: &Asked) -> Result<Value, Refused> {
    let (mut request, from_snapshot) = asked.create()?;
    if from_snapshot && let Some(VolumeRef::Name(source)) = &request.clone_of {
        let entry = entry(door, source)?;
        if entry.volume.snapshot_of.is_none() {
            let text = format!(
                "Opts[\"snapshot\"]: volume {source} is no snapshot; clone={source} copies a volume"
            );
            return Err(Refused::bad_request(text));
        }
        // The name may have changed hands by the time of the copy.
        request.clone_of = Some(VolumeRef::Id(entry.volume.id));
    }
    let created = door
        .parts
        .call(move |engine| engine.volumes.create_volume(&request));
    created.await?;
    door.wake.wake();
    Ok(json!({}))
}

/// Docker asks for it when none of its containers refers to the volume any more, which its list confirms.
async fn remove(door: &Door, client: &Client, asked: &Asked) -> Result<Value, Refused> {
    let name = asked.name()?;
    let entry = match entry(door, &name) {
        // By a layerd that ended before it could say so.
        Err(refused) if refused.code == Code::NotFound && client.exchange.is_repeated() => {
            return Ok(json!({}));
        }
        entry => entry?,
    };
    let volume = entry.volume.id;
    if let Some(text) = csi::keeps(&entry.volume) {
        return Err(Refused {
            http: axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            code: Code::FailedPrecondition,
            text,
        });
    }
    if !door
        .parts
        .engine
        .attachments
        .attachment_records(Some(volume))
        .is_empty()
    {
        let grace = match client.program() {
            Program::Docker => Duration::ZERO,
            Program::Podman => {
                reconcile::forget_podman(door, volume).await;
                door.config.mount_grace
            }
        };
        reconcile::volume(door, volume, grace).await;
    }
    // By its id: a volume that took the name meanwhile is not the one that was looked at.
    let removed = door
        .parts
        .call(move |engine| engine.volumes.delete_volume_by_id(volume))
        .await?;
    match removed {
        true => Ok(json!({})),
        false => Err(missing(&name)),
    }
}

/// Holds the volume for a mount id and answers its folder, as Docker sees it.
async fn mount(door: &Door, client: Client, asked: &Asked) -> Result<Value, Refused> {
    let (name, id) = (asked.name()?, asked.id()?.to_owned());
    let held = door.parts.call(move |engine| {
        let program = client.program();
        let entry = engine.volumes.volume(&name)?;
        let volume = &entry.volume;
        let holder = holders::Holder::mount(program, volume.id, &id);
        let owner = holders::mount_owner(program, &id)?;
        let hidden = visible::check(&entry.path, client.pid).err();
        // A snapshot can be attached read-only, and the protocol does not tell how this mount is used.
        let is_snapshot = volume.snapshot_of.is_some();
        if !is_snapshot && hidden.is_none() {
            holders::hold(engine, &holder, &owner, volume, &entry.path, false)?;
        }
        Ok((entry, hidden))
    });
    let (entry, hidden) = held.await?;
    if entry.volume.snapshot_of.is_some() {
        let name = &entry.volume.name;
        let text = format!(
            "volume {name} is a read-only snapshot, and Docker does not tell a plugin whether it mounts to write; \
             `-o snapshot={name}` at the creation of another volume makes a writable copy"
        );
        return Err(Refused {
            code: Code::FailedPrecondition,
            http: axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            text,
        });
    }
    if let Some(hidden) = hidden {
        return Err(Refused {
            code: Code::FailedPrecondition,
            http: axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            text: hidden.to_string(),
        });
    }
    door.wake.wake();
    Ok(json!({ "Mountpoint": entry.path }))
}

/// Drops the mount id. The container may go on running (`docker cp`), so those that Docker lists are
/// recorded before. An id that is not known, and a volume that is gone, are what was asked for.
async fn unmount(door: &Door, client: &Client, asked: &Asked) -> Result<Value, Refused> {
    let (name, id) = (asked.name()?, asked.id()?.to_owned());
    let Ok(entry) = door.parts.engine.volumes.volume(&name) else {
        return Ok(json!({}));
    };
    let volume = entry.volume.id;
    let program = client.program();
    if program == Program::Docker && !reconcile::has_container(&door.parts.engine, volume) {
        reconcile::volume(door, volume, door.config.mount_grace).await;
    }
    let holder = holders::Holder::mount(program, volume, &id);
    let released = door
        .parts
        .call(move |engine| holders::release(engine, &holder));
    released.await?;
    door.wake.wake();
    Ok(json!({}))
}

fn path(door: &Door, asked: &Asked) -> Result<Value, Refused> {
    let entry = entry(door, &asked.name()?)?;
    Ok(json!({ "Mountpoint": entry.path }))
}

fn get(door: &Door, asked: &Asked) -> Result<Value, Refused> {
    let entry = entry(door, &asked.name()?)?;
    door.measuring.measure(door, &entry);
    let mut volume = wire::volume(&entry);
    volume["Status"] = status(door, &entry);
    Ok(json!({ "Volume": volume }))
}

fn list(door: &Door) -> Value {
    let all = door.parts.engine.volumes.volumes(&VolumeFilter::default());
    let all: Vec<Value> = all.iter().map(wire::volume).collect();
    json!({ "Volumes": all })
}

/// Status fields of `docker volume inspect`, beside the protocol's own fields.
fn status(door: &Door, entry: &VolumeEntry) -> Value {
    let volume = &entry.volume;
    let holders = door
        .parts
        .engine
        .attachments
        .attachment_records(Some(volume.id));
    let holders: Vec<Value> = holders.iter().map(|one| holders::shown(one)).collect();
    let usage = volume.usage.map(|(usage, taken)| {
        json!({
            "bytes": usage.bytes,
            "inodes": usage.inodes,
            "as_of": timestamp(taken).to_string(),
        })
    });
    let limit = match limit_of(volume) {
        Some(way) => format!("enforced by an {way}"),
        None => "not enforced".to_owned(),
    };
    let size = size_asked(volume).map(|bytes| json!({ "bytes": bytes, "limit": limit }));
    let labels: BTreeMap<_, _> = volume.labels.iter().collect();
    let snapshot_of = volume.snapshot_of.map(|id| id.to_string());
    let mut status = json!({
        "id": volume.id.to_string(),
        "size": size,
        "usage": usage,
        "filled_from": volume.filled_from,
        "holders": holders,
        "labels": labels,
        "snapshot_of": snapshot_of,
    });
    if is_nocopy(volume) {
        let text = "layerd fills nothing in; Docker does unless a mount says nocopy (-v) or volume-nocopy (--mount)";
        status["nocopy"] = json!(text);
    }
    status
}

fn entry(door: &Door, name: &VolumeName) -> Result<VolumeEntry, Refused> {
    door.parts
        .engine
        .volumes
        .volume(name)
        .map_err(|error| match error {
            Error::Volume(VolumeError::NoVolume { .. }) => missing(name),
            error => crate::api::status::of(&error).into(),
        })
}

/// Podman knows by the words that a volume does not exist.
fn missing(name: &VolumeName) -> Refused {
    Refused {
        http: axum::http::StatusCode::INTERNAL_SERVER_ERROR,
        code: Code::NotFound,
        text: format!("no such volume: {name}"),
    }
}

/// Measurements of volumes that were looked at: one at a time, and each volume for at most a twentieth of
/// the time.
#[derive(Debug, Clone, Default)]
pub(super) struct Measuring(Arc<Mutex<Pending>>);

#[derive(Debug, Default)]
struct Pending {
    is_running: bool,
    not_before: BTreeMap<VolumeId, Instant>,
}

impl Measuring {
    /// Shortest time between two measurements of a volume.
    const PAUSE: Duration = Duration::from_secs(30);

    /// Has a volume measured in the background, if its last measurement is old. The next look shows it.
    fn measure(&self, door: &Door, entry: &VolumeEntry) {
        let (id, name) = (entry.volume.id, entry.volume.name.clone());
        if !self.begin(id) {
            return;
        }
        let (all, parts) = (self.clone(), door.parts.clone());
        door.parts.tasks.spawn(|_| async move {
            let begun = Instant::now();
            let measured = parts.tasks.call({
                let engine = parts.engine.clone();
                move || engine.volumes.volume_usage(&name, true)
            });
            if let Ok(Err(error)) = measured.await
                && !matches!(error, Error::Volume(VolumeError::NoVolume { .. }))
            {
                warn!(error = &error as &dyn std::error::Error, cause = ?error.source(), "measure a volume");
            }
            all.end(id, begun.elapsed());
        });
    }

    fn begin(&self, id: VolumeId) -> bool {
        let mut pending = self.0.lock();
        let now = Instant::now();
        pending.not_before.retain(|_, until| *until > now);
        if pending.is_running || pending.not_before.contains_key(&id) {
            return false;
        }
        pending.is_running = true;
        true
    }

    fn end(&self, id: VolumeId, took: Duration) {
        let mut pending = self.0.lock();
        pending.is_running = false;
        let until = Instant::now() + Self::PAUSE.max(took * 20);
        pending.not_before.insert(id, until);
    }
}
