//! Repeated calls that fail: what was there before them is there after them.

use std::fs;
use std::path::Path;

use layerd_store::AttachState;

use super::{Attach, Host, Wanted, key, mount, owner, volume_at};
use crate::{ErrorKind, VolumeFilter};

fn bind_at(name: &str, source: &Path, target: &Path) -> Attach {
    let source = source.display();
    Attach {
        target: Some(target.to_owned()),
        ..mount(
            name,
            &format!("type=bind,src={source},dst=/{name},on-missing=create"),
        )
    }
}

fn tmpfs_at(name: &str, target: &Path) -> Attach {
    Attach {
        target: Some(target.to_owned()),
        ..mount(name, &format!("type=tmpfs,dst=/{name}"))
    }
}

impl Host {
    /// Attachments with their states.
    fn states(&self) -> Vec<(String, AttachState)> {
        let all = self.engine.attachments.attachments(None, None).unwrap();
        let state = |one: &crate::AttachmentEntry| {
            let key = one.attachment.key.as_str().to_owned();
            (key, one.state)
        };
        all.iter().map(state).collect()
    }
}

/// Refused as a value that breaks a rule, and nothing changed.
fn refused_unchanged(host: &Host, request: &Attach) {
    let before = (host.mounts(), host.states());
    let refused = host.attach(std::slice::from_ref(request)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert_eq!((host.mounts(), host.states()), before, "{refused}");
}

#[test]
fn root_a_source_of_another_kind_leaves_the_old_mount() {
    let host = Host::new();
    let (file, folder) = (host.disk.path().join("file"), host.dir("folder"));
    fs::write(&file, "old").unwrap();
    fs::write(folder.join("old"), "").unwrap();
    let (on_file, on_folder) = (host.disk.path().join("on-file"), host.dir("on-folder"));
    fs::write(&on_file, "").unwrap();
    let of_file = bind_at("file", &file, &on_file);
    let of_folder = bind_at("folder", &folder, &on_folder);
    host.attach(&[of_file.clone(), of_folder.clone()]).unwrap();
    fs::remove_file(&file).unwrap();
    refused_unchanged(&host, &of_file);
    assert!(!file.exists(), "no folder was made in its place");
    fs::create_dir(&file).unwrap();
    refused_unchanged(&host, &of_file);
    fs::rename(&folder, host.disk.path().join("moved")).unwrap();
    fs::write(&folder, "").unwrap();
    refused_unchanged(&host, &of_folder);
    assert_eq!(fs::read(&on_file).unwrap(), b"old");
    assert!(on_folder.join("old").exists());
}

#[test]
fn root_a_failed_repeat_puts_back_what_it_took_away() {
    let host = Host::new();
    let (source, outer) = (host.dir("source"), host.dir("outer"));
    host.dir("source/inner");
    let inner = outer.join("inner");
    let both = [bind_at("outer", &source, &outer), tmpfs_at("inner", &inner)];
    host.attach(&both).unwrap();
    fs::write(inner.join("in-memory"), "").unwrap();
    fs::rename(&source, host.disk.path().join("old")).unwrap();
    fs::write(host.dir("source").join("new"), "").unwrap();
    let (before, states) = (host.mounts(), host.states());
    // The new source has no folder to mount the inner one on.
    host.attach(&both).unwrap_err();
    assert_eq!(
        (host.mounts(), host.states()),
        (before.clone(), states.clone())
    );
    assert!(inner.join("in-memory").exists() && !outer.join("new").exists());
    host.dir("source/inner");
    let late = volume_at("late", "/late", &outer.join("missing"));
    let made = host.disk.path().join("made");
    let gone = mount(
        "gone",
        &format!(
            "type=bind,src={},dst=/gone,on-missing=create",
            made.display()
        ),
    );
    host.attach(std::slice::from_ref(&gone)).unwrap();
    fs::remove_dir(&made).unwrap();
    let all = [both[0].clone(), both[1].clone(), gone, late];
    host.attach(&all).unwrap_err();
    assert_eq!(host.mounts()[..before.len()], before);
    assert_eq!(host.states()[..states.len()], states);
    assert!(inner.join("in-memory").exists() && !outer.join("new").exists());
    assert!(!made.exists(), "made by the failed call");
    host.attach(&both).unwrap();
    assert!(outer.join("new").exists(), "mounted anew");
    assert!(inner.join("in-memory").exists(), "the same tmpfs");
    let keys = ["inner", "outer", "gone"].map(key);
    host.engine.attachments.detach(&keys, false).unwrap();
    assert_eq!(host.mounts().len(), 0);
}

#[test]
fn root_a_failed_repeat_undoes_what_a_crash_left() {
    let mut host = Host::new();
    let path = host.disk.path().join("made/deep");
    let interrupted = [
        mount("volume", "type=volume,src=made,dst=/v,on-missing=create"),
        mount(
            "path",
            &format!("type=bind,src={},dst=/p,on-missing=create", path.display()),
        ),
    ];
    for request in &interrupted {
        let wanted = Wanted::parse(request).unwrap();
        host.engine.attachments.intend(&owner(), &wanted).unwrap();
    }
    host.reopen();
    assert_eq!(host.keys(), ["volume", "path"]);
    assert!(path.is_dir());
    let [volume, bind] = interrupted;
    let bad = mount("bad", "type=volume,src=none,dst=/x");
    host.attach(&[volume, bind, bad]).unwrap_err();
    assert_eq!(host.keys(), [""; 0]);
    assert_eq!(
        host.engine.volumes.volumes(&VolumeFilter::default()).len(),
        0
    );
    assert!(!host.disk.path().join("made").exists());
}

#[test]
fn root_a_failed_repeat_keeps_what_is_used_by_now() {
    let mut host = Host::new();
    let request = mount("volume", "type=volume,src=made,dst=/v,on-missing=create");
    let wanted = Wanted::parse(&request).unwrap();
    host.engine.attachments.intend(&owner(), &wanted).unwrap();
    host.reopen();
    fs::write(host.volume("made").join("file"), "").unwrap();
    let bad = mount("bad", "type=volume,src=none,dst=/x");
    host.attach(&[request.clone(), bad]).unwrap_err();
    assert!(host.volume("made").join("file").exists());
    host.attach(&[request]).unwrap();
    assert_eq!(host.keys(), ["volume"]);
}

#[test]
fn root_a_mount_that_is_in_use_by_then_stays_known() {
    let host = Host::new();
    let (source, target) = (host.dir("source"), host.dir("target"));
    let request = bind_at("one", &source, &target);
    host.attach(std::slice::from_ref(&request)).unwrap();
    fs::rename(&source, host.disk.path().join("old")).unwrap();
    host.dir("source");
    let wanted = [Wanted::parse(&request).unwrap()];
    let mut removed = host.engine.attachments.unmount_stale(&wanted).unwrap();
    host.engine
        .attachments
        .attach_one(&owner(), &wanted[0], &mut removed)
        .unwrap();
    let user = fs::File::open(&target).unwrap();
    host.engine.attachments.put_back(removed);
    assert_eq!(host.states(), [("one".to_owned(), AttachState::Attached)]);
    drop(user);
    host.engine
        .attachments
        .detach(&[key("one")], false)
        .unwrap();
    assert_eq!(host.mounts().len(), 0, "none is left behind");
}

/// The life of a tmpfs, as docs/volumes.md has it.
#[test]
fn root_a_tmpfs_lives_as_long_as_its_mount() {
    let mut host = Host::new();
    let (one, two) = (host.dir("one"), host.dir("two"));
    let both = [tmpfs_at("one", &one), tmpfs_at("two", &two)];
    host.attach(&both).unwrap();
    fs::write(one.join("in-memory"), "kept").unwrap();
    assert!(!two.join("in-memory").exists(), "each has its own");
    let before = host.mounts();
    host.attach(&both).unwrap();
    assert_eq!(fs::read(one.join("in-memory")).unwrap(), b"kept");
    // The mount is the kernel's, and not the process's.
    host.reopen();
    host.attach(&both).unwrap();
    assert_eq!(fs::read(one.join("in-memory")).unwrap(), b"kept");
    assert_eq!(host.mounts(), before);
    super::umount(&one);
    host.attach(&both).unwrap();
    assert_eq!(host.mounts().len(), 2);
    assert_eq!(fs::read_dir(&one).unwrap().count(), 0, "a new one");
    fs::write(one.join("in-memory"), "gone").unwrap();
    let keys = ["one", "two"].map(key);
    host.engine.attachments.detach(&keys, false).unwrap();
    host.attach(&both).unwrap();
    assert_eq!(fs::read_dir(&one).unwrap().count(), 0, "a new one");
    host.engine.attachments.detach(&keys, false).unwrap();
    assert_eq!(host.mounts().len(), 0);
}

/// A kill takes the descriptors of the process along, and no mounts.
#[test]
fn root_a_tmpfs_outlives_a_kill_while_what_it_stands_in_is_mounted_anew() {
    let mut host = Host::new();
    let (source, outer) = (host.dir("source"), host.dir("outer"));
    host.dir("source/inner");
    let inner = outer.join("inner");
    let both = [bind_at("outer", &source, &outer), tmpfs_at("inner", &inner)];
    host.attach(&both).unwrap();
    fs::write(inner.join("in-memory"), "kept").unwrap();
    fs::rename(&source, host.disk.path().join("old")).unwrap();
    host.dir("source/inner");
    let wanted = both.each_ref().map(|one| Wanted::parse(one).unwrap());
    drop(host.engine.attachments.unmount_stale(&wanted).unwrap());
    assert!(!inner.exists(), "both are unmounted");
    host.reopen();
    // Its place is missing: a call that fails meanwhile does not end it.
    fs::remove_dir(source.join("inner")).unwrap();
    host.attach(&both).unwrap_err();
    host.dir("source/inner");
    host.attach(&both).unwrap();
    assert_eq!(fs::read(inner.join("in-memory")).unwrap(), b"kept");
    assert_eq!(host.mounts().len(), 2, "nothing stays set aside");

    // Killed once more, after it was put back.
    let view = host.engine.root.store.records();
    let there = view.volumes().attachment(&key("inner")).unwrap();
    let mount = there.mount.as_ref().unwrap();
    assert!(host.engine.attachments.set_aside(there, mount).unwrap());
    drop(view);
    host.reopen();
    assert_eq!(host.mounts().len(), 3);
    host.attach(&both).unwrap();
    assert_eq!(host.mounts().len(), 2);
    super::umount(&inner);
    host.attach(&both).unwrap();
    assert_eq!(fs::read_dir(&inner).unwrap().count(), 0, "a new one");
    let keys = ["inner", "outer"].map(key);
    host.engine.attachments.detach(&keys, false).unwrap();
    assert_eq!(host.mounts().len(), 0);
}

/// Where there is no journal, a power cut may leave a name with what had its inode before.
#[test]
fn root_what_has_the_name_of_an_own_mount_point_is_not_written_through() {
    let host = Host::new();
    let (file, other) = (
        host.disk.path().join("file"),
        host.disk.path().join("other"),
    );
    fs::write(&file, "source").unwrap();
    fs::write(&other, "another's").unwrap();
    let own = host.dir("root/mnt");
    for id in 0..64 {
        let name = own.join(id.to_string());
        match id % 2 {
            0 => std::os::unix::fs::symlink(&other, name).unwrap(),
            _ => nix::unistd::mkfifo(&name, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
    }
    let bind = |name: &str| mount(name, &format!("type=bind,src={},dst=/f", file.display()));
    let made = host.attach(&[bind("one"), bind("two")]).unwrap();
    for entry in &made {
        let shown = own.join(entry.attachment.id.to_string());
        assert_eq!(fs::read(shown).unwrap(), b"source");
    }
    assert_eq!(fs::read(&other).unwrap(), b"another's");
    let keys = ["one", "two"].map(key);
    host.engine.attachments.detach(&keys, false).unwrap();
    assert_eq!(host.mounts().len(), 0);
}
