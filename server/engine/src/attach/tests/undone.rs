//! A failed call removes the things it made, and no others.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use layerd_store::VolumeName;

use super::super::Wanted;
use super::{Host, key, mount, owner, volume_at};
use crate::{Attach, VolumeFilter};

fn volumes(host: &Host, deleted: bool) -> Vec<String> {
    let filter = VolumeFilter {
        deleted,
        ..VolumeFilter::default()
    };
    let all = host.engine.volumes.volumes(&filter);
    all.iter().map(|one| one.volume.name.to_string()).collect()
}

/// Two mounts, the second of which fails when it is mounted: its target is missing in the first.
fn failing(host: &Host) -> [Attach; 2] {
    let outer = host.dir("outer");
    [
        volume_at("outer", "/o", &outer),
        volume_at("late", "/l", &outer.join("missing")),
    ]
}

fn bind(key: &str, source: &Path) -> Attach {
    let source = source.display();
    mount(
        key,
        &format!("type=bind,src={source},dst=/{key},on-missing=create"),
    )
}

#[test]
fn root_a_failed_call_leaves_nothing_that_it_made() {
    let host = Host::new();
    let [outer, late] = failing(&host);
    let path = host.disk.path().join("new/er/est");
    let before = fs::read_dir(host.disk.path()).unwrap().count();
    let plain = mount("plain", "type=volume,src=plain,dst=/x,on-missing=create");
    let anonymous = mount("anonymous", "type=volume,dst=/y");
    let mut file = bind("file", &host.disk.path().join("some/file"));
    file.mount = file
        .mount
        .replace("on-missing=create", "bind-create-src=file");
    let all = [anonymous, plain, bind("dir", &path), file, outer, late];
    for _ in 0..2 {
        let refused = host.attach(&all).unwrap_err();
        assert!(refused.to_string().contains("missing"), "{refused}");
        assert_eq!(host.keys(), [""; 0]);
        assert_eq!(volumes(&host, false), [""; 0]);
        assert_eq!(volumes(&host, true), [""; 0], "nor in the trash");
        assert_eq!(fs::read_dir(host.disk.path()).unwrap().count(), before);
    }
    let strict = mount("strict", "type=volume,src=late,dst=/x");
    host.attach(&[strict]).unwrap_err();
}

#[test]
fn root_what_is_refused_in_advance_is_not_made() {
    let host = Host::new();
    let file = host.disk.path().join("file");
    fs::write(&file, "").unwrap();
    let of = |key: &str| format!("type=volume,src={key},dst=/{key},on-missing=create");
    let new = mount("new", &of("new"));
    let bad_fill = Attach {
        fill_from: Some(key("no image")),
        ..mount("other", &of("other"))
    };
    for bad in [
        volume_at("other", "/x", &file),
        bad_fill,
        mount("other", &(of("other") + ",volume-subpath=sub")),
    ] {
        host.attach(&[new.clone(), bad]).unwrap_err();
        assert_eq!(
            (volumes(&host, false), volumes(&host, true)),
            (vec![], vec![])
        );
        assert_eq!(host.keys(), [""; 0]);
    }
}

/// Makes the source of a mount for an intent, lets something happen, and takes both back.
fn taken_back(host: &Host, attach: &Attach, filled: bool, meanwhile: impl Fn()) {
    let attachments = &host.engine.attachments;
    let wanted = Wanted::parse(attach).unwrap();
    let (attachment, made) = attachments.intend(&owner(), &wanted).unwrap();
    assert!(made.is_some());
    meanwhile();
    attachments.forget_intent(&attachment, &made, filled);
}

#[test]
fn root_a_volume_that_is_used_meanwhile_stays() {
    let host = Host::new();
    let new = mount("new", "type=volume,src=new,dst=/x,on-missing=create");
    let write = || fs::write(host.volume("new").join("file"), "").unwrap();
    taken_back(&host, &new, false, || {});
    assert_eq!(volumes(&host, false), [""; 0]);
    taken_back(&host, &new, false, write);
    assert_eq!(volumes(&host, false), ["new"]);
    fs::remove_file(host.volume("new").join("file")).unwrap();
    let name = VolumeName::parse("name", "new").unwrap();
    host.engine.volumes.delete_volume(&name).unwrap();
    let other = mount("other", "type=volume,src=new,dst=/x,on-missing=create");
    taken_back(&host, &new, false, || {
        drop(host.attach(std::slice::from_ref(&other)).unwrap())
    });
    assert_eq!(volumes(&host, false), ["new"]);
    host.engine
        .attachments
        .detach(&[key("other")], false)
        .unwrap();
    host.engine.volumes.delete_volume(&name).unwrap();
    taken_back(&host, &new, true, write);
    assert_eq!(volumes(&host, false), [""; 0]);
    assert_eq!(
        volumes(&host, true),
        ["new"; 3],
        "what was filled can be had back"
    );
}

#[test]
fn root_a_path_of_the_host_that_is_used_meanwhile_stays() {
    let host = Host::new();
    let (parent, path) = (
        host.disk.path().join("new"),
        host.disk.path().join("new/er"),
    );
    let new = bind("k", &path);
    taken_back(&host, &new, false, || {});
    assert!(!parent.exists());
    taken_back(&host, &new, false, || {
        fs::write(parent.join("file"), "").unwrap()
    });
    assert!(parent.exists() && !path.exists());
    fs::remove_file(parent.join("file")).unwrap();
    fs::remove_dir(&parent).unwrap();
    let inode = std::cell::Cell::new(0);
    taken_back(&host, &new, false, || {
        fs::rename(&path, host.disk.path().join("moved")).unwrap();
        fs::create_dir(&path).unwrap();
        inode.set(fs::metadata(&path).unwrap().ino());
    });
    assert_eq!(
        fs::metadata(&path).unwrap().ino(),
        inode.get(),
        "another one"
    );
    fs::remove_dir(&path).unwrap();
    fs::remove_dir(&parent).unwrap();
    taken_back(&host, &new, false, || {
        drop(host.attach(&[bind("other", &path)]).unwrap())
    });
    assert!(path.exists(), "held by another attachment");
    host.engine
        .attachments
        .detach(&[key("other")], false)
        .unwrap();
    fs::remove_dir(&path).unwrap();
    fs::remove_dir(&parent).unwrap();
    let link = host.disk.path().join("link");
    std::os::unix::fs::symlink(&parent, &link).unwrap();
    for above in [&parent, &link] {
        taken_back(&host, &new, false, || {
            drop(host.attach(&[bind("other", above)]).unwrap())
        });
        assert!(!path.exists(), "it is free");
        assert!(parent.exists(), "held by way of {}", above.display());
        host.engine
            .attachments
            .detach(&[key("other")], false)
            .unwrap();
        fs::remove_dir(&parent).unwrap();
    }
}
