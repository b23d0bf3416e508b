use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use layerd_layers::apply::IMAGE_TOP;
use layerd_layers::erofs::{Attributes, Options as ImageOptions, Special, Writer};
use layerd_mounts::test_support::{LoopDisk, enter_private_mounts};
use layerd_mounts::{Error, IdMap, IdMaps, Slot, mount, mountinfo, tree};

use crate::driver::{Base, Driver, Found, ImageFile, Images, SlotKind, Stack, Survey};
use crate::overlay::{LayerForm, Options, Overlay};
use crate::stacks::{on, view};

mod sharing;

fn open(root: &Path, layers: LayerForm) -> Overlay {
    let options = Options {
        layers,
        ..Options::default()
    };
    Overlay::open(root, &options).expect("images can be mounted here")
}

/// Writes an image with a file of this content, and a whiteout.
fn written(driver: &Overlay, slot: Slot, content: &[u8]) -> ImageFile {
    let file = driver.create_image(slot).expect("create");
    let mut writer = Writer::new(file, ImageOptions::default()).expect("write");
    let top = Attributes {
        permissions: 0o1775,
        uid: 3,
        gid: 4,
        ..Attributes::default()
    };
    let root = Writer::<ImageFile>::ROOT;
    let top = writer
        .directory(root, IMAGE_TOP.as_bytes(), &top)
        .expect("top");
    let given = Attributes {
        permissions: 0o644,
        ..Attributes::default()
    };
    let size = content.len() as u64;
    let mut file = writer.file(top, b"file", &given, size).expect("file");
    file.write(content).expect("content");
    file.finish().expect("end");
    let device = Special::Character(0, 0);
    writer
        .special(top, b"gone", &given, device)
        .expect("device");
    writer.finish().expect("finish").0
}

/// Makes such an image the content of a layer.
fn fill(driver: &Overlay, slot: Slot, content: &[u8]) {
    assert!(driver.is_due(slot).expect("look"), "an empty layer");
    let file = written(driver, slot, content);
    let usage = driver.finish_image(slot, file, true).expect("take over");
    assert_eq!(usage.inodes, 3);
    assert_eq!(driver.usage(slot, &|| true).expect("measure"), usage);
}

/// A committed layer that is an image.
fn commit(driver: &Overlay, slot: Slot, base: &Base, content: &[u8]) {
    driver.create(slot, base).expect("create");
    fill(driver, slot, content);
    driver.write_back(slot).expect("write back");
    driver.freeze(&on(slot.0, [])).expect("freeze");
    driver.freeze(&on(slot.0, [])).expect("again");
    driver.sync().expect("sync");
}

/// Reads a file of a layer as its mounts show it.
fn read(driver: &Overlay, slot: Slot) -> Vec<u8> {
    let stack = view([slot.0]);
    driver.make_mountable(&stack).expect("mount the image");
    let plan = driver.plan(&stack).expect("plan");
    assert_eq!(driver.top_of(&plan[0]), Some(slot));
    fs::read(Path::new(&plan[0].source).join("file")).expect("read")
}

fn mounts(root: &Path) -> Vec<PathBuf> {
    let root = root.canonicalize().expect("resolve");
    let table = mountinfo::read().expect("the mount table").into_iter();
    let targets = table.map(|entry| entry.target);
    targets
        .filter(|target| target.starts_with(root.join("x")))
        .collect()
}

/// A disk on which images may be mounted at the end.
struct Disk(LoopDisk);

impl Disk {
    fn new(disk: LoopDisk) -> Self {
        Self(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for target in mounts(self.path()) {
            mount::let_go(&target, &|_| true).expect("unmount");
        }
    }
}

fn is_damaged<T>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::BadImage { slot: Slot(1), .. }))
}

fn life(root: &Path) {
    let driver = open(root, LayerForm::Images);
    commit(&driver, Slot(1), &Base::empty(), b"one");
    assert!(!root.join("l/1").exists(), "an image has no directory");
    assert!(driver.has(Slot(1)).expect("look"));
    assert!(!driver.is_unused(Slot(1)).expect("look"));
    assert_eq!(mounts(root), Vec::<PathBuf>::new(), "mounted when needed");
    assert_eq!(read(&driver, Slot(1)), b"one");
    assert_eq!(read(&driver, Slot(1)), b"one");
    assert_eq!(mounts(root).len(), 1, "once a layer");
    let base = Base::on(Slot(1));
    commit(&driver, Slot(2), &base, b"two");
    let child = Slot(3);
    driver.create(child, &base).expect("create");
    let made = fs::metadata(driver.layer_path(child)).expect("made");
    let seen = (made.uid(), made.gid(), made.mode() & 0o7777);
    assert_eq!(seen, (3, 4, 0o1775), "as the top of the image");
    driver.make_mountable(&on(3, [2, 1])).expect("both");
    let listed = driver.list().expect("list");
    for slot in [1, 2, 3] {
        let layer = Found::Slot(SlotKind::Layer, Slot(slot));
        assert_eq!(listed.iter().filter(|found| **found == layer).count(), 1);
    }
    drop(driver);
    let driver = open(root, LayerForm::Directories);
    assert_eq!(mounts(root).len(), 2, "mounts outlive the process");
    assert_eq!(read(&driver, Slot(2)), b"two");
    for slot in [1, 2, 3] {
        for _ in 0..2 {
            driver.discard(Slot(slot)).expect("discard");
        }
        assert!(!driver.has(Slot(slot)).expect("look"));
        assert!(!driver.is_empty(Slot(slot)).expect("look") || slot == 3);
    }
    assert_eq!(mounts(root), Vec::<PathBuf>::new());
    for slot in [1, 2, 3] {
        driver.delete(Slot(slot), &|| true).expect("delete");
        assert!(driver.is_empty(Slot(slot)).expect("look"));
    }
    assert_eq!(driver.list().expect("list"), []);
    for folder in ["i", "x", "t", "l", "w"] {
        let left = fs::read_dir(root.join(folder)).expect("a folder").count();
        assert_eq!(left, 0, "{folder}");
    }
}

#[test]
fn root_an_image_lives_and_goes_on_ext4() {
    enter_private_mounts();
    let disk = LoopDisk::ext4(32);
    life(&disk.path().join("root"));
}

#[test]
fn root_an_image_lives_and_goes_on_xfs_and_btrfs() {
    enter_private_mounts();
    for disk in [LoopDisk::xfs(&[]), LoopDisk::btrfs()] {
        life(&disk.path().join("root"));
    }
}

/// The kernel reads no file of tmpfs as a file system.
#[test]
fn root_an_image_is_mounted_through_a_loop_device_on_tmpfs() {
    enter_private_mounts();
    let disk = LoopDisk::tmpfs();
    life(&disk.path().join("root"));
}

#[test]
fn root_an_image_that_is_not_what_was_written_is_not_mounted() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let image = disk.path().join("i/1");
    let driver = open(disk.path(), LayerForm::Auto);
    commit(&driver, Slot(1), &Base::empty(), &[7; 100_000]);
    let whole = fs::read(&image).expect("read");
    let mut altered = whole.clone();
    altered[50_000] ^= 1;
    for bad in [&whole[..whole.len() - 4096], &whole[..9000], b"", &altered] {
        fs::write(&image, bad).expect("write");
        // As after a start: content is taken on trust only where this process wrote it.
        let driver = open(disk.path(), LayerForm::Directories);
        assert!(is_damaged(driver.make_mountable(&view([1]))));
        assert!(is_damaged(driver.open_layer(Slot(1))));
        let checked = driver.check_image(Slot(1), &|_| true).expect("check");
        assert!(checked.expect("an image").problem.is_some());
        let offline = Overlay::survey(disk.path()).check_image(Slot(1), &|_| true);
        assert!(offline.expect("check").expect("an image").problem.is_some());
        assert_eq!(mounts(disk.path()), Vec::<PathBuf>::new());
    }
    fs::remove_file(&image).expect("remove");
    assert!(is_damaged(driver.make_mountable(&view([1]))), "it is gone");
    assert!(!driver.has(Slot(1)).expect("look"));
    fs::write(&image, &whole).expect("write");
    let driver = open(disk.path(), LayerForm::Directories);
    assert_eq!(read(&driver, Slot(1)), [7; 100_000]);
}

#[test]
fn root_an_image_becomes_a_directory_to_be_written_to() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::xfs(&[]));
    let driver = open(disk.path(), LayerForm::Images);
    let base = Base::empty();
    driver.create(Slot(1), &base).expect("create");
    fill(&driver, Slot(1), b"content");
    assert!(!driver.is_due(Slot(1)).expect("look"), "it is one");
    driver.make_mountable(&on(1, [])).expect("expand");
    assert!(!driver.is_image(Slot(1)));
    let layer = driver.layer_path(Slot(1));
    assert_eq!(fs::read(layer.join("file")).expect("read"), b"content");
    let device = fs::symlink_metadata(layer.join("gone")).expect("the whiteout");
    assert_eq!((device.mode() & 0o170_000, device.rdev()), (0o020_000, 0));
    let top = fs::metadata(&layer).expect("look");
    assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (3, 4, 0o1775));
    assert!(!disk.path().join("i/1").exists());
    assert_eq!(mounts(disk.path()), Vec::<PathBuf>::new());
    let plan = driver.plan(&on(1, [])).expect("plan");
    assert_eq!(Path::new(&plan[0].source), layer);
    driver.freeze(&on(1, [])).expect("a directory like others");
    assert_eq!(read(&driver, Slot(1)), b"content");
}

/// Clients clone the folder of the layers without what is mounted in it.
#[test]
fn root_images_become_directories_where_ids_are_mapped() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let driver = open(disk.path(), LayerForm::Images);
    let base = Base::on(Slot(1));
    commit(&driver, Slot(1), &Base::empty(), b"one");
    commit(&driver, Slot(2), &base, b"two");
    assert_eq!(read(&driver, Slot(2)), b"two");
    driver.create(Slot(3), &base.owned(7, 8)).expect("create");
    let map = IdMap {
        container: 0,
        host: 7,
        length: 9,
    };
    let maps = IdMaps {
        uid: vec![map],
        gid: vec![map],
    };
    let stack = Stack {
        ids: Some(maps),
        ..on(3, [2, 1])
    };
    let plan = driver.plan(&stack).expect("plan");
    for _ in 0..2 {
        driver.make_mountable(&stack).expect("make directories");
    }
    assert_eq!(driver.plan(&stack).expect("plan"), plan);
    assert_eq!(driver.counts().mounted, 0);
    for (slot, content) in [(1, b"one"), (2, b"two")] {
        assert!(!driver.is_image(Slot(slot)));
        let file = driver.layer_path(Slot(slot)).join("file");
        assert!(
            plan[0]
                .options
                .iter()
                .any(|option| option.contains(&format!("/l/{slot}")))
        );
        assert_eq!(fs::read(file).expect("read"), content);
        assert_eq!(read(&driver, Slot(slot)), content);
    }
    drop(driver);
    let driver = open(disk.path(), LayerForm::Images);
    assert_eq!(read(&driver, Slot(2)), b"two");
}

#[test]
fn root_what_was_written_beside_an_image_is_not_dropped() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let driver = open(disk.path(), LayerForm::Images);
    driver.create(Slot(1), &Base::empty()).expect("create");
    fill(&driver, Slot(1), b"content");
    let beside = driver.layer_path(Slot(1)).join("beside");
    fs::write(&beside, b"written").expect("through old mounts");
    for refused in [driver.freeze(&on(1, [])), driver.expand(Slot(1))] {
        assert!(
            matches!(refused, Err(Error::WrittenBeside { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(fs::read(&beside).expect("read"), b"written");
    fs::remove_file(&beside).expect("remove");
    driver.freeze(&on(1, [])).expect("freeze");
}

#[test]
fn root_what_a_crash_left_is_taken_away() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let at = |name: &str| disk.path().join(name);
    let driver = open(disk.path(), LayerForm::Images);
    for slot in [1, 2, 3, 4, 5, 6] {
        driver.create(Slot(slot), &Base::empty()).expect("create");
        fill(&driver, Slot(slot), b"content");
    }
    // While it was written; while it was removed; while it was expanded, before and after the end.
    fs::write(at("i/9.part"), b"part").expect("write");
    driver.make_mountable(&view([1])).expect("mount");
    fs::rename(at("i/1"), at("t/1.i")).expect("rename");
    fs::create_dir(at("i/2.dir")).expect("mkdir");
    fs::write(at("i/2.dir/file"), b"half").expect("write");
    fs::create_dir(at("i/3.whole")).expect("mkdir");
    fs::write(at("i/3.whole/file"), b"expanded").expect("write");
    // When the image had made room: before the move, after it, and with the directory lost.
    for slot in [4, 5, 6] {
        fs::rename(at(&format!("i/{slot}")), at(&format!("i/{slot}.old"))).expect("rename");
    }
    fs::create_dir(at("i/4.whole")).expect("mkdir");
    fs::write(at("i/4.whole/file"), b"expanded").expect("write");
    fs::write(at("l/5/file"), b"expanded").expect("write");
    drop(driver);
    let driver = open(disk.path(), LayerForm::Images);
    assert_eq!(mounts(disk.path()), Vec::<PathBuf>::new());
    let mut left: Vec<_> = fs::read_dir(at("i"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["2", "6"]);
    for slot in [3, 4, 5] {
        let file = at(&format!("l/{slot}/file"));
        assert_eq!(fs::read(file).expect("read"), b"expanded");
    }
    for slot in [2, 6] {
        assert_eq!(read(&driver, Slot(slot)), b"content");
    }
    driver.discard(Slot(1)).expect("go on");
    driver.delete(Slot(1), &|| true).expect("delete");
    assert!(driver.is_empty(Slot(1)).expect("look"));
}

/// Copies of a data directory may have followed mounts, and without a journal a name may be on the disk
/// before its directory.
#[test]
fn root_what_lies_where_a_mount_would_be_is_no_mount() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let driver = open(disk.path(), LayerForm::Images);
    for slot in [1, 2, 3] {
        commit(&driver, Slot(slot), &Base::empty(), b"content");
    }
    drop(driver);
    let at = |name: &str| disk.path().join("x").join(name);
    for slot in ["1", "9"] {
        fs::create_dir_all(at(slot).join(IMAGE_TOP)).expect("mkdir");
        fs::write(at(slot).join(IMAGE_TOP).join("file"), b"another").expect("write");
    }
    fs::write(at("2"), b"a file").expect("write");
    let driver = open(disk.path(), LayerForm::Images);
    assert_eq!(
        fs::read_dir(disk.path().join("x")).expect("read").count(),
        0
    );
    assert_eq!(driver.counts().mounted, 0);
    for slot in [1, 2, 3] {
        assert_eq!(read(&driver, Slot(slot)), b"content");
    }
    assert_eq!((driver.counts().mounted, mounts(disk.path()).len()), (3, 3));
    drop(driver);
    let driver = open(disk.path(), LayerForm::Images);
    assert_eq!(driver.counts().mounted, 3, "mounts outlive the process");
    driver.discard(Slot(1)).expect("discard");
    assert_eq!(driver.counts().mounted, 2);
}

#[test]
fn root_a_mounted_image_outlives_its_removal() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let driver = open(disk.path(), LayerForm::Images);
    commit(&driver, Slot(1), &Base::empty(), &[9; 50_000]);
    let layer = driver.open_layer(Slot(1)).expect("open");
    let file = fs::File::open(format!(
        "/proc/self/fd/{}/file",
        std::os::fd::AsRawFd::as_raw_fd(&layer)
    ));
    driver.discard(Slot(1)).expect("discard");
    driver.delete(Slot(1), &|| true).expect("delete");
    let mut content = vec![0; 50_000];
    let file = file.expect("open");
    file.read_exact_at(&mut content, 0).expect("read");
    assert!(content.iter().all(|byte| *byte == 9));
    assert!(!tree::is_empty(layer.as_fd(), Path::new("layer")).expect("read"));
}

#[test]
fn root_an_image_that_is_given_up_leaves_nothing() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let driver = open(disk.path(), LayerForm::Images);
    driver.create(Slot(1), &Base::empty()).expect("create");
    let mut file = driver.create_image(Slot(1)).expect("create");
    file.write_all(b"some of it").expect("write");
    assert!(disk.path().join("i/1.part").exists());
    drop(file);
    assert!(!disk.path().join("i/1.part").exists());
    let empty = driver.create_image(Slot(1)).expect("create");
    assert!(is_damaged(driver.finish_image(Slot(1), empty, true)));
    assert!(
        driver.is_due(Slot(1)).expect("look"),
        "it may be tried again"
    );
    fill(&driver, Slot(1), b"content");
}

#[test]
fn root_an_image_takes_no_others_place() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let driver = open(disk.path(), LayerForm::Images);
    let part = written(&driver, Slot(1), b"content");
    let (name, old) = (disk.path().join("i/1"), "another's");
    fs::write(&name, old).expect("write");
    driver
        .finish_image(Slot(1), part, false)
        .expect_err("the name is taken");
    assert_eq!(fs::read_to_string(&name).expect("it stays"), old);
    assert!(!disk.path().join("i/1.part").exists());
}

#[test]
fn root_layers_of_no_record_are_moved_away_whole() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let driver = open(disk.path(), LayerForm::Images);
    for slot in [1, 2] {
        driver.create(Slot(slot), &Base::empty()).expect("create");
        fill(&driver, Slot(slot), b"content");
    }
    driver.make_mountable(&view([1])).expect("mount");
    let layer = Found::Slot(SlotKind::Layer, Slot(1));
    let moved = driver.move_to_lost_found(&layer).expect("move");
    assert!(moved.ends_with("lost/i-1"), "{}", moved.display());
    driver.discard(Slot(2)).expect("discard");
    let trashed = Found::Slot(SlotKind::Trash, Slot(2));
    driver.move_to_lost_found(&trashed).expect("move");
    assert_eq!(driver.list().expect("list"), []);
    assert_eq!(mounts(disk.path()), Vec::<PathBuf>::new());
    for name in ["l-1", "i-1", "t-2", "t-2.i"] {
        assert!(disk.path().join("lost").join(name).exists(), "{name}");
    }
}

/// Neither a start nor a removal unmounts what is not layerd's.
#[test]
fn root_a_mount_of_another_program_on_an_image_stays() {
    enter_private_mounts();
    let disk = Disk::new(LoopDisk::ext4(32));
    let root = disk.path().to_owned();
    let driver = open(&root, LayerForm::Images);
    commit(&driver, Slot(1), &Base::empty(), b"one");
    assert_eq!(read(&driver, Slot(1)), b"one");
    let point = root.join("x/1");
    let mut mount = std::process::Command::new("mount");
    let mounted = mount.args(["-t", "tmpfs", "foreign"]).arg(&point).status();
    assert!(mounted.expect("mount").success());
    fs::write(point.join("file"), "foreign").expect("write");
    let refused = driver.discard(Slot(1));
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    drop(driver);
    let driver = open(&root, LayerForm::Images);
    let kept = fs::read_to_string(point.join("file")).expect("read");
    assert_eq!(kept, "foreign");
    mount::unmount(&point).expect("unmount");
    driver.discard(Slot(1)).expect("discard");
    driver.delete(Slot(1), &|| true).expect("delete");
    assert_eq!(mounts(&root), Vec::<PathBuf>::new());
}
