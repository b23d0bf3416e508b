//! Addresses of sockets on the command line.

use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Socket of a daemon with the default configuration.
const MACHINE: &str = "/run/layerd/layerd.sock";

/// Socket where none is named: that of this user's rootless daemon, if there is one, else the machine's.
pub(crate) fn usual() -> &'static str {
    static USUAL: OnceLock<String> = OnceLock::new();
    USUAL.get_or_init(|| {
        let own = of_user(std::env::var_os("XDG_RUNTIME_DIR"));
        let is_there = |path: &String| {
            let found = std::fs::metadata(path);
            found.is_ok_and(|found| found.file_type().is_socket())
        };
        own.filter(is_there).unwrap_or_else(|| MACHINE.to_owned())
    })
}

/// Socket of a rootless daemon of the user with this XDG_RUNTIME_DIR.
pub(crate) fn of_user(runtime: Option<OsString>) -> Option<String> {
    let runtime = runtime.filter(|runtime| Path::new(runtime).is_absolute())?;
    let path = Path::new(&runtime).join("layerd/layerd.sock");
    path.into_os_string().into_string().ok()
}

/// Accepts a path, or a path after `unix://`.
pub(crate) fn parse(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://").unwrap_or(text) {
        "" => Err("the path of a socket is wanted".to_owned()),
        path if path.contains("://") => Err("only unix sockets are served".to_owned()),
        path => Ok(PathBuf::from(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::{of_user, parse};
    use std::path::PathBuf;

    #[test]
    fn a_users_socket_is_below_its_runtime_directory() {
        let of = |text: &str| of_user(Some(text.into()));
        let socket = "/run/user/7/layerd/layerd.sock";
        assert_eq!(of("/run/user/7").as_deref(), Some(socket));
        assert_eq!(of("run"), None);
        assert_eq!(of_user(None), None);
    }

    #[test]
    fn addresses_are_paths() {
        assert_eq!(
            parse("unix:///run/x.sock"),
            Ok(PathBuf::from("/run/x.sock"))
        );
        assert_eq!(parse("/run/x.sock"), Ok(PathBuf::from("/run/x.sock")));
        assert!(parse("").is_err());
        assert!(parse("unix://").is_err());
        assert!(parse("tcp://1.2.3.4").is_err());
    }
}
