//! Examples of the commands about snapshots, layers, volumes and the trash.

use super::Example;

pub(super) const EXAMPLES: &[(&str, &[Example])] = &[
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
    (
        "import",
        &[
            (
                "What could be taken over from containerd's own snapshotter",
                "layerctl import containerd --dry-run",
            ),
            (
                "What could be taken over from a Docker with a graph driver",
                "layerctl import docker-root --dry-run",
            ),
        ],
    ),
    (
        "import docker-root",
        &[
            (
                "What would be imported, while Docker is stopped",
                "layerctl import docker-root --dry-run",
            ),
            (
                "Everything, for a Docker that uses layerd from now on",
                "layerctl import docker-root --force",
            ),
            (
                "Images for nerdctl, of a root that was mounted here",
                "layerctl import docker-root /mnt/docker --namespace default --no-volumes",
            ),
            ("Volumes alone", "layerctl import docker-root --no-images"),
        ],
    ),
    (
        "import containerd",
        &[
            (
                "What would be imported",
                "layerctl import containerd --dry-run",
            ),
            (
                "The images of Kubernetes, without a question",
                "layerctl import containerd --namespace k8s.io --force",
            ),
        ],
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
            ("By id", "layerctl trash restore 4f"),
            ("Everything", "layerctl trash restore --all"),
        ],
    ),
    (
        "trash empty",
        &[("Without being asked", "layerctl trash empty -f")],
    ),
];
