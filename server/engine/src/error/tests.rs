//! The class of a failure, which becomes the code that a client sees.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use layerd_layers::error::Bound;
use layerd_mounts::mounter::MountError;
use layerd_store::{BadInput, Key, Kind, LayerId, Refusal, VolumeId, VolumeName};
use nix::errno::Errno;

use super::{AttachError, Error, ErrorKind, LayerError, VolumeError};

fn path() -> PathBuf {
    PathBuf::from("/some/path")
}

fn key() -> Key {
    Key::parse("key", "a key").unwrap()
}

fn name() -> VolumeName {
    VolumeName::parse("name", "data").unwrap()
}

fn io_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

/// The disk, as a driver meets it.
fn disk(errno: Errno) -> layerd_mounts::Error {
    layerd_mounts::Error::Io {
        attempt: "write",
        path: path(),
        cause: io_error(errno),
    }
}

/// The disk, as a copy meets it.
fn copying(errno: Errno) -> layerd_layers::Error {
    layerd_layers::Error::Io {
        attempt: "write".into(),
        path: path(),
        cause: io_error(errno),
    }
}

fn mounting(errno: Errno) -> MountError {
    MountError::Io {
        attempt: "mount",
        path: path(),
        log: String::new(),
        cause: io_error(errno),
    }
}

fn assert_kinds(cases: impl IntoIterator<Item = (Error, ErrorKind)>) {
    for (error, kind) in cases {
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

/// A disk that fails a driver, with each call that may meet it.
fn met_by_driver(errno: Errno) -> [Error; 5] {
    let (id, key) = (LayerId(7), key());
    let cause = || disk(errno);
    let create = LayerError::Create { id, cause: cause() };
    let write_back = LayerError::WriteBack { id, cause: cause() };
    let mountable = LayerError::MakeMountable {
        key,
        cause: cause(),
    };
    let measure = LayerError::Measure {
        id,
        cause: Arc::new(cause()),
    };
    [
        Error::driver("try")(cause()),
        create.into(),
        write_back.into(),
        mountable.into(),
        measure.into(),
    ]
}

/// The same of copies and archives.
fn met_by_copy(errno: Errno) -> [Error; 3] {
    let cause = || copying(errno);
    let copy = Error::Copy {
        attempt: "copy",
        cause: cause(),
    };
    let unpack = LayerError::Unpack {
        key: key(),
        cause: cause(),
    };
    let pack = LayerError::Pack {
        key: key(),
        cause: cause(),
    };
    [copy, unpack.into(), pack.into()]
}

/// A full disk may have room later, one that became read-only is the operator's, and a broken one is no fault
/// of the caller's: whatever met it.
#[test]
fn a_disk_has_one_class_whatever_meets_it() {
    let classes = [
        (Errno::ENOSPC, ErrorKind::Full),
        (Errno::EDQUOT, ErrorKind::Full),
        (Errno::EMFILE, ErrorKind::Full),
        (Errno::ENFILE, ErrorKind::Full),
        (Errno::ENOMEM, ErrorKind::Full),
        (Errno::EROFS, ErrorKind::Refused),
        (Errno::EIO, ErrorKind::Internal),
    ];
    for (errno, kind) in classes {
        assert_kinds(met_by_driver(errno).map(|error| (error, kind)));
        assert_kinds(met_by_copy(errno).map(|error| (error, kind)));
    }
}

#[test]
fn what_a_driver_finds_has_its_class() {
    use layerd_mounts::Error as Found;
    let of = |cause| Error::driver("try")(cause);
    assert_kinds([
        (of(disk(Errno::EMLINK)), ErrorKind::Full),
        (of(Found::Stopped), ErrorKind::Stopping),
        (of(Found::Busy { path: path() }), ErrorKind::Refused),
        (
            of(Found::WrittenBeside { path: path() }),
            ErrorKind::Refused,
        ),
        (of(Found::Altered { path: path() }), ErrorKind::Damaged),
        (
            // Also if it was full: that it may succeed later is not so.
            of(Found::Lost {
                path: path(),
                cause: io_error(Errno::ENOSPC),
            }),
            ErrorKind::Damaged,
        ),
    ]);
}

#[test]
fn archives_have_their_class() {
    use layerd_layers::Error as Copying;
    let of = |cause| Error::Copy {
        attempt: "copy",
        cause,
    };
    let problem = "a problem";
    let malformed = [
        Copying::Truncated { offset: 1 },
        Copying::Malformed { offset: 1, problem },
        Copying::Damaged { problem },
        Copying::Limit {
            what: "bytes",
            limit: 1,
        },
        Copying::Length {
            wanted: 2,
            found: 1,
        },
        Copying::Beyond {
            bound: Bound::Bytes,
            limit: 1,
        },
    ];
    assert_kinds(malformed.map(|error| (of(error), ErrorKind::Invalid)));
    let unmapped = Copying::Unmapped {
        path: path(),
        kind: "user",
        id: 7,
    };
    assert_kinds([
        (of(unmapped), ErrorKind::Refused),
        (of(Copying::Stopped), ErrorKind::Stopping),
        (of(Copying::Changed { path: path() }), ErrorKind::Internal),
    ]);
}

#[test]
fn snapshots_have_their_class() {
    let (text, key) = (String::new, key);
    let refused = [
        LayerError::MappingOff,
        LayerError::MappingInNamespace,
        LayerError::NotMountable { key: key() },
        LayerError::BeingUnpacked { key: key() },
        LayerError::HalfUnpacked { key: key() },
        LayerError::NotRebased { key: key() },
        LayerError::NoLimits {
            from: text(),
            driver: "one",
            why: text(),
        },
    ];
    assert_kinds(refused.map(|error| (error.into(), ErrorKind::Refused)));
    let too_much = LayerError::TooMuch {
        key: key(),
        bound: Bound::Entries,
        limit: 1,
    };
    let foreign = LayerError::Foreign { what: text() };
    let damaged = LayerError::Damaged {
        key: key(),
        why: text(),
    };
    assert_kinds([
        (too_much.into(), ErrorKind::Invalid),
        (foreign.into(), ErrorKind::Unsupported),
        (damaged.into(), ErrorKind::Damaged),
    ]);
}

/// An operator is told which key of the configuration to change.
#[test]
fn a_layer_that_is_too_large_names_the_setting() {
    let settings = [
        (Bound::Bytes, "unpack.max_layer_bytes"),
        (Bound::Entries, "unpack.max_entries"),
        (Bound::Directories, "unpack.max_directories"),
        (Bound::Ratio, "unpack.max_ratio"),
        (Bound::Window, "unpack.max_window_bytes"),
    ];
    for (bound, setting) in settings {
        let key = key();
        let limit = 5;
        let text = LayerError::TooMuch { key, bound, limit }.to_string();
        assert!(text.contains(&format!("5 {bound}, ")), "{text}");
        assert!(text.contains(&format!("`{setting}`")), "{text}");
    }
}

#[test]
fn volumes_whose_content_is_gone_are_damaged() {
    let (name, path) = (name(), path());
    let no_content = VolumeError::NoContent {
        name: name.clone(),
        path: path.clone(),
    };
    let no_limit = VolumeError::NoLimitThere { name, path };
    assert_kinds([no_content, no_limit].map(|error| (error.into(), ErrorKind::Damaged)));
}

#[test]
fn volumes_and_attachments_have_their_class() {
    let what = "propagation";
    let full = |errno| AttachError::MountPoint {
        path: path(),
        cause: io_error(errno),
    };
    let missing = VolumeError::NoVolume {
        name: name(),
        near: vec![name()],
    };
    let text = missing.to_string();
    assert!(text.contains(" (there is data); "), "{text}");
    assert_kinds([
        (missing.into(), ErrorKind::Missing),
        (
            VolumeError::NotInTrash { name: name() }.into(),
            ErrorKind::Missing,
        ),
        (
            VolumeError::NotDeleted { name: name() }.into(),
            ErrorKind::Refused,
        ),
        (
            VolumeError::BeingRead { name: name() }.into(),
            ErrorKind::Refused,
        ),
        (AttachError::NotHonoured { what }.into(), ErrorKind::Refused),
        (AttachError::NoSource { what }.into(), ErrorKind::Damaged),
        (
            AttachError::Occupied { path: path() }.into(),
            ErrorKind::Refused,
        ),
        (full(Errno::ENOSPC).into(), ErrorKind::Full),
        (full(Errno::EIO).into(), ErrorKind::Internal),
        (mounting(Errno::ENOSPC).into(), ErrorKind::Full),
        (mounting(Errno::EIO).into(), ErrorKind::Internal),
        (mounting(Errno::EROFS).into(), ErrorKind::Refused),
        (
            MountError::Missing { path: path() }.into(),
            ErrorKind::Missing,
        ),
        (
            MountError::Symlink { path: path() }.into(),
            ErrorKind::Invalid,
        ),
        (
            MountError::Raced { path: path() }.into(),
            ErrorKind::Refused,
        ),
    ]);
}

/// The codes are containerd's where its contract names one.
#[test]
fn refusals_of_the_records_have_their_class() {
    let parent = |at_commit| Refusal::ParentNotCommitted {
        parent: key(),
        kind: Kind::Active,
        at_commit,
    };
    assert_kinds([
        (Refusal::Missing { key: key() }.into(), ErrorKind::Missing),
        (
            Refusal::ParentMissing { parent: key() }.into(),
            ErrorKind::Missing,
        ),
        (
            Refusal::VolumeMissing { name: name() }.into(),
            ErrorKind::Missing,
        ),
        (Refusal::Taken { key: key() }.into(), ErrorKind::Exists),
        (
            Refusal::VolumeTaken { name: name() }.into(),
            ErrorKind::Exists,
        ),
        (parent(false).into(), ErrorKind::Invalid),
        (parent(true).into(), ErrorKind::Refused),
        (
            Refusal::NotActive {
                key: key(),
                kind: Kind::View,
            }
            .into(),
            ErrorKind::Refused,
        ),
        (
            Refusal::VolumeGone { id: VolumeId(7) }.into(),
            ErrorKind::Refused,
        ),
        (
            Refusal::LayerGone { id: LayerId(7) }.into(),
            ErrorKind::Refused,
        ),
        (BadInput::new("key", "is bad").into(), ErrorKind::Invalid),
        (Error::Stopping, ErrorKind::Stopping),
        (
            Error::Lacking {
                driver: "one",
                what: "limits",
            },
            ErrorKind::Unsupported,
        ),
        (Error::NoExport { meta: path() }, ErrorKind::Missing),
        (
            Error::Unrecorded {
                root: path(),
                meta: path(),
                layers: 1,
                volumes: 0,
            },
            ErrorKind::Damaged,
        ),
    ]);
    let closing = layerd_store::Error::Closing;
    assert_kinds([(closing.into(), ErrorKind::Stopping)]);
}
