//! Resolution in a folder of the user who runs the tests: nothing is mounted.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

struct Folder {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Folder {
    /// A folder with `dir/file`, `link` to `dir`, `loose` to nothing, and `out` to the folder above it.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = fs::canonicalize(dir.path()).expect("its path").join("top");
        fs::create_dir_all(path.join("dir")).expect("a directory");
        fs::write(path.join("dir/file"), "content").expect("a file");
        symlink("dir", path.join("link")).expect("a link");
        symlink("nowhere", path.join("loose")).expect("a link");
        symlink("..", path.join("out")).expect("a link");
        Self { path, _dir: dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn open(&self, name: &str) -> Result<Handle, MountError> {
        open_source(&self.at(name), Symlinks::Refuse)
    }

    fn top(&self) -> Handle {
        open_source(&self.path, Symlinks::Refuse).expect("the folder")
    }

    /// A new source of mode 0751 that belongs to the owner of the folder.
    fn new_source(&self, file: bool) -> NewSource {
        let own = fs::metadata(&self.path).expect("the folder");
        NewSource {
            file,
            mode: 0o751,
            uid: own.uid(),
            gid: own.gid(),
            symlinks: Symlinks::Refuse,
        }
    }
}

/// Device and inode, as stat(2) says.
fn identity(path: &Path) -> Identity {
    let found = fs::symlink_metadata(path).expect("it is there");
    let device = found.dev();
    let parts = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let narrow = |part: u64| u32::try_from(part).expect("a device number");
    ((narrow(parts.0), narrow(parts.1)), found.ino())
}

fn told<T: std::fmt::Debug>(result: Result<T, MountError>) -> String {
    result.expect_err("it is refused").to_string()
}

#[test]
fn a_source_is_found_or_the_part_that_is_bad_is_named() {
    let folder = Folder::new();
    let found = folder.open("dir/file").expect("the file");
    assert!(!found.is_dir());
    assert_eq!(
        (found.device(), found.inode()),
        identity(&folder.at("dir/file"))
    );
    let followed = open_source(&folder.at("link/file"), Symlinks::Follow).expect("the file");
    assert_eq!(followed.inode(), found.inode());
    let shown = |name: &str| folder.at(name).display().to_string();
    let cases = [
        ("no/file", "no", " does not exist"),
        ("dir/no", "dir/no", " does not exist"),
        ("dir/file/x", "dir/file", " is not a directory"),
        (
            "link/file",
            "link",
            " is a symlink, which is not followed here",
        ),
        ("link", "link", " is a symlink, which is not followed here"),
    ];
    for (name, bad, why) in cases {
        assert_eq!(told(folder.open(name)), shown(bad) + why, "{name}");
    }
    let relative = open_source(Path::new("dir"), Symlinks::Follow);
    assert_eq!(told(relative), "`dir` is not an absolute path");
    let zero = open_source(Path::new("/a\0b"), Symlinks::Follow);
    assert!(zero.is_err(), "{zero:?}");
}

#[test]
fn a_subpath_stays_inside_and_has_the_type_that_is_wanted() {
    let folder = Folder::new();
    let top = folder.top();
    let inner = |name: &str, want| resolve(&top, Path::new(name), want);
    assert_eq!(
        inner("", Want::Directory).expect("itself").inode(),
        top.inode()
    );
    assert!(inner("dir", Want::Any).expect("the directory").is_dir());
    assert!(inner("dir/file", Want::File).is_ok());
    assert!(inner("dir/file", Want::Any).is_ok());
    let shown = |name: &str| folder.at(name).display().to_string();
    let cases = [
        (
            "dir/file",
            Want::Directory,
            shown("dir/file") + " is not a directory",
        ),
        (
            "dir",
            Want::File,
            shown("dir") + " is a directory, a file is needed",
        ),
        ("dir/no", Want::Any, shown("dir/no") + " does not exist"),
        (
            "link/file",
            Want::Any,
            shown("link") + " is a symlink, which is not followed here",
        ),
        (
            "../top",
            Want::Any,
            format!("`../top` leads out of {}", folder.path.display()),
        ),
    ];
    for (name, want, text) in cases {
        assert_eq!(told(inner(name, want)), text, "{name}");
    }
}

#[test]
fn what_is_missing_is_made_with_owner_and_mode() {
    let folder = Folder::new();
    let mode = |name: &str| fs::metadata(folder.at(name)).expect(name).mode() & 0o7777;
    let (file, dir) = (folder.new_source(true), folder.new_source(false));
    let path = folder.at("dir/new/inner/file");
    let (at, missing) = existing(&path, Symlinks::Refuse).expect("the part that is there");
    assert_eq!(at.path(), folder.at("dir"));
    assert_eq!(missing, ["new", "inner", "file"]);
    let mut made = Vec::new();
    let handle = create_missing(at, &missing, &file, &mut made).expect("make it");
    assert_eq!((handle.device(), handle.inode()), identity(&path));
    let paths: Vec<_> = made.iter().map(|one| one.path.clone()).collect();
    let names = ["dir/new", "dir/new/inner", "dir/new/inner/file"];
    assert_eq!(paths, names.map(|name| folder.at(name)));
    for one in &made {
        assert_eq!((one.device, one.inode), identity(&one.path));
    }
    assert_eq!(
        names.map(mode),
        [0o751, 0o751, 0o640],
        "files are not executable"
    );

    // Another process made some of it meanwhile.
    let mut made = Vec::new();
    let missing = [OsStr::new("dir"), OsStr::new("file")];
    let handle = create_missing(folder.top(), &missing, &file, &mut made).expect("it is there");
    assert_eq!(handle.inode(), identity(&folder.at("dir/file")).1);
    assert!(made.is_empty(), "{made:?}");
    assert_eq!(fs::read(folder.at("dir/file")).expect("read"), b"content");
    // Something else was put there.
    let shown = |name: &str| folder.at(name).display().to_string();
    let planted = |names: &[&str], new: &NewSource| {
        let names: Vec<_> = names.iter().map(OsStr::new).collect();
        told(create_missing(folder.top(), &names, new, &mut Vec::new()))
    };
    let link = shown("link") + " is a symlink, which is not followed here";
    assert_eq!(planted(&["link"], &dir), link);
    assert_eq!(planted(&["link"], &file), link);
    assert_eq!(planted(&["link", "x"], &file), link);
    let blocked = shown("dir/file") + " is not a directory";
    assert_eq!(planted(&["dir", "file"], &dir), blocked);
}

#[test]
fn a_check_makes_nothing_and_names_what_forbids_it() {
    let folder = Folder::new();
    let dir = folder.new_source(false);
    let at = check_create(&folder.at("dir/new/inner"), &dir).expect("it can be made");
    assert_eq!(at.path(), folder.at("dir"));
    assert!(!folder.at("dir/new").exists());
    let there = check_create(&folder.at("dir/file"), &dir).expect("it is there");
    assert_eq!(there.path(), folder.at("dir/file"));
    let refused = told(check_create(
        Path::new("/proc/self/new"),
        &NewSource::DIRECTORY,
    ));
    assert!(refused.ends_with(": it is in procfs"), "{refused}");
    let proc = open_source(Path::new("/proc"), Symlinks::Refuse).expect("procfs");
    assert_eq!(told(refuse_kernels(&proc)), "`/proc` it is in procfs");
    assert!(refuse_kernels(&folder.top()).is_ok());
    let (found, whole) = open_existing(&folder.at("dir/new"), Symlinks::Refuse).expect("a part");
    assert_eq!((found.path(), whole), (folder.at("dir").as_path(), false));
    let (_, whole) = open_existing(&folder.at("dir"), Symlinks::Refuse).expect("all of it");
    assert!(whole);
}

#[test]
fn links_to_nothing_are_no_missing_paths() {
    let folder = Folder::new();
    let shown = folder.at("loose").display().to_string();
    for (symlinks, why) in [
        (Symlinks::Follow, " is a symlink that leads nowhere"),
        (
            Symlinks::Refuse,
            " is a symlink, which is not followed here",
        ),
    ] {
        let loose = folder.at("loose");
        assert_eq!(told(existing(&loose, symlinks)), format!("{shown}{why}"));
    }
    let new = folder.at("link/new");
    let (at, missing) = existing(&new, Symlinks::Follow).expect("by the link");
    assert_eq!(at.inode(), identity(&folder.at("dir")).1);
    assert_eq!(missing, ["new"]);
    let odd = folder.at("no/../dir");
    let wanted = format!(
        "`{}` has `..` after a part that does not exist",
        odd.display()
    );
    assert_eq!(told(existing(&odd, Symlinks::Follow)), wanted);
}

#[test]
fn a_root_directory_holds_its_symlinks_inside() {
    let folder = Folder::new();
    symlink("/dir", folder.at("absolute")).expect("a link");
    let dir = folder.new_source(false);
    let create = |path: &str| create_in_root(&folder.top(), Path::new(path), &dir);
    let made = create("/absolute/new/inner").expect("make it");
    assert_eq!(made.inode(), identity(&folder.at("dir/new/inner")).1);
    let made = create("/out/beside").expect("make it");
    assert_eq!(made.inode(), identity(&folder.at("beside")).1);
    assert_eq!(create("/").expect("itself").inode(), folder.top().inode());
    assert!(!folder.path.with_file_name("beside").exists());
    assert_eq!(told(create("/a/../b")), "`/a/../b` has `..` in it");
    assert_eq!(told(create("a")), "`a` is not an absolute path");
    let blocked = told(create("/dir/file/x"));
    assert!(
        blocked.ends_with("/dir/file is not a directory"),
        "{blocked}"
    );
}

#[test]
fn a_lineage_goes_up_to_the_root_directory() {
    let folder = Folder::new();
    for name in ["dir", "dir/file"] {
        let path = folder.at(name);
        let lineage = folder.open(name).expect("it is there").lineage();
        let wanted: Vec<_> = path.ancestors().map(identity).collect();
        assert_eq!(lineage.expect("look"), wanted, "{name}");
    }
}
