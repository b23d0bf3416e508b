//! Configuration of containerd's CRI.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Version;

/// The tables of the CRI and of NRI. A pod is not protected from a lack of memory: the tests may not have the
/// right to.
pub(super) fn tables(version: Version, dir: &Path, pause: &str) -> String {
    let dir = dir.display();
    let server = "disable_tcp_service = true\nstream_server_port = \"0\"\n";
    let network = format!("bin_dir = \"{dir}/cni\"\nconf_dir = \"{dir}/cni\"\n");
    let cri = match version {
        Version::V1_6 | Version::V1_7 => format!(
            r#"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
{server}
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "layerd"
[plugins."io.containerd.grpc.v1.cri".cni]
{network}"#
        ),
        Version::V2_1 => format!(
            r#"
[plugins."io.containerd.grpc.v1.cri"]
{server}
[plugins."io.containerd.cri.v1.images"]
snapshotter = "layerd"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
{network}"#
        ),
    };
    format!(
        r#"{cri}
[plugins."io.containerd.nri.v1.nri"]
disable = false
disable_connections = false
plugin_config_path = "{dir}/nri/conf.d"
plugin_path = "{dir}/nri/plugins"
socket_path = "{dir}/nri.sock"
"#
    )
}

/// More tables, for pods with user namespaces. The program `runc` maps their mounts.
pub(super) fn mapping(runc: &Path) -> String {
    format!(
        r#"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{}"
"#,
        runc.display()
    )
}

/// A plugin of CNI that makes no network, and says that it did: pods with a user namespace cannot have the
/// host's.
const PLUGIN: &str = r#"#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
ADD)
    cat <<END
{"cniVersion":"1.0.0","interfaces":[{"name":"$CNI_IFNAME","sandbox":"$CNI_NETNS"}],
"ips":[{"address":"192.0.2.7/24","interface":0}]}
END
    ;;
esac
"#;

/// Makes the network of pods where [`tables`] has containerd look for it.
pub(super) fn write_network(dir: &Path) {
    let dir = dir.join("cni");
    fs::create_dir_all(&dir).expect("the directory can be written");
    let plugin = dir.join("none");
    fs::write(&plugin, PLUGIN).expect("the directory can be written");
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    // containerd has each network namespace given a loopback interface.
    symlink("none", dir.join("loopback")).expect("the directory can be written");
    let list = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"none"}]}"#;
    fs::write(dir.join("none.conflist"), list).expect("the directory can be written");
}

/// Where the library of CNI keeps what it knows of networks, whatever it is told.
const CACHE: &str = "/var/lib/cni";

/// A file system at [`CACHE`] in the mount namespace of this thread. The machine keeps nothing of it.
#[derive(Debug)]
pub(super) struct OwnCache {
    is_made: bool,
}

impl OwnCache {
    pub(super) fn new() -> Self {
        let is_made = match fs::create_dir(CACHE) {
            Ok(()) => true,
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => false,
            Err(cause) => panic!("make {CACHE}: {cause}"),
        };
        let none = None::<&str>;
        mount(Some("tmpfs"), CACHE, Some("tmpfs"), MsFlags::empty(), none)
            .expect("a tmpfs can be had");
        Self { is_made }
    }
}

impl Drop for OwnCache {
    fn drop(&mut self) {
        // Fails if another thread drops it; then the file system goes with the namespace.
        let _ = umount2(CACHE, MntFlags::MNT_DETACH);
        if self.is_made {
            let _ = fs::remove_dir(CACHE);
        }
    }
}
