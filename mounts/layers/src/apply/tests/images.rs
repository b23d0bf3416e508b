//! Images of layers, beside the directories that the same archives make.

use std::io::{Cursor, Write};

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::sample::select;

use super::*;
use crate::apply::{IMAGE_TOP, ImageTarget, apply_image};
use crate::erofs::tests::kernel::Mounted;
use crate::erofs::tests::{kept, seen};
use crate::erofs::{self, Image};
use crate::node::Kind;
use crate::test_support::tree::{Who, build, items};
use crate::test_support::{Manifest, Merged, assert_same, for_random, manifest};

#[path = "../../../fuzz/src/mend.rs"]
mod mend;

/// Unpacks a blob into an image in memory.
fn image(bench: &Bench, blob: &[u8], options: &Options<'_>) -> Result<(Applied, Vec<u8>), Error> {
    image_with(bench, blob, OVERLAY, options)
}

fn image_with(
    bench: &Bench,
    blob: &[u8],
    whiteouts: Whiteouts,
    options: &Options<'_>,
) -> Result<(Applied, Vec<u8>), Error> {
    let lowers = (0..bench.lowers.get())
        .map(|number| File::open(bench.home.path().join(format!("lowers/{number:03}"))))
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
    let target = ImageTarget {
        out: Cursor::new(Vec::new()),
        lowers: &lowers,
        whiteouts,
        top: erofs::Attributes::directory(),
        image: erofs::Options::default(),
    };
    let (applied, out) = apply_image(blob, target, options)?;
    Ok((applied, out.into_inner()))
}

/// The layer in an image, without what the forms do not share: times of implied directories and
/// of whiteouts, inherited access lists, and all of the top directory but its mark.
fn shared(mut tree: Manifest, implied: &[Vec<u8>]) -> Manifest {
    use std::os::unix::ffi::OsStrExt;
    for (path, seen) in &mut tree {
        let is_whiteout = seen.kind == Kind::Character && seen.number == (0, 0);
        let is_implied = implied
            .iter()
            .any(|it| **it == *path.as_os_str().as_bytes());
        if is_whiteout || is_implied {
            seen.modified = (0, 0);
        }
        seen.xattrs
            .retain(|(name, _)| !name.to_bytes().starts_with(b"system."));
    }
    let top = tree.get_mut(Path::new("")).unwrap();
    (top.permissions, top.owner, top.modified) = (0, (0, 0), (0, 0));
    tree
}

/// The tree below the layer's top directory.
fn below_top(tree: Manifest) -> Manifest {
    let within = |path: &Path| path.strip_prefix(IMAGE_TOP).map(Path::to_owned);
    tree.into_iter()
        .filter_map(|(path, mut seen)| {
            seen.first = within(&seen.first).ok()?;
            Some((within(&path).ok()?, seen))
        })
        .collect()
}

/// Unpacks a blob into both forms, which say and hold the same.
fn compare(bench: &Bench, blob: &[u8], whiteouts: Whiteouts, options: &Options<'_>) {
    let directory = bench.apply(blob, whiteouts, options);
    let image = image_with(bench, blob, whiteouts, options);
    let (mut directory, mut applied, bytes) = match (directory, image) {
        (Ok(directory), Ok((applied, bytes))) => (directory, applied, bytes),
        (Err(_), Err(_)) => return,
        // mknod(2) cuts numbers off.
        (
            Ok(_),
            Err(Error::Image {
                cause: erofs::Error::TooLarge { .. },
                ..
            }),
        ) => return,
        // No file system takes such lengths.
        (Err(error), Ok(_)) if error.errno() == Some(libc::EFBIG) => return,
        (directory, image) => panic!("{directory:?}, but {:?}", image.map(|(applied, _)| applied)),
    };
    directory.implied.sort();
    applied.implied.sort();
    let said = |applied: &Applied| {
        let (implied, whiteouts) = (applied.implied.clone(), applied.whiteouts.clone());
        (
            applied.diff_id,
            applied.size,
            implied,
            whiteouts,
            applied.top,
        )
    };
    assert_eq!(said(&directory), said(&applied));
    assert_eq!(directory.inodes, applied.inodes);
    assert_eq!(applied.bytes, bytes.len() as u64);
    let image = Image::open(&bytes[..]).unwrap();
    let wanted = shared(kept(manifest(&bench.layer())), &directory.implied);
    assert_same(
        &wanted,
        &shared(below_top(seen(&image)), &directory.implied),
    );
}

/// An archive whose entries often meet: files, directories, links and whiteouts of a few names.
fn archives() -> impl Strategy<Value = Vec<u8>> {
    let name = || select(vec!["a", "b", "c", "d"]);
    let path = move || vec(name(), 1..4).prop_map(|names| names.join("/"));
    let entry = (any::<u8>(), path(), path()).prop_map(|(kind, path, target)| {
        let in_dir = |name: &str| match path.rsplit_once('/') {
            Some((dir, last)) => format!("{dir}/{}", name.replace('*', last)),
            None => name.replace('*', &path),
        };
        match kind % 12 {
            0..3 => file(&path),
            3..5 => directory(&path),
            5 => symlink(&path, &target),
            6 => symlink(&path, &format!("/{target}")),
            7..9 => hard_link(&path, &target),
            9..11 => file(&in_dir(".wh.*")),
            _ => file(&in_dir(".wh..wh..opq")),
        }
    });
    vec(entry, 0..14).prop_map(|members| archive(&members))
}

#[test]
fn root_random_archives_make_the_same_tree_as_image() {
    test_support::need_root();
    let stacks = (vec(items(Who::Layer, 14), 0..3), archives());
    for_random(250, &stacks, |(lowers, blob)| {
        let bench = Bench::new();
        for items in lowers {
            build(&bench.lower(), &items);
        }
        compare(&bench, &blob, OVERLAY, &Options::default());
    });
}

#[test]
fn root_deletions_of_the_lowest_layer_are_executed_in_images_too() {
    test_support::need_root();
    for_random(100, &archives(), |blob| {
        let bench = Bench::new();
        compare(&bench, &blob, Whiteouts::Delete, &Options::default());
    });
}

#[test]
fn root_overlayfs_shows_images_as_it_shows_directories() {
    test_support::enter_private_mounts();
    let stacks = (items(Who::Layer, 14), archives());
    for_random(25, &stacks, |(lower, blob)| {
        let bench = Bench::new();
        let below = bench.lower();
        build(&below, &lower);
        let Ok(directory) = bench.apply(&blob, OVERLAY, &Options::default()) else {
            return;
        };
        let (_, bytes) = image(&bench, &blob, &Options::default()).unwrap();
        let mounted = Mounted::of(|mut file| file.write_all(&bytes).unwrap());
        let tree = |top: PathBuf| {
            let merged = Merged::new(&[top, below.clone()]);
            let mut tree = shared(kept(manifest(merged.path())), &directory.implied);
            // Inode numbers of different layers may be the same ones.
            tree.retain(|path, seen| {
                seen.first = path.clone();
                true
            });
            tree
        };
        assert_same(&tree(bench.layer()), &tree(mounted.path().join(IMAGE_TOP)));
    });
}

#[test]
fn root_corpus_of_the_fuzzer_makes_the_same_trees_as_images() {
    test_support::need_root();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/apply");
    let options = Options {
        limits: Limits {
            most_bytes: 64 << 20,
            most_entries: 4096,
            ..Limits::default()
        },
        ..Options::default()
    };
    for input in fs::read_dir(corpus).unwrap() {
        let mut blob = fs::read(input.unwrap().path()).unwrap();
        if blob.is_empty() {
            continue;
        }
        let flags = blob.remove(0);
        if flags & 1 == 0 {
            mend::mend(&mut blob);
        }
        compare(&Bench::new(), &blob, OVERLAY, &options);
        compare(&Bench::new(), &blob, Whiteouts::Delete, &options);
    }
}

#[test]
fn content_and_holes_reach_the_image_with_their_digests() {
    type Told = (Vec<u8>, u64, Option<u128>);
    struct Digests(Mutex<Vec<Told>>);
    impl crate::apply::DigestSink for Digests {
        fn file(&self, path: &[u8], size: u64, digest: Option<u128>) {
            self.0.lock().unwrap().push((path.to_vec(), size, digest));
        }
        fn link(&self, _: &[u8], _: &[u8]) {}
        fn gone(&self, path: &[u8]) {
            self.0.lock().unwrap().retain(|(known, ..)| known != path);
        }
    }
    let mut content = vec![7; 700_000];
    content[100_000..600_000].fill(0);
    let blob = archive(&[
        member(b'0', b"d/file", b"", b"old"),
        member(b'0', b"d/file", b"", &content),
    ]);
    let digests = Digests(Mutex::new(Vec::new()));
    let options = Options {
        digests: Some(&digests),
        ..Options::default()
    };
    let (applied, bytes) = image(&Bench::new(), &blob, &options).unwrap();
    let digest = xxhash_rust::xxh3::xxh3_128(&content);
    let told = digests.0.into_inner().unwrap();
    assert_eq!(told, [(b"d/file".to_vec(), 700_000, Some(digest))]);
    assert_eq!((applied.inodes, applied.implied), (3, vec![b"d".to_vec()]));
    assert!(bytes.len() < 400_000, "{}", bytes.len());
    let tree = seen(&Image::open(&bytes[..]).unwrap());
    assert!(tree[Path::new("f/d/file")].content == content);
}

#[test]
fn layers_that_fail_say_which_file() {
    let xattr = ("SCHILY.xattr.user.a", &[1; 65_536][..]);
    let blob = archive(&[extended(&[xattr]), file("d/f")]);
    let refused = image(&Bench::new(), &blob, &Options::default()).unwrap_err();
    assert_eq!(refused.to_string(), "store d/f in the image");
    let limits = Limits {
        most_entries: 2,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let blob = archive(&[file("a/b/c")]);
    let refused = image(&Bench::new(), &blob, &options).unwrap_err();
    assert!(matches!(refused, Error::Beyond { .. }), "{refused}");
}
