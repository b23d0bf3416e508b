//! Faults of containerd and of what it knows of layerd.

use super::table::{Fault, advice, fix};

pub(super) const ON_1_6: [Fault; 1] = [fix(
    "a drop-in of containerd 2.1 under 1.6, which does not start",
    "containerd's differ",
    "a proxy of type \"diff\" is configured",
    "layerctl setup containerd --version 2.1 >$K/conf.d/layerd.toml 2>/dev/null; ! systemctl restart containerd",
    "systemctl is-active containerd",
)];

pub(super) const FAULTS: [Fault; 16] = [
    // containerd.
    fix(
        "containerd is stopped",
        "containerd",
        "cannot reach containerd",
        "systemctl stop containerd",
        "",
    ),
    fix(
        "the drop-in is gone",
        "containerd's drop-in",
        "do not name layerd",
        "rm $K/conf.d/layerd.toml; systemctl restart containerd",
        "",
    ),
    fix(
        "config.toml does not import the drop-in",
        "containerd's drop-in",
        "do not name layerd",
        "sed -i /^imports/d $K/config.toml; systemctl restart containerd",
        "",
    ),
    fix(
        "there is no config.toml",
        "containerd's drop-in",
        "there is no",
        "rm $K/config.toml; systemctl restart containerd",
        "edit_back",
    ),
    fix(
        "containerd was not restarted",
        "containerd's plugin",
        "has not loaded layerd",
        "mv $K/conf.d /root/; systemctl restart containerd; mv /root/conf.d $K/",
        "",
    ),
    fix(
        "another socket in the drop-in",
        "containerd's drop-in",
        "names the socket",
        "edit '/^type = .snapshot/{n;s/layerd.sock/other.sock/}'",
        "edit_back",
    ),
    fix(
        "another type in the drop-in",
        "containerd's drop-in",
        "is of type \"content\"",
        "edit 's/^type = .snapshot.*/type = \"content\"/'",
        "edit_back",
    ),
    fix(
        "another socket for the differ",
        "containerd's differ",
        "names the socket",
        "edit '/^type = .diff/{n;s/layerd.sock/other.sock/}'",
        "edit_back",
    ),
    fix(
        "another data directory in the drop-in",
        "containerd's drop-in",
        "exports the data directory",
        "edit 's|^root = .*|root = \"/elsewhere\"|'",
        "edit_back",
    ),
    fix(
        "the transfer service has no entry",
        "containerd's transfer service",
        "has no entry for layerd",
        "edit 's/^snapshotter = .layerd.*/snapshotter = \"native\"/'",
        "edit_back",
    ),
    fix(
        "a capability that loses deletions",
        "containerd's release",
        "the capability rebase",
        "edit '/^type = .snapshot/a capabilities = [\"rebase\"]'",
        "edit_back",
    ),
    fix(
        "a drop-in that is no TOML",
        "containerd's configuration",
        "conf.d/layerd.toml",
        "echo '[' >>$K/conf.d/layerd.toml",
        "edit_back",
    ),
    advice(
        "a config.toml that is no TOML",
        "containerd's configuration",
        "config.toml",
        "echo '[' >>$K/config.toml",
        "edit_back",
    ),
    fix(
        "layerd does not unpack, and is asked to",
        "containerd's differ",
        "unpack.enabled = false",
        "conf unpack enabled false",
        "conf_back; edit_back",
    ),
    // What each knows of the other.
    fix(
        "a layer of an image was removed",
        "snapshots in containerd",
        "containerd needs what layerd does not have",
        "ctr images import --snapshotter layerd /root/busybox.tar >/dev/null
        layerctl snapshot rm $(image) >/dev/null",
        "",
    ),
    advice(
        "a layer of an image is gone for good",
        "snapshots in containerd",
        "containerd needs what layerd does not have",
        "layerctl snapshot rm $(image) >/dev/null
        layerctl trash empty --yes >/dev/null; wait_for 'layerctl info | grep -q \"Trash: empty\"'",
        "ctr images rm --sync docker.io/test/busybox:1",
    ),
];
