//! Files of the host that belong to others: a FIFO or a device in the place of one is not waited for.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

/// Largest content, in bytes.
const SIZE_MAX: u64 = 64 * 1024 * 1024;

/// Content of a file, symlinks followed.
///
/// # Errors
/// Those of open(2) and read(2); [`io::ErrorKind::InvalidData`] for what is no regular file, or larger than
/// 64 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        let refused = "it is no regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidData, refused));
    }
    let mut content = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut content)?;
    match u64::try_from(content.len()) {
        Ok(0..=SIZE_MAX) => Ok(content),
        _ => {
            let refused = format!("it has over {SIZE_MAX} bytes");
            Err(io::Error::new(io::ErrorKind::InvalidData, refused))
        }
    }
}

/// The same, of text.
///
/// # Errors
/// As for [`read`]; [`io::ErrorKind::InvalidData`] for what is no UTF-8.
pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let [fifo, file, link] = ["fifo", "file", "link"].map(|name| folder.path().join(name));
        mkfifo(&fifo, Mode::S_IRUSR).unwrap();
        for path in [&fifo, folder.path(), Path::new("/dev/zero")] {
            let cause = read(path).unwrap_err();
            assert_eq!(cause.kind(), io::ErrorKind::InvalidData, "{cause}");
        }
        fs::write(&file, "text").unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(read_to_string(&link).unwrap(), "text");
        let large = fs::File::create(folder.path().join("large")).unwrap();
        large.set_len(super::SIZE_MAX + 1).unwrap();
        let cause = read(&folder.path().join("large")).unwrap_err();
        assert_eq!(cause.kind(), io::ErrorKind::InvalidData, "{cause}");
        fs::write(&file, b"\xff").unwrap();
        let cause = read_to_string(&file).unwrap_err();
        assert_eq!(cause.kind(), io::ErrorKind::InvalidData);
    }
}
