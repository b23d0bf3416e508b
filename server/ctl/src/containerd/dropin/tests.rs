use toml::{Table, Value};

use super::{DropIn, Others, Schema, Served, Version};

fn drop_in(version: &str) -> DropIn {
    let version = Version::parse(version).unwrap();
    DropIn {
        version,
        schema: Schema::choose(version, None),
        served: vec![Served {
            name: "layerd".to_owned(),
            socket: "/run/layerd/layerd.sock".to_owned(),
            root: "/var/lib/l \"q\"".to_owned(),
        }],
        platform: "linux/amd64".to_owned(),
        remap_ids: false,
        annotations: false,
        parallel: false,
        differ: true,
        others: Others::default(),
    }
}

/// The drop-in as containerd would parse it.
fn parsed(drop_in: &DropIn) -> Table {
    drop_in.check().unwrap();
    let text = drop_in.render();
    toml::from_str(&text).unwrap_or_else(|cause| panic!("{cause}: {text}"))
}

fn wanted(text: &str) -> Table {
    toml::from_str(text).unwrap()
}

const PROXY: &str = "
[proxy_plugins.layerd]
type = 'snapshot'
address = '/run/layerd/layerd.sock'
";

const EXPORTS: &str = "
[proxy_plugins.layerd.exports]
root = '/var/lib/l \"q\"'
";

const DIFF: &str = "
[proxy_plugins.layerd-diff]
type = 'diff'
address = '/run/layerd/layerd.sock'
[plugins.'io.containerd.service.v1.diff-service']
default = ['layerd-diff', 'walking']
";

/// Which differ the transfer service has for layerd; overlayfs always keeps containerd's own.
fn unpack(differ: &str) -> String {
    format!(
        "
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
platform = 'linux/amd64'
snapshotter = 'overlayfs'
differ = 'walking'
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
platform = 'linux/amd64'
snapshotter = 'layerd'
differ = '{differ}'
"
    )
}

#[test]
fn each_series_gets_what_it_knows() {
    let (walking, ours) = (unpack("walking"), unpack("layerd-diff"));
    let v2 = ["version = 2", PROXY, EXPORTS, DIFF, &ours].concat();
    let v3 = ["version = 3", PROXY, EXPORTS, DIFF, &ours].concat();
    let table = [
        ("1.6.31", ["version = 2", PROXY].concat()),
        ("1.6.32", ["version = 2", PROXY, EXPORTS].concat()),
        ("1.6", ["version = 2", PROXY, EXPORTS].concat()),
        ("1.7.3", ["version = 2", PROXY, &walking].concat()),
        ("1.7.4", ["version = 2", PROXY, DIFF, &ours].concat()),
        ("1.7.15", ["version = 2", PROXY, DIFF, &ours].concat()),
        ("1.7.16", v2.clone()),
        ("1.7", v2),
        ("2.0.0", v3.clone()),
        ("2.1.4", v3.clone()),
        ("2.2", v3.clone()),
        ("2.3.0", v3.clone()),
        ("2.4", v3),
    ];
    for (version, text) in table {
        assert_eq!(parsed(&drop_in(version)), wanted(&text), "{version}");
    }
}

#[test]
fn unpacking_can_be_left_to_containerd() {
    let left = DropIn {
        differ: false,
        ..drop_in("2.1")
    };
    let text = ["version = 3", PROXY, EXPORTS, &unpack("walking")].concat();
    assert_eq!(parsed(&left), wanted(&text));
}

#[test]
fn an_old_main_file_is_followed() {
    let v1 = DropIn {
        schema: Schema::V1,
        ..drop_in("1.7")
    };
    assert_eq!(parsed(&v1), wanted(&[PROXY, EXPORTS].concat()));
    let v1 = DropIn {
        schema: Schema::V1,
        ..drop_in("2.1")
    };
    let text = [PROXY, EXPORTS, &unpack("walking")].concat();
    assert_eq!(parsed(&v1), wanted(&text));
    let v2 = DropIn {
        schema: Schema::V2,
        ..drop_in("2.2")
    };
    let text = ["version = 2", PROXY, EXPORTS, DIFF, &unpack("layerd-diff")].concat();
    assert_eq!(parsed(&v2), wanted(&text));
}

#[test]
fn options_appear_where_they_are_known() {
    let both = |version| DropIn {
        remap_ids: true,
        annotations: true,
        ..drop_in(version)
    };
    let table = parsed(&both("2.1"));
    let proxy = &table["proxy_plugins"]["layerd"];
    assert_eq!(proxy["capabilities"], Value::from(vec!["remap-ids"]));
    assert_eq!(
        proxy["exports"]["enable_remote_snapshot_annotations"],
        Value::from("true")
    );
    assert!(both("2.0").check().unwrap_err().contains("--annotations"));
    assert!(both("1.7").check().unwrap_err().contains("--remap-ids"));
}

#[test]
fn layers_at_the_same_time_need_two_settings() {
    let parallel = |version| DropIn {
        parallel: true,
        remap_ids: true,
        ..drop_in(version)
    };
    let table = parsed(&parallel("2.2.3"));
    let proxy = &table["proxy_plugins"]["layerd"];
    assert_eq!(
        proxy["capabilities"],
        Value::from(vec!["remap-ids", "rebase"])
    );
    let transfer = &table["plugins"]["io.containerd.transfer.v1.local"];
    assert_eq!(transfer["max_concurrent_unpacks"], Value::from(4));
    assert_eq!(transfer["unpack_config"].as_array().map(Vec::len), Some(2));
    for (version, is_warned_of) in [
        ("2.2.3", true),
        ("2.3.4", true),
        ("2.4.0", false),
        ("2.5", false),
    ] {
        assert_eq!(
            parallel(version).warning().is_some(),
            is_warned_of,
            "{version}"
        );
    }
    for version in ["2.2.2", "2.1", "1.7"] {
        let refused = DropIn {
            remap_ids: false,
            ..parallel(version)
        };
        assert!(refused.check().unwrap_err().contains("--parallel"));
    }
}

#[test]
fn what_endangers_data_or_containerd_is_never_written() {
    for version in ["1.6", "1.7", "2.0", "2.1", "2.2", "2.3", "2.4"] {
        let text = drop_in(version).render();
        assert!(!text.contains("rebase"), "{text}");
    }
    for version in ["1.6.20", "1.6", "1.7.0", "1.7.3"] {
        let text = drop_in(version).render();
        assert!(!text.contains("\"diff\""), "{text}");
    }
}

#[test]
fn the_hint_for_the_default_works_once_uncommented() {
    let table = [
        ("1.7", Schema::V1, "plugins.cri.containerd"),
        (
            "1.7",
            Schema::V2,
            "plugins.'io.containerd.grpc.v1.cri'.containerd",
        ),
        ("2.1", Schema::V3, "plugins.'io.containerd.cri.v1.images'"),
    ];
    for (version, schema, path) in table {
        let text = DropIn {
            schema,
            ..drop_in(version)
        }
        .render();
        let hint: String = text
            .lines()
            .skip_while(|line| !line.starts_with("# To make"))
            .skip(1)
            .map(|line| format!("{}\n", &line[2..]))
            .collect();
        assert_eq!(
            wanted(&hint),
            wanted(&format!("[{path}]\nsnapshotter = 'layerd'")),
            "{text}"
        );
    }
}

/// Another snapshotter, with its own differ and settings, as its documentation has them written.
const OTHER: &str = "
[transfer]
max_concurrent_downloads = 5
[[transfer.unpack_config]]
platform = 'linux/amd64'
snapshotter = 'nydus'
differ = 'walking'
config = { a = 'b' }
[[transfer.unpack_config]]
platform = 'linux/amd64'
snapshotter = 'layerd'
differ = 'old'
[diff]
default = ['erofs', 'walking']
sync_fs = true
";

#[test]
fn what_other_files_have_in_the_lists_stays() {
    let other = wanted(OTHER);
    let table = |name: &str| other[name].as_table().unwrap().clone();
    for (version, is_whole) in [("1.7", true), ("2.1", false)] {
        let drop_in = DropIn {
            others: Others {
                transfer: table("transfer"),
                diff: table("diff"),
            },
            ..drop_in(version)
        };
        let plugins = parsed(&drop_in)["plugins"].clone();
        let (transfer, diff) = (
            &plugins["io.containerd.transfer.v1.local"],
            &plugins["io.containerd.service.v1.diff-service"],
        );
        let entries = transfer["unpack_config"].as_array().unwrap();
        let names: Vec<_> = entries
            .iter()
            .map(|one| one["snapshotter"].as_str())
            .collect();
        assert_eq!(names, [Some("nydus"), Some("layerd")], "{version}");
        assert_eq!(entries[0], other["transfer"]["unpack_config"][0]);
        assert_eq!(entries[1]["differ"].as_str(), Some("layerd-diff"));
        let differs = diff["default"].as_array().unwrap();
        let differs: Vec<_> = differs.iter().map(Value::as_str).collect();
        assert_eq!(
            differs,
            [Some("layerd-diff"), Some("erofs"), Some("walking")]
        );
        // Later releases merge the tables, and there a copy would only grow old.
        let kept = (
            transfer.get("max_concurrent_downloads"),
            diff.get("sync_fs"),
        );
        assert_eq!(kept.0.is_some() && kept.1.is_some(), is_whole, "{version}");
        assert_eq!(kept.0.is_none() && kept.1.is_none(), !is_whole, "{version}");
    }
}

#[test]
fn each_instance_is_a_snapshotter_and_a_differ_of_its_own() {
    let mut both = drop_in("2.1");
    both.remap_ids = true;
    both.served.push(Served::instance("copies"));
    let table = parsed(&both);
    let proxies = &table["proxy_plugins"];
    let names: Vec<_> = proxies.as_table().unwrap().keys().collect();
    let wanted = [
        "layerd",
        "layerd-copies",
        "layerd-copies-diff",
        "layerd-diff",
    ];
    assert_eq!(names, wanted);
    let copies = &proxies["layerd-copies"];
    assert_eq!(copies["address"].as_str(), Some("/run/layerd/copies.sock"));
    assert_eq!(
        copies["exports"]["root"].as_str(),
        Some("/var/lib/containerd/io.containerd.snapshotter.v1.layerd-copies")
    );
    assert!(copies.get("capabilities").is_none(), "{copies}");
    assert!(proxies["layerd"].get("capabilities").is_some());
    let plugins = &table["plugins"];
    let differs = &plugins["io.containerd.service.v1.diff-service"]["default"];
    let wanted = ["layerd-diff", "layerd-copies-diff", "walking"];
    assert_eq!(differs, &Value::from(wanted.to_vec()));
    let entries = &plugins["io.containerd.transfer.v1.local"]["unpack_config"];
    let pairs: Vec<_> = (entries.as_array().unwrap().iter())
        .map(|entry| [&entry["snapshotter"], &entry["differ"]].map(|one| one.as_str().unwrap()))
        .collect();
    let wanted = [
        ["overlayfs", "walking"],
        ["layerd", "layerd-diff"],
        ["layerd-copies", "layerd-copies-diff"],
    ];
    assert_eq!(pairs, wanted);
}
