//! One layer is gone. Nothing else suffers from it.

use tonic::Code;

use super::World;

/// `top` is gone: what stands on it cannot be used, all else can.
fn assert_barred(world: &mut World) {
    let lost = world.client.stat("top").unwrap_err();
    assert_eq!(lost.code(), Code::DataLoss, "{lost:?}");
    assert!(lost.message().contains("top"), "{lost:?}");
    let refused = world.client.prepare("child", "top", &[]).unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
    let refused = world.client.mounts("work").unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
    assert_eq!(world.client.list().len(), 5, "List shows it");
    world.client.stat("base").unwrap();
    world.content("lone");
    let info = &world.json(&["info"])[0];
    assert_eq!(info["quarantined"], 1);
    assert!(
        info["alarms"][0]
            .as_str()
            .unwrap()
            .contains("layerctl fsck")
    );
    let ended = world.ctl(&["snapshot", "show", "top"]);
    assert_eq!(ended.code, 9, "{ended:?}");
    let ended = world.ctl(&["fsck", "--repair"]);
    assert_eq!(ended.code, 11, "{ended:?}");
    assert!(ended.out.contains("QUARANTINED"), "{ended:?}");
}

/// Removing what uses it is the way out.
fn assert_removable(world: &mut World) {
    for key in ["look", "work", "top"] {
        world.client.remove(key).unwrap();
    }
    world.commit("top", "base");
    world.client.prepare("work", "top", &[]).unwrap();
    world.content("work");
    world.run(&["trash", "empty", "--yes"]);
    let wanted = std::time::Duration::from_secs(10);
    layerd_integration::process::wait_until("the quarantine to end", wanted, || {
        world.json(&["info"])[0]["quarantined"] == 0
    });
    assert_eq!(world.run(&["fsck"]), "No problems.\n");
}

#[test]
fn root_a_layer_lost_meanwhile_is_quarantined_by_fsck() {
    let mut world = World::new("");
    world.furnish();
    world.sh("mv l/2 ../kept");
    assert_eq!(world.ctl(&["fsck"]).code, 11);
    assert_barred(&mut world);
    assert_removable(&mut world);
}

#[test]
fn root_a_layer_lost_before_the_start_is_quarantined() {
    let mut world = World::new("");
    world.furnish();
    world.kill();
    world.sh("mv l/2 ../kept");
    world.restart();
    assert_barred(&mut world);
    assert_removable(&mut world);
}
