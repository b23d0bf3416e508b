//! Differences and what is none.

use layerd_proto::containerd::services::snapshots::v1::Info;

use super::*;

const NOW: i64 = 1000;

fn snapshot(name: &str, parent: &str, created: i64) -> Snapshot {
    let created_at = prost_types::Timestamp {
        seconds: created,
        nanos: 0,
    };
    Snapshot::from(Info {
        name: name.to_owned(),
        parent: parent.to_owned(),
        created_at: Some(created_at),
        ..Info::default()
    })
}

fn needs(key: &str, holder: Holder) -> Reference {
    Reference {
        namespace: "ns".to_owned(),
        key: key.to_owned(),
        holder,
    }
}

/// A layer and a container's snapshot on it, which both sides know.
fn agreed() -> Seen {
    let there = vec![
        snapshot("ns/1/base", "", 10),
        snapshot("ns/2/web", "ns/1/base", 20),
    ];
    let needed = vec![needs("web", Holder::Container("web".to_owned()))];
    Seen {
        before: there.clone(),
        known: ["base", "web"]
            .map(|key| ("ns".to_owned(), key.to_owned()))
            .into(),
        needed: needed.clone(),
        after: there,
        still_needed: needed,
        trash: Vec::new(),
    }
}

fn found(seen: &Seen) -> Vec<(State, String, String)> {
    let all = differences(seen, NOW, "layerd").into_iter();
    all.map(|one| (one.state, one.key, one.fix + &one.advice))
        .collect()
}

fn of(state: State, key: &str, mend: &str) -> (State, String, String) {
    (state, key.to_owned(), mend.to_owned())
}

#[test]
fn what_both_know_is_no_difference() {
    assert_eq!(found(&agreed()), []);
}

#[test]
fn what_containerd_forgot_is_an_orphan_children_first() {
    let mut seen = agreed();
    seen.known.clear();
    let wanted = [
        of(State::Orphan, "ns/2/web", "layerctl snapshot rm ns/2/web"),
        of(State::Orphan, "ns/1/base", "layerctl snapshot rm ns/1/base"),
    ];
    assert_eq!(found(&seen), wanted);
}

#[test]
fn what_others_made_is_foreign() {
    let mut seen = agreed();
    for list in [&mut seen.before, &mut seen.after] {
        list.push(snapshot("by hand", "", 30));
    }
    let wanted = of(State::Foreign, "by hand", "layerctl snapshot rm 'by hand'");
    assert_eq!(found(&seen), [wanted]);
}

#[test]
fn what_comes_and_goes_meanwhile_is_not_judged() {
    let mut seen = agreed();
    // Made after the first look; removed before the last; made anew between the two; too young.
    seen.after.push(snapshot("ns/3/new", "", 30));
    seen.before.push(snapshot("ns/4/gone", "", 30));
    seen.before.push(snapshot("ns/5/again", "", 30));
    seen.after.push(snapshot("ns/5/again", "", 31));
    for list in [&mut seen.before, &mut seen.after] {
        list.push(snapshot("ns/6/young", "", NOW + 1));
    }
    assert_eq!(found(&seen), []);
}

#[test]
fn the_older_of_two_of_one_key_is_an_orphan() {
    let mut seen = agreed();
    for list in [&mut seen.before, &mut seen.after] {
        list.push(snapshot("ns/9/web", "ns/1/base", 40));
    }
    let wanted = of(State::Orphan, "ns/2/web", "layerctl snapshot rm ns/2/web");
    assert_eq!(found(&seen), [wanted]);
    // The newer one may not have reached containerd's records yet.
    for list in [&mut seen.before, &mut seen.after] {
        list.retain(|one| one.name != "ns/9/web");
        list.push(snapshot("ns/9/web", "ns/1/base", NOW + 1));
    }
    assert_eq!(found(&seen), []);
}

#[test]
fn an_orphan_that_others_stand_on_is_not_to_be_removed() {
    let mut seen = agreed();
    seen.known.retain(|(_, key)| key != "base");
    let advice = "Keep it: containerd knows what stands on it.";
    let wanted = of(State::Orphan, "ns/1/base", advice);
    assert_eq!(found(&seen), [wanted]);
}

#[test]
fn what_containerd_needs_and_layerd_lacks_is_missing() {
    let mut seen = agreed();
    let holders = [
        needs("sha256:a", Holder::Image("sha256:config".to_owned())),
        needs("db", Holder::Container("db".to_owned())),
        // Only reserved.
        needs("tmp", Holder::Lease("build".to_owned())),
    ];
    seen.needed.extend(holders.clone());
    seen.still_needed.extend(holders);
    // Gone by the second look: no longer needed.
    seen.needed
        .push(needs("late", Holder::Container("late".to_owned())));
    let wanted = [
        of(State::Missing, "db", "ctr --namespace ns containers rm db"),
        of(
            State::Missing,
            "sha256:a",
            "Run `ctr --namespace ns snapshots --snapshotter layerd rm sha256:a`, and pull the image again.",
        ),
    ];
    assert_eq!(found(&seen), wanted);
    seen.trash.push(Removed {
        id: "7".to_owned(),
        key: "ns/4/db".to_owned(),
        ..Removed::default()
    });
    assert_eq!(
        found(&seen)[0],
        of(State::Missing, "db", "layerctl trash restore 7")
    );
}
