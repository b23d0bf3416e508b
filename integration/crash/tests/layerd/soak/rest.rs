//! Everything that is there, held against what the clients believe, while they rest.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::MutexGuard;
use std::thread;
use std::time::{Duration, Instant};

use layerd_integration::Snapshots;
use tonic::Code;

use super::client::Client;
use crate::Verdict;
use crate::home::{check_layers, names};
use crate::model::{Content, World, compare, observe};
use crate::process::Site;
use crate::volumes::client::Client as Volumes;
use crate::volumes::disk;
use crate::volumes::state::{State, observe as observe_volumes};

/// Limit for abandoned calls and the reaper.
const LIMIT: Duration = Duration::from_secs(30);

/// Numbers of records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records {
    pub(super) snapshots: usize,
    pub(super) volumes: usize,
    pub(super) attachments: usize,
}

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            snapshots,
            volumes,
            attachments,
        } = self;
        write!(
            f,
            "snapshots {snapshots}, volumes {volumes}, attachments {attachments}"
        )
    }
}

/// Compares, when what was begun has ended and what was removed has gone.
pub(super) fn check(
    site: &Site,
    scratch: &Path,
    clients: &mut [MutexGuard<'_, Client<'_>>],
) -> Verdict<Records> {
    let mut snapshots = site.client();
    let mut volumes = Volumes::connect(&site.socket);
    let begun = Instant::now();
    let abandoned: BTreeSet<String> = clients
        .iter_mut()
        .flat_map(|client| std::mem::take(&mut client.abandoned))
        .collect();
    let mut world = World::new();
    for client in &*clients {
        world.extend(client.worker.world.clone());
    }
    loop {
        let tidied = tidy(&mut snapshots, &mut volumes, &abandoned, site, &world);
        match tidied {
            Ok(()) => break,
            Err(why) if begun.elapsed() > LIMIT => return Err(why),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    let found = observe(&mut snapshots, &site.root)?;
    compare(&found, &world, &site.root, Content::Every)?;
    let state = check_volumes(&mut volumes, site, scratch, clients)?;
    Ok(Records {
        snapshots: found.len(),
        volumes: state.volumes.len(),
        attachments: state.held.len(),
    })
}

/// Removes what was abandoned, and looks whether everything else that should go has gone.
fn tidy(
    snapshots: &mut Snapshots,
    volumes: &mut Volumes,
    abandoned: &BTreeSet<String>,
    site: &Site,
    world: &World,
) -> Verdict {
    let listed = snapshots.names(&[]);
    let listed = listed.map_err(|status| format!("List: {status}"))?;
    for name in listed.iter().filter(|name| abandoned.contains(*name)) {
        match snapshots.remove(name) {
            Err(status) if status.code() != Code::NotFound => {
                return Err(format!("Remove of {name}: {status}"));
            }
            _ => {}
        }
    }
    let cleaned = snapshots.cleanup();
    cleaned.map_err(|status| format!("Cleanup: {status}"))?;
    let emptied = volumes.empty_trash();
    emptied.map_err(|status| format!("EmptyTrash: {status}"))?;
    directories(&site.root, world)
}

/// Every layer has its directories, and nothing else is left.
fn directories(root: &Path, world: &World) -> Verdict {
    let layers = check_layers(root, world)?;
    disk::same("trash", &names(&root.join("t")), &BTreeSet::new())?;
    let deleted = names(&root.join("volumes/.trash"));
    disk::same("deleted volumes", &deleted, &BTreeSet::new())?;
    let manifests = names(&root.join("m"));
    let stray = manifests.iter().find(|name| {
        let id = name.split('.').next().unwrap_or(name);
        !layers.contains(id)
    });
    stray.map_or(Ok(()), |name| Err(format!("m/{name} describes no layer")))
}

fn check_volumes(
    volumes: &mut Volumes,
    site: &Site,
    scratch: &Path,
    clients: &[MutexGuard<'_, Client<'_>>],
) -> Verdict<State> {
    let state = observe_volumes(volumes, &site.root)?;
    disk::check(scratch, &site.root, &state, &[])?;
    let wanted = clients.iter().flat_map(|client| {
        let volumes = &client.desk.volumes;
        volumes
            .iter()
            .map(|(name, labels)| format!("{name} {labels:?}"))
    });
    let found = state.volumes.values();
    let found = found.map(|vol| format!("{} {:?}", vol.name, vol.labels));
    disk::same("volumes", &found.collect(), &wanted.collect())?;
    let wanted = clients.iter().flat_map(|client| {
        let held = &client.desk.held;
        held.iter()
            .map(|(key, held)| format!("{key} {} {}", held.what(), held.place()))
    });
    let found = state.held.iter();
    let found = found.map(|(key, held)| format!("{key} {} {}", held.what, held.place));
    disk::same("attachments", &found.collect(), &wanted.collect())?;
    Ok(state)
}
