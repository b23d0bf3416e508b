//! Where we differ on purpose from what containerd makes when it writes straight into an upper
//! directory: its result depends there on the moment, or is an accident of how it goes about it, or
//! is not what the image specification says. One case each, with both results.
#![allow(clippy::too_many_lines, reason = "tables of cases")]

use super::archive::{Form, Map, Member, Sparse};
use super::sides::Said;

/// One difference.
pub(crate) struct Case {
    what: &'static str,
    /// The base is unpacked in a bind mount, what is above it in overlay mounts.
    pub(crate) layers: Vec<Vec<Member>>,
    pub(crate) form: Form,
    /// Compared path in the last layer.
    pub(crate) path: &'static str,
    /// Prefix of our result; or part of the error.
    ours: Result<&'static str, &'static str>,
    theirs: Result<&'static str, &'static str>,
}

impl Case {
    pub(crate) fn check(&self, ours: &Result<String, String>, theirs: &Result<String, String>) {
        for (who, said, wanted) in [("ours", ours, self.ours), ("theirs", theirs, self.theirs)] {
            let same = match (said, wanted) {
                (Ok(said), Ok(wanted)) => said.starts_with(wanted),
                (Err(said), Err(wanted)) => said.contains(wanted),
                _ => false,
            };
            assert!(same, "{}: {who} is {said:?}, not {wanted:?}", self.what);
        }
    }
}

/// True if containerd refused a layer without a sound reason, as the random layers provoke it. The
/// cases below show each.
pub(crate) fn is_one(theirs: &Said) -> bool {
    let Err(error) = theirs else {
        return false;
    };
    ["mkparent ", "failed to get root path: "]
        .iter()
        .any(|start| error.starts_with(start))
        && error.ends_with("not a directory")
        || error.starts_with("lstat ") && error.ends_with("not a directory")
        || error.starts_with("lstat ") && error.ends_with("too many levels of symbolic links")
        || error.starts_with("failed call to UtimesNanoAt")
        || error == "too many links"
}

/// True if we refused a layer for a hard link to a lower file, which overlayfs could not show as the
/// same file. In a mount containerd makes a copy and links that.
pub(crate) fn is_refused(ours: &Said) -> bool {
    let text = "a hard link to a file that this layer does not have";
    ours.as_ref().is_err_and(|error| error.contains(text))
}

/// True for differences of layers unpacked before the lower ones are known:
/// marks of opaque directories stay in the lowest layer, where they mean nothing; and a directory
/// that is implied cannot inherit the group of one that gets its set-group-id bit at Commit.
pub(crate) fn is_early_one(text: &str) -> bool {
    let mut lines = text.lines().map(str::split_whitespace);
    let [ours, theirs] = [lines.nth(1), lines.next()].map(|line| {
        let words = line.into_iter().flatten().skip(1);
        let words = words.filter(|word| *word != "trusted.overlay.opaque=y");
        words.map(str::to_owned).collect::<Vec<_>>()
    });
    let mut inherited = theirs.clone();
    if theirs.first().is_some_and(|mode| mode == "40755") && theirs[1].starts_with("0:") {
        inherited[1] = "0:0".into();
    }
    ours == theirs || ours == inherited
}

fn directory(name: &str) -> Member {
    Member::new(b'5', name)
}

fn file(name: &str) -> Member {
    Member {
        modified: (1_500_000_000, 0),
        ..Member::new(b'0', name)
    }
}

fn link(name: &str, target: &str) -> Member {
    Member {
        link: target.into(),
        ..Member::new(b'2', name)
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    [
        types_they_refuse(),
        deletions_they_refuse(),
        other_times_and_deletions(),
        symlinks_that_we_follow(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn types_they_refuse() -> Vec<Case> {
    let holes = Sparse {
        pieces: vec![(4096, 3)],
        size: 10_000,
        map: Map::Header,
    };
    let sparse = Member {
        content: b"abc".to_vec(),
        sparse: Some(holes),
        ..file("a")
    };
    vec![
        Case {
            what: "a sparse file in the old form of GNU tar is read",
            layers: vec![vec![sparse]],
            form: Form::Gnu,
            path: "a",
            ours: Ok("100644 0:0 1500000000.000000000 read 1500000000.000000000 10000 bytes"),
            theirs: Err("unhandled tar header type 83"),
        },
        Case {
            what: "a contiguous file is a file",
            layers: vec![vec![Member {
                flag: b'7',
                ..file("a")
            }]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("100644 0:0 1500000000"),
            theirs: Err("unhandled tar header type 55"),
        },
    ]
}

fn deletions_they_refuse() -> Vec<Case> {
    vec![
        Case {
            what: "a deletion is not of what the same layer brings",
            layers: vec![vec![directory("a"), file(".wh.a")]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("40755 0:0 1600000000"),
            theirs: Err("failed call to UtimesNanoAt"),
        },
        Case {
            what: "a deletion of what the same layer brings hides the old one",
            layers: vec![vec![file("a/old")], vec![directory("a"), file(".wh.a")]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("40755 0:0 1600000000.000000000 trusted.overlay.opaque=y"),
            theirs: Err("file exists"),
        },
        Case {
            what: "a directory may be deleted and made anew without a member",
            layers: vec![vec![file("a/old")], vec![file(".wh.a"), file("a/new")]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("40755 0:0 now trusted.overlay.opaque=y"),
            theirs: Err("not a directory"),
        },
        Case {
            what: "a hard link must lead to a file of the layer that is not deleted",
            layers: vec![
                vec![file("a")],
                vec![
                    file(".wh.a"),
                    Member {
                        link: b"a".to_vec(),
                        ..Member::new(b'1', "b")
                    },
                ],
            ],
            form: Form::Ustar,
            path: "b",
            ours: Err("a hard link to a file that this layer does not have"),
            theirs: Ok("20644 0:0"),
        },
        Case {
            what: "a directory may take the place of a file below, and all on its way",
            layers: vec![vec![file("a")], vec![file("a/b/c/d")]],
            form: Form::Ustar,
            path: "a/b/c",
            ours: Ok("40755 0:0 now"),
            theirs: Err("not a directory"),
        },
    ]
}

fn other_times_and_deletions() -> Vec<Case> {
    vec![
        Case {
            what: "the times of a directory stay with it",
            layers: vec![vec![directory("a"), file("a")]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("100644 0:0 1500000000"),
            theirs: Ok("100644 0:0 1600000000"),
        },
        Case {
            what: "a directory that is implied keeps the times of the one below",
            layers: vec![vec![directory("a")], vec![file("a/b")]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("40755 0:0 1600000000"),
            theirs: Ok("40755 0:0 now"),
        },
        Case {
            what: "an opaque mark that is executed spares what came in a directory without member",
            layers: vec![vec![file("a/b/c"), file("a/.wh..wh..opq")]],
            form: Form::Ustar,
            path: "a/b/c",
            ours: Ok("100644 0:0 1500000000"),
            theirs: Ok("nothing"),
        },
        Case {
            what: "a directory that is deleted and made anew does not show the old one",
            layers: vec![vec![file("a/old")], vec![file(".wh.a"), directory("a")]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("40755 0:0 1600000000.000000000 trusted.overlay.opaque=y"),
            theirs: Ok("40755 0:0 1600000000"),
        },
        Case {
            what: "a deletion of what is not there makes nothing",
            layers: vec![vec![file("b")], vec![file(".wh.a")]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("nothing"),
            theirs: Ok("20000 0:0"),
        },
        Case {
            what: "a mark at the top of a layer hides all that is below",
            layers: vec![vec![file("a")], vec![file(".wh..wh..opq")]],
            form: Form::Ustar,
            path: "a",
            ours: Ok("20000 0:0"),
            theirs: Ok("nothing"),
        },
    ]
}

fn symlinks_that_we_follow() -> Vec<Case> {
    let open_to_all = Member {
        mode: 0o1777,
        owner: (1, 1),
        ..directory("t")
    };
    let secret = Member {
        mode: 0o700,
        ..directory("t/real")
    };
    let alias = Member {
        owner: (2, 2),
        ..link("t/alias", "real")
    };
    vec![
        Case {
            what: "a symlink below is followed where the layer has no member of that name",
            layers: vec![
                vec![file("usr/lib/a"), link("lib", "usr/lib")],
                vec![file("lib/b")],
            ],
            form: Form::Ustar,
            path: "usr/lib/b",
            ours: Ok("100644 0:0 1500000000"),
            theirs: Ok("nothing"),
        },
        Case {
            what: "a symlink below is followed, also one of another user's in a directory with \
                   the sticky bit, whatever fs.protected_symlinks says",
            layers: vec![vec![open_to_all, secret, alias], vec![file("t/alias/b")]],
            form: Form::Ustar,
            path: "t/real",
            ours: Ok("40700 0:0 1600000000"),
            theirs: Ok("nothing"),
        },
    ]
}
