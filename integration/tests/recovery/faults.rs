//! Every fault that fsck knows, one row each: found and named, nothing changed unless told, and
//! then exactly what was announced.

use std::time::Duration;

use layerd_integration::Tree;
use layerd_integration::process::wait_until;
use tonic::Code;

use super::{Ended, World, end, program};

/// A fault. Scripts run in the root.
struct Fault {
    /// Brings it about.
    inject: &'static str,
    /// Problem reported by fsck.
    problem: &'static str,
    fix: &'static str,
    /// Condition after the repair; empty if there is none.
    repaired: &'static str,
}

const AGAIN: &str = "remove what uses it, then pull or create it again";

/// In the world of [`world`].
const FAULTS: [Fault; 13] = [
    Fault {
        inject: "mkdir -p t/6/left",
        problem: "layer 6 was left behind by an interrupted call",
        fix: "delete it",
        repaired: "test ! -e l/6 && test ! -e t/6",
    },
    Fault {
        inject: "mkdir l/6; echo x > l/6/x; mkdir w/6",
        problem: "layer 6 is in use or was, but no record names it",
        fix: "move it to lost/",
        repaired: "test ! -e l/6 && test ! -e w/6 && grep -q x lost/l-6/x",
    },
    Fault {
        inject: "mkdir -p l/6 w/6/work",
        problem: "layer 6 is in use or was, but no record names it",
        fix: "move it to lost/",
        repaired: "test ! -e l/6 && test ! -e w/6 && test -d lost/w-6/work",
    },
    Fault {
        inject: "mkdir l/zzzz; echo x > l/zzzz/x",
        problem: "an id that was never handed out",
        fix: "move it to lost/",
        repaired: "test ! -e l/zzzz && grep -q x lost/l-zzzz/x",
    },
    Fault {
        inject: "mkdir t/zzzz.w; echo x > t/zzzz.w/x",
        problem: "an id that was never handed out",
        fix: "move it to lost/",
        repaired: "test ! -e t/zzzz.w && grep -q x lost/t-zzzz.w/x",
    },
    Fault {
        inject: "mv l/2 ../kept",
        problem: "the directory of layer 2 of snapshot \"top\" is missing",
        fix: AGAIN,
        repaired: "",
    },
    Fault {
        inject: "mkdir t/1; echo x > t/1/x",
        problem: "there is something of layer 1 in the trash, but its snapshot \"base\" was not removed",
        fix: "move it to lost/",
        repaired: "grep -q base l/1/base && grep -q x lost/t-1/x",
    },
    Fault {
        inject: "rm -r w/3",
        problem: "layer 3 of snapshot \"work\" has no work directory",
        fix: "make it",
        repaired: "test -d w/3",
    },
    Fault {
        inject: "mkdir w/2",
        problem: "layer 2 of snapshot \"top\" has a work directory that it does not need",
        fix: "delete it",
        repaired: "test ! -e w/2 && test ! -e t/2.w",
    },
    Fault {
        inject: "echo x > l/notes",
        problem: "/l/notes is not layerd's",
        fix: "move it to lost/",
        repaired: "test ! -e l/notes && grep -q x lost/l-notes",
    },
    Fault {
        inject: "mkdir m/1",
        problem: "/m/1 is not layerd's",
        fix: "move it to lost/",
        repaired: "test ! -e m/1 && test -d lost/m-1",
    },
    Fault {
        inject: "chmod 0755 meta l",
        problem: "/meta has the mode 0755",
        fix: "set it to 0700",
        repaired: "test $(stat -c %a meta) = 700 && test $(stat -c %a l) = 700",
    },
    Fault {
        inject: "e=$(ls meta/export.[0-9]* | head -n 1)
            printf x | dd of=$e bs=1 seek=40 conv=notrunc status=none",
        problem: "is of no use",
        fix: "move it to lost/",
        repaired: "ls lost | grep -q meta-export",
    },
];

/// As furnished, and layer 6 removed and deleted, layer 7 removed and in the trash.
fn world() -> World {
    let mut world = World::new("");
    world.furnish();
    world.client.prepare("deleted", "base", &[]).unwrap();
    world.client.remove("deleted").unwrap();
    world.run(&["trash", "empty", "--yes"]);
    wait_until("its record to go", Duration::from_secs(10), || {
        world.json(&["trash", "ls"]).is_empty()
    });
    world.client.prepare("held", "base", &[]).unwrap();
    world.client.remove("held").unwrap();
    world
}

fn soon(world: &World, script: &str) {
    wait_until(script, Duration::from_secs(20), || world.is_so(script));
}

pub(super) fn offline(world: &World, more: &[&str]) -> Ended {
    let mut command = program("layerd");
    command.arg("fsck").arg("--root").arg(world.daemon.root());
    command.arg("--config");
    command.arg(world.scratch.path().join("config.toml"));
    end(command.args(more))
}

#[test]
fn root_faults_are_found_and_repaired_online() {
    for fault in FAULTS {
        let world = world();
        if fault.inject.contains("export") {
            soon(&world, "ls meta | grep -q 'export.[0-9]'");
        }
        assert_eq!(world.run(&["fsck"]), "No problems.\n");
        world.sh(fault.inject);
        // The daemon may write its metadata at any time.
        let folders = || ["l", "w", "t"].map(|part| Tree::read(&world.daemon.root().join(part)));
        let before = folders();
        let found = world.ctl(&["fsck"]);
        assert_eq!(found.code, 11, "{}: {found:?}", fault.inject);
        let texts = [fault.problem, fault.fix];
        assert!(
            texts.iter().all(|text| found.out.contains(text)),
            "{found:?}"
        );
        assert_eq!(folders(), before, "{}", fault.inject);
        assert!(!world.daemon.root().join("lost").exists());

        let repaired = world.ctl(&["-o", "json", "fsck", "--repair"]);
        let can_be = !fault.repaired.is_empty();
        let wanted = if can_be { 0 } else { 11 };
        assert_eq!(repaired.code, wanted, "{}: {repaired:?}", fault.inject);
        for line in repaired.out.lines() {
            let finding: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(finding["repaired"], can_be, "{line}");
            assert_eq!(finding["quarantined"], !can_be, "{line}");
        }
        if can_be {
            soon(&world, fault.repaired);
            assert_eq!(world.run(&["fsck"]), "No problems.\n");
        }
    }
}

#[test]
fn root_faults_are_found_and_repaired_offline() {
    for fault in FAULTS {
        let mut world = world();
        world.daemon.stop();
        assert_eq!(offline(&world, &[]).out, "no problems\n");
        world.sh(fault.inject);
        let before = Tree::read(world.daemon.root());
        let found = offline(&world, &[]);
        assert_eq!(found.code, 1, "{}: {found:?}", fault.inject);
        let texts = [fault.problem, fault.fix];
        assert!(
            texts.iter().all(|text| found.out.contains(text)),
            "{found:?}"
        );
        Tree::read(world.daemon.root()).assert_equals(&before);

        let can_be = !fault.repaired.is_empty();
        let repaired = offline(&world, &["--repair"]);
        let wanted = i32::from(!can_be);
        assert_eq!(repaired.code, wanted, "{}: {repaired:?}", fault.inject);
        if can_be {
            assert!(
                world.is_so(fault.repaired),
                "{}: {repaired:?}",
                fault.inject
            );
            assert_eq!(offline(&world, &[]).out, "no problems\n");
        }
        world.restart();
        assert_eq!(world.client.list().len(), 5);
    }
}

#[test]
fn root_the_daemon_starts_with_every_fault() {
    for fault in FAULTS {
        let mut world = world();
        world.daemon.stop();
        world.sh(fault.inject);
        world.restart();
        assert_eq!(world.client.list().len(), 5, "{}", fault.inject);
        world.content("lone");
        world.commit("another", "base");
        world.client.remove("another").unwrap();
        let top = world.client.stat("top");
        let code = top.err().map(|status| status.code());
        let wanted = (fault.fix == AGAIN).then_some(Code::DataLoss);
        assert_eq!(code, wanted, "{}", fault.inject);
    }
}

/// Neither fsck nor restore takes them for layers, and the next start deletes them.
#[test]
fn root_layers_made_ahead_are_no_fault() {
    let mut world = world();
    world.daemon.stop();
    world.sh("sed -i 's/spare_layers = 0/spare_layers = 8/' ../config.toml");
    world.restart();
    let layers = "test $(ls l | wc -l) =";
    assert!(world.is_so(&format!("{layers} 5")));
    world.client.prepare("more", "top", &[]).unwrap();
    soon(&world, &format!("{layers} {}", 5 + 1 + 8));
    assert_eq!(world.run(&["fsck"]), "No problems.\n");
    world.daemon.kill9();
    assert_eq!(offline(&world, &[]).out, "no problems\n");
    world.sh("rm -r meta/db");
    let repaired = offline(&world, &["--repair"]);
    assert!(
        repaired.out.contains("5 snapshots are back"),
        "{repaired:?}"
    );
    assert!(world.is_so("test ! -e lost"), "{repaired:?}");
    assert_eq!(offline(&world, &[]).out, "no problems\n");
    world.restart();
    soon(&world, &format!("{layers} 5"));
}

#[test]
fn root_a_damaged_database_is_named_and_repaired_offline() {
    for damage in [
        "rm -r meta/db",
        "for f in $(find meta/db -type f); do : > $f; done",
    ] {
        let mut world = world();
        let state = world.state();
        world.daemon.stop();
        world.sh(damage);
        let before = Tree::read(world.daemon.root());
        let found = offline(&world, &[]);
        assert_eq!(found.code, 1, "{found:?}");
        assert!(found.error.contains("meta/db is damaged"), "{found:?}");
        Tree::read(world.daemon.root()).assert_equals(&before);
        let repaired = offline(&world, &["--repair"]);
        assert_eq!(repaired.code, 0, "{repaired:?}");
        assert!(
            repaired.out.contains("5 snapshots are back"),
            "{repaired:?}"
        );
        assert_eq!(offline(&world, &[]).out, "no problems\n");
        world.restart();
        assert_eq!(world.state(), state);
    }
}
