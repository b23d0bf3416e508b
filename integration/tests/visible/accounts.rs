//! `du` and `why`: what is here, how much it holds, and what keeps it.

use serde_json::Value;

use super::World;

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    let mut rows = rows.iter();
    rows.find(|row| row["name"] == name)
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn root_du_adds_up() {
    let mut world = World::new("");
    world.fill();
    world.client.prepare("other", "base", &[]).unwrap();
    world.sh("head -c 100000 /dev/zero > l/3/data; sync l/3/data");
    let shown = world.json(&["snapshot", "ls", "--usage"]);
    let bytes = |name: &str| row(&shown, name)["bytes"].as_u64().unwrap();
    assert!(bytes("work") > 100_000);
    let rows = world.json(&["du"]);
    assert_eq!(rows.len(), 2, "only what nothing builds on: {rows:?}");
    assert_eq!(rows[0]["name"], "work", "the largest first");
    let work = row(&rows, "work");
    assert_eq!(work["own_bytes"], bytes("work") + bytes("top"));
    assert_eq!(work["shared_bytes"], bytes("base"));
    assert_eq!(work["layers"], 3);
    let other = row(&rows, "other");
    assert_eq!(other["own_bytes"], bytes("other"));
    assert_eq!(other["shared_bytes"], bytes("base"));
    assert_eq!(world.json(&["du", "-n", "1"]).len(), 1);
    let text = world.ctl(&["du", "--limit", "1"]).out;
    assert!(text.contains("1 of 2 shown"), "{text}");
    // Without the others, the base belongs to this one alone.
    world.client.remove("other").unwrap();
    let alone = &world.json(&["du"])[0];
    assert_eq!(
        alone["own_bytes"],
        bytes("work") + bytes("top") + bytes("base")
    );
    assert_eq!(alone["shared_bytes"], 0);
    assert!(
        world.ctl(&["du"]).out.contains(" in 1\nDisk: "),
        "the trash"
    );
}

#[test]
fn root_why_tells_who_made_it_and_what_keeps_it() {
    let mut world = World::new("");
    world.fill();
    world.client.prepare("k8s.io/7/web/1", "top", &[]).unwrap();
    let top = &world.json(&["why", "top"])[0];
    assert_eq!(top["kind"], "committed");
    assert_eq!(top["depth"], 1);
    assert_eq!(top["unpacks"], "sha256:layer");
    assert_eq!(top["namespace"], Value::Null);
    assert_eq!(
        top["children"],
        serde_json::json!(["work", "k8s.io/7/web/1"])
    );
    let web = &world.json(&["why", "k8s.io/7/web/1"])[0];
    assert_eq!(
        (&web["namespace"], &web["client_key"]),
        (&"k8s.io".into(), &"web/1".into())
    );
    assert_eq!(web["depth"], 2);
    assert_eq!(web["images"], Value::Null, "no containerd answers");
    let listed = world.ctl(&["snapshot", "ls"]);
    assert!(
        !listed.out.contains("IMAGE") && listed.error.is_empty(),
        "{listed:?}"
    );
    let text = world.ctl(&["why", "top"]).out;
    for part in [
        "A finished layer",
        "sha256:layer",
        "2 snapshots build on it and keep it here",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let missing = world.ctl(&["why", "missing"]);
    assert_eq!(missing.code, 3, "{missing:?}");
}
