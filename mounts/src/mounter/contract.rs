//! The checks every [`Mounter`] must pass. Tests only: they panic with the name of the rule.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    Attached, BindOptions, DetachMode, Detached, Effective, Feature, Handle, MountError, Mounter,
    NewSource, PrivateRoot, Propagation, ReadOnly, Symlinks, TmpfsOptions, UNIQUE_IDS, Want,
};

/// Runs all checks in an empty directory, under which nothing is mounted.
///
/// # Panics
/// If a rule is broken.
pub fn check(mounter: &dyn Mounter, scratch: &Path) {
    let scratch = &scratch.canonicalize().expect("the directory is there");
    let ground = &Ground { mounter, scratch };
    subpaths(ground);
    sources(ground);
    creation(ground);
    refused_creation(ground);
    coming_and_going(ground);
    stacking(ground);
    modes(ground);
    users(ground);
    keeping(ground);
    private_root(ground);
    for feature in mounter.features() {
        assert!(
            feature.trouble.is_none() || !feature.is_needed(),
            "{feature:?}"
        );
    }
}

/// True if the mounter lacks the feature [`super::UNIQUE_IDS`].
fn numbers_come_again(ground: &Ground<'_>) -> bool {
    let features = ground.mounter.features();
    let lacks = |feature: &Feature| feature.name == UNIQUE_IDS && feature.trouble.is_some();
    features.iter().any(lacks)
}

struct Ground<'a> {
    mounter: &'a dyn Mounter,
    scratch: &'a Path,
}

impl Ground<'_> {
    fn dir(&self, name: &str) -> PathBuf {
        let path = self.scratch.join(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    fn open(&self, path: &Path) -> Handle {
        let opened = self.mounter.open_source(path, Symlinks::Refuse);
        opened.expect("what is there can be opened")
    }

    fn attach(&self, source: &Path, target: &Path) -> Attached {
        let tree = self
            .mounter
            .bind(&self.open(source), &BindOptions::default());
        let tree = tree.expect("a directory can be bound");
        let known = tree.attached();
        let attached = self.mounter.attach(tree, &self.open(target));
        let attached = attached.expect("a directory can be mounted on");
        assert_eq!(attached, known, "it is known before it stands");
        attached
    }

    fn detach(&self, target: &Path, attached: &Attached) -> Result<Detached, MountError> {
        self.mounter.detach(target, attached, DetachMode::Normal)
    }

    fn below(&self) -> Vec<PathBuf> {
        let below = self.mounter.mounts_below(self.scratch);
        let below = below.expect("mounts can be listed").into_iter();
        below.map(|entry| entry.target).collect()
    }
}

fn subpaths(ground: &Ground<'_>) {
    let root = ground.dir("volume");
    ground.dir("volume/a/b");
    fs::write(root.join("a/file"), "x").expect("write");
    fs::write(ground.scratch.join("outside"), "x").expect("write");
    symlink("a", root.join("inner")).expect("symlink");
    symlink("../outside", root.join("outer")).expect("symlink");
    symlink("/", root.join("slash")).expect("symlink");
    let handle = ground.open(&root);
    let resolve = |path: &str, want| ground.mounter.resolve(&handle, Path::new(path), want);
    for good in ["", ".", "a", "a/b", "a/../a/b", "a//b/", "a/file"] {
        let found = resolve(good, Want::Any).expect(good);
        let there = fs::metadata(root.join(good)).expect("it is there");
        assert_eq!(found.inode(), there.ino(), "`{good}` is what was asked for");
    }
    let root = root.display();
    let table = [
        ("inner", Want::Any, format!("{root}/inner is a symlink")),
        ("inner/b", Want::Any, format!("{root}/inner is a symlink")),
        ("outer", Want::Any, format!("{root}/outer is a symlink")),
        ("slash/etc", Want::Any, format!("{root}/slash is a symlink")),
        ("..", Want::Any, format!("`..` leads out of {root}")),
        (
            "a/../..",
            Want::Any,
            format!("`a/../..` leads out of {root}"),
        ),
        ("/etc", Want::Any, format!("`/etc` leads out of {root}")),
        ("a/c/d", Want::Any, format!("{root}/a/c does not exist")),
        ("a/file/d", Want::Any, format!("{root}/a/file is not a dir")),
        (
            "a/file",
            Want::Directory,
            format!("{root}/a/file is not a dir"),
        ),
        ("a/b", Want::File, format!("{root}/a/b is a directory")),
        ("a\0b", Want::Any, "holds a zero byte".to_owned()),
    ];
    for (path, want, expected) in table {
        let error = resolve(path, want).expect_err(path).to_string();
        assert!(error.contains(&expected), "`{path}`: {error}");
    }
}

fn sources(ground: &Ground<'_>) {
    let real = ground.dir("real/inner");
    let link = ground.scratch.join("link");
    symlink("real", &link).expect("symlink");
    let open = |path: &Path, symlinks| ground.mounter.open_source(path, symlinks);
    let followed = open(&link.join("inner"), Symlinks::Follow).expect("symlinks are followed");
    let there = fs::metadata(&real).expect("it is there");
    assert_eq!(followed.inode(), there.ino(), "to where they lead");
    let refused = open(&link.join("inner"), Symlinks::Refuse);
    assert!(
        matches!(&refused, Err(MountError::Symlink { path }) if *path == link),
        "unless told not to: {refused:?}"
    );
    let magic = open(Path::new("/proc/self/root"), Symlinks::Follow);
    assert!(
        matches!(magic, Err(MountError::Symlink { .. })),
        "links of procfs never are: {magic:?}"
    );
    let missing = ground.scratch.join("missing");
    let found = open(&missing.join("x"), Symlinks::Follow);
    assert!(
        matches!(&found, Err(MountError::Missing { path }) if *path == missing),
        "what is missing is named: {found:?}"
    );
    let relative = open(Path::new("real"), Symlinks::Follow);
    assert!(
        matches!(relative, Err(MountError::BadPath { .. })),
        "there is no working directory: {relative:?}"
    );
}

fn creation(ground: &Ground<'_>) {
    let create = |path: &Path, new: &NewSource| ground.mounter.create_source(path, new);
    let deep = ground.scratch.join("made/x/y");
    let made = create(&deep, &NewSource::DIRECTORY).expect("parents are made");
    let of_deep = made.made.clone();
    assert!(of_deep.len() == 3 && made.handle.is_dir());
    for path in [&deep, deep.parent().expect("a parent")] {
        let mode = fs::metadata(path).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o7777, 0o755, "whatever the umask");
    }
    let place = |from: &Path, to: &Path| ground.mounter.place_source(from, to).expect("move");
    let staged = ground.scratch.join("made/staged");
    create(&staged.join("y"), &NewSource::DIRECTORY).expect("it is made");
    assert!(
        !place(&staged, &ground.scratch.join("made/x")),
        "the name is taken"
    );
    assert!(place(&staged, &ground.scratch.join("made/z")));
    assert!(ground.scratch.join("made/z/y").is_dir() && !staged.exists());
    let planned = |path: &str| super::Made {
        path: ground.scratch.join(path),
        device: (0, 0),
        inode: 0,
    };
    let planned = [
        planned("made/z"),
        planned("made/z/y"),
        planned("made/z/y/none"),
    ];
    ground.mounter.remove_made(&planned).expect("remove");
    assert!(!ground.scratch.join("made/z").exists());
    let again = create(&deep, &NewSource::DIRECTORY).expect("it is there");
    assert!(again.made.is_empty(), "nothing is made twice");
    let new = NewSource {
        file: true,
        mode: 0o640,
        ..NewSource::DIRECTORY
    };
    let file = ground.scratch.join("made/file");
    let made = create(&file, &new).expect("files are made");
    assert!(made.made.len() == 1 && !made.handle.is_dir());
    let found = fs::metadata(&file).expect("it is there");
    assert_eq!((found.mode() & 0o7777, found.len()), (0o640, 0));
    let of_file = made.made.clone();
    let remove = |made: &[super::Made]| ground.mounter.remove_made(made).expect("remove");
    remove(&of_deep);
    assert!(
        !deep.exists() && !ground.scratch.join("made/x").exists() && file.exists(),
        "what holds something else stays"
    );
    fs::write(&file, "kept").expect("write");
    remove(&of_file);
    fs::remove_file(&file).expect("it was kept");
    fs::write(&file, "").expect("another one");
    fs::hard_link(&file, ground.scratch.join("keeps its number")).expect("link");
    remove(&of_file);
    assert!(file.exists(), "another file of the name stays");
}

fn refused_creation(ground: &Ground<'_>) {
    let create = |path: &Path, new: &NewSource| ground.mounter.create_source(path, new);
    let file = ground.scratch.join("made/file");
    let below = create(&file.join("x"), &NewSource::DIRECTORY);
    assert!(
        matches!(&below, Err(MountError::NotADirectory { path }) if *path == file),
        "{below:?}"
    );
    let planted = ground.scratch.join("made/planted");
    symlink("nowhere", &planted).expect("symlink");
    for path in [planted.clone(), planted.join("x")] {
        let refused = create(&path, &NewSource::DIRECTORY);
        assert!(
            matches!(&refused, Err(MountError::Dangling { path }) if *path == planted),
            "nothing is made where a symlink leads: {refused:?}"
        );
        let checked = ground.mounter.check_create(&path, &NewSource::DIRECTORY);
        assert!(
            matches!(checked, Err(MountError::Dangling { .. })),
            "{checked:?}"
        );
    }
    assert!(!ground.scratch.join("made/nowhere").exists());
    let closed = Path::new("/proc/nosuch/x");
    let refused = create(closed, &NewSource::DIRECTORY);
    assert!(
        matches!(refused, Err(MountError::Closed { .. })),
        "{refused:?}"
    );
    let checked = ground.mounter.check_create(closed, &NewSource::DIRECTORY);
    assert!(
        matches!(checked, Err(MountError::Closed { .. })),
        "{checked:?}"
    );
    let up = create(&ground.scratch.join("new/../x"), &NewSource::DIRECTORY);
    assert!(matches!(up, Err(MountError::BadPath { .. })), "{up:?}");
}

fn coming_and_going(ground: &Ground<'_>) {
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    let mounter = ground.mounter;
    let bind = || mounter.bind(&ground.open(&source), &BindOptions::default());
    drop(bind().expect("a directory can be bound"));
    drop(mounter.tmpfs(&TmpfsOptions::default()).expect("a tmpfs"));
    assert_eq!(ground.below(), Vec::<PathBuf>::new(), "dropped is gone");
    let come_again = numbers_come_again(ground);
    let mut before = 0;
    for _ in 0..3 {
        let attached = ground.attach(&source, &target);
        assert!(come_again || attached.id > before, "numbers only rise");
        before = attached.id;
        assert_eq!(ground.below(), [target.as_path()]);
        let stands = || mounter.is_mounted(&target, &attached);
        assert!(stands().expect("it can be asked"));
        let there = fs::metadata(&source).expect("it is there");
        assert_eq!(attached.inode, there.ino());
        let gone = ground.detach(&target, &attached).expect("it can go");
        assert_eq!(gone, Detached::Now);
        let gone = ground.detach(&target, &attached).expect("it is gone");
        assert_eq!(gone, Detached::AlreadyGone, "a repeated call is normal");
        assert!(!stands().expect("it can be asked"));
    }
    let attached = ground.attach(&source, &target);
    let gone = mounter.detach(&target, &attached, DetachMode::Lazy);
    assert_eq!(gone.expect("it can go"), Detached::Now);
    let file = ground.scratch.join("a-file");
    fs::write(&file, "x").expect("write");
    let wrong = mounter.attach(bind().expect("bind"), &ground.open(&file));
    assert!(
        matches!(wrong, Err(MountError::NotADirectory { .. })),
        "a directory stands on a directory: {wrong:?}"
    );
    assert_eq!(ground.below(), Vec::<PathBuf>::new());
}

fn stacking(ground: &Ground<'_>) {
    let (one, two) = (ground.dir("one"), ground.dir("two"));
    let (target, other) = (ground.dir("target"), ground.dir("other"));
    let below = ground.attach(&one, &target);
    let above = ground.attach(&two, &target);
    let refused = ground.detach(&target, &below);
    assert!(
        matches!(refused, Err(MountError::Covered { other, .. }) if other == above.id),
        "what is covered stays, as does the cover: {refused:?}"
    );
    assert_eq!(ground.below().len(), 2);
    let elsewhere = ground.detach(&other, &above);
    let refused = match &elsewhere {
        Err(MountError::Elsewhere { .. }) => true,
        Ok(Detached::AlreadyGone) => numbers_come_again(ground),
        _ => false,
    };
    assert!(refused, "the place must be right: {elsewhere:?}");
    let impostor = Attached {
        inode: above.inode + 1,
        ..above
    };
    let spared = ground.detach(&target, &impostor);
    assert!(
        !matches!(spared, Ok(Detached::Now)),
        "the number alone does not do: {spared:?}"
    );
    for attached in [above, below] {
        let gone = ground.detach(&target, &attached).expect("top first");
        assert_eq!(gone, Detached::Now);
    }
}

fn modes(ground: &Ground<'_>) {
    let source = ground.open(&ground.dir("source"));
    let effective = |recursive, read_only| {
        let options = BindOptions {
            recursive,
            read_only,
            ..BindOptions::default()
        };
        let tree = ground.mounter.bind(&source, &options);
        tree.expect("it can be bound").read_only()
    };
    let table = [
        (false, ReadOnly::Writable, Effective::Writable),
        (true, ReadOnly::Writable, Effective::Writable),
        (false, ReadOnly::Top, Effective::Recursive),
        (true, ReadOnly::Top, Effective::Top),
        (true, ReadOnly::RecursiveIfPossible, Effective::Recursive),
        (true, ReadOnly::RecursiveRequired, Effective::Recursive),
        (false, ReadOnly::RecursiveRequired, Effective::Recursive),
    ];
    for (recursive, asked, expected) in table {
        let got = effective(recursive, asked);
        assert_eq!(got, expected, "{asked:?}, recursive {recursive}");
    }
    for propagation in [Propagation::Slave, Propagation::Shared] {
        let options = BindOptions {
            propagation,
            ..BindOptions::default()
        };
        let refused = ground.mounter.bind(&source, &options);
        assert!(
            matches!(refused, Err(MountError::NotShared { .. })),
            "a private mount has nothing to tell: {refused:?}"
        );
    }
}

fn users(ground: &Ground<'_>) {
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    let inner = ground.dir("source/inner");
    let minute = Duration::from_secs(60);
    let users = |known: &[u64]| {
        let directory = ground.open(&source);
        let holders = ground.mounter.holders(&directory, known, minute);
        let holders = holders.expect("it can be asked");
        assert!(!holders.cut_short, "in a minute all are seen");
        holders.found.len()
    };
    assert_eq!(users(&[]), 0, "it is unused");
    let attached = ground.attach(&inner, &target);
    assert_eq!(users(&[]), 1, "a mount of what is inside counts");
    assert_eq!(users(&[attached.id]), 0, "unless it is known");
    let gone = ground.detach(&target, &attached).expect("it can go");
    assert_eq!(gone, Detached::Now);
}

fn keeping(ground: &Ground<'_>) {
    let (source, target) = (ground.dir("keep/source"), ground.dir("keep/target"));
    let first = ground.attach(&source, &target);
    let keep = |attached: &Attached| {
        let kept = ground.mounter.keep(&target, attached, Propagation::Private);
        kept.expect("what stands can be kept")
    };
    let kept = keep(&first).expect("it is the topmost");
    ground.detach(&target, &first).expect("a kept mount can go");
    assert!(keep(&first).is_none(), "it is gone");
    let back = ground.mounter.attach(kept, &ground.open(&target));
    let back = back.expect("it can be put back");
    assert_ne!(back.id, first.id, "under another number");
    let top = |attached: &Attached| (attached.device, attached.inode);
    assert_eq!(top(&back), top(&first), "with the same files");
    ground.detach(&target, &back).expect("and goes again");
}

fn private_root(ground: &Ground<'_>) {
    let root = ground.dir("root");
    let (source, target) = (ground.dir("source"), ground.dir("root/target"));
    let make = || ground.mounter.private_root(&root).expect("it can be made");
    let release = || ground.mounter.release_private_root(&root);
    assert_eq!(release().expect("nothing to do"), Detached::AlreadyGone);
    let early = ground.attach(&source, &target);
    assert_eq!(make(), PrivateRoot::InUse, "no mount is doubled");
    ground.detach(&target, &early).expect("it can go");
    assert_eq!(make(), PrivateRoot::Made);
    assert_eq!(make(), PrivateRoot::Already);
    let attached = ground.attach(&source, &target);
    assert_eq!(make(), PrivateRoot::Already);
    let refused = release();
    assert!(
        matches!(refused, Err(MountError::Busy { .. })),
        "not while something stands on it: {refused:?}"
    );
    ground.detach(&target, &attached).expect("it can go");
    assert_eq!(release().expect("it is free"), Detached::Now);
    assert_eq!(release().expect("nothing to do"), Detached::AlreadyGone);
}
