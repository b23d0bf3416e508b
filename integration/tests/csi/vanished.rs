//! Target paths that kubelet removed without NodeUnpublishVolume.

use std::fs;
use std::time::Duration;

use layerd_integration::process::wait_until;
use layerd_proto::csi::v1::DeleteVolumeRequest;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::client::{create, publish};
use super::world::World;

impl World {
    fn held(&self) -> usize {
        self.json(&["attachments"]).len()
    }

    /// It looks when it starts, and every ten minutes.
    fn wait_for_held(&mut self, count: usize) {
        self.crash();
        wait_until("paths to be looked for", Duration::from_secs(30), || {
            self.held() == count
        });
    }
}

#[test]
fn root_a_volume_is_let_go_when_its_path_vanished_in_a_restart_of_the_machine() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let (forced, cleaned, stays) = (
        world.target("pod-1"),
        world.target("pod-2"),
        world.target("pod-3"),
    );
    for target in [&forced, &cleaned, &stays] {
        world.publish(&publish(&id, target)).unwrap();
    }
    fs::write(stays.join("file"), "x").unwrap();
    world.reboot();
    // Kubelet removes the pod's directory, or the target path alone.
    world.remove_pod("pod-1");
    fs::remove_dir(&cleaned).unwrap();
    world.wait_for_held(1);
    world.ctl(5, &["volume", "rm", "pvc-1"]);

    // The pod that goes on has its files; the others' end is told late.
    world.publish(&publish(&id, &stays)).unwrap();
    assert!(stays.join("file").exists());
    world.unpublish(&id, &forced).unwrap();
    for target in [&cleaned, &stays] {
        world.unpublish(&id, target).unwrap();
    }
    let delete = DeleteVolumeRequest {
        volume_id: id,
        ..DeleteVolumeRequest::default()
    };
    let deleted = world
        .client
        .run(async |client| client.controller.delete_volume(delete).await);
    deleted.unwrap();
}

/// A path that cannot be seen is not gone: another mount may hide it.
#[test]
fn root_a_volume_stays_held_while_it_is_mounted_or_its_disk_is_away() {
    let mut world = World::new();
    let id = world.create(&create("pvc-1")).unwrap().volume_id;
    let target = world.target("pod-1");
    world.publish(&publish(&id, &target)).unwrap();
    let hidden = target.parent().unwrap().to_owned();
    let none = None::<&str>;
    mount(Some("none"), &hidden, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    assert!(!target.exists());
    let other = world.target("pod-2");
    world.publish(&publish(&id, &other)).unwrap();
    umount2(&other, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    fs::remove_dir(&other).unwrap();
    world.wait_for_held(1);
    assert!(world.ctl(0, &["who-uses", "pvc-1"]).contains("pod-1"));
    umount2(&hidden, MntFlags::UMOUNT_NOFOLLOW).unwrap();

    world.reboot();
    let kubelet = world.path().join("kubelet/pods");
    let away = world.path().join("kubelet/away");
    fs::rename(&kubelet, &away).unwrap();
    world.crash();
    // One look has been made when the next thing it was to find is found.
    let seen = world.path().join("kubelet/seen");
    fs::create_dir(&seen).unwrap();
    let seen = seen.join("mount");
    world.publish(&publish(&id, &seen)).unwrap();
    umount2(&seen, MntFlags::UMOUNT_NOFOLLOW).unwrap();
    fs::remove_dir(&seen).unwrap();
    world.wait_for_held(1);
    fs::rename(&away, &kubelet).unwrap();
    world.publish(&publish(&id, &target)).unwrap();
    world.unpublish(&id, &target).unwrap();
}
