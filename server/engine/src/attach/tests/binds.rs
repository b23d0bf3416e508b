//! Sources that hold the daemon's own mounts, lie in its data root, change, or cannot propagate.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::MsFlags;

use super::{Host, bind_onto, key, mount, propagate, tmpfs, umount};
use crate::{Attach, AttachmentEntry, Error, ErrorKind};

fn bind(name: &str, source: &Path, more: &str) -> Attach {
    let source = source.display();
    mount(name, &format!("type=bind,src={source},dst=/x{more}"))
}

fn bind_at(name: &str, source: &Path, target: &Path) -> Attach {
    Attach {
        target: Some(target.to_owned()),
        ..bind(name, source, "")
    }
}

impl Host {
    fn one(&self, request: &Attach) -> Result<AttachmentEntry, Error> {
        let mut all = self.attach(std::slice::from_ref(request))?;
        Ok(all.remove(0))
    }
}

/// Where layerd mounted it.
fn place(entry: &AttachmentEntry) -> &Path {
    Path::new(&entry.attachment.mount.as_ref().unwrap().target)
}

#[test]
fn root_a_source_above_the_data_root_takes_no_own_mounts_along() {
    let host = Host::new();
    let disk = host.disk.path().to_owned();
    host.one(&bind("one", &host.dir("source"), "")).unwrap();
    let before = host.mounts().len();
    for name in ["a", "b", "c"] {
        let entry = host.one(&bind(name, &disk, ",readonly")).unwrap();
        assert!(entry.attachment.mount.is_none(), "the runtime binds it");
        assert_eq!(entry.oci[0].source, disk.to_str().unwrap());
        assert!(entry.oci[0].options.contains(&"rro".to_owned()));
    }
    assert_eq!(host.mounts().len(), before);
    // So it is by way of a symlink, and the runtime is not told of that.
    let link = disk.join("link");
    symlink(&disk, &link).unwrap();
    for name in ["g", "h"] {
        let entry = host.one(&bind(name, &link, "")).unwrap();
        assert_eq!(entry.oci[0].source, disk.to_str().unwrap());
        assert_eq!(host.mounts().len(), before);
    }
    fs::remove_file(&link).unwrap();
    symlink(disk.join("source"), &link).unwrap();
    let entry = host.one(&bind("g", &link, "")).unwrap();
    assert_eq!(entry.oci[0].source, place(&entry).to_str().unwrap());
    host.engine
        .attachments
        .detach(&[key("g"), key("h")], false)
        .unwrap();
    assert_eq!(host.mounts().len(), before);
    // At a path of the host, layerd mounts it.
    for (count, name) in (1..).zip(["d", "e", "f"]) {
        let target = host.dir(name);
        host.one(&bind_at(name, &disk, &target)).unwrap();
        assert_eq!(host.mounts().len(), before + count, "{:?}", host.mounts());
        assert!(target.join("source").is_dir());
    }
    for name in ["d", "e", "f"] {
        let again = bind_at(name, &disk, &disk.join(name));
        host.one(&again).unwrap();
        host.engine.attachments.detach(&[key(name)], false).unwrap();
    }
    host.engine
        .attachments
        .detach(&[key("one")], false)
        .unwrap();
    assert_eq!(host.mounts().len(), 0);
}

#[test]
fn root_sources_in_the_data_root_are_refused() {
    let host = Host::new();
    let root = host.disk.path().join("root");
    let link = host.disk.path().join("link");
    symlink(root.join("meta"), &link).unwrap();
    let alias = host.dir("alias");
    bind_onto(host.disk.path(), &alias);
    let parts = host.aliases();
    fs::create_dir_all(root.join("l/1/sub")).unwrap();
    let inside = [
        root.clone(),
        root.join("meta"),
        root.join("meta/lock"),
        root.join("volumes"),
        root.join("new/one"),
        link,
        alias.join("root/l"),
    ];
    for source in inside.into_iter().chain(parts) {
        let error = host
            .one(&bind("new", &source, ",on-missing=create"))
            .unwrap_err();
        let shown = source.display();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{shown}: {error}");
        assert!(
            error.to_string().contains("-v NAME:PATH"),
            "{shown}: {error}"
        );
    }
    assert!(!root.join("new").exists(), "nothing was made");
    assert!(host.keys().is_empty());
}

#[test]
fn root_what_was_given_out_may_be_bound() {
    let host = Host::new();
    let (volume, alias) = (host.dir("volume"), host.dir("alias"));
    host.one(&super::volume_at("vol", "/v", &volume)).unwrap();
    host.one(&bind("direct", &volume, "")).unwrap();
    bind_onto(&volume, &alias);
    host.one(&bind("alias", &alias, "")).unwrap();
    let target = volume.join("target");
    fs::create_dir(&target).unwrap();
    host.one(&bind_at("inside", &host.dir("source"), &target))
        .unwrap();
}

#[test]
fn root_the_same_attach_sees_that_the_source_changed() {
    let host = Host::new();
    let source = host.dir("source");
    let target = host.dir("target");
    let requests = [bind("own", &source, ""), bind_at("at", &source, &target)];
    host.attach(&requests).unwrap();
    let seen = |name: &str| {
        let all = host.attach(&requests).unwrap();
        all.iter().all(|one| place(one).join(name).exists())
    };
    let ids = |host: &Host| {
        let all = host.attach(&requests).unwrap();
        let ids = all
            .iter()
            .map(|one| one.attachment.mount.as_ref().unwrap().unique_id);
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids(&host), ids(&host), "what did not change is left alone");
    fs::write(host.dir("new").join("new"), "").unwrap();
    fs::rename(&source, host.disk.path().join("old")).unwrap();
    fs::rename(host.disk.path().join("new"), &source).unwrap();
    assert!(seen("new"), "another folder by rename");
    tmpfs(&source);
    fs::write(source.join("disk"), "").unwrap();
    assert!(seen("disk"), "a disk on it");
    let below = host.dir("source/below");
    tmpfs(&below);
    fs::write(below.join("deep"), "").unwrap();
    assert!(seen("below/deep"), "a disk below it");
    assert_eq!(ids(&host), ids(&host));
    umount(&below);
    assert!(!seen("below/deep"), "which went");
    umount(&source);
    assert!(seen("new"));
    host.engine
        .attachments
        .detach(&[key("own"), key("at")], false)
        .unwrap();
    assert_eq!(host.mounts().len(), 0);
}

#[test]
fn root_the_same_attach_sees_that_a_file_or_subpath_was_replaced() {
    let host = Host::new();
    host.one(&mount(
        "make",
        "type=volume,src=vol,dst=/x,on-missing=create",
    ))
    .unwrap();
    let volume = host.volume("vol");
    fs::create_dir(volume.join("sub")).unwrap();
    let file = host.disk.path().join("file");
    fs::write(&file, "old").unwrap();
    let requests = [
        bind("file", &file, ""),
        mount("sub", "type=volume,src=vol,dst=/y,volume-subpath=sub"),
    ];
    let read = || {
        let all = host.attach(&requests).unwrap();
        let text = fs::read_to_string(place(&all[0])).unwrap();
        (text, place(&all[1]).join("new").exists())
    };
    assert_eq!(read(), ("old".to_owned(), false));
    fs::write(host.disk.path().join("other"), "new").unwrap();
    fs::rename(host.disk.path().join("other"), &file).unwrap();
    fs::rename(volume.join("sub"), volume.join("was")).unwrap();
    fs::create_dir(volume.join("sub")).unwrap();
    fs::write(volume.join("sub/new"), "").unwrap();
    assert_eq!(read(), ("new".to_owned(), true));
}

#[test]
fn root_a_source_that_is_gone_is_missing_or_made_and_the_old_mount_stays() {
    let host = Host::new();
    let (strict, lax) = (host.dir("strict"), host.dir("lax"));
    let requests = [
        bind("strict", &strict, ""),
        bind("lax", &lax, ",on-missing=create"),
    ];
    let before: Vec<_> = requests.iter().map(|one| host.one(one).unwrap()).collect();
    fs::remove_dir(&strict).unwrap();
    fs::remove_dir(&lax).unwrap();
    let error = host.one(&requests[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    let mounts = host.mounts();
    assert!(
        mounts.iter().any(|at| at == place(&before[0])),
        "{mounts:?}"
    );
    host.one(&requests[1]).unwrap();
    assert!(lax.is_dir());
    host.attach(&requests).unwrap_err();
    assert_eq!(host.keys(), ["strict", "lax"], "both are held as before");
}

#[test]
fn root_a_private_source_cannot_propagate_to_a_runtime_either() {
    let host = Host::new();
    let source = host.dir("source");
    tmpfs(&source);
    let deep = source.join("not/there");
    let cases = [
        bind("a", &source, ",bind-propagation=rslave"),
        bind("b", &source, ",bind-propagation=shared"),
        bind("c", &deep, ",bind-propagation=rshared,on-missing=create"),
    ];
    for case in &cases {
        let error = host.one(case).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("which is private"), "{error}");
    }
    assert!(!source.join("not").exists(), "nothing was made");
    propagate(&source, MsFlags::MS_SHARED);
    for case in &cases {
        let entry = host.one(case).unwrap();
        assert!(entry.attachment.mount.is_none());
        host.one(case).unwrap();
    }
    propagate(&source, MsFlags::MS_PRIVATE);
    host.one(&cases[0]).unwrap_err();
    assert_eq!(host.keys(), ["a", "b", "c"], "they were acknowledged");
}
