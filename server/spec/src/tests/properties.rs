//! Properties of every input.

use std::collections::BTreeMap;

use layerd_store::VolumeName;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::{
    BadSpec, Bind, CreateSource, CreateWith, Dialect, FLAG_MAX, FLAGS_MAX, Flag, HostPath, IdMap,
    Kind, MountSpec, OnMissing, Origin, ParseRequest, Policy, Propagation, ReadOnly, Relabel, Rule,
    Tmpfs, TmpfsSize, parse,
};
use super::{request, strict};

/// Pieces from which flags that nearly parse are made.
const PIECES: [&str; 60] = [
    "vol",
    "v",
    "/",
    "/data",
    "/a/../b",
    ".",
    "..",
    "./x",
    "~",
    ":",
    ",",
    "=",
    "\"",
    "\"\"",
    "\\",
    "\n",
    "\r",
    " ",
    "\0",
    "é",
    "ro",
    "rw",
    "z",
    "Z",
    "nocopy",
    "create",
    "nocreate",
    "rshared",
    "type=",
    "bind",
    "volume",
    "tmpfs",
    "image",
    "source=",
    "src=",
    "target=",
    "dst=",
    "readonly",
    "bind-recursive=",
    "disabled",
    "writable",
    "bind-propagation=",
    "rprivate",
    "bind-create-src=",
    "volume-opt=",
    "volume-label=",
    "volume-subpath=",
    "tmpfs-size=",
    "tmpfs-mode=",
    "1.5g",
    "0x",
    "99999999999999999999",
    "%",
    "777",
    "on-missing=",
    "fail",
    "size=",
    "mode=",
    "uid=",
    "mpol=",
];

fn flag() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::collection::vec(select(&PIECES[..]), 0..12).prop_map(|pieces| pieces.concat()),
    ]
}

fn requests() -> impl Strategy<Value = ParseRequest> {
    let flags = || prop::collection::vec(flag(), 0..3);
    let base = prop::option::of(Just(HostPath::new("/base").unwrap()));
    let dialect = select(&[Dialect::Strict, Dialect::Docker][..]);
    (dialect, flags(), flags(), flags(), base).prop_map(
        |(dialect, volumes, mounts, tmpfs, base)| ParseRequest {
            dialect,
            volume_flags: volumes,
            mount_flags: mounts,
            tmpfs_flags: tmpfs,
            base_dir: base,
        },
    )
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-zA-Z0-9:,\" =.é]{0,6}[a-z\" ]", 1..5)
        .prop_map(|names| format!("/{}", names.join("/")))
}

fn text() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9,\" .é-]{0,8}[a-z\"]"
}

fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-z.]{1,6}", "[a-z=, \"]{0,6}[a-z\"]", 0..3)
}

fn name() -> impl Strategy<Value = Option<String>> {
    prop::option::of("[a-zA-Z0-9][a-zA-Z0-9_.-]{1,20}")
}

/// Flags as a person would write them, with every key of each type.
fn volume() -> impl Strategy<Value = Vec<String>> {
    let driver = prop::option::of(text());
    (
        name(),
        path(),
        any::<(bool, bool)>(),
        driver,
        pairs(),
        pairs(),
    )
        .prop_map(|(name, path, (nocopy, subpath), driver, options, labels)| {
            let mut fields = vec!["type=volume".to_owned()];
            let named = name.is_some();
            fields.extend(name.map(|name| format!("source={name}")));
            if subpath && named {
                fields.push(format!("volume-subpath={}", &path[1..]));
            }
            fields.push(format!("volume-nocopy={nocopy}"));
            fields.extend(driver.map(|driver| format!("volume-driver={driver}")));
            let pair = |key| move |(name, value)| format!("volume-{key}={name}={value}");
            fields.extend(options.into_iter().map(pair("opt")));
            fields.extend(labels.into_iter().map(pair("label")));
            fields
        })
}

fn bind() -> impl Strategy<Value = Vec<String>> {
    let recursion = prop_oneof![
        Just(vec![]),
        Just(vec!["bind-recursive=disabled"]),
        Just(vec!["bind-recursive=disabled", "ro"]),
        Just(vec!["bind-recursive=writable", "ro"]),
    ];
    let modes = select(&Propagation::ALL[..]).prop_map(|mode| mode.as_str());
    let idmap = prop::option::of(select(&["userns", "match-user", "match-user:5:6"][..]));
    let create = prop::option::of(select(&["dir", "file", "false"][..]));
    (path(), recursion, modes, idmap, create).prop_map(|(path, recursion, mode, idmap, create)| {
        let mut fields = vec![format!("type=bind"), format!("source={path}")];
        fields.extend(recursion.into_iter().map(str::to_owned));
        fields.push(format!("bind-propagation={mode}"));
        fields.extend(idmap.map(|idmap| format!("bind-idmap={idmap}")));
        fields.extend(create.map(|create| format!("bind-create-src={create}")));
        fields
    })
}

fn tmpfs() -> impl Strategy<Value = Vec<String>> {
    let size = prop_oneof![
        Just("1.5g".to_owned()),
        (1_u64..u64::MAX).prop_map(|bytes| bytes.to_string()),
        (1_u64..1000).prop_map(|percent| format!("{percent}%")),
    ];
    let numbers = (0_u32..=0o7777, 0..u32::MAX, any::<u64>());
    (size, numbers, any::<bool>()).prop_map(|(size, (mode, id, inodes), exec)| {
        vec![
            "type=tmpfs".to_owned(),
            format!("tmpfs-size={size}"),
            format!("tmpfs-mode={mode:o}"),
            format!("uid={id}"),
            format!("gid={id}"),
            format!("tmpfs-inodes={inodes}"),
            format!("tmpfs-exec={exec}"),
            "tmpfs-opt=noatime".to_owned(),
        ]
    })
}

fn image() -> impl Strategy<Value = Vec<String>> {
    (text(), path()).prop_map(|(reference, path)| {
        vec![
            "type=image".to_owned(),
            format!("source={reference}"),
            format!("image-subpath={}", &path[1..]),
        ]
    })
}

/// A `--mount` in which every field stands in quotes, so that nothing in a value matters.
fn mount_flags() -> impl Strategy<Value = String> {
    (prop_oneof![volume(), bind(), tmpfs(), image()], path()).prop_map(|(mut fields, target)| {
        fields.push(format!("target={target}"));
        let quoted: Vec<String> = fields
            .iter()
            .map(|field| format!("\"{}\"", field.replace('"', "\"\"")))
            .collect();
        quoted.join(",")
    })
}

fn parse_mount(text: String) -> Result<MountSpec, BadSpec> {
    let request = ParseRequest {
        mount_flags: vec![text],
        ..ParseRequest::default()
    };
    parse(&request).map(|mut specs| specs.remove(0))
}

/// The canonical form says a policy that differs from the dialect's, and a label that it gives.
fn explicit(mut spec: MountSpec) -> MountSpec {
    let named = match &spec.kind {
        Kind::Volume(volume) => volume.name.is_some(),
        Kind::Bind(_) => true,
        Kind::Tmpfs(_) | Kind::Image(_) => false,
    };
    if named && spec.on_missing.policy == Policy::Create {
        spec.on_missing.origin = Origin::Explicit;
    }
    if spec.relabel == Some(Relabel::SharedByDialect) {
        spec.relabel = Some(Relabel::Shared);
    }
    spec
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_input_panics_and_results_keep_their_promises(request in requests()) {
        match parse(&request) {
            Ok(specs) => {
                let depths: Vec<usize> = specs.iter().map(|spec| spec.target.depth()).collect();
                prop_assert!(depths.is_sorted(), "{depths:?}");
                let mut targets: Vec<&str> = specs.iter().map(|spec| spec.target.as_str()).collect();
                prop_assert!(targets.iter().all(|target| target.starts_with('/') && *target != "/"));
                targets.sort_unstable();
                targets.dedup();
                prop_assert_eq!(targets.len(), specs.len());
            }
            Err(bad) => {
                let flags = match bad.flag {
                    Flag::Volume => &request.volume_flags,
                    Flag::Mount => &request.mount_flags,
                    Flag::Tmpfs => &request.tmpfs_flags,
                };
                prop_assert!(bad.index < flags.len());
                prop_assert!(bad.to_string().len() < 4096, "{}", bad);
            }
        }
    }

    #[test]
    fn mounts_survive_the_way_to_text_and_back(text in mount_flags()) {
        let spec = parse_mount(text).map_err(|bad| TestCaseError::fail(bad.to_string()))?;
        let shown = spec.to_string();
        let again = parse_mount(shown.clone()).map_err(|bad| TestCaseError::fail(bad.to_string()))?;
        prop_assert_eq!(&again, &explicit(spec));
        prop_assert_eq!(again.to_string(), shown);
    }

    #[test]
    fn whatever_either_dialect_takes_survives_the_way_to_text(request in requests()) {
        for spec in parse(&request).unwrap_or_default() {
            let shown = spec.to_string();
            let again = parse_mount(shown).map_err(|bad| TestCaseError::fail(bad.to_string()))?;
            prop_assert_eq!(again, explicit(spec));
        }
    }
}

#[test]
fn limits_hold() {
    let mut request = request(Dialect::Strict, &[]);
    request.volume_flags = vec!["x".repeat(FLAG_MAX + 1)];
    assert_eq!(parse(&request).unwrap_err().rule, Rule::TooLong);
    request.volume_flags = (0..FLAGS_MAX).map(|n| format!("/data/{n}")).collect();
    assert_eq!(parse(&request).unwrap().len(), FLAGS_MAX);
    request.tmpfs_flags = vec!["/one/more".to_owned()];
    let bad = parse(&request).unwrap_err();
    assert_eq!(
        (bad.flag, bad.index, bad.rule),
        (Flag::Tmpfs, 0, Rule::TooMany)
    );
}

#[test]
fn a_path_longer_than_the_kernel_takes_is_refused() {
    let long = "/x".repeat(2049);
    for flag in [
        format!("-v vol:{long}"),
        format!("-v {long}:/data"),
        format!(
            "--mount source=vol,target=/data,volume-subpath={}",
            &long[1..]
        ),
        format!("--tmpfs {long}"),
    ] {
        assert_eq!(strict(&flag).unwrap_err().rule, Rule::TooLong);
    }
    assert!(strict(&format!("-v vol:{}", &long[..4094])).is_ok());
}

#[test]
fn a_relative_source_needs_a_base() {
    for dialect in [Dialect::Strict, Dialect::Docker] {
        for flag in ["-v ./x:/data", "--mount type=bind,src=./x,dst=/data"] {
            let mut request = request(dialect, &[flag]);
            request.base_dir = None;
            assert_eq!(parse(&request).unwrap_err().rule, Rule::NoBase, "{flag}");
        }
    }
}

#[test]
fn an_error_names_flag_field_rule_and_fix() {
    let flags = [
        "-v vol:/a",
        "--mount dst=/b",
        "--mount type=bind,src=/c,dst=/c,bind-nonrecursive",
    ];
    let bad = parse(&request(Dialect::Strict, &flags)).unwrap_err();
    assert_eq!((bad.flag, bad.index), (Flag::Mount, 1));
    assert_eq!(
        (bad.field.as_str(), bad.rule),
        ("bind-nonrecursive", Rule::Removed)
    );
    assert_eq!(bad.text, "type=bind,src=/c,dst=/c,bind-nonrecursive");
    assert_eq!(
        bad.to_string(),
        "--mount \"type=bind,src=/c,dst=/c,bind-nonrecursive\": bind-nonrecursive: was removed \
         (write bind-recursive=disabled)"
    );
}

#[test]
fn fields_become_values() {
    let spec = strict(
        "--mount type=bind,src=/s,dst=/d,ro,bind-recursive=readonly,bind-create-src=file,\
         bind-idmap=match-user:web,relabel=private",
    );
    let bind = Bind {
        source: HostPath::new("/s").unwrap(),
        propagation: Propagation::Rprivate,
        recursive: true,
        create: CreateSource::File,
        idmap: Some(IdMap::MatchUser(Some("web".to_owned()))),
    };
    let spec = spec.unwrap();
    assert_eq!(spec.kind, Kind::Bind(bind));
    assert_eq!(spec.read_only, ReadOnly::RoRecursiveRequired);
    assert_eq!(spec.relabel, Some(Relabel::Private));
    let explicit = OnMissing {
        policy: Policy::Create,
        origin: Origin::Explicit,
    };
    assert_eq!(spec.on_missing, explicit);
}

#[test]
fn volumes_and_memory_become_values() {
    let flag = "--mount source=vol,target=/d,volume-driver=nfs,volume-opt=a=b=c,volume-label=x";
    let Kind::Volume(volume) = strict(flag).unwrap().kind else {
        panic!("not a volume");
    };
    assert_eq!(volume.name, VolumeName::parse("", "vol").ok());
    let create_with = CreateWith {
        driver: Some("nfs".to_owned()),
        options: BTreeMap::from([("a".to_owned(), "b=c".to_owned())]),
        labels: BTreeMap::from([("x".to_owned(), String::new())]),
    };
    assert_eq!(volume.create_with, create_with);
    let flag = "--tmpfs /d:size=1.5k,mode=700,uid=1,gid=2,nr_inodes=3k,exec,noatime";
    let tmpfs = Tmpfs {
        size: Some(TmpfsSize::Bytes(1536)),
        mode: Some(0o700),
        uid: Some(1),
        gid: Some(2),
        inodes: Some(3072),
        exec: true,
        more: vec!["noatime".to_owned()],
    };
    assert_eq!(strict(flag).unwrap().kind, Kind::Tmpfs(tmpfs));
}
