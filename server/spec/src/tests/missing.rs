//! The table of missing sources: flag, type, whether the source exists, dialect, and the word
//! that decides. Forty-eight rows.

use super::super::{
    Decision, Dialect, Kind, Made, MountSpec, OnMissing, Origin, Policy, decide, parse,
};
use super::{request, strict};

/// Policies of a flag: none, create, or fail.
const WORDS: [Option<Policy>; 3] = [None, Some(Policy::Create), Some(Policy::Fail)];

fn volume_flag(source: &str, word: Option<Policy>) -> String {
    let mode = match word {
        None => "",
        Some(Policy::Create) => ":create",
        Some(Policy::Fail) => ":nocreate",
    };
    format!("-v {source}:/data{mode}")
}

fn mount_flag(kind: &str, source: &str, word: Option<Policy>) -> String {
    let key = match word {
        None => "",
        Some(Policy::Create) => ",on-missing=create",
        Some(Policy::Fail) => ",on-missing=fail",
    };
    format!("--mount type={kind},source={source},target=/data{key}")
}

fn only(dialect: Dialect, flag: &str) -> MountSpec {
    let mut specs = parse(&request(dialect, &[flag])).unwrap_or_else(|bad| panic!("{bad}"));
    assert_eq!(specs.len(), 1, "{flag}");
    specs.remove(0)
}

/// Expected results of a row: `+` created, `-` refused, `.` used; each for no policy, create, fail.
struct Rows {
    dialect: Dialect,
    flag: &'static str,
    kind: &'static str,
    missing: &'static str,
    present: &'static str,
}

const TABLE: [Rows; 8] = [
    row(Dialect::Strict, "-v", "volume", "++-"),
    row(Dialect::Strict, "-v", "bind", "++-"),
    row(Dialect::Strict, "--mount", "volume", "-+-"),
    row(Dialect::Strict, "--mount", "bind", "-+-"),
    row(Dialect::Docker, "-v", "volume", "++-"),
    row(Dialect::Docker, "-v", "bind", "++-"),
    row(Dialect::Docker, "--mount", "volume", "++-"),
    row(Dialect::Docker, "--mount", "bind", "-+-"),
];

const fn row(
    dialect: Dialect,
    flag: &'static str,
    kind: &'static str,
    missing: &'static str,
) -> Rows {
    Rows {
        dialect,
        flag,
        kind,
        missing,
        present: "...",
    }
}

#[test]
fn forty_eight_rows_decide_about_missing_sources() {
    let mut seen = 0;
    for rows in &TABLE {
        for (exists, answers) in [(false, rows.missing), (true, rows.present)] {
            for (word, answer) in WORDS.into_iter().zip(answers.chars()) {
                check(rows, exists, word, answer);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 48);
}

fn check(rows: &Rows, exists: bool, word: Option<Policy>, answer: char) {
    let (source, made, what) = match rows.kind {
        "volume" => ("vol", Made::Volume, "volume"),
        _ => ("/host", Made::Directory, "host path"),
    };
    let flag = match rows.flag {
        "-v" => volume_flag(source, word),
        _ => mount_flag(rows.kind, source, word),
    };
    let spec = only(rows.dialect, &flag);
    let row = format!("{:?} {flag}, exists: {exists}", rows.dialect);
    let origin = match word {
        None => Origin::Dialect,
        Some(_) => Origin::Explicit,
    };
    assert_eq!(spec.on_missing.origin, origin, "{row}");
    match (answer, decide(&spec, exists)) {
        ('.', Decision::Use) => {}
        ('+', Decision::Create(created, by)) => assert_eq!((created, by), (made, origin), "{row}"),
        ('-', Decision::Refuse(refusal)) => {
            assert_eq!((refusal.what, refusal.origin), (what, origin), "{row}");
            assert_eq!(refusal.name, source, "{row}");
            assert!(refusal.hint.contains("on-missing=create"), "{row}");
        }
        (answer, decision) => panic!("{row}: {decision:?} instead of {answer}"),
    }
}

#[test]
fn what_has_no_source_is_always_made() {
    let rows = [
        ("-v /data", Made::AnonymousVolume),
        ("--mount target=/data", Made::AnonymousVolume),
        ("--mount type=tmpfs,target=/data", Made::Tmpfs),
        ("--tmpfs /data", Made::Tmpfs),
    ];
    for (flag, made) in rows {
        let spec = strict(flag).unwrap();
        for exists in [false, true] {
            let expected = Decision::Create(made, Origin::Dialect);
            assert_eq!(decide(&spec, exists), expected, "{flag}");
        }
    }
}

#[test]
fn images_are_never_made() {
    let spec = strict("--mount type=image,source=base,target=/data").unwrap();
    assert_eq!(decide(&spec, true), Decision::Use);
    let Decision::Refuse(refusal) = decide(&spec, false) else {
        panic!("an image was made");
    };
    assert_eq!((refusal.what, refusal.name.as_str()), ("image", "base"));
    // Also where a caller of the API asks for it.
    let asked = MountSpec {
        on_missing: OnMissing {
            policy: Policy::Create,
            origin: Origin::Explicit,
        },
        ..spec
    };
    assert!(matches!(decide(&asked, false), Decision::Refuse(_)));
}

#[test]
fn a_file_is_made_where_the_flag_says_so() {
    let flag = "--mount type=bind,source=/host,target=/data,bind-create-src=file";
    let spec = strict(flag).unwrap();
    let expected = Decision::Create(Made::File, Origin::Explicit);
    assert_eq!(decide(&spec, false), expected);
    assert_eq!(decide(&spec, true), Decision::Use);
}

#[test]
fn a_refused_volume_is_told_by_name() {
    let spec = strict("--mount source=vol,target=/data").unwrap();
    let Decision::Refuse(refusal) = decide(&spec, false) else {
        panic!("it was not refused");
    };
    assert_eq!(refusal.name, "vol");
    assert!(refusal.hint.contains("-v vol:/data"), "{}", refusal.hint);
    assert!(matches!(spec.kind, Kind::Volume(_)));
}
