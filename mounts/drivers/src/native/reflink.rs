//! Check that files of a directory can share blocks (reflink).

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use layerd_mounts::Error;
use rustix::fs::ioctl_ficlone;
use rustix::io::Errno;

use crate::finding::Finding;

/// Tries it with two files without names. A full disk does not count.
pub(super) fn check(root: &Path) -> Result<Finding, Error> {
    const NAME: &str = "copies";
    let nameless = || {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_TMPFILE)
            .open(root)
    };
    let copied = |why: &str| Finding::good(NAME, format!("whole: {why}"));
    let (mut from, to) = match (nameless(), nameless()) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(cause), _) | (_, Err(cause)) => return Ok(copied(&cause.to_string())),
    };
    if let Err(cause) = from.write_all(&[1; 4096]) {
        return Ok(copied(&cause.to_string()));
    }
    Ok(match ioctl_ficlone(&to, &from) {
        Ok(()) => Finding::good(NAME, "share their blocks with the original (reflink)"),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {
            copied("the file system cannot share blocks (no reflink)")
        }
        Err(cause) => copied(&cause.to_string()),
    })
}
