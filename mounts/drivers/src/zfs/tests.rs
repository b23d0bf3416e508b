//! The driver with stand-ins for zfs(8); `kernel` and `removal` have the tests on a real one.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layerd_mounts::error::with_causes;
use layerd_mounts::limit::{Enforcement, Limit};
use layerd_mounts::{Error, Mount, Slot};

use super::datasets::Datasets;
use super::program::Programs;
use super::{Zfs, check_name};
use crate::dirs::LayerDirs;
use crate::driver::{Base, Driver, Found, SlotKind, Survey};
use crate::factory;
use crate::stacks::{on, view};

mod kernel;
mod pool;
mod removal;

/// A driver whose `zfs` is a shell script, of which `$1` and so on are the arguments.
struct Ground {
    driver: Zfs,
    dir: tempfile::TempDir,
}

impl Ground {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("a directory");
        let program = dir.path().join("zfs");
        fs::write(&program, "").expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("mode");
        let programs = Programs::at(&program, &program, Duration::from_secs(20));
        let driver = Zfs {
            _lock: fs::File::open("/dev/null").expect("open"),
            dirs: LayerDirs::open_with(&root, c"z").expect("open"),
            datasets: Datasets::new(programs, "tank/layers"),
            findings: Vec::new(),
            enforcement: Enforcement::Bytes("quotas of ZFS"),
            own_objects: 5,
            known: Default::default(),
            asked: Default::default(),
            synced: Default::default(),
        };
        let ground = Self { driver, dir };
        ground.answers(script);
        ground
    }

    /// Has `zfs` run these lines from now on, after it has noted its arguments.
    fn answers(&self, script: &str) {
        let calls = self.path("calls");
        let lines = format!("#!/bin/sh\necho \"$*\" >>{}\n{script}\n", calls.display());
        fs::write(self.path("zfs"), lines).expect("write");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn calls(&self) -> String {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        calls
    }
}

fn mount(source: &str, access: &str) -> Mount {
    Mount {
        kind: "zfs".to_owned(),
        source: source.to_owned(),
        options: vec![access.to_owned()],
    }
}

#[test]
fn plans_name_a_dataset_or_a_snapshot() {
    let ground = Ground::new("exit 1");
    let plan = |stack| ground.driver.plan(&stack).expect("plan");
    assert_eq!(plan(on(36, [35, 1])), [mount("tank/layers/10", "rw")]);
    assert_eq!(plan(view([35, 1])), [mount("tank/layers/z@layerd", "ro")]);
    let mut own = on(5, []);
    own.writable = false;
    assert_eq!(plan(own), [mount("tank/layers/5", "ro")]);
    assert_eq!(ground.calls(), "", "a plan does nothing");
    let mut mapped = on(5, []);
    mapped.ids = layerd_mounts::IdMaps::parse("0:1:2", "0:1:2").ok();
    for bad in [view([]), mapped] {
        let refused = ground.driver.plan(&bad);
        assert!(
            matches!(refused, Err(Error::NotAStack { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn mounts_are_read() {
    let ground = Ground::new("exit 1");
    let top = |source: &str| ground.driver.top_of(&mount(source, "rw"));
    assert_eq!(top("tank/layers/10"), Some(Slot(36)));
    assert_eq!(top("tank/layers/z@layerd"), Some(Slot(35)));
    for other in [
        "tank/layers/10@other",
        "tank/layers/10/11",
        "tank/layers10",
        "tank/layers",
        "tank/layers/",
        "tank/layers/UP",
        "pool/layers/10",
        "/tank/layers/10",
        "",
    ] {
        assert_eq!(top(other), None, "{other}");
    }
    let bind = Mount {
        kind: "bind".to_owned(),
        ..mount("tank/layers/10", "rw")
    };
    assert_eq!(ground.driver.top_of(&bind), None);
}

const LIST: &str = "tank/layers\t-\toff\t0\t24576
tank/layers@daily\t-\t-\t-\t0
tank/layers/1\t-\ton\t0\t0
tank/layers/1@daily\t-\t-\t-\t1000
tank/layers/1@layerd\t-\t-\t-\t24
tank/layers/2\ttank/layers/1@layerd\toff\t1048576\t4096
tank/layers/2-their own\t-\toff\tnone\t1
tank/layers/2/theirs\t-\toff\t0\t9999
tank/layers/layerd-lost\t-\toff\t0\t1
tank/layers/volume\t-\t-\t-\t8192
";

fn list(ground: &Ground, text: &str) {
    fs::write(ground.path("list"), text).expect("write");
    ground.answers(&format!("cat {}", ground.path("list").display()));
}

#[test]
fn one_list_tells_all_of_the_datasets() {
    let ground = Ground::new("");
    list(&ground, LIST);
    let all = ground.driver.datasets.all().expect("it is a list");
    let names: Vec<&str> = all.iter().map(|one| &*one.name).collect();
    assert_eq!(names, ["1", "2", "2-their own", "layerd-lost", "volume"]);
    let (one, two) = (&all[0], &all[1]);
    assert!(one.is_frozen() && one.is_read_only && one.quota.is_none());
    assert_eq!(
        (one.written, &*one.snapshots),
        (1024, &["daily".to_owned(), "layerd".to_owned()][..])
    );
    assert!(!two.is_frozen() && !two.is_read_only);
    assert_eq!((two.quota, two.written), (Some(1 << 20), 4096));
    assert_eq!(two.origin.as_deref(), Some("tank/layers/1@layerd"));
    assert_eq!(two.child.as_deref(), Some("tank/layers/2/theirs"));
    let found = ground.driver.list().expect("list");
    let unknown = |name: &str| Found::UnknownEntry(Path::new("tank/layers").join(name));
    let layer = |slot| Found::Slot(SlotKind::Layer, Slot(slot));
    let volume = "volume"
        .parse()
        .map(layer_of)
        .expect("its name is a number in base 36");
    assert_eq!(found, [layer(1), layer(2), unknown("2-their own"), volume]);
}

fn layer_of(slot: Slot) -> Found {
    Found::Slot(SlotKind::Layer, slot)
}

#[test]
fn odd_lists_are_refused() {
    let ground = Ground::new("");
    for odd in [
        "tank/layers/1\n",
        "tank/layers/1\t-\toff\t0\n",
        "tank/layers/1\t-\toff\t0\t1\t2\n",
        "tank/layers/1\t-\tmaybe\t0\t1\n",
        "tank/layers/1\t-\toff\t0\t-1\n",
        "tank/layers/1\t-\toff\t1G\t1\n",
        "tank/layers/1\t-\toff\t0\t99999999999999999999\n",
        "pool/1\t-\toff\t0\t1\n",
        "tank/layersmore\t-\toff\t0\t1\ncannot open\n",
        "\n",
    ] {
        list(&ground, odd);
        let refused = ground.driver.datasets.all().expect_err(odd);
        assert_eq!(
            refused.io_kind(),
            Some(ErrorKind::InvalidData),
            "{odd}: {refused:?}"
        );
    }
    // More than there can be is not added up past the end of numbers.
    let most = u64::MAX;
    list(
        &ground,
        &format!("tank/layers/1\t-\toff\t0\t{most}\ntank/layers/1@x\t-\t-\t-\t{most}\n"),
    );
    assert_eq!(
        ground.driver.datasets.all().expect("a list")[0].written,
        most
    );
}

#[test]
fn a_new_layer_is_marked_before_it_is_made() {
    let ground = Ground::new("");
    let mark = ground.path("root/w/1");
    ground.answers(&format!("test -d {} || exit 3", mark.display()));
    let limit = Limit {
        bytes: 5 << 20,
        inodes: None,
    };
    let base = Base::on(Slot(35)).limited(Some(limit));
    ground.driver.create(Slot(1), &base).expect("create");
    let calls = ground.calls();
    assert!(
        calls.starts_with("clone -o mountpoint=legacy -o canmount=noauto "),
        "{calls}"
    );
    assert!(
        calls.ends_with(" -o quota=5242880 tank/layers/z@layerd tank/layers/1\n"),
        "{calls}"
    );
    assert!(
        calls.contains(" -o com.sun:auto-snapshot=false "),
        "{calls}"
    );
    assert!(ground.driver.is_unused(Slot(1)).expect("look"));
    ground
        .driver
        .make_mountable(&on(1, [35]))
        .expect("make mountable");
    assert!(!mark.exists(), "it is acknowledged");
    assert_eq!(ground.calls(), "", "without a call");
    ground
        .driver
        .create(Slot(2), &Base::empty().read_only())
        .unwrap_err();
    assert!(
        ground
            .calls()
            .ends_with(" -o utf8only=off -o readonly=on tank/layers/2\n")
    );
}

#[test]
fn failures_of_a_new_layer_have_their_kinds() {
    let says = |text: &str| format!("echo \"cannot create 'tank/layers/1': {text}\" >&2; exit 1");
    let ground = Ground::new(&says("dataset already exists"));
    let refused = ground.driver.create(Slot(1), &Base::empty()).unwrap_err();
    assert_eq!(refused.io_kind(), Some(ErrorKind::AlreadyExists));
    assert!(!ground.path("root/w/1").exists(), "it is another's");
    ground.answers(&says("out of space"));
    assert!(
        ground
            .driver
            .create(Slot(1), &Base::empty())
            .unwrap_err()
            .is_full()
    );
    let again = ground.driver.create(Slot(1), &Base::empty()).unwrap_err();
    assert_eq!(
        again.io_kind(),
        Some(ErrorKind::AlreadyExists),
        "its mark is there"
    );
    ground
        .answers("echo \"cannot open 'tank/layers/z@layerd': dataset does not exist\" >&2; exit 1");
    let missing = ground
        .driver
        .create(Slot(2), &Base::on(Slot(35)))
        .unwrap_err();
    assert_eq!(missing.io_kind(), Some(ErrorKind::NotFound));
    ground.answers("echo \"cannot create 'tank/layers/3': I/O error\" >&2; exit 1");
    let said = with_causes(&ground.driver.create(Slot(3), &Base::empty()).unwrap_err());
    let wanted = "create tank/layers/3: zfs create: cannot create 'tank/layers/3': I/O error";
    assert_eq!(said, wanted);
    let deferred = ground.driver.create(Slot(4), &Base::deferred());
    assert!(
        matches!(deferred, Err(Error::NotAStack { .. })),
        "{deferred:?}"
    );
}

#[test]
fn a_removal_says_why_it_cannot_be() {
    let ground = Ground::new("");
    let delete = |slot| ground.driver.delete(Slot(slot), &|| true);
    ground.driver.discard(Slot(1)).expect("discard");
    assert_eq!(ground.calls(), "", "a mark is enough");
    let listed = format!("cat {}", ground.path("list").display());
    fs::write(ground.path("list"), LIST).expect("write");
    for (said, wanted) in [
        ("failed 16 tank/layers/1", "tank/layers/1 is in use"),
        (
            "failed 16 tank/layers/1@daily",
            "tank/layers/1@daily is in use",
        ),
        (
            "failed 17 tank/layers/1@layerd",
            "tank/layers/1@layerd has clones",
        ),
        ("failed 5 tank/layers/1", "Input/output error"),
        ("failed much tank/layers/1", "not understood"),
        ("ok then", "not understood"),
        ("", "not understood"),
    ] {
        let script =
            format!("case $1 in list) {listed} ;; *) echo '{{\"return\":\"{said}\"}}' ;; esac");
        ground.answers(&script);
        let refused = with_causes(&delete(1).expect_err(said));
        assert!(refused.contains(wanted), "{said}: {refused}");
        let trash = Found::Slot(SlotKind::Trash, Slot(1));
        assert!(
            ground.driver.list().expect("list").contains(&trash),
            "it goes on later"
        );
    }
    ground.driver.discard(Slot(2)).expect("discard");
    ground.answers(&format!(
        "case $1 in list) {listed} ;; *) echo '{{\"return\":\"failed 16 tank/layers/2\"}}' ;; esac"
    ));
    let refused = with_causes(&delete(2).expect_err("it holds another"));
    assert!(
        refused.contains("tank/layers/2/theirs lies below it"),
        "{refused}"
    );
    let stopped = ground.driver.delete(Slot(1), &|| false);
    assert!(matches!(stopped, Err(Error::Stopped)));
    ground.answers(r#"echo '{"return":"ok"}'"#);
    delete(1).expect("it is gone, or never was");
    assert!(!ground.path("root/t/1").exists());
    ground.calls();
    delete(1).expect("again");
    assert_eq!(ground.calls(), "", "it is not in the trash");
}

#[test]
fn freezing_that_fails_leaves_the_layer_writable() {
    let ground = Ground::new("");
    let script = "case $1 in snapshot) echo 'out of space' >&2; exit 1 ;; esac";
    ground.answers(script);
    let refused = ground.driver.datasets.freeze(Slot(1), false);
    let refused = refused.unwrap_err();
    assert!(refused.is_full());
    let wanted = "set readonly=on tank/layers/1\nsnapshot tank/layers/1@layerd\nset readonly=off tank/layers/1\n";
    assert_eq!(ground.calls(), wanted);
}

#[test]
fn concurrent_waits_for_the_pool_are_shared() {
    let ground = Ground::new("sleep 0.3");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| ground.driver.sync_pool().expect("sync"));
        }
    });
    let calls = ground.calls();
    assert!((1..=3).contains(&calls.lines().count()), "{calls}");
    ground.driver.sync_pool().expect("sync");
    assert_eq!(
        ground.calls(),
        "sync tank\n",
        "what comes later waits itself"
    );
    ground.answers("exit 1");
    ground
        .driver
        .sync_pool()
        .expect_err("nothing is promised then");
    ground.driver.sync_pool().expect_err("nor to the next");
}

#[test]
fn names_of_datasets_are_checked() {
    let most = format!("tank/{}", "a".repeat(195));
    for good in ["tank", "tank/layerd", "t-1_2.3:4/0a/B", &most] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    let long = format!("{most}a");
    for bad in [
        "",
        "/",
        "/tank/layerd",
        "tank/",
        "tank//a",
        "-r",
        "tank/-r",
        "tank/a b",
        "tank@a",
        "tank/a@b",
        "tank#a",
        "tank/a%b",
        "tank/.",
        "tank/..",
        "tank\n",
        "tank/ä",
        "tank/a\tb",
        &long,
    ] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
}

/// Where there is no such dataset, and mostly no ZFS, the driver refuses and makes nothing its own.
#[test]
fn a_machine_without_the_dataset_is_refused() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let settings = |dataset: Option<&str>| factory::Settings {
        kind: factory::Kind::Zfs,
        dataset: dataset.map(str::to_owned),
        ..factory::Settings::default()
    };
    for (dataset, says) in [
        (Some("layerd-no-such-pool/layers"), "zfs"),
        (Some("layerd-no-such-pool/a b"), "zfs"),
        (None, "zfs"),
    ] {
        let refused = factory::open(root.path(), &settings(dataset)).expect_err("no dataset");
        assert!(matches!(refused, Error::Unsuitable { .. }), "{refused:?}");
        assert!(refused.to_string().contains(says), "{refused}");
        assert!(!root.path().join("meta/driver").exists());
        assert!(!root.path().join("z").exists());
        let findings = factory::check(root.path(), &settings(dataset)).expect("check");
        let refusing = findings.iter().find(|finding| finding.refuses());
        let refusing = refusing.unwrap_or_else(|| panic!("{findings:?}"));
        assert!(!refusing.advice.is_empty(), "{refusing:?}");
    }
    let survey = factory::survey(root.path(), &settings(Some("layerd-no-such-pool/layers")));
    let survey = survey.expect("it is looked at without ZFS");
    assert_eq!(survey.list().expect("nothing was made"), []);
    assert!(factory::survey(root.path(), &settings(None)).is_err());
    let native = factory::Settings {
        kind: factory::Kind::Native,
        ..factory::Settings::default()
    };
    factory::open(root.path(), &native).expect("another driver may have the root");
}
