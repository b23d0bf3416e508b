use std::path::{Path, PathBuf};

use layerd_mounts::overlay_options::{MAX_LOWERS, data, shorten};
use layerd_mounts::{Error, IdMaps, Mount, Slot};
use proptest::prelude::{any, proptest};

use super::Layout;
use crate::driver::Stack;

const PAGE: usize = 4096;
const USUAL: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.layerd";

fn layout(root: &str) -> Layout {
    Layout::new(Path::new(root), vec!["index=off".to_owned()], PAGE).expect("a good root")
}

fn stack(own: Option<u64>, parents: &[u64], writable: bool) -> Stack {
    Stack {
        own: own.map(Slot),
        parents: parents.iter().copied().map(Slot).collect(),
        writable,
        ids: None,
        limit: None,
    }
}

fn mapped(stack: Stack) -> Stack {
    let ids = IdMaps::parse("0:100000:1000,1000:7:1", "0:200000:65536").expect("good maps");
    Stack {
        ids: Some(ids),
        ..stack
    }
}

fn only(layout: &Layout, stack: &Stack) -> Mount {
    let mut mounts = layout.plan(stack, &|_| false, false).expect("a plan");
    assert_eq!(mounts.len(), 1);
    mounts.remove(0)
}

/// Name, stack, type, source, options.
type Row = (
    &'static str,
    Stack,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const MAPS: [&str; 2] = ["uidmap=0:100000:1000,1000:7:1", "gidmap=0:200000:65536"];

fn binds() -> Vec<Row> {
    vec![
        (
            "active, no parent",
            stack(Some(36), &[], true),
            "bind",
            "/r/l/10",
            &["rw", "rbind"],
        ),
        (
            "active, no parent, mapped",
            mapped(stack(Some(36), &[], true)),
            "bind",
            "/r/l/10",
            &[MAPS[0], MAPS[1], "rw", "rbind"],
        ),
        (
            "view, no parent",
            stack(Some(36), &[], false),
            "bind",
            "/r/l/10",
            &["ro", "rbind"],
        ),
        (
            "view, one parent",
            stack(None, &[1], false),
            "bind",
            "/r/l/1",
            &["ro", "rbind"],
        ),
        (
            "view, one parent, mapped",
            mapped(stack(None, &[1], false)),
            "bind",
            "/r/l/1",
            &[MAPS[0], MAPS[1], "ro", "rbind"],
        ),
    ]
}

fn overlays() -> Vec<Row> {
    vec![
        (
            "active, one parent",
            stack(Some(36), &[1], true),
            "overlay",
            "overlay",
            &[
                "workdir=/r/w/10",
                "upperdir=/r/l/10",
                "lowerdir=/r/l/1",
                "index=off",
            ],
        ),
        (
            "active, parents not known yet",
            stack(Some(36), &[0], true),
            "overlay",
            "overlay",
            &[
                "workdir=/r/w/10",
                "upperdir=/r/l/10",
                "lowerdir=/r/e",
                "index=off",
            ],
        ),
        (
            "active, three parents, mapped",
            mapped(stack(Some(36), &[9, 5, 1], true)),
            "overlay",
            "overlay",
            &[
                MAPS[0],
                MAPS[1],
                "workdir=/r/w/10",
                "upperdir=/r/l/10",
                "lowerdir=/r/l/9:/r/l/5:/r/l/1",
                "index=off",
            ],
        ),
        (
            "view, two parents",
            stack(None, &[35, 1], false),
            "overlay",
            "overlay",
            &["lowerdir=/r/l/z:/r/l/1", "index=off"],
        ),
    ]
}

#[test]
fn every_stack_has_its_mount() {
    let layout = layout("/r");
    for (name, stack, kind, source, options) in binds().into_iter().chain(overlays()) {
        let expected = Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        assert_eq!(only(&layout, &stack), expected, "{name}");
    }
}

#[test]
fn configured_options_come_last_and_in_order() {
    let options = vec!["redirect_dir=on".to_owned(), "userxattr".to_owned()];
    let layout = Layout::new(Path::new("/r"), options, PAGE).expect("good options");
    let mount = only(&layout, &stack(Some(2), &[1], true));
    assert_eq!(mount.options[3..], ["redirect_dir=on", "userxattr"]);
    let bind = only(&layout, &stack(Some(2), &[], true));
    assert_eq!(bind.options, ["rw", "rbind"], "they are overlayfs's own");
}

#[test]
fn what_is_no_stack_is_refused() {
    for bad in [
        stack(None, &[], false),
        stack(None, &[], true),
        stack(None, &[1], true),
    ] {
        let planned = layout("/r").plan(&bad, &|_| false, false);
        assert!(matches!(planned, Err(Error::NotAStack { .. })), "{bad:?}");
    }
}

#[test]
fn five_hundred_layers_fit_and_no_more() {
    let layout = layout(USUAL);
    // Four digits, as after a million layers.
    let parents: Vec<u64> = (1_600_000..1_600_000 + MAX_LOWERS as u64).collect();
    let mount = only(&layout, &stack(Some(1_679_000), &parents, true));
    let (shared, options) = shorten(&mount.options, PAGE);
    assert_eq!(shared, Some(PathBuf::from(format!("{USUAL}/l"))));
    assert!(data(&options).len() < PAGE);
    let more: Vec<u64> = (0..=MAX_LOWERS as u64).collect();
    let refused = layout.plan(&stack(Some(1_679_000), &more, true), &|_| false, false);
    assert!(matches!(
        refused,
        Err(Error::TooDeep {
            layers: 501,
            limit: MAX_LOWERS
        })
    ));
}

#[test]
fn what_the_kernel_would_cut_is_refused() {
    let layout = layout("/r");
    let long = |count: u64| -> Vec<u64> { (u64::MAX - count..u64::MAX).collect() };
    // 14 bytes a layer with its colon, the last without; beside them
    // "workdir=/r/w/1,upperdir=/r/l/1,lowerdir=,index=off" of 50.
    let fits = (PAGE as u64 - 1 - 50 + 1) / 14;
    let mount = only(&layout, &stack(Some(1), &long(fits), true));
    let (_, shortest) = shorten(&mount.options, PAGE);
    assert!(data(&shortest).len() < PAGE);
    let refused = layout.plan(&stack(Some(1), &long(fits + 1), true), &|_| false, false);
    let bytes = 50 + 14 * (usize::try_from(fits).expect("small") + 1) - 1;
    match refused {
        Err(Error::TooLong {
            bytes: found,
            limit,
            ..
        }) => assert_eq!((found, limit), (bytes, PAGE - 1)),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn one_lower_directory_is_not_shortened() {
    let root = format!("/{}", "r".repeat(2000));
    let refused = layout(&root).plan(&stack(Some(1), &[2], true), &|_| false, false);
    assert!(matches!(refused, Err(Error::TooLong { layers: 1, .. })));
}

#[test]
fn shortens_where_containerd_does() {
    let options = |length: usize| vec![format!("lowerdir=/r/l/1:/r/l/{}", "a".repeat(length))];
    let lead = "lowerdir=/r/l/1:/r/l/".len();
    let (shared, same) = shorten(&options(PAGE - 512 - 1 - lead), PAGE);
    assert_eq!((shared, same), (None, options(PAGE - 512 - 1 - lead)));
    let (shared, _) = shorten(&options(PAGE - 512 - lead), PAGE);
    assert_eq!(shared, Some(PathBuf::from("/r/l")));
}

#[test]
fn roots_that_options_cannot_carry_are_refused() {
    for bad in [
        "/", "r", "", "/r/", "/a:b", "/a,b", "/a\\b", "/a\nb", "/a\u{7f}",
    ] {
        let refused = Layout::new(Path::new(bad), Vec::new(), PAGE);
        assert!(
            matches!(refused, Err(Error::Unsuitable { check: "path", .. })),
            "{bad:?}"
        );
    }
    for good in ["/r", "/with blank", "/umläut", "/a=b", "/\"q\""] {
        Layout::new(Path::new(good), Vec::new(), PAGE).expect(good);
    }
}

#[test]
fn options_that_would_change_the_layers_are_refused() {
    for bad in [
        "",
        "ro",
        "lowerdir=/x",
        "lowerdir+=/x",
        "datadir+=/x",
        "upperdir=/x",
        "workdir=/x",
        "uidmap=0:0:1",
        "a,b",
        "a b",
        "a\\,b",
    ] {
        let refused = Layout::new(Path::new("/r"), vec![bad.to_owned()], PAGE);
        assert!(refused.is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn a_plan_always_fits_and_names_its_layers(
        root in "/[a-z]{1,300}(/[a-z]{1,20}){0,3}",
        own in any::<u64>(),
        parents in proptest::collection::vec(0_u64..5_000_000, 1..520),
    ) {
        let layout = layout(&root);
        let Ok(mounts) = layout.plan(&stack(Some(own), &parents, true), &|_| false, false) else {
            return Ok(());
        };
        let (shared, options) = shorten(&mounts[0].options, PAGE);
        assert!(data(&options).len() < PAGE);
        let lowers = options.iter().find_map(|option| option.strip_prefix("lowerdir="));
        let shared = shared.unwrap_or_default();
        let lowers: Vec<PathBuf> = lowers
            .expect("lowers")
            .split(':')
            .map(|lower| shared.join(lower))
            .collect();
        let wanted: Vec<PathBuf> = parents
            .iter()
            .map(|slot| PathBuf::from(layout.layer(Slot(*slot))))
            .collect();
        assert_eq!(lowers, wanted);
    }
}

#[test]
fn the_layer_on_top_is_read_from_the_mount() {
    let layout = layout("/r");
    let table = [
        (stack(Some(36), &[], true), 36),
        (stack(Some(36), &[], false), 36),
        (stack(None, &[7], false), 7),
        (stack(Some(36), &[7, 8], true), 36),
        (stack(None, &[7, 8], false), 7),
        (mapped(stack(Some(36), &[7], true)), 36),
    ];
    for (stack, top) in table {
        let mount = only(&layout, &stack);
        assert_eq!(layout.top_of(&mount), Some(Slot(top)), "{mount:?}");
    }
}

#[test]
fn other_mounts_have_no_layer_on_top() {
    let layout = layout("/r");
    let mount = |kind: &str, source: &str, options: &[&str]| Mount {
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    };
    for other in [
        mount("bind", "/r/l/", &["rw"]),
        mount("bind", "/r/l/10/etc", &["rw"]),
        mount("bind", "/r/l/../l/10", &["rw"]),
        mount("bind", "/r/w/10", &["rw"]),
        mount("bind", "/rr/l/10", &["rw"]),
        mount("bind", "r/l/10", &["rw"]),
        mount("bind", "/r/l/010", &["rw"]),
        mount("erofs", "/r/l/10", &["rw"]),
        mount("overlay", "/r/l/10", &["workdir=/r/w/10"]),
        mount(
            "overlay",
            "overlay",
            &["upperdir=/s/l/10", "lowerdir=/r/l/9"],
        ),
    ] {
        assert_eq!(layout.top_of(&other), None, "{other:?}");
    }
}
