use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{Bundle, check, clean, merge, wider};
use crate::attachment::OciMount;

fn mount(destination: &str, options: &[&str]) -> OciMount {
    OciMount {
        destination: destination.to_owned(),
        kind: "bind".to_owned(),
        source: "/new".to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

/// Destinations after merging; new ones are marked.
fn merged(old: &[&str], new: &[&str]) -> Vec<String> {
    let mut list: Vec<Value> = old
        .iter()
        .map(|old| json!({"destination": old, "source": "/old"}))
        .collect();
    let new: Vec<OciMount> = new.iter().map(|new| mount(new, &[])).collect();
    merge(&mut list, &new);
    let once = list.clone();
    merge(&mut list, &new);
    assert_eq!(list, once, "a second time changes nothing");
    let mark = |one: &Value| if one["source"] == "/new" { "+" } else { "" };
    list.iter()
        .map(|one| format!("{}{}", mark(one), one["destination"].as_str().unwrap()))
        .collect()
}

#[test]
fn mounts_come_after_those_above_them_and_before_those_below() {
    assert_eq!(
        merged(&["/proc", "/dev", "/dev/pts"], &["/data", "/data/sub"]),
        ["/proc", "/dev", "/dev/pts", "+/data", "+/data/sub"]
    );
    assert_eq!(
        merged(&["/proc", "/data/sub", "/run"], &["/data"]),
        ["/proc", "+/data", "/data/sub", "/run"]
    );
    assert_eq!(
        merged(&["/dev", "/dev/shm", "/run"], &["/dev/shm/x"]),
        ["/dev", "/dev/shm", "/run", "+/dev/shm/x"]
    );
    assert_eq!(
        merged(&["/a/b/c", "/a"], &["/a/b"]),
        ["/a/b/c", "/a", "+/a/b"]
    );
}

#[test]
fn a_mount_at_the_same_place_is_replaced() {
    assert_eq!(
        merged(&["/proc", "/data/", "/run", "data/../data"], &["/data"]),
        ["/proc", "/run", "+/data"]
    );
    assert_eq!(
        merged(&["/dev", "/dev/shm", "/dev/mqueue"], &["/dev"]),
        ["+/dev", "/dev/shm", "/dev/mqueue"]
    );
    assert_eq!(merged(&["/database"], &["/data"]), ["/database", "+/data"]);
}

#[test]
fn destinations_are_compared_as_places() {
    for same in ["/a/b", "a/b", "//a/./b/", "/a/c/../b", "/../a/b"] {
        assert_eq!(clean(same), clean("/a/b"), "{same}");
    }
}

#[test]
fn the_roots_propagation_only_widens() {
    let all = |have: &str, options: &[&str]| {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        wider(have, options.iter())
    };
    let table = [
        ("", &["rbind", "rprivate"][..], None),
        ("", &["rslave"], Some("rslave")),
        ("private", &["slave", "shared"], Some("rshared")),
        ("slave", &["rshared"], Some("rshared")),
        ("rslave", &["slave"], None),
        ("shared", &["slave", "rshared"], None),
    ];
    for (have, options, wanted) in table {
        assert_eq!(all(have, options), wanted, "{have} {options:?}");
    }
}

#[test]
fn all_else_stays_and_so_do_mode_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real.json"), dir.path().join("config.json"));
    let config = json!({
        "ociVersion": "1.2.0", "process": {"rlimits": [{"hard": u64::MAX}], "oomScoreAdj": -5},
        "mounts": [{"destination": "/proc", "type": "proc", "x-unknown": [1]}],
    });
    fs::write(&real, config.to_string()).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("real.json", &link).unwrap();
    let bundle = Bundle::open(dir.path()).unwrap();
    bundle
        .put(&[mount("/data", &["rbind", "rshared"])])
        .unwrap();
    let mut wanted = config;
    wanted["linux"] = json!({"rootfsPropagation": "rshared"});
    let added = json!({
        "destination": "/data", "type": "bind", "source": "/new", "options": ["rbind", "rshared"],
    });
    wanted["mounts"].as_array_mut().unwrap().push(added);
    let text = fs::read(&link).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), wanted);
    assert_eq!(
        real.metadata().unwrap().permissions().mode() & 0o7777,
        0o640
    );
    assert!(link.is_symlink());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn what_is_no_bundle_is_refused_before_anything_happens() {
    for bad in [
        "",
        "[]",
        "{\"mounts\": {}}",
        "{\"linux\": []}",
        "{\"mounts\": null}",
        "{\"linux\": {\"mountLabel\": 7}}",
    ] {
        assert!(check(bad.as_bytes()).is_err(), "{bad}");
    }
    check(b"{}").unwrap();
    let dir = tempfile::tempdir().unwrap();
    Bundle::open(dir.path()).unwrap_err();
}

#[test]
fn what_others_put_in_meanwhile_stays() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let all: Vec<Bundle> = (0..8).map(|_| Bundle::open(dir.path()).unwrap()).collect();
    std::thread::scope(|scope| {
        for (number, bundle) in all.iter().enumerate() {
            scope.spawn(move || bundle.put(&[mount(&format!("/d{number}"), &[])]).unwrap());
        }
    });
    let text = fs::read(dir.path().join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(config["mounts"].as_array().unwrap().len(), all.len());
}
