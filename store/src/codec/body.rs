//! Volumes and attachments as protobuf bodies.

use std::collections::BTreeMap;

use prost::Message;

use crate::model::{Key, Labels, LayerId, Timestamp, Usage};
use crate::volume::{
    AttachState, Attachment, AttachmentId, MadePath, MadeSource, MountedAt, Owner, Volume,
    VolumeId, VolumeName,
};

#[derive(Clone, PartialEq, Message)]
struct VolumeBody {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    anonymous: bool,
    #[prost(string, tag = "3")]
    driver: String,
    #[prost(btree_map = "string, string", tag = "4")]
    options: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "5")]
    labels: BTreeMap<String, String>,
    #[prost(sint64, tag = "6")]
    created: i64,
    #[prost(sint64, tag = "7")]
    updated: i64,
    #[prost(string, tag = "8")]
    filled_from: String,
    #[prost(uint64, optional, tag = "9")]
    snapshot_of: Option<u64>,
    #[prost(message, optional, tag = "10")]
    usage: Option<UsageBody>,
    #[prost(sint64, optional, tag = "11")]
    removed: Option<i64>,
    #[prost(uint64, optional, tag = "12")]
    removed_steady: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct UsageBody {
    #[prost(uint64, tag = "1")]
    bytes: u64,
    #[prost(uint64, tag = "2")]
    inodes: u64,
    #[prost(sint64, tag = "3")]
    as_of: i64,
}

#[derive(Clone, PartialEq, Message)]
struct AttachmentBody {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    owner_kind: String,
    #[prost(string, tag = "3")]
    owner_id: String,
    #[prost(uint64, optional, tag = "4")]
    volume: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    layer: Option<u64>,
    #[prost(string, tag = "6")]
    spec: String,
    #[prost(uint32, tag = "7")]
    state: u32,
    #[prost(message, optional, tag = "8")]
    mount: Option<MountBody>,
    #[prost(sint64, tag = "9")]
    created: i64,
    #[prost(string, optional, tag = "10")]
    target: Option<String>,
    #[prost(bool, tag = "11")]
    made_volume: bool,
    #[prost(message, repeated, tag = "12")]
    made_paths: Vec<MadePathBody>,
    #[prost(bool, tag = "13")]
    exclusive: bool,
}

#[derive(Clone, PartialEq, Message)]
struct MadePathBody {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(uint32, tag = "2")]
    device_major: u32,
    #[prost(uint32, tag = "3")]
    device_minor: u32,
    #[prost(uint64, tag = "4")]
    inode: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MountBody {
    #[prost(string, tag = "1")]
    target: String,
    #[prost(uint64, tag = "2")]
    unique_id: u64,
    #[prost(string, tag = "3")]
    boot: String,
    #[prost(uint64, tag = "4")]
    last_id: u64,
    #[prost(uint32, tag = "5")]
    device_major: u32,
    #[prost(uint32, tag = "6")]
    device_minor: u32,
    #[prost(uint64, tag = "7")]
    inode: u64,
    #[prost(string, tag = "8")]
    access: String,
}

const MALFORMED: &str = "the body is not what its table holds";

pub(super) fn of_volume(volume: &Volume) -> Vec<u8> {
    let labels = volume.labels.iter();
    let body = VolumeBody {
        name: volume.name.as_str().to_owned(),
        anonymous: volume.anonymous,
        driver: volume.driver.clone(),
        options: volume.options.clone(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        created: volume.created.0,
        updated: volume.updated.0,
        filled_from: volume.filled_from.clone(),
        snapshot_of: volume.snapshot_of.map(|id| id.0),
        usage: volume.usage.map(|(usage, as_of)| UsageBody {
            bytes: usage.bytes,
            inodes: usage.inodes,
            as_of: as_of.0,
        }),
        removed: volume.removed.map(|removed| removed.time.0),
        removed_steady: super::steady(volume.removed),
    };
    body.encode_to_vec()
}

pub(super) fn to_volume(id: u64, bytes: &[u8]) -> Result<Volume, &'static str> {
    let body = VolumeBody::decode(bytes).map_err(|_| MALFORMED)?;
    let mut labels = Labels::default();
    for (key, value) in body.labels {
        labels.insert_stored(key, value);
    }
    let usage = |body: UsageBody| {
        let UsageBody {
            bytes,
            inodes,
            as_of,
        } = body;
        (Usage { bytes, inodes }, Timestamp(as_of))
    };
    Ok(Volume {
        id: VolumeId(id),
        name: VolumeName::parse("name", &body.name).map_err(|_| "the name breaks a rule")?,
        anonymous: body.anonymous,
        driver: body.driver,
        options: body.options,
        labels,
        created: Timestamp(body.created),
        updated: Timestamp(body.updated),
        filled_from: body.filled_from,
        snapshot_of: body.snapshot_of.map(VolumeId),
        usage: body.usage.map(usage),
        removed: super::removed(body.removed, body.removed_steady),
    })
}

pub(super) fn of_attachment(attachment: &Attachment) -> Vec<u8> {
    let body = AttachmentBody {
        key: attachment.key.as_str().to_owned(),
        owner_kind: attachment.owner.kind.clone(),
        owner_id: attachment.owner.id.clone(),
        volume: attachment.volume.map(|id| id.0),
        layer: attachment.layer.map(|id| id.0),
        spec: attachment.spec.clone(),
        target: attachment.target.clone(),
        exclusive: attachment.exclusive,
        state: match attachment.state {
            AttachState::Preparing => 1,
            AttachState::Attached => 2,
            AttachState::Waiting => 3,
        },
        mount: attachment.mount.as_ref().map(|mount| MountBody {
            target: mount.target.clone(),
            unique_id: mount.unique_id,
            boot: mount.boot.clone(),
            last_id: mount.last_id,
            device_major: mount.device.0,
            device_minor: mount.device.1,
            inode: mount.inode,
            access: mount.access.clone(),
        }),
        created: attachment.created.0,
        made_volume: attachment.made.volume,
        made_paths: attachment.made.paths.iter().map(of_made).collect(),
    };
    body.encode_to_vec()
}

pub(super) fn to_attachment(id: u64, bytes: &[u8]) -> Result<Attachment, &'static str> {
    let body = AttachmentBody::decode(bytes).map_err(|_| MALFORMED)?;
    Ok(Attachment {
        id: AttachmentId(id),
        key: Key::parse("key", &body.key).map_err(|_| "the key breaks a rule")?,
        owner: Owner {
            kind: body.owner_kind,
            id: body.owner_id,
        },
        volume: body.volume.map(VolumeId),
        layer: body.layer.map(LayerId),
        spec: body.spec,
        target: body.target,
        exclusive: body.exclusive,
        state: match body.state {
            1 => AttachState::Preparing,
            2 => AttachState::Attached,
            3 => AttachState::Waiting,
            _ => return Err("the state is unknown"),
        },
        mount: body.mount.map(|mount| MountedAt {
            target: mount.target,
            unique_id: mount.unique_id,
            boot: mount.boot,
            last_id: mount.last_id,
            device: (mount.device_major, mount.device_minor),
            inode: mount.inode,
            access: mount.access,
        }),
        created: Timestamp(body.created),
        made: MadeSource {
            volume: body.made_volume,
            paths: body.made_paths.into_iter().map(to_made).collect(),
        },
    })
}

fn of_made(made: &MadePath) -> MadePathBody {
    MadePathBody {
        path: made.path.clone(),
        device_major: made.device.0,
        device_minor: made.device.1,
        inode: made.inode,
    }
}

fn to_made(body: MadePathBody) -> MadePath {
    MadePath {
        path: body.path,
        device: (body.device_major, body.device_minor),
        inode: body.inode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        let path = |path: &str, inode| MadePath {
            path: path.to_owned(),
            device: (8, 1),
            inode,
        };
        Attachment {
            id: AttachmentId(4),
            key: Key::parse("key", "web:/data").unwrap(),
            owner: Owner::parse("container", "web").unwrap(),
            volume: Some(VolumeId(3)),
            layer: None,
            spec: "type=volume,source=data,target=/data".to_owned(),
            target: Some("/srv/data".to_owned()),
            exclusive: true,
            state: AttachState::Preparing,
            mount: None,
            created: Timestamp(9),
            made: MadeSource {
                volume: true,
                paths: vec![path("/srv", 11), path("/srv/new", 12)],
            },
        }
    }

    #[test]
    fn an_attachment_survives_its_body() {
        let attachment = attachment();
        let read = to_attachment(4, &of_attachment(&attachment)).unwrap();
        assert_eq!(read, attachment);
    }

    #[test]
    fn an_attachment_of_an_earlier_version_made_nothing() {
        let mut body = AttachmentBody::decode(&of_attachment(&attachment())[..]).unwrap();
        (body.made_volume, body.made_paths, body.exclusive) = Default::default();
        let read = to_attachment(4, &body.encode_to_vec()).unwrap();
        assert_eq!((read.made, read.exclusive), (MadeSource::default(), false));
    }
}
