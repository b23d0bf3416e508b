//! Releases and files, and what is said of them.

use super::super::Severity;
use super::*;
use crate::containerd::effective::Unpack;

const SOCKET: &str = "/run/layerd/layerd.sock";

/// A containerd 2.1.4 that is set up as `layerctl setup containerd` does it.
struct World {
    files: Effective,
    running: Option<Running>,
    settings: BTreeMap<String, String>,
    installed: Option<Version>,
    edited: Option<std::path::PathBuf>,
}

impl World {
    fn new() -> Self {
        let proxy = |kind: &str| Proxy {
            kind: kind.to_owned(),
            address: SOCKET.to_owned(),
            exports: [("root".to_owned(), "/r".to_owned())].into(),
            ..Proxy::default()
        };
        let entry = Unpack {
            snapshotter: "layerd".to_owned(),
            differ: differ_of("layerd"),
        };
        let plugin = Plugin {
            r#type: SNAPSHOTTERS.to_owned(),
            id: "layerd".to_owned(),
            ..Plugin::default()
        };
        let settings = [
            ("root", "/r"),
            ("unpack.enabled", "true"),
            ("overlayfs.rebase", "false"),
        ];
        Self {
            files: Effective {
                files: vec!["/etc/containerd/config.toml".into()],
                proxies: [
                    ("layerd".to_owned(), proxy("snapshot")),
                    (differ_of("layerd"), proxy("diff")),
                ]
                .into(),
                unpack: Some(vec![entry]),
                ..Effective::default()
            },
            running: Some(Running {
                version: "v2.1.4".to_owned(),
                plugins: vec![plugin],
            }),
            settings: settings
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            installed: None,
            edited: None,
        }
    }

    fn release(&mut self, version: &str) {
        self.running.as_mut().unwrap().version = version.to_owned();
    }

    fn proxy(&mut self) -> &mut Proxy {
        self.files.proxies.get_mut("layerd").unwrap()
    }

    fn findings(&self) -> Vec<Finding> {
        let facts = Facts {
            main: Path::new("/etc/containerd/config.toml"),
            files: &self.files,
            running: self.running.as_ref(),
            installed: self.installed,
            edited: self.edited.as_deref(),
            socket: Path::new(SOCKET),
            settings: &self.settings,
            name: "layerd",
        };
        facts.findings()
    }
}

#[test]
fn what_setup_writes_is_well() {
    let found = World::new().findings();
    assert_eq!(found.len(), 5, "{found:?}");
    for finding in found {
        assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
    }
}

#[test]
fn without_a_running_containerd_its_files_are_judged() {
    let mut world = World::new();
    world.running = None;
    let found = world.findings();
    assert!(
        found.iter().all(|one| one.severity == Severity::Ok),
        "{found:?}"
    );
    world.files.proxies.clear();
    assert_eq!(world.findings()[0].severity, Severity::Error);
}

type Change = fn(&mut World);

/// Finding after each change.
const MISTAKES: [(&str, Severity, Change); 16] = [
    ("do not name layerd", Severity::Error, |world| {
        world.files.proxies.clear();
        world.running.as_mut().unwrap().plugins.clear();
    }),
    ("but containerd has it", Severity::Info, |world| {
        world.files.proxies.clear()
    }),
    ("names the socket /elsewhere", Severity::Error, |world| {
        world.proxy().address = "/elsewhere".to_owned();
    }),
    ("of type \"content\"", Severity::Error, |world| {
        world.proxy().kind = "content".to_owned();
    }),
    ("has not loaded", Severity::Error, |world| {
        world.running.as_mut().unwrap().plugins.clear();
    }),
    ("containerd calls /before", Severity::Error, |world| {
        let plugin = &mut world.running.as_mut().unwrap().plugins[0];
        plugin
            .exports
            .insert("address".to_owned(), "/before".to_owned());
    }),
    (
        "exports the data directory /r",
        Severity::Warning,
        |world| {
            world.settings.insert("root".to_owned(), "/data".to_owned());
        },
    ),
    ("does not say where", Severity::Info, |world| {
        world.proxy().exports.clear()
    }),
    ("layerd does not unpack", Severity::Info, |world| {
        world.files.proxies.remove(&differ_of("layerd"));
    }),
    ("layerd-diff names the socket", Severity::Error, |world| {
        world
            .files
            .proxies
            .get_mut(&differ_of("layerd"))
            .unwrap()
            .address = "/elsewhere".to_owned();
    }),
    ("a proxy of type \"diff\"", Severity::Error, |world| {
        world.release("1.7.3")
    }),
    ("unpack.enabled = false", Severity::Error, |world| {
        world
            .settings
            .insert("unpack.enabled".to_owned(), "false".to_owned());
    }),
    ("has no entry for layerd", Severity::Error, |world| {
        world.files.unpack = None
    }),
    ("names no differ", Severity::Warning, |world| {
        world.files.unpack.as_mut().unwrap()[0].differ.clear();
    }),
    ("the capability remap-ids", Severity::Error, |world| {
        world.release("1.7.24");
        world.proxy().capabilities = vec!["remap-ids".to_owned()];
    }),
    ("too old", Severity::Warning, |world| world.release("1.5.9")),
];

#[test]
fn every_mistake_is_named() {
    for (text, severity, change) in MISTAKES {
        let mut world = World::new();
        change(&mut world);
        let found = world.findings();
        let named = found.iter().find(|one| one.found.contains(text));
        let named = named.unwrap_or_else(|| panic!("{text}: {found:?}"));
        assert_eq!(named.severity, severity, "{named:?}");
        let fixes = usize::from(!named.fix.is_empty()) + usize::from(!named.advice.is_empty());
        assert_eq!(
            fixes,
            usize::from(named.is_trouble()),
            "one or the other: {named:?}"
        );
        assert!(!named.impact.is_empty(), "{named:?}");
    }
}

#[test]
fn rebase_needs_a_later_release_and_layerds_word() {
    let mut world = World::new();
    world.proxy().capabilities = vec!["rebase".to_owned()];
    for (release, enabled, wanted) in [
        ("2.2.2", "true", "capability rebase"),
        ("2.2.3", "false", "overlayfs.rebase = false"),
    ] {
        world.release(release);
        world
            .settings
            .insert("overlayfs.rebase".to_owned(), enabled.to_owned());
        let found = world.findings();
        let errors: Vec<_> = found
            .iter()
            .filter(|one| one.severity == Severity::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].found.contains(wanted), "{errors:?}");
    }
    world.release("2.3.4");
    world
        .settings
        .insert("overlayfs.rebase".to_owned(), "true".to_owned());
    let found = world.findings();
    let swallowed = found.iter().find(|one| one.is_trouble()).unwrap();
    assert_eq!(swallowed.severity, Severity::Warning);
    assert!(!swallowed.fix.contains("--parallel"), "{swallowed:?}");
    world.release("2.4.0");
    world
        .settings
        .insert("overlayfs.rebase".to_owned(), "true".to_owned());
    assert!(
        world
            .findings()
            .iter()
            .all(|one| one.severity == Severity::Ok)
    );
}

#[test]
fn the_command_keeps_what_is_not_as_by_default() {
    let mut world = World::new();
    world.proxy().capabilities = vec!["remap-ids".to_owned(), "rebase".to_owned()];
    world.installed = Version::parse("2.4.1").ok();
    world
        .settings
        .insert("overlayfs.rebase".to_owned(), "true".to_owned());
    world.edited = Some("/etc/containerd/conf.d/layerd.toml".into());
    let facts = Facts {
        main: Path::new("/etc/c d.toml"),
        files: &world.files,
        running: None,
        installed: world.installed,
        edited: world.edited.as_deref(),
        socket: Path::new("/s.sock"),
        settings: &world.settings,
        name: "layerd",
    };
    let wanted = "mv --backup=numbered /etc/containerd/conf.d/layerd.toml /etc/containerd/conf.d/layerd.toml.edited && \
                  layerctl setup containerd --write --config '/etc/c d.toml' --root /r --remap-ids --parallel && \
                  systemctl restart containerd";
    assert_eq!(facts.setup("x"), Action::safe("x", wanted));
}

/// Its files are checked for the release that starts next.
#[test]
fn an_older_release_that_is_installed_is_warned_of_in_time() {
    let mut world = World::new();
    world.installed = Version::parse("1.6.20").ok();
    let found = world.findings();
    assert!(
        found
            .iter()
            .any(|one| one.severity == Severity::Info && one.found.contains("1.6.20"))
    );
    let diff = found
        .iter()
        .find(|one| one.found.contains("type \"diff\""))
        .unwrap();
    assert!(
        diff.fix.starts_with("layerctl setup containerd --write"),
        "{diff:?}"
    );
}
