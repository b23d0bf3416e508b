//! Volumes at the paths of an orchestrator.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use layerd_mounts::mounter::{KernelMounter, Mounter};
use layerd_store::{MountedAt, VolumeName};
use nix::mount::{MntFlags, MsFlags, umount2};

use super::{Host, key, owner};
use crate::{Attach, CreateVolume, Error, ErrorKind, Publish};

impl Host {
    fn pod(&self, name: &str) -> PathBuf {
        self.dir(name).join("mount")
    }

    fn request(&self, volume: &str, target: &Path) -> Publish {
        let name = VolumeName::parse("name", volume).unwrap();
        let request = CreateVolume {
            name: Some(name),
            ..CreateVolume::default()
        };
        let (entry, _) = self.engine.volumes.create_volume(&request).unwrap();
        Publish {
            volume: entry.volume.id,
            attach: Attach {
                key: key(target.to_str().unwrap()),
                mount: format!("type=volume,src={volume},dst=/volume"),
                target: Some(target.to_owned()),
                fill_from: None,
                selinux_label: None,
                relabel_by_dialect: false,
                exclusive: false,
            },
            group: None,
        }
    }

    fn publish(&self, request: &Publish) -> Result<(), Error> {
        self.engine.attachments.publish(&owner(), request).map(drop)
    }

    fn unpublish(&self, target: &Path) -> Result<(), Error> {
        self.engine
            .attachments
            .unpublish(&key(target.to_str().unwrap()), target)
    }

    /// Mounts at a path.
    fn count(&self, target: &Path) -> usize {
        let mounts = self.mounts();
        mounts.iter().filter(|mount| *mount == target).count()
    }

    /// As the mount table looks to a daemon in a mount namespace of its own that is younger than the
    /// mount: a copy with another number.
    fn exchange_for_copy(&self, target: &Path) {
        let data = self.volume("vol");
        umount2(target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
        bind(&data, target);
    }
}

fn bind(source: &Path, target: &Path) {
    let none: Option<&str> = None;
    nix::mount::mount(Some(source), target, none, MsFlags::MS_BIND, none).unwrap();
}

#[test]
fn root_repeated_calls_leave_one_mount_and_then_nothing() {
    let mut host = Host::new();
    let target = host.pod("pod");
    let request = host.request("vol", &target);
    for round in 0..10 {
        host.publish(&request).unwrap();
        assert_eq!(host.count(&target), 1, "round {round}");
        if round == 5 {
            host.reopen();
        }
    }
    fs::write(target.join("file"), "x").unwrap();
    for _ in 0..10 {
        host.unpublish(&target).unwrap();
        assert!(!target.exists());
    }
    assert_eq!(host.keys(), Vec::<String>::new());
    assert!(host.volume("vol").join("file").exists());
    fs::remove_dir(target.parent().unwrap()).unwrap();
    host.unpublish(&target).unwrap();
}

#[test]
fn root_the_copy_of_a_mount_is_taken_for_it() {
    let host = Host::new();
    let target = host.pod("pod");
    let request = host.request("vol", &target);
    host.publish(&request).unwrap();
    host.exchange_for_copy(&target);
    host.publish(&request).unwrap();
    assert_eq!(host.count(&target), 1);
    host.exchange_for_copy(&target);
    host.unpublish(&target).unwrap();
    assert_eq!((host.count(&target), target.exists()), (0, false));
}

#[test]
fn root_what_no_record_tells_of_goes_if_it_is_a_volume_and_stays_otherwise() {
    let host = Host::new();
    let target = host.pod("pod");
    let request = host.request("vol", &target);
    let other = host.dir("other");
    fs::create_dir(&target).unwrap();
    bind(&host.volume("vol"), &target);
    bind(&host.volume("vol"), &target);
    let refused = host.publish(&request).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    host.unpublish(&target).unwrap();
    assert_eq!((host.count(&target), target.exists()), (0, false));
    fs::create_dir(&target).unwrap();
    bind(&other, &target);
    let refused = host.unpublish(&target).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert_eq!(host.count(&target), 1);
    umount2(&target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    fs::write(target.join("file"), "a user's").unwrap();
    let refused = host.unpublish(&target).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert!(target.join("file").exists(), "nothing is deleted");
}

#[test]
fn root_after_a_restart_of_the_machine_unpublish_comes_without_publish_or_never() {
    let host = Host::new();
    let target = host.pod("pod");
    let request = host.request("vol", &target);
    host.publish(&request).unwrap();
    let records = host.engine.root.store.records();
    let there = records.volumes().attachment(&request.attach.key).unwrap();
    let mount = MountedAt {
        boot: "an earlier one".to_owned(),
        ..there.mount.clone().unwrap()
    };
    umount2(&target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    let forget = || {
        let state = there.state;
        let mount = Some(mount.clone());
        host.engine
            .root
            .store
            .set_attached(there.id, state, mount)
            .unwrap();
    };
    forget();
    assert!(
        !host
            .engine
            .attachments
            .is_published(
                &host
                    .engine
                    .root
                    .store
                    .records()
                    .volumes()
                    .attachment(&request.attach.key)
                    .unwrap()
                    .clone()
            )
            .unwrap()
    );
    host.publish(&request).unwrap();
    assert_eq!(host.count(&target), 1);
    umount2(&target, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    forget();
    host.unpublish(&target).unwrap();
    assert_eq!((host.keys().len(), target.exists()), (0, false));
}

#[test]
fn root_an_exclusive_attachment_is_the_only_one() {
    let host = Host::new();
    let (one, two) = (host.pod("one"), host.pod("two"));
    let mut first = host.request("vol", &one);
    let second = host.request("vol", &two);
    first.attach.exclusive = true;
    for _ in 0..2 {
        host.publish(&first).unwrap();
        let refused = host.publish(&second).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        let text = refused.to_string();
        assert!(text.contains("as its only attachment"), "{text}");
        assert!(!two.exists(), "the directory that was made goes");
    }
    let shared = host.request("vol", &one);
    let drift = host.publish(&shared).unwrap_err();
    assert_eq!(drift.kind(), ErrorKind::Exists, "{drift}");
    assert_eq!(host.count(&one), 1, "what stands stays");
    host.unpublish(&one).unwrap();
    host.publish(&second).unwrap();
    let refused = host.publish(&first).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert!(refused.to_string().contains("is to be its only one"));
}

#[test]
fn root_a_target_needs_its_parent_and_a_group_is_given() {
    let host = Host::new();
    let away = host.disk.path().join("no/pod/mount");
    let mut request = host.request("vol", &away);
    let refused = host.publish(&request).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(!host.disk.path().join("no").exists());
    let target = host.pod("pod");
    request.attach.target = Some(target.clone());
    request.group = Some(4711);
    host.publish(&request).unwrap();
    let mode = fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o2775);
    let entries = KernelMounter::new().mounts_below(host.disk.path()).unwrap();
    assert!(entries.iter().any(|entry| entry.target == target));
}
