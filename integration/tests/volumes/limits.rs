//! Limits of volumes: enforced, shown, enlarged, and there again after a crash.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use layerd_integration::plugin::own_run;
use layerd_integration::process::{output, wait_until};
use layerd_integration::scratch::mounts_below;
use layerd_integration::{Daemon, Scratch};
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use super::World;

const MIB: u64 = 1 << 20;

/// A daemon whose mounts no other test holds: a namespace that is made has a copy of all that are there, and
/// nothing that is mounted in one is enlarged offline or let go of.
fn apart() -> World {
    own_run();
    World::new()
}

/// The same on a file system of this type.
fn world_on(filesystem: &str) -> World {
    own_run();
    let scratch = Scratch::on(filesystem, 512);
    let daemon = Daemon::start(&scratch.dir("disk"));
    World { daemon, scratch }
}

/// Bytes that a file system has in all.
pub(super) fn size(of: &Path) -> u64 {
    let disk = statvfs(of).unwrap();
    disk.blocks() * disk.fragment_size()
}

/// Writes a file of so many bytes, as far as it goes; answers why it ended early.
pub(super) fn write(path: &Path, bytes: u64) -> Option<Errno> {
    let mut file = File::create(path).unwrap();
    let piece = vec![7; 64 << 10];
    let pieces = bytes / (64 << 10);
    let written = (0..pieces).try_for_each(|_| file.write_all(&piece));
    let written = written.and_then(|()| file.sync_all());
    written
        .err()
        .map(|cause| Errno::from_raw(cause.raw_os_error().unwrap()))
}

/// Bytes of disk that the image of a volume takes.
fn taken(data: &Path) -> u64 {
    let image = fs::metadata(data.with_file_name("image")).unwrap();
    image.blocks() * 512
}

fn ends_writers_at_the_limit(filesystem: &str) {
    let world = world_on(filesystem);
    world.run(&[
        "volume", "create", "--size", "16m", "--inodes", "100", "data",
    ]);
    let data = world.path("data");
    assert!(size(&data) <= 16 * MIB && size(&data) > 12 * MIB);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    assert_eq!(write(&data.join("large"), 32 * MIB), Some(Errno::ENOSPC));
    let full = taken(&data);
    assert!(full > 12 * MIB && full <= 17 * MIB, "{full}");
    fs::remove_file(data.join("large")).unwrap();
    wait_until(
        "the disk to get the space back",
        Duration::from_secs(60),
        || {
            File::open(&data).and_then(|data| data.sync_all()).unwrap();
            nix::unistd::sync();
            taken(&data) < full / 2
        },
    );
    let made = (0..400).take_while(|number| File::create(data.join(number.to_string())).is_ok());
    let made = made.count();
    assert!((100..200).contains(&made), "{made} files");
    let error = world.fail(6, &["volume", "create", "--size", "1m", "tiny"]);
    assert!(error.contains("4194304"), "{error}");
}

#[test]
fn root_a_limit_on_ext4_ends_writers() {
    ends_writers_at_the_limit("ext4");
}

#[test]
fn root_a_limit_on_xfs_ends_writers() {
    ends_writers_at_the_limit("xfs");
}

#[test]
fn root_a_limit_on_btrfs_ends_writers() {
    ends_writers_at_the_limit("btrfs");
}

#[test]
fn root_a_volume_in_use_is_enlarged_and_never_made_smaller() {
    let world = apart();
    world.run(&["volume", "create", "--size", "320m", "data"]);
    let target = world.scratch.dir("target");
    let at = format!("/data={}", target.display());
    let attach = [
        "attach",
        "--owner",
        "container:c",
        "-v",
        "data:/data",
        "--target",
        &at,
    ];
    world.run(&attach);
    let before = size(&target);
    assert_eq!(write(&target.join("large"), 320 * MIB), Some(Errno::ENOSPC));
    world.run(&["volume", "update", "--size", "480m", "data"]);
    assert!(size(&target) >= before + 150 * MIB);
    assert_eq!(write(&target.join("large"), 320 * MIB), None);
    let shown = world.run(&["volume", "show", "data"]);
    assert!(shown.contains("Limit: 503316480 bytes (image)"), "{shown}");
    let error = world.fail(5, &["volume", "update", "--size", "330m", "data"]);
    assert!(error.contains("does not shrink"), "{error}");
    world.run(&["volume", "create", "plain"]);
    let error = world.fail(5, &["volume", "update", "--size", "330m", "plain"]);
    assert!(error.contains("held to no size"), "{error}");
    let error = world.fail(6, &["volume", "create", "--opt", "inodes=5", "other"]);
    assert!(error.contains("needs the option size"), "{error}");
    assert!(world.run(&["info"]).contains("volume limits: image files"));
}

/// As where layerd ran in a pod that ended, whose mount namespace is gone, and what it published is not.
#[test]
fn root_an_image_that_is_mounted_elsewhere_is_not_mounted_a_second_time() {
    let world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let data = world.path("data");
    let target = world.scratch.dir("target");
    output(Command::new("mount").arg("--bind").args([&data, &target]));
    output(Command::new("umount").arg(&data));
    fs::write(target.join("file"), "content").unwrap();
    world.run(&["attach", "--owner", "container:c", "-v", "data:/data"]);
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_eq!(device(&data), device(&target), "one file system");
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "content");
    world.run(&["detach", "--owner", "container:c"]);
    // Nothing holds it, and it is mounted there still: it is enlarged as it is, if layerd may do that, or not
    // at all.
    let enlarged = world.ctl(&["volume", "update", "--size", "20m", "data"]);
    assert!(
        enlarged.code == 0 || enlarged.error.contains("is in use"),
        "{enlarged:?}"
    );
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "content");
    assert_eq!(device(&data), device(&target), "one file system");
    output(Command::new("umount").arg(&target));
    world.run(&["volume", "update", "--size", "24m", "data"]);
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "content");
}

/// An ext4, which grows without a mount where layerd may not do it otherwise.
#[test]
fn root_a_small_volume_is_enlarged_while_nothing_uses_it() {
    let world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let data = world.path("data");
    fs::write(data.join("file"), "content").unwrap();
    world.run(&["volume", "update", "--size", "40m", "data"]);
    assert!(size(&data) > 32 * MIB);
    let names: Vec<_> = fs::read_dir(&data)
        .unwrap()
        .map(|one| one.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"]);
}

/// Beyond what it keeps blocks for, resize2fs moves content, and has lost it.
#[test]
fn root_a_volume_that_was_made_too_small_is_not_enlarged() {
    let world = apart();
    world.run(&["volume", "create", "--size", "4m", "data"]);
    let data = world.path("data");
    let enlarge = ["volume", "update", "data", "--size"];
    let refused = world.fail(5, &[&enlarge[..], &["5g"]].concat());
    assert!(refused.contains("4294967296 bytes at most"), "{refused}");
    assert!(size(&data) <= 4 * MIB);
    fs::write(data.join("file"), "content").unwrap();
    world.run(&[&enlarge[..], &["4g"]].concat());
    assert!(size(&data) > 3 << 30);
    world.run(&["volume", "clone", "--size", "5g", "data", "larger"]);
    for name in ["data", "larger"] {
        assert_eq!(world.read(name), "content");
    }
}

#[test]
fn root_what_is_done_with_volumes_works_with_limited_ones() {
    let world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let data = world.path("data");
    fs::write(data.join("file"), "content").unwrap();
    let archive = world.scratch.path().join("data.tar");
    let archive = archive.to_str().unwrap();
    world.run(&["volume", "export", "data", archive]);
    world.run(&["volume", "import", "imported", archive, "--size", "20m"]);
    world.run(&["volume", "clone", "data", "cloned", "--size", "24m"]);
    world.run(&["volume", "clone", "data", "unlimited"]);
    world.run(&["volume", "snapshot", "data", "snapped"]);
    world.run(&["volume", "rename", "data", "renamed"]);
    for (name, most) in [
        ("renamed", 16),
        ("imported", 20),
        ("cloned", 24),
        ("snapped", 16),
    ] {
        let data = world.path(name);
        assert_eq!(
            fs::read_to_string(data.join("file")).unwrap(),
            "content",
            "{name}"
        );
        assert!(size(&data) <= most * MIB, "{name}");
        let usage = world.one(&["volume", "usage", name, "--exact"]);
        assert_eq!(usage["inodes"], 2, "{name}");
    }
    assert!(size(&world.path("unlimited")) > 1024 * MIB);

    let mounted = mounts_below(world.daemon.root()).len();
    world.run(&["volume", "rm", "renamed"]);
    assert_eq!(
        mounts_below(world.daemon.root()).len(),
        mounted - 1,
        "in the trash"
    );
    world.run(&["volume", "undelete", "renamed"]);
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "content");
    world.run(&["volume", "rm", "renamed", "imported", "cloned", "snapped"]);
    world.run(&[
        "volume", "purge", "--force", "renamed", "imported", "cloned", "snapped",
    ]);
    assert_eq!(mounts_below(world.daemon.root()), [] as [PathBuf; 0]);
    assert_eq!(world.run(&["fsck"]).trim(), "No problems.");
}

/// A boot takes the mounts away, and a kill leaves what is being made.
#[test]
fn root_limits_are_there_again_after_a_crash() {
    let mut world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let data = world.path("data");
    fs::write(data.join("file"), "content").unwrap();
    for number in 0..4 {
        let mut create =
            world.command(&["volume", "create", "--size", "16m", &format!("n{number}")]);
        let mut create = create.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(7 * number));
        world.daemon.kill9();
        create.wait().unwrap();
        for mount in mounts_below(world.daemon.root()) {
            output(Command::new("umount").arg(mount));
        }
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
        File::create(data.join("past the limit")).unwrap_err();
        world.daemon.restart();
        assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "content");
        assert!(size(&data) <= 16 * MIB);
    }
    let staging = world.daemon.root().join("volumes/.staging");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
    let volumes = world.json(&["volume", "ls"]).len();
    assert_eq!(mounts_below(world.daemon.root()).len(), volumes);
    assert_eq!(world.run(&["fsck"]).trim(), "No problems.");

    let mount = mounts_below(world.daemon.root())
        .into_iter()
        .find(|mount| *mount == data);
    output(Command::new("umount").arg(mount.unwrap()));
    fs::remove_file(data.with_file_name("image")).unwrap();
    let found = world.ctl(&["fsck"]);
    assert!(
        found.out.contains("the image of volume data is missing"),
        "{found:?}"
    );
    let refused = world.ctl(&["attach", "--owner", "container:c", "-v", "data:/data"]);
    assert!(
        refused.error.contains("content of volume data is missing"),
        "{refused:?}"
    );
}

/// As a kill leaves it between the move to the trash and the unmount.
#[test]
fn root_a_volume_in_the_trash_is_not_mounted_after_a_start() {
    let mut world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    fs::write(world.path("data").join("file"), "kept").unwrap();
    let path = world.path("data");
    let slot = path.parent().unwrap().file_name().unwrap().to_owned();
    world.run(&["volume", "rm", "data"]);
    let trashed = world.daemon.root().join("volumes/.trash").join(slot);
    let mounted = || mounts_below(&trashed).len();
    assert_eq!(mounted(), 0);
    let mut mount = Command::new("mount");
    mount.args(["-o", "loop"]).arg(trashed.join("image"));
    output(mount.arg(trashed.join("data")));
    assert_eq!(mounted(), 1);
    world.crash();
    assert_eq!(mounted(), 0);
    world.run(&["volume", "undelete", "data"]);
    assert_eq!(world.read("data"), "kept");
}

/// A mount point on which the image is not mounted is no content.
#[test]
fn root_a_limited_volume_whose_image_is_gone_is_not_read() {
    let world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let data = world.path("data");
    fs::write(data.join("file"), "content").unwrap();
    output(Command::new("umount").arg(&data));
    fs::remove_file(data.with_file_name("image")).unwrap();
    assert_not_read(&world, 9, "content of volume data is missing");
}

/// Requires that no call takes what lies at the content's place for the content.
fn assert_not_read(world: &World, code: i32, why: &str) {
    let archive = world.scratch.path().join("data.tar");
    let archive = archive.to_str().unwrap();
    let calls: [&[&str]; 6] = [
        &["volume", "export", "data", archive],
        &["volume", "clone", "data", "cloned"],
        &["volume", "snapshot", "data", "snapped"],
        &["volume", "usage", "data", "--exact"],
        &["volume", "update", "--size", "20m", "data"],
        &["attach", "--owner", "container:c", "-v", "data:/data"],
    ];
    for call in calls {
        let error = world.fail(code, call);
        assert!(error.contains(why), "{call:?}: {error}");
    }
    assert_eq!(world.names(&[]), ["data"]);
    let staging = world.daemon.root().join("volumes/.staging");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
}

fn mount_tmpfs(on: &Path) {
    output(
        Command::new("mount")
            .args(["-t", "tmpfs", "foreign"])
            .arg(on),
    );
}

#[test]
fn root_a_mount_of_another_program_on_a_limited_volume_is_not_its_content_and_stays() {
    let world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let data = world.path("data");
    fs::write(data.join("file"), "content").unwrap();
    fs::create_dir(data.join("inside")).unwrap();
    mount_tmpfs(&data);
    fs::write(data.join("other"), "foreign").unwrap();
    assert_not_read(&world, 5, "is a mount point; unmount it");
    output(Command::new("umount").arg(&data));
    for below in ["", "inside"] {
        mount_tmpfs(&data.join(below));
        fs::write(data.join(below).join("other"), "foreign").unwrap();
        let slot = data.parent().unwrap().file_name().unwrap();
        let trashed = world.daemon.root().join("volumes/.trash").join(slot);
        world.run(&["volume", "rm", "data"]);
        let purged = world.ctl(&["volume", "purge", "--force", "data"]);
        assert_ne!(purged.code, 0, "{purged:?}");
        let place = trashed.join("data").join(below);
        assert_eq!(fs::read_to_string(place.join("other")).unwrap(), "foreign");
        output(Command::new("umount").arg(&place));
        world.run(&["volume", "undelete", "data"]);
        assert_eq!(world.read("data"), "content");
    }
    world.run(&["volume", "rm", "data"]);
    world.run(&["volume", "purge", "--force", "data"]);
    assert_eq!(mounts_below(world.daemon.root()), [] as [PathBuf; 0]);
}

/// As a power cut leaves a volume whose move out of the trash did not reach the disk.
#[test]
fn root_a_limited_volume_that_a_start_takes_out_of_the_trash_is_mounted() {
    let mut world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let data = world.path("data");
    fs::write(data.join("file"), "content").unwrap();
    world.daemon.kill9();
    output(Command::new("umount").arg(&data));
    let folder = data.parent().unwrap();
    let trash = world.daemon.root().join("volumes/.trash");
    fs::rename(folder, trash.join(folder.file_name().unwrap())).unwrap();
    world.daemon.restart();
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "content");
}

#[test]
fn root_an_image_that_is_none_is_data_loss_and_named_by_fsck() {
    let world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let data = world.path("data");
    output(Command::new("umount").arg(&data));
    let image = data.with_file_name("image");
    fs::write(&image, "").unwrap();
    let found = world.ctl(&["fsck"]);
    let named = "the image of volume data cannot be used: it is cut short";
    assert!(found.out.contains(named), "{found:?}");
    assert_not_read(&world, 9, "cannot be used: it is cut short");
    world.run(&["volume", "rm", "data"]);
    let refused = world.fail(9, &["volume", "undelete", "data"]);
    assert!(refused.contains("it is cut short"), "{refused}");
    world.run(&["volume", "purge", "--force", "data"]);
    assert_eq!(world.run(&["fsck"]).trim(), "No problems.");
}

#[test]
fn root_what_is_moved_to_lost_is_unmounted_first() {
    let world = apart();
    world.run(&["volume", "create", "--size", "16m", "data"]);
    let slot = world.daemon.root().join("volumes/zz");
    let data = world.path("data");
    fs::create_dir_all(slot.join("data")).unwrap();
    fs::copy(data.with_file_name("image"), slot.join("image")).unwrap();
    let mut mount = Command::new("mount");
    output(
        mount
            .args(["-o", "loop"])
            .args([slot.join("image"), slot.join("data")]),
    );
    world.run(&["fsck", "--repair"]);
    assert!(!slot.exists());
    assert_eq!(mounts_below(world.daemon.root()), [data]);
}

/// On a disk with no room for that, nothing is begun; what fails half-way leaves the volume as it was.
fn is_not_damaged_by_a_full_disk(filesystem: &str) {
    let mut world = world_on(filesystem);
    world.run(&["volume", "create", "--size", "8m", "data"]);
    let data = world.path("data");
    fs::write(data.join("file"), vec![5; 2 << 20]).unwrap();
    File::open(&data).and_then(|data| data.sync_all()).unwrap();
    nix::unistd::sync();
    let other = world.scratch.path().join("disk/other");
    let mut file = File::create(&other).unwrap();
    for bytes in [1 << 20, 64 << 10, 4 << 10] {
        let piece = vec![1; bytes];
        while file.write_all(&piece).is_ok() {}
        let _ = file.sync_all();
    }
    let error = world.fail(10, &["volume", "update", "--size", "24m", "data"]);
    assert!(error.contains("to be enlarged"), "{error}");
    assert_eq!(fs::read(data.join("file")).unwrap(), vec![5; 2 << 20]);
    drop(file);
    fs::remove_file(&other).unwrap();
    // btrfs writes each block anew, elsewhere: the ext4 itself may have met the full disk, and be read-only.
    let is_in_place = filesystem != "btrfs";
    if is_in_place {
        fs::write(data.join("new"), "content").unwrap();
    }
    world.daemon.kill9();
    output(Command::new("umount").arg(&data));
    let mut check = Command::new("e2fsck");
    check.arg(if is_in_place { "-fn" } else { "-fp" });
    let checked = check.arg(data.with_file_name("image")).status().unwrap();
    assert!(
        checked.code().unwrap() <= i32::from(!is_in_place),
        "{checked}"
    );
    world.daemon.restart();
    world.run(&["volume", "update", "--size", "24m", "data"]);
    assert!(size(&data) > 16 * MIB);
    assert_eq!(fs::read(data.join("file")).unwrap(), vec![5; 2 << 20]);
    assert_eq!(fs::read_dir(data.parent().unwrap()).unwrap().count(), 2);
}

#[test]
fn root_a_volume_is_not_damaged_by_its_growth_on_a_full_ext4() {
    is_not_damaged_by_a_full_disk("ext4");
}

#[test]
fn root_a_volume_is_not_damaged_by_its_growth_on_a_full_xfs() {
    is_not_damaged_by_a_full_disk("xfs");
}

#[test]
fn root_a_volume_is_not_damaged_by_its_growth_on_a_full_btrfs() {
    is_not_damaged_by_a_full_disk("btrfs");
}
