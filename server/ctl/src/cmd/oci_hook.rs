//! `layerctl oci-hook`: the hooks of a runtime that has no plugin for layerd.

use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use layerd_mounts::mounter::{MountNamespace, Tree, is_mount_point, oci_tree};
use layerd_proto::layerd::v1 as wire;

use super::Daemon;
use super::attach::undo;
use crate::attachment::{Attachment, MountSpec, OciMount, Owner};
use crate::client::Client;
use crate::error::{Error, mounting};
use crate::oci_state::{ANNOTATION, Config, State};

/// Attaches and detaches as the hooks of an OCI runtime
///
/// The config.json of a bundle names the pair, and says in an annotation what to mount: a value of
/// --mount a line.
///
///   {
///     "annotations": {
///       "volumes.layerd.io/mounts": "type=volume,src=data,dst=/data"
///     },
///     "hooks": {
///       "createRuntime": [{
///         "path": "/usr/bin/layerctl",
///         "args": ["layerctl", "oci-hook", "create-runtime"]
///       }],
///       "poststop": [{
///         "path": "/usr/bin/layerctl",
///         "args": ["layerctl", "oci-hook", "poststop"]
///       }]
///     }
///   }
///
/// Each reads the state of the container on standard input, up to 4 MiB. The owner is
/// container:oci:ID, with the id that the container has for its runtime: ids must be unique on the
/// machine. Nothing is printed unless the hook fails.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(subcommand)]
    hook: Hook,
}

#[derive(Debug, Subcommand)]
enum Hook {
    CreateRuntime(CreateRuntime),
    /// Detaches what a container that has ended holds
    ///
    /// Succeeds if it holds nothing. With layerd stopped it exits with 7, and the attachments stay.
    Poststop,
}

/// Attaches what the annotation asks for, and mounts it in the container
///
/// Mounts are put into the container's mount namespace, below its root directory, before the runtime
/// makes that the root; missing mount points are made. Without the annotation nothing is done. If
/// this fails, the container does not start, and what was attached is undone.
#[derive(Debug, clap::Args)]
struct CreateRuntime {
    /// Accept bind mounts. Without it they are refused: with hooks for all containers of a machine,
    /// the author of an annotation may be a user who may not read the host's files
    #[arg(long)]
    allow_binds: bool,
}

pub(crate) async fn run(args: Args, daemon: &Daemon) -> Result<(), Error> {
    let state = State::read(io::stdin().lock())?;
    match args.hook {
        Hook::CreateRuntime(how) => create_runtime(&how, &state, daemon).await,
        Hook::Poststop => {
            let owner = state.owner()?;
            let mut client = daemon.connect().await?;
            client
                .detach(Vec::new(), Some(owner), false)
                .await
                .map(drop)
        }
    }
}

async fn create_runtime(how: &CreateRuntime, state: &State, daemon: &Daemon) -> Result<(), Error> {
    // What could fail without the daemon fails before anything is attached.
    let (owner, pid, bundle) = (state.owner()?, state.pid()?, state.bundle()?);
    let config = Config::open(&bundle)?;
    if config.mounts.is_empty() {
        return Ok(());
    }
    let what = format!("enter the container of process {pid}");
    let namespace = MountNamespace::of(pid).map_err(mounting(&what))?;
    let mut client = daemon.connect().await?;
    let attachments = attach(how, owner, &config, &bundle, &mut client).await?;
    if let Err(error) = put(&attachments, &namespace, &config.root) {
        let undone = undo(&attachments, &mut client).await;
        return Err(Error::Several(
            std::iter::once(error).chain(undone).collect(),
        ));
    }
    Ok(())
}

async fn attach(
    how: &CreateRuntime,
    owner: Owner,
    config: &Config,
    bundle: &Path,
    client: &mut Client,
) -> Result<Vec<Attachment>, Error> {
    let request = wire::ParseMountsRequest {
        dialect: wire::Dialect::Strict.into(),
        mounts: config.mounts.clone(),
        base_dir: bundle.display().to_string(),
        ..wire::ParseMountsRequest::default()
    };
    let mounts = client.parse_mounts(request).await?;
    if let Some(bind) = mounts.iter().find(|mount| mount.kind == "bind")
        && !how.allow_binds
    {
        return Err(bind_refused(bind));
    }
    let specs = mounts.into_iter().map(|mount| wire::AttachSpec {
        key: format!("{owner}:{}", mount.target),
        mount: mount.canonical,
        selinux_label: config.mount_label.clone(),
        relabel_by_dialect: mount.relabel_by_dialect,
        ..wire::AttachSpec::default()
    });
    let specs = specs.collect();
    client.attach(owner, specs, Vec::new()).await
}

fn bind_refused(bind: &MountSpec) -> Error {
    Error::Invalid {
        what: "attach for the container".to_owned(),
        why: format!(
            "annotation {ANNOTATION} asks for {:?}, and must not ask for type=bind",
            bind.canonical
        ),
        hint:
            "Mount a volume, or give the hook --allow-binds if the authors of all annotations may \
               have the host's files."
                .to_owned(),
    }
}

/// Makes the mounts here and moves them into the container, in order.
fn put(attachments: &[Attachment], namespace: &MountNamespace, root: &Path) -> Result<(), Error> {
    let mut trees = Vec::new();
    for one in attachments {
        for mount in &one.oci_mounts {
            trees.push((
                tree(mount, &one.mounted_at)?,
                PathBuf::from(&mount.destination),
            ));
        }
    }
    let what = format!("mount below {}", root.display());
    namespace.attach(root, trees).map_err(mounting(&what))
}

/// `mounted_at` is where layerd mounted it; empty if it did not.
fn tree(mount: &OciMount, mounted_at: &str) -> Result<Tree, Error> {
    let what = format!("make the mount for {}", mount.destination);
    let source = Path::new(&mount.source);
    // The empty directory below it would be bound.
    if !mounted_at.is_empty() && !is_mount_point(source).map_err(mounting(&what))? {
        return Err(Error::Refused {
            what,
            why: format!("layerd's mount on {mounted_at} is not seen in this mount namespace"),
            hint: "Start the runtime where mounts of the host arrive: on systemd, without PrivateMounts= \
                   and what implies it."
                .to_owned(),
        });
    }
    oci_tree(&mount.kind, source, &mount.options).map_err(mounting(&what))
}
