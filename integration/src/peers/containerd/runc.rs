//! The runc of Debian's next release, on a machine whose libraries are older than it needs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::Debian;
use crate::process::output;

/// Runs the program `$runc` in a mount namespace that has the libraries of its release in place of the
/// machine's: runc starts itself again by a descriptor, where a loader that was named before is lost.
const WRAPPER: &str = r#"exec unshare --mount --propagation slave -- sh -c \
    'mount --bind "$0" "$1" && shift && exec "$@"' "$libraries" "$place" "$runc" "$@"
"#;

/// Unpacks it below `dir`, and answers the program to call.
pub(super) fn lay(dir: &Path) -> PathBuf {
    let tree = dir.join("runc");
    let packages = fs::read_dir(Debian::Forky.containerd_packages()).expect("it is a directory");
    let mut packages = packages.map(|entry| entry.expect("it can be read").path());
    let is_runc = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"runc_"))
    };
    let package = packages.find(is_runc).expect("containerd needs runc");
    output(Command::new("dpkg").arg("-x").arg(package).arg(&tree));
    let place = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let libraries = Debian::Forky.tree().join(&place[1..]);
    let text = format!(
        "#!/bin/sh\nlibraries='{}'\nplace={place}\nrunc='{}'\n{WRAPPER}",
        libraries.display(),
        tree.join("usr/sbin/runc").display()
    );
    let program = dir.join("runc.sh");
    fs::write(&program, text).expect("the directory can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    program
}
