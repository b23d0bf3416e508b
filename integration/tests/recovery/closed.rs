//! Folders of the data directory that `chattr +i` closed, and a disk that is smaller than the reserve.

use super::World;

#[test]
fn root_a_closed_folder_is_named_and_opened() {
    let world = World::new("");
    world.sh("chattr +i l");
    let alarm = world.json(&["info"])[0]["alarms"][0].to_string();
    let found = world.ctl(&["doctor", "--quiet"]);
    world.sh("chattr -i l");
    let folder = world.daemon.root().join("l").display().to_string();
    assert!(
        alarm.contains(&folder) && alarm.contains("chattr -i"),
        "{alarm}"
    );
    let fix = format!("chattr -i -a {folder}");
    assert!(found.out.contains(&fix), "{found:?}");
    assert!(world.json(&["info"])[0]["alarms"][0].is_null());
}
