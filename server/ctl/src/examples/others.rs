//! Examples of the commands about containers and the daemon.

use super::Example;

pub(super) const EXAMPLES: &[(&str, &[Example])] = &[
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
    (
        "top",
        &[
            ("Until it is interrupted", "layerctl top"),
            (
                "One look at the last ten seconds",
                "layerctl top -n 1 --interval 10s",
            ),
            ("Closest to their limits", "layerctl top --sort full"),
        ],
    ),
    (
        "report",
        &[("A page to look at", "layerctl report --html node.html")],
    ),
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
        "setup devicemapper",
        &[
            (
                "Try it on files",
                "layerctl setup devicemapper --data-file 20g --write",
            ),
            (
                "Use it on disks",
                "layerctl setup devicemapper --data-device /dev/vg/d --metadata-device /dev/vg/m --write",
            ),
        ],
    ),
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
