//! A start under systemd on a disk that stalls for longer than the unit's time limit and than one
//! extension of it.

use std::process::Command;
use std::time::Duration;

use layerd_integration::peers::Debian;
use layerd_integration::process::output;

use super::debians::World;

/// Puts the data on a disk of its own, which takes no writes from the end of layerd on.
const STALL: &str = "
    root=$(layerctl -o json info | sed -n 's/.*\"root\":\"\\([^\"]*\\)\".*/\\1/p')
    systemctl stop layerd.socket layerd.service
    mount -o loop /root/disk $root
    chmod 711 $root
    systemctl start layerd.service
    layerctl snapshot prepare before >/dev/null
    systemctl stop layerd.socket layerd.service
    mkdir -p /etc/systemd/system/layerd.service.d
    printf '[Service]\\nTimeoutStartSec=15\\n' >/etc/systemd/system/layerd.service.d/short.conf
    systemctl daemon-reload
    echo $root >/root/where
    fsfreeze --freeze $root
    systemctl start --no-block layerd.service
";

const END: &str = "systemctl stop layerd.socket layerd.service; umount $(cat /root/where)";

#[test]
fn root_full_systemd_waits_for_a_start_that_waits_for_the_disk() {
    let mut world = World::boot(Debian::Forky);
    world.install();
    let machine = &world.machine;
    // The tree has no mkfs(8).
    let disk = machine.top().join("root/disk");
    output(Command::new("truncate").arg("--size=256M").arg(&disk));
    output(Command::new("mkfs.ext4").arg("-q").arg(&disk));
    machine.run(STALL);
    let state = "systemctl show --value -p ActiveState -p StatusText layerd.service";
    for second in [20, 40, 60, 80] {
        std::thread::sleep(Duration::from_secs(20));
        let state = machine.run(state);
        let is_waiting = state.contains("activating") && state.contains("the start is ");
        if !is_waiting {
            machine.run("fsfreeze --unfreeze $(cat /root/where)");
            panic!("after {second} s: {state}");
        }
    }
    machine.run("fsfreeze --unfreeze $(cat /root/where)");
    machine.run("timeout 30 sh -c 'until systemctl is-active -q layerd.service; do sleep 1; done'");
    assert_eq!(
        machine.run("systemctl show --value -p NRestarts layerd.service"),
        "0\n"
    );
    machine.run("layerctl snapshot ls | grep before");
    machine.run(END);
}
