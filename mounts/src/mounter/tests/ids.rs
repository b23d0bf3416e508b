//! Binds whose ids are shifted.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::Ground;
use crate::mounter::{BindOptions, KernelMounter, MountError, Mounter};
use crate::test_support::{LoopDisk, enter_private_mounts};
use crate::types::{IdMaps, Mount};

fn shifted() -> BindOptions {
    let maps = IdMaps::parse("0:100000:65536", "0:200000:65536").expect("good maps");
    BindOptions {
        ids: Some(maps),
        ..BindOptions::default()
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::metadata(path).expect("it is there");
    (found.uid(), found.gid())
}

fn ids_are_shifted_both_ways(disk: LoopDisk) {
    let ground = Ground::on(disk);
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    fs::write(source.join("old"), "x").expect("write");
    chown(source.join("old"), Some(7), Some(8)).expect("chown");
    fs::set_permissions(&source, Permissions::from_mode(0o777)).expect("chmod");
    let attached = ground.attach(ground.bind(&source, &shifted()), &target);
    assert_eq!(owner(&target), (100_000, 200_000));
    assert_eq!(owner(&target.join("old")), (100_007, 200_008));
    let made = Command::new("touch")
        .arg(target.join("new"))
        .uid(100_005)
        .gid(200_006)
        .status();
    assert!(made.expect("touch").success());
    assert_eq!(owner(&source.join("new")), (5, 6), "as it is on disk");
    let refused = fs::write(target.join("host"), "x").expect_err("host ids are not mapped");
    assert_eq!(
        refused.raw_os_error(),
        Some(nix::errno::Errno::EOVERFLOW as i32)
    );
    ground.detach(&target, &attached);
    assert_eq!(owner(&source.join("old")), (7, 8), "nothing was changed");
}

/// Linux 6.3; older kernels say so.
#[test]
fn root_ids_are_shifted_on_tmpfs_or_refused() {
    enter_private_mounts();
    let features = KernelMounter::new().features();
    let mut features = features.iter();
    let tmpfs = features.find(|feature| feature.name == "id-mapped mounts of tmpfs");
    if tmpfs.expect("it is tried").trouble.is_none() {
        return ids_are_shifted_both_ways(LoopDisk::tmpfs());
    }
    let ground = Ground::on(LoopDisk::tmpfs());
    let source = ground.dir("source");
    let refused = ground.mounter.bind(&ground.open(&source), &shifted());
    let error = refused.expect_err("the kernel cannot");
    assert!(error.to_string().contains("Linux 6.3"), "{error}");
}

#[test]
fn root_ids_are_shifted_on_ext4() {
    enter_private_mounts();
    ids_are_shifted_both_ways(LoopDisk::ext4(16));
}

#[test]
fn root_ids_are_shifted_on_xfs() {
    enter_private_mounts();
    ids_are_shifted_both_ways(LoopDisk::xfs(&[]));
}

#[test]
fn root_ids_are_shifted_on_btrfs() {
    enter_private_mounts();
    ids_are_shifted_both_ways(LoopDisk::btrfs());
}

/// A process in a user namespace, ended when dropped.
struct Inside(Child);

impl Inside {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--user", "sleep", "60"])
            .spawn();
        let inside = Self(child.expect("unshare is part of util-linux"));
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        let pid = inside.0.id().to_string();
        let end = Instant::now() + Duration::from_secs(20);
        while link(&pid) == link("self") {
            assert!(Instant::now() < end, "unshare never got there");
            std::thread::sleep(Duration::from_millis(1));
        }
        for (map, line) in [("uid_map", "0 100000 65536"), ("gid_map", "0 200000 65536")] {
            fs::write(format!("/proc/{pid}/{map}"), line).expect("write the mapping");
        }
        inside
    }

    fn run(&self, command: &[&str]) -> String {
        let pid = self.0.id().to_string();
        let output = Command::new("nsenter")
            .args(["--user", "--target", &pid, "--setuid", "0", "--setgid", "0"])
            .args(command)
            .output()
            .expect("nsenter is part of util-linux");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn root_the_container_sees_its_own_ids() {
    enter_private_mounts();
    let ground = Ground::on(LoopDisk::ext4(16));
    let (source, target) = (ground.dir("source"), ground.dir("target"));
    fs::write(source.join("file"), "x").expect("write");
    let attached = ground.attach(ground.bind(&source, &shifted()), &target);
    let inside = Inside::new();
    let text = |path: &Path| path.display().to_string();
    let seen = inside.run(&["stat", "-c", "%u:%g", &text(&target.join("file"))]);
    assert_eq!(seen, "0:0");
    let seen = inside.run(&["stat", "-c", "%u:%g", &text(&source.join("file"))]);
    assert_eq!(
        seen, "65534:65534",
        "without the mapping it is the overflow id's"
    );
    inside.run(&["touch", &text(&target.join("made"))]);
    assert_eq!(owner(&source.join("made")), (0, 0));
    drop(inside);
    ground.detach(&target, &attached);
}

#[test]
fn root_overlay_cannot_shift_and_says_what_to_do() {
    let ground = Ground::new();
    let layers = [ground.dir("one"), ground.dir("two")];
    let plan = [Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![format!(
            "lowerdir={}:{}",
            layers[0].display(),
            layers[1].display()
        )],
    }];
    let target = ground.dir("target");
    let attached = ground.attach(ground.mounter.view(&plan).expect("view"), &target);
    let handle = ground.open(&target);
    let refused = ground.mounter.bind(&handle, &shifted());
    drop(handle);
    let error = refused.expect_err("the kernel cannot");
    assert!(matches!(error, MountError::Unsupported { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("map its layers"), "{text}");
    ground.detach(&target, &attached);
}

#[test]
fn root_no_process_is_left_of_a_mapping() {
    enter_private_mounts();
    let ground = Ground::on(LoopDisk::ext4(16));
    let source = ground.dir("source");
    let children = || {
        let tasks = fs::read_dir("/proc/self/task").expect("list").flatten();
        let children = tasks.map(|task| fs::read_to_string(task.path().join("children")));
        children.flatten().collect::<String>()
    };
    let thread = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    for _ in 0..50 {
        drop(ground.bind(&source, &shifted()));
        let left = fs::read_to_string(&thread).unwrap_or_else(|_| children());
        assert_eq!(left, "", "the holder of the namespace is reaped");
    }
}
