"""Holds manifests to the schemas of a release of Kubernetes, strictly: unknown fields are errors."""

import sys

import kubernetes_validate
import yaml

# Custom resources, which have no schema there: the fields that external-snapshotter's have.
CUSTOM = {
    "VolumeSnapshotClass": {"driver", "deletionPolicy", "parameters"},
    "VolumeSnapshot": {"spec"},
}
COMMON = {"apiVersion", "kind", "metadata"}

release, path = sys.argv[1:]
with open(path) as text:
    for manifest in yaml.safe_load_all(text):
        kind = manifest["kind"]
        if kind in CUSTOM:
            unknown = set(manifest) - COMMON - CUSTOM[kind]
            assert not unknown, (kind, unknown)
            assert manifest["apiVersion"] == "snapshot.storage.k8s.io/v1", kind
        else:
            kubernetes_validate.validate(manifest, release, strict=True)
        print(kind)
