//! Default paths: those of the machine, or of the user whose namespace this is.
//!
//! Those of a user hold where layerd runs in a user namespace and XDG_RUNTIME_DIR says where the sockets of
//! the user are, as in a rootless containerd. A container of its own, whose services have no such variable,
//! has the paths of a machine.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use layerd_mounts::user_namespace;

/// Where containerd looks for a proxy's data by itself, so that its disk figures are right.
pub(super) const ROOT: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.layerd";
const SOCKET: &str = "/run/layerd/layerd.sock";
/// Where containerd is by default.
const CONTAINERD: &str = "/run/containerd/containerd.sock";
const CONTAINERD_ROOT: &str = "/var/lib/containerd";
const DOCKER_API: &str = "/run/docker.sock";

/// Paths that hold where nothing else is said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) root: PathBuf,
    pub(super) socket: PathBuf,
    /// containerd's API, and its root directory.
    pub(super) containerd: PathBuf,
    pub(super) containerd_root: PathBuf,
    /// dockerd's API.
    pub(super) docker_api: PathBuf,
    /// The configuration, read if it is there; none where it has to be named.
    pub(super) config: Option<PathBuf>,
}

impl Places {
    /// Those of this process.
    pub(super) fn new() -> Self {
        match user_namespace::current() {
            Some(_) => Self::of_user(&|name| env::var_os(name)),
            None => Self::of_machine(),
        }
    }

    fn of_machine() -> Self {
        Self {
            root: ROOT.into(),
            socket: SOCKET.into(),
            containerd: CONTAINERD.into(),
            containerd_root: CONTAINERD_ROOT.into(),
            docker_api: DOCKER_API.into(),
            config: None,
        }
    }

    /// As the XDG base directory specification has them, which passes over relative paths.
    fn of_user(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name| {
            let given = variable(name).map(PathBuf::from);
            given.filter(|path| path.is_absolute())
        };
        let below =
            |name, usual: &str| absolute(name).or_else(|| Some(absolute("HOME")?.join(usual)));
        let machine = Self::of_machine();
        let Some(runtime) = absolute("XDG_RUNTIME_DIR") else {
            return machine;
        };
        let data = below("XDG_DATA_HOME", ".local/share");
        let below_data = |name, other| match &data {
            Some(data) => data.join(name),
            None => other,
        };
        let config = below("XDG_CONFIG_HOME", ".config");
        Self {
            root: below_data("layerd", machine.root),
            socket: runtime.join("layerd/layerd.sock"),
            containerd: runtime.join("containerd/containerd.sock"),
            containerd_root: below_data("containerd", machine.containerd_root),
            docker_api: runtime.join("docker.sock"),
            config: config.map(|config| config.join("layerd/config.toml")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::Places;

    fn places(given: &[(&str, &str)]) -> Places {
        let find = |name: &str| {
            let found = given.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Places::of_user(&find)
    }

    #[test]
    fn a_user_has_paths_of_its_own() {
        let found = places(&[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(found.root, Path::new("/home/a/.local/share/layerd"));
        assert_eq!(found.socket, Path::new("/run/user/7/layerd/layerd.sock"));
        assert_eq!(found.docker_api, Path::new("/run/user/7/docker.sock"));
        let containerd = Path::new("/run/user/7/containerd/containerd.sock");
        assert_eq!(found.containerd, containerd);
        let data = Path::new("/home/a/.local/share/containerd");
        assert_eq!(found.containerd_root, data);
        let config = Path::new("/home/a/.config/layerd/config.toml");
        assert_eq!(found.config.as_deref(), Some(config));
        let found = places(&[
            ("HOME", "/home/a"),
            ("XDG_RUNTIME_DIR", "/r"),
            ("XDG_DATA_HOME", "/d"),
            ("XDG_CONFIG_HOME", "c"),
        ]);
        assert_eq!(found.root, Path::new("/d/layerd"));
        assert_eq!(found.config.as_deref(), Some(config));
    }

    #[test]
    fn without_a_runtime_directory_they_are_the_machines() {
        for given in [&[][..], &[("HOME", "/root")], &[("XDG_RUNTIME_DIR", "run")]] {
            assert_eq!(places(given), Places::of_machine());
        }
        let found = places(&[("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(found.root, Places::of_machine().root);
        assert_eq!(found.config, None);
    }
}
