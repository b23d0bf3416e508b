//! Mounts at a target that layerd did not make, or cannot prove to have made.

use std::fs;
use std::path::{Path, PathBuf};

use layerd_mounts::mounter::Symlinks;
use layerd_store::{AttachState, Attachment, MountedAt, Timestamp};

use super::{Attach, Host, Wanted, key, mount, owner, tmpfs, umount, volume_at};
use crate::{AttachError, Error};

const NONE: [PathBuf; 0] = [];

/// Step of an attach at which the daemon was killed.
enum Crash {
    BeforeTheMount,
    AfterTheMount,
}

impl Host {
    /// Attaches until the daemon is killed, and starts another one.
    fn crash(mut self, request: &Attach, at: &Crash) -> Self {
        let wanted = Wanted::parse(request).unwrap();
        let (attachment, _) = self.engine.attachments.intend(&owner(), &wanted).unwrap();
        let made = self
            .engine
            .attachments
            .make_mount(&wanted.spec, &attachment)
            .unwrap();
        let made = made.unwrap();
        let mount = Some(made.at.clone());
        let attached = AttachState::Attached;
        self.engine
            .root
            .store
            .set_attached(attachment.id, attached, mount)
            .unwrap();
        match at {
            Crash::BeforeTheMount => drop(made),
            Crash::AfterTheMount => self.engine.attachments.put_in_place(made).unwrap(),
        }
        self.reopen();
        self
    }

    /// A record as an older release left it, or one of an earlier boot.
    fn record(&self, target: &Path, state: AttachState, mount: Option<MountedAt>) {
        let spec = "type=volume,src=vol,dst=/x,on-missing=create";
        let made = self.attach(&[super::mount("make", spec)]).unwrap();
        self.engine
            .attachments
            .detach(&[key("make")], false)
            .unwrap();
        let attachment = Attachment {
            id: self.engine.root.store.attachment_id().unwrap(),
            key: key("vol"),
            spec: made[0].attachment.spec.clone(),
            target: Some(target.to_str().unwrap().to_owned()),
            state,
            mount,
            created: Timestamp::now(),
            ..Attachment::clone(&made[0].attachment)
        };
        self.engine.root.store.attach(attachment).unwrap();
    }
}

fn theirs(target: &Path) {
    tmpfs(target);
    fs::write(target.join("theirs"), "").unwrap();
}

fn is_theirs(target: &Path) -> bool {
    target.join("theirs").exists()
}

/// Neither the repeated call nor a detach touches what stands there.
fn is_left_alone(host: &Host, request: &Attach, target: &Path) {
    for _ in 0..2 {
        let refused = host.attach(std::slice::from_ref(request)).unwrap_err();
        assert!(
            matches!(refused, Error::Attach(AttachError::Occupied { .. })),
            "{refused}"
        );
        assert!(is_theirs(target));
    }
    // What was never acknowledged is forgotten when the repeated call is refused.
    let keys = [request.key.clone()];
    let held = host.keys().len();
    assert_eq!(
        host.engine.attachments.detach(&keys, false).unwrap().len(),
        held
    );
    assert!(is_theirs(target));
    umount(target);
    host.attach(std::slice::from_ref(request)).unwrap();
    assert_eq!(host.engine.attachments.detach(&keys, false).unwrap(), keys);
    assert_eq!(host.mounts(), NONE);
}

#[test]
fn root_another_s_mount_at_the_target_of_an_interrupted_attach_stays() {
    let host = Host::new();
    let target = host.dir("target");
    let flags = [
        "type=volume,src=vol,dst=/x,on-missing=create".to_owned(),
        "type=tmpfs,dst=/x".to_owned(),
        format!("type=bind,src={},dst=/x", host.dir("source").display()),
    ];
    let mut host = host;
    for flag in flags {
        let request = Attach {
            target: Some(target.clone()),
            ..mount("vol", &flag)
        };
        host = host.crash(&request, &Crash::BeforeTheMount);
        let listed = host.engine.attachments.attachments(None, None).unwrap();
        assert_eq!(listed[0].state, AttachState::Waiting, "{flag}");
        theirs(&target);
        is_left_alone(&host, &request, &target);
    }
}

#[test]
fn root_a_mount_that_was_made_before_the_crash_is_known() {
    let host = Host::new();
    let target = host.dir("target");
    let request = volume_at("vol", "/x", &target);
    let host = host.crash(&request, &Crash::AfterTheMount);
    let answer = host.attach(std::slice::from_ref(&request)).unwrap();
    assert_eq!(answer[0].state, AttachState::Attached);
    assert_eq!(
        host.mounts(),
        std::slice::from_ref(&target),
        "no second one"
    );
    host.engine
        .attachments
        .detach(&[key("vol")], false)
        .unwrap();
    assert_eq!(host.mounts(), NONE);
}

#[test]
fn root_records_without_a_proof_unmount_nothing() {
    let host = Host::new();
    let target = host.dir("target");
    let request = volume_at("vol", "/x", &target);
    let standing = host.attach(std::slice::from_ref(&request)).unwrap();
    let before = standing[0].attachment.mount.clone().unwrap();
    host.engine
        .attachments
        .detach(&[key("vol")], false)
        .unwrap();
    for state in [AttachState::Preparing, AttachState::Waiting] {
        host.record(&target, state, None);
        theirs(&target);
        let keys = [key("vol")];
        assert_eq!(host.engine.attachments.detach(&keys, false).unwrap(), keys);
        assert!(is_theirs(&target));
        host.record(&target, state, None);
        is_left_alone(&host, &request, &target);
    }
    // Another boot begins to number anew, so the number can be that of any mount.
    theirs(&target);
    let all = host
        .engine
        .attachments
        .mounter
        .mounts_below(host.disk.path())
        .unwrap();
    let unknown_entry = all.iter().find(|one| one.target == target).unwrap();
    let seen = host
        .engine
        .attachments
        .mounter
        .open_source(&target, Symlinks::Refuse)
        .unwrap();
    let rebooted = MountedAt {
        boot: "another".to_owned(),
        unique_id: unknown_entry.id,
        last_id: unknown_entry.id,
        device: seen.device(),
        inode: seen.inode(),
        ..before
    };
    drop(seen);
    host.record(&target, AttachState::Attached, Some(rebooted));
    is_left_alone(&host, &request, &target);
}

#[test]
fn root_a_failed_attach_takes_nothing_else_away() {
    let host = Host::new();
    let target = host.dir("target");
    theirs(&target);
    host.attach(&[volume_at("vol", "/x", &target)]).unwrap_err();
    assert!(is_theirs(&target));
    assert!(host.keys().is_empty());
}
