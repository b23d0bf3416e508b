//! A stopped thread in /proc: its strings, descriptors and directories.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

const PATH_MAX: usize = 4096;

/// A thread of a traced program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tracee(pub(crate) i32);

impl Tracee {
    /// The file behind a descriptor if it is a regular file or a directory.
    pub(crate) fn file(self, descriptor: u64) -> Option<PathBuf> {
        let link = self.descriptor(descriptor)?;
        let kind = fs::metadata(&link).ok()?.file_type();
        (kind.is_file() || kind.is_dir())
            .then(|| fs::read_link(&link).ok())
            .flatten()
    }

    /// The path in the thread's memory, made absolute against `directory` (a descriptor or
    /// `AT_FDCWD`). An empty path means the descriptor itself.
    pub(crate) fn path(self, directory: u64, address: u64) -> Option<PathBuf> {
        let text = self.text(address)?;
        if text.as_os_str().is_empty() {
            return self.directory(directory);
        }
        if let Some(file) = self.through_proc(&text) {
            return Some(file);
        }
        if text.is_absolute() {
            return Some(normal(&text));
        }
        Some(normal(&self.directory(directory)?.join(text)))
    }

    /// Eight bytes of the thread's memory.
    pub(crate) fn word(self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory()?.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// The process that the thread belongs to.
    pub(crate) fn process(self) -> Option<i32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        line.trim().parse().ok()
    }

    fn directory(self, descriptor: u64) -> Option<PathBuf> {
        if low_half(descriptor) == low_half_signed(libc::AT_FDCWD) {
            return fs::read_link(format!("/proc/{}/cwd", self.0)).ok();
        }
        fs::read_link(self.descriptor(descriptor)?).ok()
    }

    /// Resolves `/proc/self/fd/N` and its like, by which programs name open files.
    fn through_proc(self, path: &Path) -> Option<PathBuf> {
        let rest = ["/proc/self/fd", "/proc/thread-self/fd"]
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix).ok())?;
        let mut parts = rest.components();
        let number = parts.next()?.as_os_str().to_str()?.parse().ok()?;
        let file = fs::read_link(self.descriptor(number)?).ok()?;
        Some(normal(&file.join(parts.as_path())))
    }

    fn descriptor(self, number: u64) -> Option<PathBuf> {
        let number = low_half(number);
        (number <= u32::MAX >> 1).then(|| PathBuf::from(format!("/proc/{}/fd/{number}", self.0)))
    }

    fn text(self, address: u64) -> Option<PathBuf> {
        let mut bytes = vec![0; PATH_MAX];
        let length = self.memory()?.read_at(&mut bytes, address).ok()?;
        bytes.truncate(length);
        let end = bytes.iter().position(|byte| *byte == 0)?;
        bytes.truncate(end);
        Some(PathBuf::from(OsString::from_vec(bytes)))
    }

    fn memory(self) -> Option<File> {
        File::open(format!("/proc/{}/mem", self.0)).ok()
    }
}

/// Descriptors are ints: the upper half of their register means nothing.
fn low_half(register: u64) -> u32 {
    let [a, b, c, d, ..] = register.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn low_half_signed(number: i32) -> u32 {
    u32::from_le_bytes(number.to_le_bytes())
}

/// Takes `.` and `..` out of an absolute path by text alone.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir => {}
            other => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_taken_out() {
        assert_eq!(normal(Path::new("/a/./b/../c")), Path::new("/a/c"));
        assert_eq!(normal(Path::new("/../a/")), Path::new("/a"));
    }

    #[test]
    fn working_directory_is_known_in_either_width() {
        let narrow = u64::from(low_half_signed(libc::AT_FDCWD));
        let wide = i64::from(libc::AT_FDCWD).cast_unsigned();
        let own = Tracee(i32::try_from(std::process::id()).unwrap());
        let here = std::env::current_dir().unwrap();
        assert_eq!(own.directory(narrow), Some(here.clone()));
        assert_eq!(own.directory(wide), Some(here));
    }
}
