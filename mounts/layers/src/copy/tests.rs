use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::{Copied, Options, copy_tree};
use crate::error::Error;

fn copy(
    source: &[&Path],
    subpath: &str,
    dest: &Path,
    options: &Options<'_>,
) -> Result<Copied, Error> {
    let open = |path: &&Path| fs::File::open(path).expect("a directory");
    let source: Vec<_> = source.iter().map(open).collect();
    let source: Vec<_> = source.iter().map(AsFd::as_fd).collect();
    let dest = open(&dest);
    copy_tree(&source, Path::new(subpath), dest.as_fd(), options)
}

#[test]
fn copies_a_small_tree() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("a/b")).unwrap();
    fs::write(from.path().join("a/b/file"), "hello").unwrap();
    fs::hard_link(from.path().join("a/b/file"), from.path().join("again")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", from.path().join("a/link")).unwrap();
    fs::set_permissions(from.path().join("a"), fs::Permissions::from_mode(0o1751)).unwrap();
    for workers in [1, 4] {
        let to = to.path().join(workers.to_string());
        fs::create_dir(&to).unwrap();
        let options = Options {
            workers,
            ..Options::default()
        };
        let copied = copy(&[from.path()], "", &to, &options).unwrap();
        assert_eq!((copied.files, copied.bytes), (5, 5));
        assert_eq!(fs::read(to.join("a/b/file")).unwrap(), b"hello");
        assert_eq!(fs::metadata(to.join("again")).unwrap().nlink(), 2);
        assert_eq!(
            fs::read_link(to.join("a/link")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert_eq!(fs::metadata(to.join("a")).unwrap().mode() & 0o7777, 0o1751);
    }
}

#[test]
fn answers_for_subpaths_that_are_none() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("dir")).unwrap();
    fs::write(from.path().join("dir/file"), "").unwrap();
    std::os::unix::fs::symlink("dir", from.path().join("link")).unwrap();
    let try_copy = |subpath| copy(&[from.path()], subpath, to.path(), &Options::default());
    assert!(matches!(try_copy("dir/none"), Err(Error::Missing { .. })));
    assert!(matches!(
        try_copy("dir/file"),
        Err(Error::NotADirectory {
            found: "a file",
            ..
        })
    ));
    assert!(matches!(
        try_copy("link"),
        Err(Error::NotADirectory {
            found: "a symlink",
            ..
        })
    ));
    assert!(matches!(
        try_copy("link/file"),
        Err(Error::NotADirectory { .. })
    ));
    assert!(matches!(try_copy("dir/../dir"), Err(Error::BadPath { .. })));
    assert_eq!(try_copy("/dir").unwrap().files, 1);
    let again = try_copy("dir").unwrap_err();
    assert_eq!(again.errno(), Some(libc::EEXIST), "{again}");
}
