//! Examples of every command, as its help and its manual page show them.

/// A purpose, and the command line that serves it.
type Example = (&'static str, &'static str);

/// Examples by command, in the order of the program's help.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "snapshot",
        &[
            ("Snapshots with their sizes", "layerctl snapshot ls --size"),
            ("Layers of images, as a tree", "layerctl snapshot tree"),
        ],
    ),
    (
        "snapshot ls",
        &[
            (
                "The largest first",
                "layerctl snapshot ls --size --sort size",
            ),
            (
                "Columns of one's own",
                "layerctl snapshot ls --format 'table {{.Kind}}\\t{{.Name}}'",
            ),
            (
                "Names of containers' snapshots in containerd's namespace k8s.io",
                "layerctl snapshot ls -q --kind active -f name~=^k8s.io/",
            ),
        ],
    ),
    (
        "snapshot tree",
        &[("All layers, none folded", "layerctl snapshot tree --all")],
    ),
    (
        "snapshot show",
        &[("One snapshot", "layerctl snapshot show k8s.io/12/web")],
    ),
    (
        "snapshot prepare",
        &[(
            "On top of a layer",
            "layerctl snapshot prepare work base -l owner=me",
        )],
    ),
    (
        "snapshot view",
        &[("A committed snapshot", "layerctl snapshot view look base")],
    ),
    (
        "snapshot commit",
        &[(
            "The snapshot `work` as `base`",
            "layerctl snapshot commit base work",
        )],
    ),
    (
        "snapshot mounts",
        &[("For programs", "layerctl snapshot mounts work -o json")],
    ),
    (
        "snapshot rm",
        &[(
            "Two of them, children first",
            "layerctl snapshot rm work base",
        )],
    ),
    (
        "snapshot label",
        &[(
            "Set one, remove another",
            "layerctl snapshot label base stage=test -r owner",
        )],
    ),
    (
        "snapshot usage",
        &[("Two snapshots", "layerctl snapshot usage work base")],
    ),
    (
        "snapshot cleanup",
        &[(
            "Space of removed snapshots, now",
            "layerctl snapshot cleanup",
        )],
    ),
    (
        "snapshot mount",
        &[("To look into it", "layerctl snapshot mount work /mnt")],
    ),
    (
        "snapshot umount",
        &[("Again", "layerctl snapshot umount /mnt")],
    ),
    (
        "layer",
        &[(
            "A layer into a snapshot",
            "layerctl layer apply work layer.tar.gz",
        )],
    ),
    (
        "layer apply",
        &[("A file", "layerctl layer apply work layer.tar.gz")],
    ),
    (
        "layer diff",
        &[("Into a file", "layerctl layer diff work layer.tar.gz")],
    ),
    (
        "volume",
        &[
            (
                "Make one, and see where it is",
                "layerctl volume create data",
            ),
            ("All of them", "layerctl volume ls"),
        ],
    ),
    (
        "volume create",
        &[
            (
                "With a label, for user 1000",
                "layerctl volume create data -l app=web --opt uid=1000",
            ),
            ("As a copy", "layerctl volume create test --clone-of data"),
        ],
    ),
    (
        "volume ls",
        &[
            (
                "Names of unused volumes",
                "layerctl volume ls -q -f dangling=true",
            ),
            (
                "Columns of one's own",
                "layerctl volume ls --format 'table {{.Name}}\\t{{.Size}}\\t{{.Labels.app}}'",
            ),
            (
                "Older than a day, without a label, the largest first",
                "layerctl volume ls -s -f until=24h -f label!=keep --sort size",
            ),
        ],
    ),
    (
        "volume inspect",
        &[
            ("As docker volume inspect", "layerctl volume inspect data"),
            (
                "One field",
                "layerctl volume inspect -f '{{.Mountpoint}}' data",
            ),
        ],
    ),
    (
        "volume show",
        &[("Two volumes", "layerctl volume show data test")],
    ),
    (
        "volume rm",
        &[("Into the trash", "layerctl volume rm test")],
    ),
    (
        "volume undelete",
        &[(
            "Under another name",
            "layerctl volume undelete test --as test-2",
        )],
    ),
    (
        "volume prune",
        &[
            ("See what would go", "layerctl volume prune --all --dry-run"),
            (
                "Without being asked",
                "layerctl volume prune -f --all --filter label=app=test",
            ),
            (
                "Older than a week, but for those that are labelled",
                "layerctl volume prune --all --filter until=168h --filter label!=keep",
            ),
        ],
    ),
    (
        "volume purge",
        &[(
            "For good, without being asked",
            "layerctl volume purge -f test",
        )],
    ),
    (
        "volume rename",
        &[("While it is in use", "layerctl volume rename data db-data")],
    ),
    (
        "volume label",
        &[(
            "Set one, remove another",
            "layerctl volume label data app=db -r owner",
        )],
    ),
    (
        "volume update",
        &[(
            "Add a label, remove another",
            "layerctl volume update data --label-add app=db --label-rm owner",
        )],
    ),
    (
        "volume usage",
        &[("Measured now", "layerctl volume usage --exact data")],
    ),
    (
        "volume snapshot",
        &[(
            "Before an upgrade",
            "layerctl volume snapshot data data-before",
        )],
    ),
    (
        "volume clone",
        &[("To try something out", "layerctl volume clone data test")],
    ),
    (
        "volume export",
        &[
            ("Into a file", "layerctl volume export data data.tar"),
            (
                "Compressed",
                "layerctl volume export data | zstd > data.tar.zst",
            ),
        ],
    ),
    (
        "volume import",
        &[("From a file", "layerctl volume import data data.tar")],
    ),
    (
        "volume watch",
        &[(
            "With the progress of copies",
            "layerctl volume watch --progress",
        )],
    ),
    ("trash", &[("What can be taken back", "layerctl trash ls")]),
    (
        "trash ls",
        &[
            ("Everything", "layerctl trash ls"),
            ("Keys alone", "layerctl trash ls --format '{{.Key}}'"),
        ],
    ),
    (
        "trash restore",
        &[
            ("By id", "layerctl trash restore 17"),
            ("Everything", "layerctl trash restore --all"),
        ],
    ),
    (
        "trash empty",
        &[("Without being asked", "layerctl trash empty -f")],
    ),
    (
        "mount",
        &[("Meaning of a flag", "layerctl mount parse -v ./src:/src:ro")],
    ),
    (
        "mount parse",
        &[(
            "As Docker has it",
            "layerctl mount parse --dialect docker -v data:/data",
        )],
    ),
    (
        "mount check",
        &[(
            "Would it work?",
            "layerctl mount check --mount type=volume,src=data,dst=/data",
        )],
    ),
    (
        "attach",
        &[
            (
                "Hold a volume for a container",
                "layerctl attach --owner container:web -v data:/data",
            ),
            (
                "Mount it as well",
                "layerctl attach --owner container:web -v data:/data --target /data=/mnt/web",
            ),
        ],
    ),
    (
        "detach",
        &[
            ("One of them", "layerctl detach container:web:/data"),
            (
                "All of a container",
                "layerctl detach --owner container:web",
            ),
        ],
    ),
    (
        "attachments",
        &[(
            "Of one container",
            "layerctl attachments --owner container:web",
        )],
    ),
    (
        "attachments reconcile",
        &[(
            "All but one are gone",
            "layerctl attachments --owner container:web reconcile container:web:/data --execute",
        )],
    ),
    (
        "who-uses",
        &[("Before it is removed", "layerctl who-uses data")],
    ),
    (
        "oci-apply",
        &[(
            "For runc",
            "layerctl oci-apply ./bundle --owner container:web -v data:/data",
        )],
    ),
    (
        "oci-hook",
        &[(
            "As config.json names it",
            "layerctl oci-hook create-runtime",
        )],
    ),
    (
        "oci-hook create-runtime",
        &[(
            "As config.json names it",
            "layerctl oci-hook create-runtime",
        )],
    ),
    (
        "oci-hook poststop",
        &[("As config.json names it", "layerctl oci-hook poststop")],
    ),
    (
        "info",
        &[
            ("For programs", "layerctl info -o json"),
            ("One field", "layerctl info -f '{{.Driver}}'"),
        ],
    ),
    (
        "version",
        &[
            ("For a report of a bug", "layerctl version"),
            (
                "The daemon's alone",
                "layerctl version -f '{{.Server.Version}}'",
            ),
        ],
    ),
    (
        "events",
        &[
            ("Of volumes", "layerctl events -t volume -t attachment"),
            ("Of the last hour, and on", "layerctl events --since 1h"),
            (
                "Of containerd's namespace k8s.io",
                "layerctl events -p k8s.io/",
            ),
        ],
    ),
    ("du", &[("The ten largest", "layerctl du -n 10")]),
    ("why", &[("One snapshot", "layerctl why k8s.io/12/web")]),
    (
        "orphans",
        &[("Compare with containerd", "layerctl orphans")],
    ),
    (
        "orphans rm",
        &[
            ("See them, and be asked", "layerctl orphans rm"),
            (
                "One, without being asked",
                "layerctl orphans rm -f k8s.io/12/web",
            ),
        ],
    ),
    (
        "doctor",
        &[
            ("For monitoring", "layerctl doctor --quiet"),
            ("Run what is safe, asking first", "layerctl doctor --fix"),
        ],
    ),
    (
        "fsck",
        &[
            ("Look", "layerctl fsck"),
            (
                "Read all content too, and quarantine what differs",
                "layerctl fsck --content --repair",
            ),
        ],
    ),
    (
        "backup",
        &[(
            "Replace yesterday's",
            "layerctl backup --force /srv/backup/layerd.records",
        )],
    ),
    (
        "restore",
        &[
            ("From layerd's own newest export", "layerctl restore"),
            (
                "From a backup",
                "layerctl restore /srv/backup/layerd.records",
            ),
        ],
    ),
    (
        "setup",
        &[(
            "Have containerd know layerd",
            "layerctl setup containerd --write",
        )],
    ),
    (
        "setup containerd",
        &[
            ("See it first", "layerctl setup containerd"),
            ("Write it", "layerctl setup containerd --write"),
        ],
    ),
    (
        "setup docker",
        &[("Write it", "layerctl setup docker --write")],
    ),
    (
        "setup podman",
        &[("Write it", "layerctl setup podman --write")],
    ),
    (
        "setup kubernetes",
        &[("See the manifests", "layerctl setup kubernetes")],
    ),
    ("setup nri", &[("Write it", "layerctl setup nri --write")]),
    (
        "completions",
        &[(
            "For bash",
            "layerctl completions bash > /etc/bash_completion.d/layerctl",
        )],
    ),
    (
        "man",
        &[(
            "Where man(1) looks",
            "layerctl man /usr/local/share/man/man1",
        )],
    ),
];

/// Examples of the command with this path, such as `volume ls`.
pub(crate) fn of(path: &str) -> &'static [Example] {
    let found = EXAMPLES.iter().find(|(command, _)| *command == path);
    found.map_or(&[], |(_, examples)| examples)
}

/// The end of a command's help.
pub(crate) fn text(path: &str) -> String {
    let mut text = "Examples:".to_owned();
    for (purpose, line) in of(path) {
        text.push_str(&format!("\n  # {purpose}\n  {line}"));
    }
    text + "\n\nOptions of all commands: layerctl --help"
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::{EXAMPLES, of};
    use crate::help;

    /// Words of a command line, up to a pipe or redirection.
    fn words(line: &str) -> Vec<String> {
        let words = shlex::split(line).unwrap();
        let end = words.iter().position(|word| word == "|" || word == ">");
        words[..end.unwrap_or(words.len())].to_vec()
    }

    #[test]
    fn examples_are_accepted() {
        for (command, examples) in EXAMPLES {
            assert!(help::find(&help::command(), command).is_some(), "{command}");
            for (purpose, line) in *examples {
                let words = words(line);
                let result = help::command().try_get_matches_from(&words);
                assert!(result.is_ok(), "{line}: {}", result.unwrap_err());
                assert!(line.chars().count() <= 90, "{line}");
                assert!(!purpose.is_empty());
            }
        }
    }

    #[test]
    fn every_command_has_examples_of_its_own() {
        fn check(command: &Command, above: &str) {
            for below in command.get_subcommands() {
                let path = format!("{above}{}", below.get_name());
                let start = format!("layerctl {}", path.split(' ').next().unwrap_or_default());
                assert!(!of(&path).is_empty(), "{path}");
                for (_, line) in of(&path) {
                    assert!(line.starts_with(&start), "{path}: {line}");
                }
                check(below, &format!("{path} "));
            }
        }
        check(&help::command(), "");
    }
}
