//! State of the snapshots, as the test expects it and as the daemon answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layerd_integration::Snapshots;
use layerd_proto::containerd::services::snapshots::v1::{Info, Kind};
use layerd_proto::containerd::types::Mount;
use tonic::Code;

use crate::Verdict;
use crate::content::Layer;

/// One snapshot. What the test cannot know because the answer was lost is `None`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snap {
    /// With empty times if they are not known.
    pub(crate) info: Info,
    /// Where a path below the root is named, without the root; empty for a committed one.
    pub(crate) mounts: Option<Vec<Mount>>,
    /// Its own directory, relative to the root, such as `l/3`. Empty for a view with parents.
    pub(crate) own: Option<PathBuf>,
    /// Its content.
    pub(crate) layer: Option<Arc<Layer>>,
    /// Set if the daemon answers only DATA_LOSS for it.
    pub(crate) damaged: bool,
}

/// All snapshots by name.
pub(crate) type World = BTreeMap<String, Snap>;

impl Snap {
    pub(crate) fn is(&self, kind: Kind) -> bool {
        self.info.kind() == kind
    }

    /// True if the found snapshot matches this one.
    fn allows(&self, found: &Self) -> bool {
        let times = [
            (&self.info.created_at, &found.info.created_at),
            (&self.info.updated_at, &found.info.updated_at),
        ];
        let same_times = times
            .iter()
            .all(|(wanted, found)| wanted.is_none() || wanted == found);
        let unknown = self.mounts.is_none() || self.damaged;
        let timeless = |info: &Info| Info {
            created_at: None,
            updated_at: None,
            ..info.clone()
        };
        same_times
            && self.damaged == found.damaged
            && timeless(&self.info) == timeless(&found.info)
            && (unknown || self.mounts == found.mounts)
    }

    /// Completes what is not known by what was found.
    fn complete(&self, found: &Self) -> Self {
        Self {
            info: found.info.clone(),
            mounts: found.mounts.clone(),
            own: self.own.clone().or_else(|| found.own.clone()),
            layer: self.layer.clone(),
            damaged: self.damaged,
        }
    }
}

/// Asks the daemon for everything it knows.
pub(crate) fn observe(client: &mut Snapshots, root: &Path) -> Verdict<World> {
    let messages = client.list_messages(&[]);
    let messages = messages.map_err(|status| format!("List: {status}"))?;
    let infos = messages.into_iter().flat_map(|message| message.info);
    let mut world = World::new();
    for info in infos {
        let name = info.name.clone();
        if world
            .insert(name.clone(), snap(client, root, info)?)
            .is_some()
        {
            return Err(format!("List: {name} twice"));
        }
    }
    Ok(world)
}

/// Asks for one snapshot.
pub(crate) fn observe_one(client: &mut Snapshots, root: &Path, name: &str) -> Verdict<Snap> {
    let info = client
        .stat(name)
        .map_err(|status| format!("Stat of {name}: {status}"))?;
    snap(client, root, info)
}

fn snap(client: &mut Snapshots, root: &Path, info: Info) -> Verdict<Snap> {
    let stat = client.stat(&info.name);
    if let Err(status) = &stat
        && status.code() == Code::DataLoss
    {
        return Ok(Snap {
            info,
            mounts: None,
            own: None,
            layer: None,
            damaged: true,
        });
    }
    if stat.as_ref().ok() != Some(&info) {
        return Err(format!("List says {info:?}, Stat {stat:?}"));
    }
    let (Some(created), Some(updated)) = (&info.created_at, &info.updated_at) else {
        return Err(format!("no times: {info:?}"));
    };
    if (created.seconds, created.nanos) > (updated.seconds, updated.nanos) {
        return Err(format!("updated before it was created: {info:?}"));
    }
    let mounts = if info.kind() == Kind::Committed {
        Vec::new()
    } else {
        let mounts = client.mounts(&info.name);
        mounts.map_err(|status| format!("Mounts of {}: {status}", info.name))?
    };
    for path in paths(&mounts) {
        if !path.is_dir() {
            let name = &info.name;
            return Err(format!(
                "{name} is to mount {}, which is missing",
                path.display()
            ));
        }
    }
    let own = own(&info, &mounts, root);
    let mounts = Some(
        mounts
            .into_iter()
            .map(|mount| relative(mount, root))
            .collect(),
    );
    Ok(Snap {
        info,
        mounts,
        own,
        layer: None,
        damaged: false,
    })
}

/// All paths that mounts name.
fn paths(mounts: &[Mount]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for mount in mounts {
        if mount.r#type == "bind" {
            found.push(PathBuf::from(&mount.source));
        }
        for option in &mount.options {
            if let Some((name, value)) = option.split_once('=')
                && ["lowerdir", "upperdir", "workdir"].contains(&name)
            {
                found.extend(value.split(':').map(PathBuf::from));
            }
        }
    }
    found
}

/// The directory that belongs to an active snapshot, or to a view without parents.
fn own(info: &Info, mounts: &[Mount], root: &Path) -> Option<PathBuf> {
    let below = |path: &str| Path::new(path).strip_prefix(root).ok().map(Path::to_owned);
    match info.kind() {
        Kind::Committed => None,
        Kind::View if !info.parent.is_empty() => Some(PathBuf::new()),
        _ => mounts.iter().find_map(|mount| {
            let upper = |option: &String| below(option.strip_prefix("upperdir=")?);
            let bound = (mount.r#type == "bind")
                .then(|| below(&mount.source))
                .flatten();
            bound.or_else(|| mount.options.iter().find_map(upper))
        }),
    }
}

/// The mount with the root's path taken out of it, so that a root that moved compares equal.
fn relative(mut mount: Mount, root: &Path) -> Mount {
    let root = root.to_str().unwrap();
    mount.source = mount.source.replace(root, "");
    for option in &mut mount.options {
        *option = option.replace(root, "");
    }
    mount
}

/// Compared content, besides names, mounts and the other answers of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Every layer whose content is known: what is in the page cache outlives the process.
    Every,
    /// The committed ones: containers' writes are theirs to sync.
    Committed,
}

/// Compares what was found with what is wanted; answers the latter with what was not known.
pub(crate) fn compare(
    found: &World,
    wanted: &World,
    root: &Path,
    content: Content,
) -> Verdict<World> {
    if let Some(name) = found.keys().find(|name| !wanted.contains_key(*name)) {
        return Err(format!("{name} should not exist: {:?}", found[name].info));
    }
    let mut world = World::new();
    for (name, want) in wanted {
        let found = found.get(name).ok_or_else(|| format!("{name} is lost"))?;
        if !want.allows(found) {
            return Err(format!("{name} is\n  {found:?}, should be\n  {want:?}"));
        }
        let complete = want.complete(found);
        if content == Content::Every || complete.is(Kind::Committed) {
            compare_layer(name, &complete, root)?;
        }
        world.insert(name.clone(), complete);
    }
    Ok(world)
}

fn compare_layer(name: &str, snap: &Snap, root: &Path) -> Verdict {
    let (Some(own), Some(layer)) = (&snap.own, &snap.layer) else {
        return Ok(());
    };
    let top = root.join(own);
    if !top.is_dir() {
        return Err(format!("{name}: its directory {} is gone", own.display()));
    }
    match Layer::try_read(&top)?.difference(layer) {
        None => Ok(()),
        Some(text) => Err(format!("{name}: {text}")),
    }
}

/// The one of several states that was found.
pub(crate) fn choose(
    found: &World,
    candidates: &[World],
    root: &Path,
    content: Content,
) -> Verdict<(usize, World)> {
    let mut reasons = Vec::new();
    for (index, wanted) in candidates.iter().enumerate() {
        match compare(found, wanted, root, content) {
            Ok(world) => return Ok((index, world)),
            Err(why) => reasons.push(why),
        }
    }
    Err(reasons.join("\n  nor is it the other state: "))
}
