//! `layerctl attach` and `detach`.

use std::collections::{BTreeMap, BTreeSet};

use layerd_proto::layerd::v1::AttachSpec;

use super::Daemon;
use super::attachments::print;
use super::mount::Flags;
use crate::attachment::{Attachment, MountSpec, Owner};
use crate::client::Client;
use crate::complete;
use crate::error::{Error, all_or};
use crate::output::Output;
use crate::text::escape;

/// Holds what a container needs, and mounts it where asked to
///
/// What is attached cannot be removed until it is detached; that survives restarts and crashes of
/// layerd, and layerd need not run for the container to. Without --target nothing is mounted where
/// a path is all that a runtime needs; `layerctl oci-apply` passes it on to one. Saying the same
/// again answers the same. All mounts are attached, or none. --timeout begins anew as long as files
/// come into a volume that has a name.
#[derive(Debug, clap::Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    what: What,

    /// Mount what the container has at PATH at DIR of the host; may be repeated
    #[arg(long = "target", value_name = "PATH=DIR", value_parser = parse_target)]
    targets: Vec<(String, String)>,
}

/// Mounts to attach, with owner and keys.
#[derive(Debug, clap::Args)]
pub(super) struct What {
    /// Owner: container, pod, build, person or plugin, and its identity
    #[arg(long, value_name = "KIND:ID", value_parser = Owner::parse, add = complete::owners())]
    owner: Owner,

    /// Beginning of the keys, which go on with a colon and the target; the owner unless given
    #[arg(long, value_name = "PREFIX")]
    key: Option<String>,

    #[command(flatten)]
    flags: Flags,

    /// Fill volumes that are empty with what this committed snapshot has at their targets
    #[arg(long, value_name = "SNAPSHOT", add = complete::snapshots())]
    fill_from: Option<String>,

    /// SELinux label of the container's mounts, for `z` and `Z`; that of the bundle for `oci-apply`
    #[arg(long, value_name = "LABEL")]
    pub(super) selinux_label: Option<String>,
}

/// Lets go of attachments, and unmounts what was mounted for them
///
/// Prints the keys of those that were there. One that is not is a failure unless --force is given; the
/// others are detached all the same. Refuses while a mount is in use, and says who uses it.
#[derive(Debug, clap::Args)]
pub(crate) struct Detach {
    /// Keys
    #[arg(
        value_name = "KEY",
        add = complete::attachments(),
        required_unless_present = "owner",
        conflicts_with = "owner"
    )]
    keys: Vec<String>,

    /// All that this owner has
    #[arg(long, value_name = "KIND:ID", value_parser = Owner::parse, add = complete::owners())]
    owner: Option<Owner>,

    /// Take a mount that is in use out of sight now; the kernel lets go when its last user does
    #[arg(long)]
    lazy: bool,

    /// A key that is not there, or an owner that has nothing, is no failure
    #[arg(short, long)]
    force: bool,
}

fn parse_target(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, dir)) if path.starts_with('/') && dir.starts_with('/') => {
            Ok((path.to_owned(), dir.to_owned()))
        }
        _ => Err("PATH=DIR is wanted, both absolute".to_owned()),
    }
}

pub(crate) async fn attach(args: Attach, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let targets = args.targets.into_iter().collect();
    let attachments = send(args.what, targets, &mut client).await?;
    print(&attachments, out)
}

pub(crate) async fn detach(args: Detach, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let mut client = daemon.connect().await?;
    let (keys, owner) = (args.keys.clone(), args.owner.clone());
    let detached = client.detach(keys, owner, args.lazy).await?;
    detached.iter().try_for_each(|key| match out.json {
        true => out.object(&BTreeMap::from([("detached", key)])),
        false => out.line(&escape(key)),
    })?;
    match args.force {
        true => Ok(()),
        false => all_or(missing(&args, &detached)),
    }
}

/// Errors for what was named and is not there: most likely it was mistyped.
fn missing(args: &Detach, detached: &[String]) -> Vec<Error> {
    let error = |what: String, why: &str| Error::NotFound {
        what,
        why: why.to_owned(),
        hint: "`layerctl attachments` shows what there is; with --force this is no failure."
            .to_owned(),
    };
    let keys = args.keys.iter().filter(|key| !detached.contains(key));
    let mut errors: Vec<_> = keys
        .map(|key| error(format!("detach \"{key}\""), "there is no such attachment"))
        .collect();
    if let Some(owner) = args.owner.as_ref().filter(|_| detached.is_empty()) {
        errors.push(error(
            format!("detach all of {owner}"),
            "it has nothing attached",
        ));
    }
    errors
}

/// Attaches; `targets` says for some of the container's paths where layerd is to mount them.
pub(super) async fn send(
    what: What,
    targets: BTreeMap<String, String>,
    client: &mut Client,
) -> Result<Vec<Attachment>, Error> {
    let mounts = client.parse_mounts(what.flags.request()?).await?;
    check_targets(&mounts, &targets)?;
    let prefix = what.key.unwrap_or_else(|| what.owner.to_string());
    let fill_from = what.fill_from.unwrap_or_default();
    let selinux_label = what.selinux_label.unwrap_or_default();
    let filled = mounts
        .iter()
        .filter(|mount| mount.kind == "volume" && !fill_from.is_empty())
        .map(|mount| mount.source.clone())
        .filter(|name| !name.is_empty())
        .collect();
    let specs = mounts.into_iter().map(|mount| AttachSpec {
        key: format!("{prefix}:{}", mount.target),
        target_path: targets.get(&mount.target).cloned().unwrap_or_default(),
        mount: mount.canonical,
        fill_from: fill_from.clone(),
        selinux_label: selinux_label.clone(),
        relabel_by_dialect: mount.relabel_by_dialect,
    });
    client.attach(what.owner, specs.collect(), filled).await
}

fn check_targets(mounts: &[MountSpec], targets: &BTreeMap<String, String>) -> Result<(), Error> {
    let known: BTreeSet<&String> = mounts.iter().map(|mount| &mount.target).collect();
    match targets.keys().find(|path| !known.contains(path)) {
        None => Ok(()),
        Some(path) => Err(Error::Invalid {
            what: "attach".to_owned(),
            why: format!("--target names {path}, where no mount is to be"),
            hint: "`layerctl mount parse` shows the targets as they are compared.".to_owned(),
        }),
    }
}

/// Undoes what this call attached, and moves the volumes it made to the trash unless something
/// uses them by now. Answers what could not be undone.
pub(super) async fn undo(attachments: &[Attachment], client: &mut Client) -> Vec<Error> {
    let mut failed = Vec::new();
    let new = || attachments.iter().filter(|one| one.is_new);
    let keys = new().map(|one| one.key.clone()).collect();
    if let Err(error) = client.detach(keys, None, false).await {
        failed.push(error);
    }
    for made in new().filter(|one| one.created) {
        if made.volume.is_empty() {
            failed.push(Error::Refused {
                what: format!("remove {}", made.mount.source),
                why: "only layerd knows whether it is what it made".to_owned(),
                hint: "It was made for this call; remove it if it is not needed.".to_owned(),
            });
        } else if let Err(error) = client.delete_volume(&made.volume, false).await {
            failed.push(error);
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Detach, missing, parse_target};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Detach,
    }

    #[test]
    fn what_was_not_there_is_named() {
        let table: [(&[&str], &[&str], &[&str]); 4] = [
            (
                &["a", "b"],
                &["a"],
                &["cannot detach \"b\": there is no such attachment"],
            ),
            (&["a"], &["a"], &[]),
            (&["--owner", "pod:x"], &["a"], &[]),
            (
                &["--owner", "pod:x"],
                &[],
                &["cannot detach all of pod:x: it has nothing attached"],
            ),
        ];
        for (words, detached, wanted) in table {
            let args = Line::parse_from([&["detach"], words].concat()).args;
            let detached: Vec<String> = detached.iter().map(ToString::to_string).collect();
            let errors = missing(&args, &detached);
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(errors, wanted, "{words:?}");
        }
    }

    #[test]
    fn targets_are_two_absolute_paths() {
        let target = ("/data".to_owned(), "/mnt/a=b".to_owned());
        assert_eq!(parse_target("/data=/mnt/a=b"), Ok(target));
        for bad in ["", "/data", "data=/mnt", "/data=mnt", "/data="] {
            assert!(parse_target(bad).is_err(), "{bad}");
        }
    }
}
