//! Limits of volumes by quotas of projects, on kernels that have them; elsewhere the same by images.

use std::fs;
use std::path::PathBuf;

use layerd_integration::scratch::mounts_below;
use layerd_integration::{Daemon, Scratch};
use nix::errno::Errno;

use super::World;
use super::limits::{size, write};

const MIB: u64 = 1 << 20;

/// A daemon on an xfs, and whether that has quotas.
fn world() -> (World, bool) {
    let (scratch, has_quotas) = Scratch::on_xfs_with_quotas(512);
    let daemon = Daemon::start(&scratch.dir("disk"));
    (World { daemon, scratch }, has_quotas)
}

#[test]
fn root_a_volume_is_held_to_its_size_by_a_quota() {
    let (mut world, has_quotas) = world();
    let (by, form) = match has_quotas {
        true => ("project quotas of xfs", "(quota)"),
        false => ("image files", "(image)"),
    };
    let info = world.run(&["info"]);
    assert!(info.contains(&format!("volume limits: {by}")), "{info}");
    assert!(info.contains(&format!("container limits: {by}")), "{info}");
    world.run(&[
        "volume", "create", "--size", "16m", "--inodes", "100", "data",
    ]);
    let shown = world.run(&["volume", "show", "data"]);
    assert!(shown.contains(form), "{shown}");
    let mounted = mounts_below(world.daemon.root()).len();
    assert_eq!(mounted, usize::from(!has_quotas), "a quota mounts nothing");
    let target = world.scratch.dir("target");
    let at = format!("/data={}", target.display());
    let attach = [
        "attach",
        "--owner",
        "container:c",
        "-v",
        "data:/data",
        "--target",
    ];
    world.run(&[&attach[..], &[at.as_str()]].concat());
    assert_eq!(write(&target.join("large"), 32 * MIB), Some(Errno::ENOSPC));
    if has_quotas {
        world.run(&["volume", "update", "--size", "64m", "data"]);
        assert_eq!(size(&target), 64 * MIB);
        assert_eq!(write(&target.join("large"), 32 * MIB), None);
        assert_eq!(write(&target.join("larger"), 64 * MIB), Some(Errno::ENOSPC));
        fs::remove_file(target.join("larger")).unwrap();
        let shrink = ["volume", "update", "data", "--size"];
        let refused = world.fail(5, &[&shrink[..], &["24m"]].concat());
        assert!(refused.contains("with --force"), "{refused}");
        world.run(&[&shrink[..], &["24m", "--force"]].concat());
        fs::File::create(target.join("larger")).unwrap_err();
        world.run(&[&shrink[..], &["48m"]].concat());
        assert_eq!(size(&target), 48 * MIB);
    }
    world.daemon.kill9();
    world.daemon.restart();
    // Not even a file can be made where no block is left.
    let _ = fs::remove_file(target.join("larger"));
    assert_eq!(write(&target.join("more"), 64 * MIB), Some(Errno::ENOSPC));
}

#[test]
fn root_what_is_done_with_volumes_works_with_quotas() {
    let (world, has_quotas) = world();
    world.run(&["volume", "create", "--size", "64m", "data"]);
    fs::write(world.path("data").join("file"), "content").unwrap();
    world.run(&["volume", "clone", "data", "cloned", "--size", "24m"]);
    world.run(&["volume", "clone", "data", "unlimited"]);
    world.run(&["volume", "snapshot", "data", "snapped"]);
    assert!(size(&world.path("cloned")) <= 24 * MIB);
    assert!(size(&world.path("unlimited")) > 100 * MIB);
    assert!(size(&world.path("snapped")) <= 64 * MIB);
    assert_eq!(world.read("cloned"), "content");
    world.run(&["volume", "rm", "data"]);
    world.run(&["volume", "undelete", "data"]);
    assert!(size(&world.path("data")) <= 64 * MIB, "as it was");
    assert_eq!(world.read("data"), "content");
    assert_eq!(world.run(&["fsck"]).trim(), "No problems.");

    if has_quotas {
        let note = world.path("data").with_file_name("project");
        fs::remove_file(&note).unwrap();
        let found = world.ctl(&["fsck"]);
        assert!(found.out.contains("the note of its project"), "{found:?}");
        let refused = world.ctl(&["attach", "--owner", "container:d", "-v", "data:/data"]);
        let says = format!("there is no {}", note.display());
        assert!(refused.error.contains(&says), "{refused:?}");
    }
    let all = ["data", "cloned", "unlimited", "snapped"];
    world.run(&[&["volume", "rm"][..], &all].concat());
    world.run(&[&["volume", "purge", "--force"][..], &all].concat());
    assert_eq!(mounts_below(world.daemon.root()), [] as [PathBuf; 0]);
}
