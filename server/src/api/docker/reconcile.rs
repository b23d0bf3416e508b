//! Holders against dockerd's list: what it has is held, what it has no more is let go. Nothing is counted.
//!
//! A container's holder goes when its container is listed no more. A mount id goes with its Unmount, or,
//! as that may never come, when no listed container refers to the volume and the id is old enough: a new
//! container is listed only after its volume was filled from the image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layerd_engine::{Engine, Error};
use layerd_store::{Owner, Timestamp, Volume, VolumeId, VolumeName};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Door;
use super::client::Program;
use super::dockerd::Container;
use super::holders::{self, Holder};
use crate::with_causes;

/// Interval of asking dockerd while something is held for it.
const EVERY: Duration = Duration::from_secs(10);
/// Pause after a call, in which the container of a mount comes to be listed.
const SOON: Duration = Duration::from_millis(300);
/// Key of the configuration under which a list that cannot be had is reported.
const KEY: &str = "docker.api";

/// Wakes the reconciler; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Wake(Arc<Notify>);

impl Wake {
    /// Has dockerd asked soon. Many calls are one.
    pub(super) fn wake(&self) {
        self.0.notify_one();
    }
}

/// Compares at the start, soon after each call that may have changed something, and every so often while
/// something is held.
pub(super) async fn run(door: Door, stop: CancellationToken) {
    if door.config.api.is_none() {
        forget_containers(&door).await;
    }
    let mut is_woken = false;
    loop {
        if is_woken || !holders::all(&door.parts.engine).is_empty() {
            compare(&door, None, door.config.mount_grace).await;
        }
        is_woken = tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EVERY) => false,
            () = door.wake.0.notified() => {
                sleep(SOON).await;
                true
            }
        };
    }
}

/// Compares the holders of one volume. Docker's mount ids that no listed container accounts for are let go
/// once they are as old as `grace`.
pub(super) async fn volume(door: &Door, id: VolumeId, grace: Duration) {
    compare(door, Some(id), grace).await;
}

/// Lets go of the mount ids of Podman for a volume that it removes. It refuses to remove one that any of
/// its containers has, also a stopped one; what is held still are mounts whose end was lost, as by a reboot.
pub(super) async fn forget_podman(door: &Door, id: VolumeId) {
    let engine = door.parts.engine.clone();
    let forgotten = door.parts.tasks.call(move || {
        for (holder, _) in holders::all(&engine) {
            let is_its = matches!(&holder, Holder::Mount { program, volume, .. }
                if program == Program::Podman.name() && *volume == id);
            if is_its {
                note(holders::release(&engine, &holder), &holder);
            }
        }
    });
    if let Err(lost) = forgotten.await {
        let error = &lost as &dyn std::error::Error;
        warn!(error, "let go of Podman's mounts");
    }
}

/// True if a container of dockerd's list holds a volume.
pub(super) fn has_container(engine: &Engine, id: VolumeId) -> bool {
    let records = engine.attachments.attachment_records(Some(id));
    let mut holders = records.iter().filter_map(|one| Holder::of(one));
    holders.any(|holder| matches!(holder, Holder::Container { .. }))
}

async fn compare(door: &Door, only: Option<VolumeId>, grace: Duration) {
    // One at a time: an older list, applied last, would let go of newer containers.
    let _alone = door.comparing.lock().await;
    let listed = match door.dockerd.containers().await {
        None => return,
        Some(Ok(listed)) => listed,
        Some(Err(error)) => {
            let reason = with_causes(&error);
            info!(
                reason,
                "dockerd's list of containers cannot be had; holders stay as they are"
            );
            return door.parts.failures.add(KEY, reason);
        }
    };
    door.parts.failures.clear(KEY);
    let engine = door.parts.engine.clone();
    let applied = door
        .parts
        .tasks
        .call(move || apply(&engine, &listed, only, grace));
    if let Err(lost) = applied.await {
        warn!(
            error = &lost as &dyn std::error::Error,
            "compare holders with dockerd's list"
        );
    }
}

/// Without dockerd's list no container is known to hold anything.
async fn forget_containers(door: &Door) {
    let engine = door.parts.engine.clone();
    let forgotten = door.parts.tasks.call(move || {
        let all = holders::all(&engine).into_iter().map(|(holder, _)| holder);
        for holder in all.filter(|holder| matches!(holder, Holder::Container { .. })) {
            note(holders::release(&engine, &holder), &holder);
        }
    });
    if let Err(lost) = forgotten.await {
        warn!(
            error = &lost as &dyn std::error::Error,
            "let go of Docker's containers"
        );
    }
}

/// A use of a volume by a container that dockerd lists.
struct Listed {
    volume: Arc<Volume>,
    owner: Owner,
    target: PathBuf,
    is_read_only: bool,
}

fn apply(engine: &Engine, containers: &[Container], only: Option<VolumeId>, grace: Duration) {
    let is_meant = |id: VolumeId| only.is_none_or(|only| only == id);
    let mut listed = uses(engine, containers);
    let used: BTreeSet<VolumeId> = listed.keys().map(|(volume, _)| *volume).collect();
    for (holder, record) in holders::all(engine) {
        let is_over = match &holder {
            Holder::Container { volume, id } => {
                let there = listed.get(&(*volume, id.clone()));
                let is_same = there.is_some_and(|there| there.owner == record.owner);
                if is_same {
                    listed.remove(&(*volume, id.clone()));
                }
                is_meant(*volume) && !is_same
            }
            Holder::Mount {
                program, volume, ..
            } => {
                let is_docker = program == Program::Docker.name();
                let is_unused = is_docker && !used.contains(volume);
                is_meant(*volume) && is_unused && age(record.created) >= grace
            }
        };
        if is_over {
            note(holders::release(engine, &holder), &holder);
        }
    }
    for ((volume, id), one) in listed.into_iter().filter(|((id, _), _)| is_meant(*id)) {
        let holder = Holder::Container { volume, id };
        let Listed {
            volume,
            owner,
            target,
            is_read_only,
        } = &one;
        note(
            holders::hold(engine, &holder, owner, volume, target, *is_read_only),
            &holder,
        );
    }
}

type Uses = BTreeMap<(VolumeId, String), Listed>;

/// The uses of volumes by containers, whether or not these run.
fn uses(engine: &Engine, containers: &[Container]) -> Uses {
    let mut uses = Uses::new();
    let all = containers
        .iter()
        .flat_map(|container| container.mounts.iter().map(move |mount| (container, mount)));
    for (container, mount) in all.filter(|(_, mount)| mount.is_of_plugin()) {
        let name = VolumeName::parse("Name", &mount.name).ok();
        let Some(entry) = name.and_then(|name| engine.volumes.volume(&name).ok()) else {
            continue;
        };
        let Ok(owner) = holders::container_owner(container.name()) else {
            continue;
        };
        let volume = entry.volume;
        uses.entry((volume.id, container.id.clone()))
            .or_insert(Listed {
                owner,
                target: PathBuf::from(&mount.destination),
                is_read_only: !mount.is_writable || volume.snapshot_of.is_some(),
                volume,
            });
    }
    uses
}

fn age(since: Timestamp) -> Duration {
    let nanos = Timestamp::now().0.saturating_sub(since.0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

fn note(outcome: Result<(), Error>, holder: &Holder) {
    match outcome {
        Ok(()) => debug!(?holder, "compared with dockerd's list"),
        // The next comparison tries again.
        Err(error) => info!(
            error = &error as &dyn std::error::Error,
            ?holder,
            "compare a holder with dockerd's list"
        ),
    }
}
