//! `z` and `Z`, with a policy of the test's own: the kernel keeps the labels without SELinux, too.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use layerd_spec::{Dialect, ParseRequest, parse};

use super::super::selinux::Selinux;
use super::{Host, mount};
use crate::{Attach, ErrorKind};

const CONTAINER: &str = "system_u:object_r:container_file_t:s0:c1,c2";

fn label_of(path: &Path) -> String {
    let fd = fs::File::open(path.parent().unwrap()).unwrap();
    let name = format!(
        "/proc/self/fd/{}/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        path.file_name().unwrap().to_str().unwrap()
    );
    let mut value = [0_u8; 256];
    match rustix::fs::lgetxattr(name.as_str(), "security.selinux", &mut value[..]) {
        Ok(length) => String::from_utf8(value[..length - 1].to_vec()).unwrap(),
        Err(_) => String::new(),
    }
}

/// A host whose policy labels files of containers `container_file_t`.
fn selinux_host() -> Host {
    let mut host = Host::new();
    let policy = host.dir("policy/contexts");
    let contexts = "process = \"x:y:z:s0\"\nfile = \"system_u:object_r:container_file_t:s0:c9\"\n";
    fs::write(policy.join("lxc_contexts"), contexts).unwrap();
    host.engine.attachments.selinux = Selinux {
        policy: Some(host.dir("policy")),
    };
    host
}

fn labelled(mut attach: Attach) -> Attach {
    attach.selinux_label = Some(CONTAINER.to_owned());
    attach
}

#[test]
fn root_content_gets_the_label_that_was_asked_for() {
    let host = selinux_host();
    let deep = host.dir("host/a/b");
    fs::write(deep.join("file"), "").unwrap();
    symlink("/etc", deep.join("link")).unwrap();
    let inner = host.dir("host/mounted");
    nix::mount::mount(
        Some("inner"),
        &inner,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let source = host.dir("host");
    let bind = |key: &str, more: &str| {
        let source = source.display();
        mount(key, &format!("type=bind,src={source},dst=/{key}{more}"))
    };
    host.attach(&[bind("none", "")]).unwrap();
    let all = [
        source.clone(),
        deep.clone(),
        deep.join("file"),
        deep.join("link"),
    ];
    let labels = || all.iter().map(|path| label_of(path)).collect::<Vec<_>>();
    assert_eq!(labels(), [""; 4]);
    let shared = "system_u:object_r:container_file_t:s0";
    host.attach(&[bind("policy", ",relabel=shared")]).unwrap();
    assert_eq!(labels(), [shared; 4]);
    host.attach(&[labelled(bind("private", ",relabel=private"))])
        .unwrap();
    assert_eq!(labels(), [CONTAINER; 4]);
    host.attach(&[labelled(bind("shared", ",relabel=shared"))])
        .unwrap();
    assert_eq!(labels(), [shared; 4]);
    assert_eq!(label_of(&inner), "", "mounts inside are not entered");
    assert_eq!(label_of(Path::new("/etc")), "", "nor symlinks followed");
    let volume = mount(
        "v",
        "type=volume,src=data,dst=/x,on-missing=create,relabel=shared",
    );
    let one = host.attach(&[volume]).unwrap().remove(0);
    assert_eq!(label_of(&host.volume("data")), shared);
    assert!(one.notes.is_empty());
}

#[test]
fn root_labels_that_cannot_be_set_are_refused() {
    let host = selinux_host();
    let volume = mount(
        "k",
        "type=volume,src=data,dst=/x,on-missing=create,relabel=private",
    );
    let mut bad = labelled(volume.clone());
    bad.selinux_label = Some("container_file_t".to_owned());
    let etc = mount("k", "type=bind,src=/etc,dst=/x,relabel=shared");
    let at = host.dir("alias");
    super::bind_onto(Path::new("/etc"), &at);
    let at = at.display();
    let alias = mount("k", &format!("type=bind,src={at},dst=/x,relabel=shared"));
    for (attach, why) in [
        (volume, "needs the container's label"),
        (
            bad,
            "selinux_label: \"container_file_t\" is not USER:ROLE:TYPE:LEVEL",
        ),
        (etc, "/etc is /etc of the host"),
        (alias, "is /etc of the host"),
    ] {
        let refused = host.attach(&[attach]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains(why), "{refused}");
        assert_eq!(host.keys(), [""; 0]);
    }
}

#[test]
fn root_where_selinux_is_off_that_is_told() {
    let mut host = Host::new();
    host.engine.attachments.selinux = Selinux::default();
    let volume = mount(
        "k",
        "type=volume,src=data,dst=/x,on-missing=create,relabel=private",
    );
    let one = host.attach(&[volume]).unwrap().remove(0);
    assert!(one.notes[0].contains("SELinux is off"), "{:?}", one.notes);
    assert_eq!(label_of(&host.volume("data")), "");
    // Docker's grammar gives it to volumes that nothing is said of.
    let check = |dialect, flag: &str| {
        let request = ParseRequest {
            dialect,
            volume_flags: vec![flag.to_owned()],
            ..ParseRequest::default()
        };
        let spec = parse(&request).unwrap().remove(0);
        host.engine.attachments.label_note(&spec).is_some()
    };
    for dialect in [Dialect::Strict, Dialect::Docker] {
        assert!(check(dialect, "data:/y:z") && check(dialect, "data:/y:Z"));
        assert!(!check(dialect, "data:/y"));
    }
    for by_dialect in [true, false] {
        let shared = "type=volume,src=data,dst=/y,on-missing=create,relabel=shared";
        let request = Attach {
            relabel_by_dialect: by_dialect,
            ..mount(&format!("shared {by_dialect}"), shared)
        };
        let one = host.attach(&[request]).unwrap().remove(0);
        assert_eq!(one.notes.is_empty(), by_dialect, "{:?}", one.notes);
    }
}
