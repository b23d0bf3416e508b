//! The attachments that stand for mounts and containers of Docker and Podman.
//!
//! Two kinds, each a set and never a count: a mount id, from Mount to Unmount; and a container of
//! Docker's own list, as long as it is listed, running or not. A container's record keeps a volume when
//! `docker cp` sends Unmount with the id of a container that runs.

use std::path::Path;
use std::sync::Arc;

use layerd_engine::{Attach, Engine, Error};
use layerd_store::{Attachment, BadInput, Key, Owner, Volume, VolumeId};
use serde_json::{Value, json};

use super::client::Program;
use crate::api::wire::timestamp;

/// Kind of the owners of these attachments.
const OWNER: &str = "plugin";

/// Holder of a volume, by the attachment's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// A Mount without its Unmount.
    Mount {
        program: String,
        volume: VolumeId,
        id: String,
    },
    /// A container that dockerd lists.
    Container { volume: VolumeId, id: String },
}

impl Holder {
    pub(super) fn mount(program: Program, volume: VolumeId, id: &str) -> Self {
        Self::Mount {
            program: program.name().to_owned(),
            volume,
            id: id.to_owned(),
        }
    }

    /// Reads the key of an attachment; `None` for one of another peer.
    pub(super) fn of(attachment: &Attachment) -> Option<Self> {
        if attachment.owner.kind != OWNER {
            return None;
        }
        let mut parts = attachment.key.as_str().splitn(4, '/');
        let (program, volume) = (parts.next()?, parts.next()?.parse().ok().map(VolumeId)?);
        let (kind, id) = (parts.next()?, parts.next()?.to_owned());
        match (program, kind) {
            ("docker" | "podman", "mount") => Some(Self::Mount {
                program: program.to_owned(),
                volume,
                id,
            }),
            ("docker", "container") => Some(Self::Container { volume, id }),
            _ => None,
        }
    }

    pub(super) fn key(&self) -> Result<Key, BadInput> {
        let text = match self {
            Self::Mount {
                program,
                volume,
                id,
            } => format!("{program}/{}/mount/{id}", volume.0),
            Self::Container { volume, id } => format!("docker/{}/container/{id}", volume.0),
        };
        Key::parse("ID", &text)
    }
}

/// The owner of a mount of `program`, by as much of its id as Docker shows of any; the key has all.
/// Podman has one id for all mounts, and counts its containers itself.
pub(super) fn mount_owner(program: Program, id: &str) -> Result<Owner, BadInput> {
    const SHOWN: usize = 12;
    match program {
        Program::Docker => {
            let shown = id.get(..SHOWN).unwrap_or(id);
            Owner::parse(OWNER, &format!("docker/mount/{shown}"))
        }
        Program::Podman => Owner::parse(OWNER, program.name()),
    }
}

/// The owner of a container, by its name.
pub(super) fn container_owner(name: &str) -> Result<Owner, BadInput> {
    Owner::parse(OWNER, &format!("docker/{name}"))
}

/// Records a holder. Durable on return; repeating it changes nothing.
pub(super) fn hold(
    engine: &Engine,
    holder: &Holder,
    owner: &Owner,
    volume: &Volume,
    target: &Path,
    is_read_only: bool,
) -> Result<(), Error> {
    let target = format!("target={}", target.display());
    let read_only = if is_read_only { ",readonly" } else { "" };
    let mount = format!(
        "type=volume,source={},{}{read_only}",
        volume.name,
        quoted(&target)
    );
    let attach = Attach {
        key: holder.key()?,
        mount,
        target: None,
        fill_from: None,
        selinux_label: None,
        relabel_by_dialect: false,
        exclusive: false,
    };
    engine.attachments.attach(owner, &[attach]).map(drop)
}

/// A field of a CSV record.
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// Drops a holder; one that does not exist is passed over.
pub(super) fn release(engine: &Engine, holder: &Holder) -> Result<(), Error> {
    engine.attachments.detach(&[holder.key()?], false).map(drop)
}

/// All holders of Docker and Podman with their attachments.
pub(super) fn all(engine: &Engine) -> Vec<(Holder, Arc<Attachment>)> {
    let all = engine.attachments.attachment_records(None);
    let ours = all.into_iter();
    ours.filter_map(|one| Some((Holder::of(&one)?, one)))
        .collect()
}

/// A holder of any peer as `docker volume inspect` shows it.
pub(super) fn shown(attachment: &Attachment) -> Value {
    json!({
        "owner": attachment.owner.to_string(),
        "key": attachment.key.as_str(),
        "since": timestamp(attachment.created).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        let volume = VolumeId(7);
        for (holder, wanted) in [
            (
                Holder::mount(Program::Docker, volume, "ab/c"),
                "docker/7/mount/ab/c",
            ),
            (
                Holder::mount(Program::Podman, volume, "x"),
                "podman/7/mount/x",
            ),
            (
                Holder::Container {
                    volume,
                    id: "c1".to_owned(),
                },
                "docker/7/container/c1",
            ),
        ] {
            let key = holder.key().unwrap();
            assert_eq!(key.as_str(), wanted);
            assert_eq!(Holder::of(&attachment(OWNER, key)), Some(holder));
        }
        let key = |text| Key::parse("key", text).unwrap();
        for (kind, text) in [
            ("container", "docker/7/mount/x"),
            (OWNER, "docker/x/mount/x"),
            (OWNER, "docker/7/other/x"),
            (OWNER, "podman/7/container/x"),
            (OWNER, "docker/7"),
        ] {
            assert_eq!(Holder::of(&attachment(kind, key(text))), None, "{text}");
        }
    }

    fn attachment(kind: &str, key: Key) -> Attachment {
        Attachment {
            id: layerd_store::AttachmentId(1),
            key,
            owner: Owner::parse(kind, "any").unwrap(),
            volume: Some(VolumeId(7)),
            layer: None,
            spec: String::new(),
            target: None,
            exclusive: false,
            state: layerd_store::AttachState::Attached,
            mount: None,
            created: layerd_store::Timestamp(0),
            made: layerd_store::MadeSource::default(),
        }
    }

    #[test]
    fn targets_are_fields_of_csv() {
        assert_eq!(quoted("target=/a"), "target=/a");
        assert_eq!(quoted("target=/a,b\"c"), "\"target=/a,b\"\"c\"");
    }
}
