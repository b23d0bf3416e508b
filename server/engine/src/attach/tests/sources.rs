//! `check` and `attach` answer the same about a source, and what is refused makes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use layerd_spec::Decision;
use layerd_store::{Labels, VolumeName};
use nix::mount::MsFlags;

use super::{Host, key, mount, volume_at};
use crate::{Attach, CreateVolume, ErrorKind, VolumeFilter, VolumeRef};

fn name(text: &str) -> VolumeName {
    VolumeName::parse("name", text).unwrap()
}

/// Volume `data` with a mode and labels, its snapshot `shot`, the image `image`.
fn host_with_sources() -> Host {
    let host = Host::new();
    let labels = BTreeMap::from([
        ("app".into(), "shop".into()),
        ("bare".into(), String::new()),
    ]);
    let request = CreateVolume {
        name: Some(name("data")),
        options: BTreeMap::from([("mode".to_owned(), "750".to_owned())]),
        labels: Labels::with_empty(labels).unwrap(),
        ..CreateVolume::default()
    };
    host.engine.volumes.create_volume(&request).unwrap();
    fs::create_dir(host.volume("data").join("sub")).unwrap();
    host.engine
        .volumes
        .snapshot_volume(
            &VolumeRef::Name(name("data")),
            name("shot"),
            layerd_store::Labels::default(),
        )
        .unwrap();
    host.commit("image");
    fs::write(host.dir("host").join("file"), "").unwrap();
    host
}

/// Volumes, deleted ones too, attachments, and names beside the root.
fn all_there_is(host: &Host) -> (usize, usize, usize) {
    let count = |deleted| {
        let filter = VolumeFilter {
            deleted,
            ..VolumeFilter::default()
        };
        host.engine.volumes.volumes(&filter).len()
    };
    let beside = fs::read_dir(host.disk.path()).unwrap().count();
    (count(false) + count(true), host.keys().len(), beside)
}

type Refused = (String, ErrorKind, &'static str);

/// Mounts of volumes that are refused: how, and a part of the message.
fn bad_volumes() -> Vec<Refused> {
    use ErrorKind::{Exists, Invalid, Missing, Refused};
    let rows = [
        (
            "new",
            "volume-driver=nfs",
            Invalid,
            "driver: \"nfs\" is unknown",
        ),
        ("new", "volume-opt=type=nfs", Invalid, "options[\"type\"]"),
        ("new", "volume-opt=mode=9", Invalid, "options[\"mode\"]"),
        (
            "new",
            "volume-subpath=sub",
            Missing,
            "a new one has no \"sub\"",
        ),
        (
            "data",
            "volume-subpath=none",
            Missing,
            "none does not exist",
        ),
        (
            "data",
            "volume-opt=uid=1",
            Exists,
            "options[\"uid\"] is \"not set\"",
        ),
        (
            "data",
            "volume-opt=mode=700",
            Exists,
            "options[\"mode\"] is \"750\"",
        ),
        (
            "data",
            "volume-label=app=other",
            Exists,
            "labels[\"app\"] is \"shop\"",
        ),
        (
            "data",
            "volume-label=more",
            Exists,
            "labels[\"more\"] is \"not set\"",
        ),
        (
            "shot",
            "volume-nocopy",
            Refused,
            "volume shot is a read-only snapshot",
        ),
    ];
    let volume = |name, more| format!("type=volume,src={name},dst=/x,on-missing=create,{more}");
    rows.map(|(name, more, kind, why)| (volume(name, more), kind, why))
        .into()
}

/// The same of binds below `disk`, and of what is missing.
fn bad_others(disk: &Path) -> Vec<Refused> {
    use ErrorKind::{Invalid, Missing, Refused};
    let rows = [
        (
            "host",
            "bind-propagation=rslave",
            Refused,
            "which is private; slave",
        ),
        (
            "new/er",
            "on-missing=create,bind-propagation=rshared",
            Refused,
            "which is private",
        ),
        (
            "host/file/x",
            "on-missing=create",
            Invalid,
            "file is not a directory",
        ),
        ("host", "bind-idmap=match-user:web", Refused, "id mapping"),
        (
            "new",
            "on-missing=create,bind-idmap=match-user:web",
            Refused,
            "id mapping",
        ),
        ("none", "readonly", Missing, "does not exist"),
        ("lost", "readonly", Invalid, "leads nowhere"),
        ("lost", "on-missing=create", Invalid, "leads nowhere"),
        ("lost/x/y", "on-missing=create", Invalid, "leads nowhere"),
        ("closed/x", "on-missing=create", Refused, "it is read-only"),
        ("/proc/x/y", "on-missing=create", Refused, "in procfs"),
        ("/sys/x", "bind-create-src=file", Refused, "in sysfs"),
    ];
    let mut all: Vec<_> = rows
        .map(|(path, more, kind, why)| {
            let path = disk.join(path);
            let text = format!("type=bind,src={},dst=/x,{more}", path.display());
            (text, kind, why)
        })
        .into();
    for (text, why) in [
        (
            "type=volume,src=none,dst=/x",
            "volume \"none\" does not exist",
        ),
        (
            "type=image,src=none,dst=/x",
            "image \"none\" does not exist",
        ),
    ] {
        all.push((text.to_owned(), Missing, why));
    }
    all
}

#[test]
fn root_check_refuses_what_attach_refuses() {
    let host = host_with_sources();
    symlink("nowhere", host.disk.path().join("lost")).unwrap();
    let closed = host.dir("closed");
    let flags = MsFlags::MS_RDONLY;
    super::mount_with(Path::new("theirs"), &closed, Some("tmpfs"), flags);
    let before = all_there_is(&host);
    for (text, kind, why) in [bad_volumes(), bad_others(host.disk.path())].concat() {
        let spec = super::super::parse(&text).unwrap();
        let checked = host.engine.attachments.check_mount(&spec).unwrap_err();
        assert!(checked.to_string().contains(why), "{text}: {checked}");
        assert_eq!(checked.kind(), kind, "{text}: {checked}");
        let attached = host.attach(&[mount("k", &text)]);
        assert_eq!(attached.unwrap_err().to_string(), checked.to_string());
        assert_eq!(all_there_is(&host), before, "{text}");
    }
}

#[test]
fn root_check_accepts_what_attach_accepts() {
    let host = host_with_sources();
    let disk = host.disk.path().display();
    let uses = [
        "type=volume,src=data,dst=/x,volume-subpath=sub".to_owned(),
        "type=volume,src=data,dst=/x,volume-driver=local,volume-opt=mode=750,volume-label=bare"
            .into(),
        "type=volume,src=shot,dst=/x,readonly".into(),
        format!("type=bind,src={disk}/host/file,dst=/x"),
    ];
    for (number, text) in uses.iter().enumerate() {
        let spec = super::super::parse(text).unwrap();
        assert_eq!(
            host.engine.attachments.check_mount(&spec).unwrap(),
            Decision::Use,
            "{text}"
        );
        host.attach(&[mount(&number.to_string(), text)]).unwrap();
    }
    let label = host.engine.volumes.volume(&name("data")).unwrap();
    assert_eq!(
        label.volume.labels.get("bare"),
        Some(""),
        "kept without a value"
    );
}

#[test]
fn root_a_source_that_does_not_answer_is_not_missing() {
    let host = Host::new();
    let dead = host.dir("dead");
    let fuse = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        std::os::fd::AsRawFd::as_raw_fd(&fuse)
    );
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(
        Some("dead"),
        &dead,
        Some("fuse"),
        flags,
        Some(data.as_str()),
    )
    .unwrap();
    drop(fuse);
    let text = format!("type=bind,src={},dst=/x,on-missing=create", dead.display());
    let checked = host
        .engine
        .attachments
        .check_mount(&super::super::parse(&text).unwrap());
    let attached = host.attach(&[mount("k", &text)]).unwrap_err().to_string();
    assert_eq!(checked.unwrap_err().to_string(), attached);
    assert!(attached.contains("dead"), "{attached}");
}

fn empty() -> CreateVolume {
    CreateVolume {
        name: Some(name("empty")),
        ..CreateVolume::default()
    }
}

#[test]
fn root_a_snapshot_is_never_written_to() {
    let host = host_with_sources();
    let target = host.dir("target");
    let read_only = Attach {
        target: Some(target.clone()),
        ..mount("ro", "type=volume,src=shot,dst=/x,readonly")
    };
    let one = host.attach(&[read_only]).unwrap().remove(0);
    assert!(one.oci[0].options.iter().any(|option| option == "ro"));
    let refused = fs::write(target.join("file"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let writable = volume_at("shot", "/x", &host.dir("other"));
    let refused = host.attach(&[writable]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");

    // It is not filled either, and a clone is not answered with it.
    host.engine.volumes.create_volume(&empty()).unwrap();
    host.engine
        .volumes
        .snapshot_volume(
            &VolumeRef::Name(name("empty")),
            name("nothing"),
            layerd_store::Labels::default(),
        )
        .unwrap();
    let fill = Attach {
        fill_from: Some(key("image")),
        ..mount("fill", "type=volume,src=nothing,dst=/x,readonly")
    };
    let one = host.attach(&[fill]).unwrap().remove(0);
    assert!(!one.filled && one.notes.is_empty());
    let clone = CreateVolume {
        name: Some(name("shot")),
        clone_of: Some(VolumeRef::Name(name("data"))),
        ..CreateVolume::default()
    };
    let refused = host.engine.volumes.create_volume(&clone).unwrap_err();
    assert!(
        refused.to_string().contains("read-only snapshot"),
        "{refused}"
    );
    let clone = CreateVolume {
        name: Some(name("copy")),
        clone_of: Some(VolumeRef::Name(name("shot"))),
        ..CreateVolume::default()
    };
    host.engine.volumes.create_volume(&clone).unwrap();
    host.attach(&[mount("copy", "type=volume,src=copy,dst=/x")])
        .unwrap();
}

#[test]
fn root_an_attachment_goes_by_the_name_its_volume_has_now() {
    let host = host_with_sources();
    let flag = |name: &str| format!("type=volume,source={name},target=/x");
    let attach = |name: &str| host.attach(&[mount("k", &flag(name))]);
    let id = attach("data").unwrap()[0].attachment.id;
    host.engine
        .volumes
        .rename_volume(&name("data"), name("new"))
        .unwrap();
    let shown = host.engine.attachments.attachments(None, None).unwrap();
    assert_eq!(shown[0].spec.to_string(), flag("new"));
    for same in ["new", "data"] {
        let again = attach(same).unwrap();
        assert_eq!(again[0].attachment.id, id, "{same}");
        assert_eq!(again[0].spec.to_string(), flag("new"));
    }
    let taken = CreateVolume {
        name: Some(name("data")),
        ..CreateVolume::default()
    };
    host.engine.volumes.create_volume(&taken).unwrap();
    let refused = attach("data").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists);
    assert!(refused.to_string().contains(&flag("new")), "{refused}");
    attach("new").unwrap();
}

#[test]
fn root_a_volume_without_its_folder_is_attached_by_no_call() {
    let host = host_with_sources();
    let target = host.dir("target");
    let plain = mount("plain", "type=volume,src=data,dst=/x");
    let others = [
        volume_at("data", "/y", &target),
        mount("part", "type=volume,src=data,dst=/z,volume-subpath=sub"),
        Attach {
            fill_from: Some(key("image")),
            ..mount("fill", "type=volume,src=data,dst=/w")
        },
    ];
    host.attach(std::slice::from_ref(&plain)).unwrap();
    let folder = host.volume("data");
    let away = host.disk.path().join("away");
    for lost in [folder.clone(), folder.parent().unwrap().to_owned()] {
        fs::rename(&lost, &away).unwrap();
        for request in others.iter().chain([&plain]) {
            let refused = host.attach(std::slice::from_ref(request)).unwrap_err();
            let name = request.key.as_str();
            assert_eq!(refused.kind(), ErrorKind::Damaged, "{name}: {refused}");
            let why = "the content of volume data is missing";
            assert!(refused.to_string().contains(why), "{name}: {refused}");
            assert_eq!(host.keys(), ["plain"], "{name}");
        }
        assert!(!lost.exists(), "nothing was made in its place");
        fs::rename(&away, &lost).unwrap();
    }
    host.attach(&[plain]).unwrap();
}
