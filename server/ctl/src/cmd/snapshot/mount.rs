//! `layerctl snapshot mount` and `umount`: look into a snapshot. The daemon mounts nothing; this
//! program does.

mod rules;

use std::path::{Path, PathBuf};

use layerd_mounts::mount::{Unmounted, mount as make, unmount};

use super::show::advise;
use crate::cmd::Daemon;
use crate::complete;
use crate::error::Error;
use crate::output::Output;
use crate::readonly;
use crate::snapshot;
use crate::text::escape;
use rules::Rules;

/// Mounts an active snapshot or a view, read-only unless told otherwise
///
/// Read-only, without devices, set-user-id and execution, and without disturbing a container
/// that runs on the snapshot; what the container changes meanwhile may not show. Files have the
/// ids they have on disk.
#[derive(Debug, clap::Args)]
pub(crate) struct Mount {
    /// Key of an active snapshot or a view
    #[arg(add = complete::snapshots())]
    key: String,

    /// An existing directory
    dir: PathBuf,

    /// Mount as a container would, to write. Only while nothing else has it mounted: the kernel
    /// does not say what two writable mounts of one snapshot do
    #[arg(long)]
    rw: bool,
}

/// Unmounts what `mount` mounted
///
/// Refuses a mount that shows no snapshot, and one that an attachment has.
#[derive(Debug, clap::Args)]
pub(crate) struct Umount {
    /// The directory
    dir: PathBuf,
}

pub(super) async fn mount(args: &Mount, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    Rules::ask(&mut client, daemon)
        .await?
        .check_mount(&args.dir)?;
    let mounts = client.mounts(&args.key).await;
    let mounts = mounts.map_err(|error| advise(error, &args.key))?;
    let mounts = if args.rw {
        mounts
    } else {
        readonly::read_only(mounts)
    };
    check(&args.key, &mounts)?;
    let plan: Vec<_> = mounts.into_iter().map(planned).collect();
    make(&plan, &args.dir).map_err(|cause| Error::Mount {
        key: args.key.clone(),
        dir: args.dir.clone(),
        cause: Box::new(cause),
    })?;
    if out.json {
        return Ok(());
    }
    let dir = args.dir.display();
    out.line(&escape(&format!(
        "Mounted. To undo: layerctl snapshot umount {dir}"
    )))
}

/// The daemon lists mounts of whole trees only; anything else would end up in the wrong place.
fn check(key: &str, mounts: &[snapshot::Mount]) -> Result<(), Error> {
    match mounts.iter().find(|mount| !mount.target.is_empty()) {
        None => Ok(()),
        Some(mount) => Err(Error::Refused {
            what: format!("mount snapshot \"{key}\""),
            why: format!("a part of it belongs at {}", mount.target),
            hint: "This layerctl mounts whole trees only; is it older than layerd?".to_owned(),
        }),
    }
}

fn planned(mount: snapshot::Mount) -> layerd_mounts::Mount {
    layerd_mounts::Mount {
        kind: mount.kind,
        source: mount.source,
        options: mount.options,
    }
}

pub(super) async fn umount(args: &Umount, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let dir: &Path = &args.dir;
    let rules = Rules::ask(&mut daemon.connect().await?, daemon).await?;
    rules.check_unmount(dir)?;
    let done = unmount(dir).map_err(|cause| Error::Unmount {
        dir: dir.to_owned(),
        cause: Box::new(cause),
    })?;
    match done {
        Unmounted::Now => Ok(()),
        Unmounted::AlreadyGone if out.json => Ok(()),
        Unmounted::AlreadyGone => {
            out.line(&escape(&format!("Nothing is mounted at {}", dir.display())))
        }
    }
}
