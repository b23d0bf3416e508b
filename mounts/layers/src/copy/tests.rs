use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::collection::vec;
use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags, getxattr, openat2, setxattr};

use super::{Copied, Markers, Options, copy_tree};
use crate::Durable;
use crate::error::Error;
use crate::progress::Progress;
use crate::test_support::tree::{Who, build, items};
use crate::test_support::{self, Disk, Merged, assert_same, manifest};

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
        try_copy("link/file"),
        Err(Error::NotADirectory {
            found: "a file",
            ..
        })
    ));
    assert!(matches!(try_copy("dir/../dir"), Err(Error::BadPath { .. })));
    assert_eq!(try_copy("/dir").unwrap().files, 1);
    let again = try_copy("dir").unwrap_err();
    assert_eq!(again.errno(), Some(libc::EEXIST), "{again}");
}

/// Builds, copies and compares; what was copied.
fn round(
    disk: &dyn Fn() -> tempfile::TempDir,
    tree: &[test_support::tree::Item],
    options: &Options<'_>,
) -> Copied {
    let (from, to) = (disk(), disk());
    build(from.path(), tree);
    let source = manifest(from.path());
    let copied = copy(&[from.path()], "", to.path(), options).expect("a copy");
    assert_same(&source, &manifest(to.path()));
    assert_eq!(copied.files, source.len() as u64 - 1);
    copied
}

/// Options that a number chooses: with and without threads and durability.
fn chosen(number: usize) -> Options<'static> {
    Options {
        workers: [1, 2, 4][number % 3],
        durable: [Durable::No, Durable::Content][number / 3 % 2],
        ..Options::default()
    }
}

#[test]
fn random_trees_of_anybody() {
    let strategy = (items(Who::Anybody, 40), 0..9_usize);
    test_support::for_random(60, &strategy, |(tree, number)| {
        round(&|| tempfile::tempdir().unwrap(), &tree, &chosen(number));
    });
}

fn random_trees_on(disk: &dyn Fn() -> tempfile::TempDir, clones: bool) {
    let strategy = (items(Who::Root, 40), 0..9_usize);
    test_support::for_random(60, &strategy, |(tree, number)| {
        let copied = round(disk, &tree, &chosen(number));
        assert_eq!(copied.cloned_bytes, if clones { copied.bytes } else { 0 });
    });
}

#[test]
fn root_random_trees_on_ext4() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 600);
    random_trees_on(&|| disk.dir(), false);
}

#[test]
fn root_random_trees_on_xfs_are_cloned() {
    test_support::enter_private_mounts();
    let disk = Disk::new("xfs", 400);
    random_trees_on(&|| disk.dir(), true);
}

#[test]
fn root_random_trees_on_btrfs_are_cloned() {
    test_support::enter_private_mounts();
    let disk = Disk::new("btrfs", 400);
    random_trees_on(&|| disk.dir(), true);
}

#[test]
fn root_random_trees_from_one_file_system_to_another() {
    test_support::enter_private_mounts();
    let (xfs, ext4) = (Disk::new("xfs", 400), Disk::new("ext4", 600));
    let strategy = (items(Who::Root, 40), 0..9_usize);
    test_support::for_random(40, &strategy, |(tree, number)| {
        let (from, to) = (xfs.dir(), ext4.dir());
        build(from.path(), &tree);
        let source = manifest(from.path());
        let copied = copy(&[from.path()], "", to.path(), &chosen(number)).unwrap();
        assert_eq!(copied.cloned_bytes, 0);
        assert_same(&source, &manifest(to.path()));
    });
}

/// The directory that the kernel finds at `subpath` for a process whose root is `root`.
fn in_root(root: &Path, subpath: &str) -> Option<PathBuf> {
    let root = fs::File::open(root).unwrap();
    let subpath = if subpath.is_empty() { "." } else { subpath };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let found = openat2(&root, subpath, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    Some(fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap())
}

#[test]
fn symlinks_in_a_subpath_stay_within_the_stack() {
    let home = tempfile::tempdir().unwrap();
    let [top, bottom] = dirs(home.path(), ["top", "bottom"]);
    let link = |target: &str, at: &Path| std::os::unix::fs::symlink(target, at).unwrap();
    for layer in [&top, &bottom] {
        fs::create_dir_all(layer.join("run/app")).unwrap();
        fs::create_dir_all(layer.join("var")).unwrap();
    }
    fs::write(top.join("run/app/upper"), "").unwrap();
    fs::write(bottom.join("run/app/lower"), "").unwrap();
    link("/run", &bottom.join("var/run"));
    link("../../../../run", &top.join("var/up"));
    link("up/app", &bottom.join("var/twice"));
    link("loop", &top.join("var/loop"));
    link("/nowhere/at/all", &top.join("var/gone"));
    link(home.path().to_str().unwrap(), &top.join("var/host"));
    for (number, subpath) in ["var/run/app", "var/up/app", "var/twice", "/var/run/app"]
        .iter()
        .enumerate()
    {
        let to = home.path().join(number.to_string());
        fs::create_dir(&to).unwrap();
        let copied = copy(&[&top, &bottom], subpath, &to, &Options::default());
        assert_eq!(copied.unwrap().files, 2, "{subpath}");
        assert!(to.join("upper").exists() && to.join("lower").exists());
    }
    let to = tempfile::tempdir().unwrap();
    let refused = |subpath| {
        let copied = copy(&[&top, &bottom], subpath, to.path(), &Options::default());
        copied.unwrap_err().to_string()
    };
    let too_many = "var/loop in the source is one symlink too many, not a directory";
    assert_eq!(refused("var/loop"), too_many);
    assert_eq!(refused("var/gone"), "there is no nowhere in the source");
    assert!(refused("var/host").starts_with("there is no "));
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn root_random_stacks_are_what_overlayfs_shows() {
    test_support::enter_private_mounts();
    let disk = Disk::new("ext4", 600);
    let compared = AtomicU64::new(0);
    let strategy = (vec(items(Who::Layer, 25), 2..6), 0..9_usize);
    test_support::for_random(250, &strategy, |(trees, number)| {
        let home = disk.dir();
        let mut layers = Vec::new();
        for (number, tree) in trees.iter().enumerate() {
            let layer = home.path().join(number.to_string());
            fs::create_dir(&layer).unwrap();
            build(&layer, tree);
            layers.push(layer);
        }
        let merged = Merged::new(&layers);
        for subpath in ["", "a", "b/c", "c/a"] {
            compare_stack(&layers, merged.path(), subpath, home.path(), number);
        }
        compared.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(compared.into_inner(), 250);
}

fn compare_stack(layers: &[PathBuf], merged: &Path, subpath: &str, home: &Path, number: usize) {
    let layers: Vec<_> = layers.iter().map(PathBuf::as_path).collect();
    let to = tempfile::tempdir_in(home).unwrap();
    let shown = merged.join(subpath);
    let copied = copy(&layers, subpath, to.path(), &chosen(number));
    if let Some(found) = in_root(merged, subpath) {
        copied.unwrap_or_else(|error| panic!("{}: {error}", shown.display()));
        let copied = if shows_nested(home) {
            manifest(to.path())
        } else {
            test_support::without(manifest(to.path()), |seen| {
                seen.xattrs
                    .retain(|(name, _)| !name.to_bytes().starts_with(b"trusted.overlay."));
            })
        };
        assert_same(&manifest(&found), &copied);
    } else {
        assert!(matches!(
            copied,
            Err(Error::Missing { .. } | Error::NotADirectory { .. })
        ));
    }
}

/// True if overlayfs shows the attributes that a nested one set through it, as Linux 6.7 and newer
/// do. Older kernels hide them; a copy has them whatever the kernel.
fn shows_nested(home: &Path) -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let layers = ["nested", "other"].map(|name| home.join(name));
        for layer in &layers {
            fs::create_dir(layer).unwrap();
        }
        let (flags, value) = (XattrFlags::empty(), b"x");
        setxattr(&layers[0], "trusted.overlay.overlay.x", value, flags).unwrap();
        let merged = Merged::new(&layers);
        getxattr(merged.path(), "trusted.overlay.x", &mut [0; 1]).is_ok()
    })
}

/// New directories of these names.
fn dirs<const COUNT: usize>(home: &Path, names: [&str; COUNT]) -> [PathBuf; COUNT] {
    names.map(|name| {
        fs::create_dir(home.join(name)).unwrap();
        home.join(name)
    })
}

#[test]
fn root_unusual_overlays_are_refused() {
    test_support::need_root();
    let table = [
        (
            "dir",
            "trusted.overlay.redirect",
            "/elsewhere",
            "redirect_dir",
        ),
        (
            "dir",
            "trusted.overlay.opaque",
            "x",
            "whiteouts as attributes",
        ),
        ("file", "trusted.overlay.metacopy", "", "metacopy"),
    ];
    for (marked, name, value, expected) in table {
        let home = tempfile::tempdir().unwrap();
        let names = ["1", "2", "to", "plain", "other"];
        let [top, bottom, to, plain, other] = dirs(home.path(), names);
        fs::create_dir(top.join("dir")).unwrap();
        fs::write(top.join("file"), "").unwrap();
        test_support::give(&top.join(marked), |attributes| {
            attributes.xattrs = vec![(test_support::c(name), value.into())];
        });
        let options = Options::default();
        let error = copy(&[&top, &bottom], "", &to, &options).unwrap_err();
        assert!(
            matches!(error, Error::Feature { feature, .. } if feature == expected),
            "{error}"
        );
        // A single directory is a plain tree, where this means nothing.
        copy(&[&top], "", &plain, &options).unwrap();
        assert_same(&manifest(&top), &manifest(&plain));
        // Nor does it to a mount that looks elsewhere for its notes.
        let markers = Markers::User;
        copy(
            &[&top, &bottom],
            "",
            &other,
            &Options { markers, ..options },
        )
        .unwrap();
    }
}

#[test]
fn root_mounts_in_the_source_are_refused() {
    test_support::enter_private_mounts();
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let inside = from.path().join("a");
    fs::create_dir(&inside).unwrap();
    let none = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &inside, Some("tmpfs"), none, None::<&str>).unwrap();
    let error = copy(&[from.path()], "", to.path(), &Options::default());
    nix::mount::umount(&inside).unwrap();
    assert!(matches!(error, Err(Error::MountPoint { path }) if path == Path::new("a")));
}

#[test]
fn deep_trees_need_few_descriptors() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut path = from.path().to_owned();
    let room = 3900 - path.as_os_str().len();
    for _ in 0..room / 2 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    // Something to come back to on the way up.
    for path in path
        .ancestors()
        .take(room / 2 + 1)
        .filter(|path| path != &from.path())
    {
        fs::create_dir(path.with_file_name("e")).unwrap();
    }
    let copied = copy(&[from.path()], "", to.path(), &Options::default()).unwrap();
    assert_eq!(copied.files, room as u64 / 2 * 2);
    assert!(
        to.path()
            .join(path.strip_prefix(from.path()).unwrap())
            .is_dir()
    );
}

#[test]
fn paths_that_are_too_long_are_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let flags = rustix::fs::OFlags::PATH;
    let mut dir = rustix::fs::open(from.path(), flags, rustix::fs::Mode::empty()).unwrap();
    let name = "n".repeat(250);
    for _ in 0..17 {
        rustix::fs::mkdirat(&dir, &*name, rustix::fs::Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &*name, flags, rustix::fs::Mode::empty()).unwrap();
    }
    let error = copy(&[from.path()], "", to.path(), &Options::default()).unwrap_err();
    assert!(
        matches!(error, Error::TooLong { limit: 4095, .. }),
        "{error}"
    );
}

struct StopAfter(AtomicU64, u64);

impl Progress for StopAfter {
    fn advanced(&self, files: u64, _: u64) {
        self.0.fetch_add(files, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= self.1
    }
}

#[test]
fn stops_when_told_and_counts_every_file() {
    let from = tempfile::tempdir().unwrap();
    for number in 0..50 {
        fs::write(from.path().join(number.to_string()), "content").unwrap();
    }
    for workers in [1, 4] {
        let to = tempfile::tempdir().unwrap();
        let progress = StopAfter(AtomicU64::new(0), 10);
        let options = Options {
            workers,
            progress: &progress,
            ..Options::default()
        };
        let stopped = copy(&[from.path()], "", to.path(), &options);
        assert!(matches!(stopped, Err(Error::Stopped)));
        assert!(fs::read_dir(to.path()).unwrap().count() <= 50);
        let to = tempfile::tempdir().unwrap();
        let progress = StopAfter(AtomicU64::new(0), u64::MAX);
        let options = Options {
            workers,
            progress: &progress,
            ..Options::default()
        };
        copy(&[from.path()], "", to.path(), &options).unwrap();
        assert_eq!(progress.0.into_inner(), 50);
    }
}
