//! Paths of a rootless containerd, which are its user's.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Containerd, invalid};
use crate::address;
use crate::containerd::main_file::{DROP_INS, MAIN, ROOT};
use crate::error::Error;

/// Says how containerd notices a change.
pub(super) fn restart(of_user: bool) -> &'static str {
    match of_user {
        true => "Restart containerd: systemctl --user restart containerd",
        false => "Restart containerd: systemctl restart containerd",
    }
}

impl Containerd {
    /// With `--user`, puts the user's paths where none were named.
    pub(super) fn of_user(self) -> Result<Self, Error> {
        match self.user {
            true => self.in_home(&|name| env::var_os(name)),
            false => Ok(self),
        }
    }

    fn in_home(mut self, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let absolute = |name: &str| {
            let given = variable(name).map(PathBuf::from);
            given.filter(|path| path.is_absolute())
        };
        let missing = |name: &str| {
            invalid(
                format!("--user, and {name} does not name an absolute path"),
                "Run it as the user, in a login session.",
            )
        };
        let below = |name: &str, usual: &str| {
            let home = || absolute("HOME").map(|home| home.join(usual));
            absolute(name).or_else(home).ok_or_else(|| missing("HOME"))
        };
        let config = below("XDG_CONFIG_HOME", ".config")?.join("containerd");
        if self.files.config == Path::new(MAIN) {
            self.files.config = config.join("config.toml");
        }
        if self.files.dir == Path::new(DROP_INS) {
            self.files.dir = config.join("conf.d");
        }
        if self.root == Path::new(ROOT) {
            self.root = below("XDG_DATA_HOME", ".local/share")?.join("layerd");
        }
        if self.socket.is_none() {
            let socket = address::of_user(variable("XDG_RUNTIME_DIR"));
            let socket = socket.ok_or_else(|| missing("XDG_RUNTIME_DIR"))?;
            self.socket = Some(socket.into());
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use clap::Parser;

    use super::Containerd;
    use crate::error::Error;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Containerd,
    }

    fn paths(line: &str, given: &[(&str, &str)]) -> Result<Containerd, Error> {
        let find = |name: &str| {
            let found = given.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Line::parse_from(line.split(' ')).args.in_home(&find)
    }

    #[test]
    fn what_is_not_named_is_the_users() {
        let given = [("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let found = paths("c --user", &given).unwrap();
        let config = Path::new("/home/a/.config/containerd");
        assert_eq!(found.files.config, config.join("config.toml"));
        assert_eq!(found.files.dir, config.join("conf.d"));
        assert_eq!(found.root, Path::new("/home/a/.local/share/layerd"));
        let socket = Path::new("/run/user/7/layerd/layerd.sock");
        assert_eq!(found.socket.as_deref(), Some(socket));
        let found = paths(
            "c --user --root /r --socket /s --config /c.toml --dir /d",
            &given,
        );
        let found = found.unwrap();
        assert_eq!(
            (found.root.to_str(), found.files.dir.to_str()),
            (Some("/r"), Some("/d"))
        );
        assert_eq!(found.files.config, Path::new("/c.toml"));
        assert_eq!(found.socket.as_deref(), Some(Path::new("/s")));
    }

    #[test]
    fn a_session_is_needed_to_know_them() {
        for (given, name) in [
            (&[("XDG_RUNTIME_DIR", "/run")][..], "HOME"),
            (&[("HOME", "/home/a")], "XDG_RUNTIME_DIR"),
            (
                &[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "run")],
                "XDG_RUNTIME_DIR",
            ),
        ] {
            let refused = paths("c --user", given).unwrap_err();
            assert!(refused.describe().to_string().contains(name), "{given:?}");
        }
    }
}
