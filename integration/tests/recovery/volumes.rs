//! Faults of volumes and of mount points, one row each, as those of layers in `faults.rs`.

use layerd_integration::Tree;

use super::World;
use super::faults::offline;

/// A fault. In scripts, `$data` is the folder of a volume, `$gone` that of a removed one.
struct Fault {
    inject: &'static str,
    problem: &'static str,
    fix: &'static str,
    /// Condition after the repair; empty if only a person can make it.
    repaired: &'static str,
}

const PUT_BACK: &str = "put it back from a backup, or delete the volume";

const FAULTS: [Fault; 11] = [
    Fault {
        inject: "mkdir -p volumes/zzzz/data; echo x > volumes/zzzz/data/x",
        problem: "no record names the volume in",
        fix: "move it to lost/",
        repaired: "grep -q x lost/volumes-zzzz/data/x",
    },
    Fault {
        inject: "cp -r volumes/$data volumes/.trash/",
        problem: "no record names the volume in",
        fix: "move it to lost/",
        repaired: "test -d lost/.trash-$data/data && grep -q data volumes/$data/data/told",
    },
    Fault {
        inject: "mv volumes/$data ../kept",
        problem: "the folder of volume data is missing",
        fix: PUT_BACK,
        repaired: "",
    },
    Fault {
        inject: "rm -r volumes/$data/data",
        problem: "the folder of volume data is missing",
        fix: PUT_BACK,
        repaired: "",
    },
    Fault {
        inject: "mv volumes/$data volumes/.trash/",
        problem: "the folder of volume data is in the trash, but the volume was not deleted",
        fix: "move it back",
        repaired: "grep -q data volumes/$data/data/told",
    },
    Fault {
        inject: "mv volumes/.trash/$gone volumes/",
        problem: "the folder of volume gone is in its place, but the volume was deleted",
        fix: "move it to the trash",
        repaired: "grep -q gone volumes/.trash/$gone/data/told",
    },
    Fault {
        inject: "rm volumes/by-name/data",
        problem: "the link volumes/by-name/data is missing or leads to another volume",
        fix: "make it anew",
        repaired: "grep -q data volumes/by-name/data/told",
    },
    Fault {
        inject: "ln -s ../zzzz/data volumes/by-name/old",
        problem: "the link volumes/by-name/old leads to no volume of that name",
        fix: "delete it",
        repaired: "! test -L volumes/by-name/old",
    },
    Fault {
        inject: "echo x > volumes/by-name/notes",
        problem: "/volumes/by-name/notes is not layerd's",
        fix: "move it to lost/",
        repaired: "grep -q x lost/by-name-notes",
    },
    Fault {
        inject: "mkdir -p mnt/77 && chmod 0700 mnt",
        problem: "no attachment knows the mount point",
        fix: "delete it, unless something is mounted there",
        repaired: "test ! -e mnt/77",
    },
    Fault {
        inject: "chmod 0755 volumes",
        problem: "/volumes has the mode 0755",
        fix: "set it to 0700",
        repaired: "test $(stat -c %a volumes) = 700",
    },
];

/// A world, and the beginning of each script in it.
fn world() -> (World, String) {
    let world = World::new("");
    let name = |path: String| path.trim_start_matches("volumes/").to_owned();
    let (data, gone) = (
        name(world.make_volume("data")),
        name(world.make_volume("gone")),
    );
    world.run(&["volume", "rm", "gone"]);
    (world, format!("data={data}; gone={gone}; "))
}

#[test]
fn root_faults_of_volumes_are_found_and_repaired_online() {
    for fault in FAULTS {
        let (world, prelude) = world();
        assert_eq!(world.run(&["fsck"]), "No problems.\n");
        world.sh(&format!("{prelude}{}", fault.inject));
        let before = Tree::read(&world.daemon.root().join("volumes"));
        let found = world.json_of(&["fsck"]);
        assert_eq!(found.len(), 1, "{}: {found:?}", fault.inject);
        let text = |key: &str| found[0][key].as_str().unwrap().to_owned();
        assert!(text("problem").contains(fault.problem), "{found:?}");
        assert_eq!(text("fix"), fault.fix);
        Tree::read(&world.daemon.root().join("volumes")).assert_equals(&before);
        let can_be = !fault.repaired.is_empty();
        let repaired = world.ctl(&["fsck", "--repair"]);
        let wanted = if can_be { 0 } else { 11 };
        assert_eq!(repaired.code, wanted, "{}: {repaired:?}", fault.inject);
        if can_be {
            world.sh(&format!("{prelude}{}", fault.repaired));
            assert_eq!(world.run(&["fsck"]), "No problems.\n");
        }
    }
}

#[test]
fn root_faults_of_volumes_are_found_and_repaired_offline() {
    for fault in FAULTS {
        let (mut world, prelude) = world();
        world.daemon.stop();
        assert_eq!(offline(&world, &[]).out, "no problems\n");
        world.sh(&format!("{prelude}{}", fault.inject));
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
        assert_eq!(
            repaired.code,
            i32::from(!can_be),
            "{}: {repaired:?}",
            fault.inject
        );
        if can_be {
            world.sh(&format!("{prelude}{}", fault.repaired));
            assert_eq!(offline(&world, &[]).out, "no problems\n");
        }
        world.restart();
        assert_eq!(world.json(&["volume", "ls"]).len(), 1, "{}", fault.inject);
    }
}
