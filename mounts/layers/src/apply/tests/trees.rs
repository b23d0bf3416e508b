//! Whole trees, on real file systems.

use super::*;
use crate::archive::{ExportOptions, export};
use crate::node::Kind;
use crate::test_support::tree::{Who, build, items};
use crate::test_support::{Seen, assert_same, for_random, manifest, without};

/// A tree without what a layer does not carry: the attributes of its root, those in `trusted.`,
/// sockets, and times before 1970. Access lists are inherited, as with containerd.
fn carried(root: &Path) -> test_support::Manifest {
    let mut seen = without(manifest(root), |seen: &mut Seen| {
        seen.xattrs.retain(|(name, _)| {
            let name = name.to_bytes();
            !name.starts_with(b"trusted.") && !name.starts_with(b"system.posix_acl_")
        });
        seen.modified = if seen.modified.0 < 0 {
            (0, 0)
        } else {
            seen.modified
        };
        seen.accessed = None; // reading the source may have changed it
    });
    seen.remove(Path::new(""));
    seen.retain(|_, seen| seen.kind != Kind::Socket);
    seen
}

fn round_trip(bench: &Bench, durable: Durable, items: &[crate::test_support::tree::Item]) {
    let source = bench.lower();
    build(&source, items);
    let mut blob = Vec::new();
    let dir = File::open(&source).unwrap();
    export(dir.as_fd(), &mut blob, &ExportOptions::default()).unwrap();
    let options = Options {
        durable,
        workers: 2,
        ..Options::default()
    };
    bench.apply(&blob, OVERLAY, &options).unwrap();
    assert_same(&carried(&source), &carried(&bench.layer()));
}

#[test]
fn random_trees_come_out_as_they_were() {
    for_random(40, &items(Who::Anybody, 40), |items| {
        round_trip(&Bench::new(), Durable::No, &items);
    });
}

#[test]
fn root_random_trees_come_out_as_they_were_on_xfs_and_ext4() {
    test_support::enter_private_mounts();
    for kind in ["xfs", "ext4"] {
        let disk = test_support::Disk::new(kind, 512);
        for_random(20, &items(Who::Root, 40), |items| {
            round_trip(&Bench::in_dir(disk.dir()), Durable::Content, &items);
        });
    }
}

#[test]
fn root_usage_is_that_of_the_disk() {
    test_support::enter_private_mounts();
    for kind in ["xfs", "ext4"] {
        let disk = test_support::Disk::new(kind, 512);
        let bench = Bench::in_dir(disk.dir());
        let mut members = Vec::new();
        for size in [0, 1, 4096, 70_000, 131_072, 131_073, 1 << 20, 21 << 20] {
            let content = vec![5; size];
            members.push(member(b'0', format!("d/{size}").as_bytes(), b"", &content));
        }
        members
            .extend((0..3000).map(|number| file(&format!("many/file with a long name {number}"))));
        members.push(symlink("long", &"t".repeat(3000)[..100]));
        let options = Options {
            durable: Durable::Content,
            ..Options::default()
        };
        // The bench compares what was counted with what there is; sync must not change that.
        let applied = bench.apply(&archive(&members), OVERLAY, &options).unwrap();
        rustix::fs::syncfs(File::open(bench.layer()).unwrap()).unwrap();
        assert_eq!(
            (applied.inodes, applied.bytes),
            usage(&bench.layer()),
            "{kind}"
        );
    }
}
