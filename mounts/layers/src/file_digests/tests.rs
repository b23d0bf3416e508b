use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, symlink as link_to};
use std::path::{Path, PathBuf};

use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};

use super::read::{Records, Said, verify};
use super::{Checked, Writer, check};
use crate::apply::{DigestSink, Options, Target, Whiteouts, apply};
use crate::copy::Markers;
use crate::durable::Durable;
use crate::error::Error;
use crate::progress::{Progress, Silent};
use crate::tar::samples::{directory, file, hard_link, member, symlink};

/// An unpacked layer and its manifest.
struct Layer(tempfile::TempDir);

impl Layer {
    fn new(members: &[Vec<u8>], whiteouts: Whiteouts) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("layer")).unwrap();
        let layer = Self(home);
        let writer = Writer::new(layer.digests());
        let archive = [members.concat(), vec![0; 1024]].concat();
        let top = layer.top();
        let target = Target {
            layer: top.as_fd(),
            lowers: &[],
            whiteouts,
        };
        let options = Options {
            digests: Some(&writer),
            workers: 3,
            ..Options::default()
        };
        apply(&*archive, &target, &options).unwrap();
        writer.finish(Durable::Content).unwrap();
        layer
    }

    fn of(members: &[Vec<u8>]) -> Self {
        Self::new(members, Whiteouts::Devices(Markers::User))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join("layer").join(path)
    }

    fn top(&self) -> File {
        File::open(self.at("")).unwrap()
    }

    fn digests(&self) -> File {
        let mut open = File::options();
        open.create(true).read(true).write(true).truncate(false);
        open.open(self.0.path().join("manifest")).unwrap()
    }

    fn check(&self) -> Result<Checked, Error> {
        check(self.top().as_fd(), &self.digests(), 3, &Silent)
    }

    /// Differences, as text.
    fn wrong(&self) -> Vec<String> {
        let checked = self.check().unwrap();
        let named = checked.named.iter();
        named
            .map(|(path, wrong)| format!("{} {wrong}", path.display()))
            .collect()
    }
}

type Change<'a> = &'a dyn Fn(&Path);

fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 3).unwrap();
}

fn members() -> Vec<Vec<u8>> {
    vec![
        directory("d"),
        file("d/small"),
        member(b'0', b"empty", b"", b""),
        member(b'0', b"large", b"", &vec![7; 700_000]),
        hard_link("d/link", "large"),
        symlink("way", "d"),
        hard_link("way/second", "way/small"),
    ]
}

#[test]
fn a_layer_that_was_left_alone_is_as_it_was() {
    let checked = Layer::of(&members()).check().unwrap();
    assert_eq!((checked.files, checked.wrong), (5, 0), "{checked:?}");
    assert_eq!(checked.bytes, 700_007);
}

#[test]
fn every_change_of_a_file_is_named() {
    let put_link = |path: &Path| {
        fs::remove_file(path).unwrap();
        link_to("/etc/passwd", path).unwrap();
    };
    let cut = |path: &Path| {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(5)
            .unwrap()
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let copy = |path: &Path| {
        let content = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        fs::write(path, content).unwrap();
    };
    let move_above = |path: &Path| {
        let above = path.parent().unwrap();
        fs::rename(above, above.with_file_name("elsewhere")).unwrap();
        link_to("elsewhere", above).unwrap();
    };
    let cases: [(&str, Change<'_>, &[&str]); 6] = [
        ("large", &flip, &["large has another content"]),
        ("large", &cut, &["large has 5 bytes, not 700000"]),
        ("empty", &remove, &["empty is missing"]),
        ("empty", &put_link, &["empty is a symlink, not a file"]),
        ("d/link", &copy, &["d/link is no hard link any more"]),
        (
            "d/small",
            &move_above,
            &[
                "d/small is missing",
                "d/link is missing",
                "d/second is missing",
            ],
        ),
    ];
    for (path, change, wanted) in cases {
        let layer = Layer::of(&members());
        change(&layer.at(path));
        let mut wrong = layer.wrong();
        let mut wanted = wanted.to_vec();
        wrong.sort();
        wanted.sort_unstable();
        assert_eq!(wrong, wanted, "{path}");
    }
}

#[test]
fn what_came_last_counts() {
    let other = |name: &str, content: &[u8]| member(b'0', name.as_bytes(), b"", content);
    let layer = Layer::of(&[
        file("twice"),
        other("twice", b"second"),
        other("a", b"first"),
        hard_link("b", "a"),
        other("a", b"other"),
        file("d/x"),
        file("d/below/y"),
        symlink("d", "elsewhere"),
        file("e/x"),
        file("e"),
        file("f"),
        directory("f"),
        other("f/x", b"in a directory"),
    ]);
    let checked = layer.check().unwrap();
    assert_eq!((checked.files, checked.wrong), (5, 0), "{checked:?}");
    for path in ["twice", "a", "b", "e", "f/x"] {
        flip(&layer.at(path));
        assert_eq!(layer.wrong(), [format!("{path} has another content")]);
        flip(&layer.at(path));
    }
}

#[test]
fn whiteouts_delete_nothing_that_their_own_layer_brings() {
    let layer = Layer::new(
        &[
            file("d/x"),
            file("y"),
            file(".wh.d"),
            file(".wh.y"),
            file("y"),
        ],
        Whiteouts::Delete,
    );
    let checked = layer.check().unwrap();
    assert_eq!((checked.files, checked.wrong), (2, 0), "{checked:?}");
}

#[test]
fn of_sparse_files_the_size_is_known() {
    let content = [b"1\n8192\n4\n".to_vec(), vec![0; 503], b"data".to_vec()].concat();
    let sparse = [
        crate::tar::samples::extended(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", b"100000"),
        ]),
        member(b'0', b"GNUSparseFile.0/s", b"", &content),
    ]
    .concat();
    let layer = Layer::of(&[sparse]);
    assert_eq!(fs::read(layer.at("s")).unwrap()[8192..8196], *b"data");
    assert_eq!(layer.check().unwrap().wrong, 0);
    fs::write(layer.at("s"), "short").unwrap();
    assert_eq!(layer.wrong(), ["s has 5 bytes, not 100000"]);
}

#[test]
fn only_so_many_are_named_but_all_are_counted() {
    let names: Vec<String> = (0..10).map(|number| format!("f{number}")).collect();
    let members: Vec<Vec<u8>> = names.iter().map(|name| file(name)).collect();
    let layer = Layer::of(&members);
    for name in &names {
        fs::remove_file(layer.at(name)).unwrap();
    }
    let checked = layer.check().unwrap();
    assert_eq!((checked.wrong, checked.named.len()), (10, 3));
}

#[test]
fn a_damaged_digest_file_is_an_error() {
    let layer = Layer::of(&members());
    let length = layer.digests().metadata().unwrap().len();
    for at in 0..length {
        let mut byte = [0];
        layer.digests().read_exact_at(&mut byte, at).unwrap();
        layer.digests().write_all_at(&[byte[0] ^ 4], at).unwrap();
        let refused = layer.check().unwrap_err();
        assert!(
            matches!(refused, Error::BadFileDigests { .. }),
            "{at}: {refused}"
        );
        layer.digests().write_all_at(&byte, at).unwrap();
    }
    assert_eq!(layer.check().unwrap().wrong, 0);
    for short in 0..length {
        layer.digests().set_len(length - short - 1).unwrap();
        let refused = layer.check().unwrap_err();
        assert!(
            matches!(refused, Error::BadFileDigests { .. }),
            "{short}: {refused}"
        );
    }
}

#[test]
fn a_layer_that_takes_back_too_much_has_none() {
    let file = tempfile::tempfile().unwrap();
    let writer = Writer::new(file.try_clone().unwrap());
    for _ in 0..=(1 << 20) / 1000 {
        writer.gone(&[b'x'; 1000]);
    }
    assert!(writer.finish(Durable::No).is_err());
}

#[test]
fn a_cancelled_check_ends() {
    struct Never;
    impl Progress for Never {
        fn advanced(&self, _: u64, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let layer = Layer::of(&members());
    let ended = check(layer.top().as_fd(), &layer.digests(), 3, &Never);
    assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
}

fn said() -> impl Strategy<Value = Said> {
    let path = || prop::collection::vec(1..=255_u8, 1..300);
    prop_oneof![
        (any::<u64>(), any::<Option<u128>>())
            .prop_map(|(size, digest)| Said::File { size, digest }),
        path().prop_map(|target| Said::Link { target }),
        proptest::prelude::Just(Said::Gone),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        records in prop::collection::vec((prop::collection::vec(b'a'..=b'c', 1..20), said()), 0..50),
    ) {
        let file = tempfile::tempfile().unwrap();
        let writer = Writer::new(file.try_clone().unwrap());
        for (path, said) in &records {
            match said {
                Said::File { size, digest } => writer.file(path, *size, *digest),
                Said::Link { target } => writer.link(path, target),
                Said::Gone => writer.gone(path),
            }
        }
        assert_eq!(writer.finish(Durable::No).unwrap(), records.len() as u64);
        let end = verify(&file).unwrap();
        let mut read = Records::new(&file, &end).unwrap();
        for (path, said) in records {
            assert_eq!(read.next().unwrap(), Some((&*path, said)));
        }
        assert_eq!(read.next().unwrap(), None);
    }
}
