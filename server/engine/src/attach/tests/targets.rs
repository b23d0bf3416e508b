//! Targets that would hide what layerd needs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Host, bind_onto, mount, volume_at};
use crate::{Attach, ErrorKind, Options};

impl Host {
    /// Parts of the data root that are bound elsewhere, one of them a disk of its own.
    pub(super) fn aliases(&self) -> Vec<PathBuf> {
        let root = self.disk.path().join("root");
        fs::create_dir_all(root.join("l/1/sub")).unwrap();
        fs::create_dir_all(root.join("lost")).unwrap();
        super::tmpfs(&root.join("lost"));
        fs::create_dir(root.join("lost/inner")).unwrap();
        let parts = ["meta", "l/1", "l/1/sub", "volumes", "lost", "lost/inner"];
        let mut aliases = Vec::new();
        for (number, part) in parts.into_iter().enumerate() {
            let alias = self.dir(&format!("alias-{number}"));
            bind_onto(&root.join(part), &alias);
            aliases.push(alias);
        }
        let file = self.disk.path().join("alias-file");
        fs::write(&file, "").unwrap();
        bind_onto(&root.join("meta/lock"), &file);
        aliases.push(file);
        aliases.push(self.disk.path().join("alias-1/sub"));
        aliases
    }

    /// Refused as a value that breaks a rule, and nothing was made.
    fn refuses(&self, target: &Path, why: &str) {
        let before = self.mounts();
        let error = self.attach(&[volume_at("new", "/x", target)]).unwrap_err();
        let shown = target.display();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{shown}: {error}");
        assert!(error.to_string().contains(why), "{shown}: {error}");
        assert_eq!(self.mounts(), before, "{shown}");
        assert!(self.keys().is_empty(), "{shown}");
        let volumes = self.engine.volumes.volumes(&crate::VolumeFilter::default());
        assert_eq!(volumes.len(), 0, "{shown}");
    }
}

#[test]
fn root_targets_that_hide_layerd_s_own_files_are_refused() {
    let host = Host::with(|disk| Options {
        socket: Some(disk.join("run/layerd/layerd.sock")),
        ..Options::default()
    });
    let disk = host.disk.path().to_owned();
    fs::write(host.dir("run/layerd").join("layerd.sock"), "").unwrap();
    let root = disk.join("root");
    fs::create_dir_all(root.join("l/1")).unwrap();
    host.dir("beside");
    host.refuses(Path::new("/"), "root directory");
    host.refuses(&disk, "holds layerd's data directory");
    host.refuses(&disk.join("beside/.."), "holds layerd's data directory");
    for inner in ["", "meta", "l", "l/1", "volumes", "volumes/by-name"] {
        host.refuses(&root.join(inner), "lies in layerd's data directory");
    }
    host.refuses(&disk.join("beside/../root/./meta"), "lies in layerd's data");
    for holder in ["run", "run/layerd", "run/layerd/layerd.sock"] {
        host.refuses(&disk.join(holder), "holds layerd's socket");
    }
    symlink(&root, disk.join("link")).unwrap();
    host.refuses(&disk.join("link/meta"), "symlink");
    let alias = host.dir("alias");
    bind_onto(&disk, &alias);
    host.refuses(&alias.join("root/meta"), "lies in layerd's data directory");
    host.refuses(&alias.join("root"), "lies in layerd's data directory");
    for alias in host.aliases() {
        host.refuses(&alias, "lies in layerd's data directory");
    }
    // A bind of the host takes the aliases along, and its own mount is an attachment's.
    let whole = host.dir("beside/whole");
    let everything = Attach {
        target: Some(whole.clone()),
        ..mount("whole", &format!("type=bind,src={},dst=/x", disk.display()))
    };
    host.attach(&[everything]).unwrap();
    for alias in ["alias-0", "alias-1/sub", "alias-5"] {
        let error = host.attach(&[volume_at("new", "/x", &whole.join(alias))]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("lies in layerd's data directory"), "{error}");
    }
    host.engine
        .attachments
        .detach(&[super::key("whole")], false)
        .unwrap();
    let beside = disk.join("beside");
    host.attach(&[volume_at("good", "/x", &beside)]).unwrap();
    let inside = host.dir("run/layerd/inside");
    host.attach(&[volume_at("fine", "/x", &inside)]).unwrap();
    let not_utf8: PathBuf = std::ffi::OsStr::new("relative").into();
    host.attach(&[volume_at("new", "/x", &not_utf8)])
        .unwrap_err();
}

#[test]
fn root_a_target_above_another_attachment_is_refused() {
    let host = Host::new();
    let (outer, inner) = (host.dir("outer"), host.dir("outer/inner"));
    host.attach(&[volume_at("inner", "/x", &inner)]).unwrap();
    let error = host
        .attach(&[volume_at("outer", "/y", &outer)])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let said = error.to_string();
    assert!(
        said.contains("\"inner\"") && said.contains("outer/inner"),
        "{said}"
    );
    host.engine
        .attachments
        .detach(&[super::key("inner")], false)
        .unwrap();
    host.attach(&[volume_at("outer", "/y", &outer)]).unwrap();
}

#[test]
fn root_a_mount_does_not_receive_itself() {
    let host = Host::new();
    let shared = host.dir("shared");
    super::tmpfs(&shared);
    super::propagate(&shared, nix::mount::MsFlags::MS_SHARED);
    let target = host.dir("shared/target");
    let source = shared.display();
    let attach = |propagation: &str| Attach {
        target: Some(target.clone()),
        ..mount(
            propagation,
            &format!("type=bind,src={source},dst=/x,bind-propagation={propagation}"),
        )
    };
    for propagation in ["rslave", "shared"] {
        let error = host.attach(&[attach(propagation)]).unwrap_err();
        assert!(error.to_string().contains("receive itself"), "{error}");
    }
    host.attach(&[attach("rprivate")]).unwrap();
    assert_eq!(host.mounts().len(), 2);
}
