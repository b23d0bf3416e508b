//! The faults. Each script runs with [`PRELUDE`]'s names and functions.

/// One way in which a machine is broken.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) inject: &'static str,
    /// The check that finds it, and a part of what it says.
    pub(super) check: &'static str,
    pub(super) found: &'static str,
    /// Name of the fix. Empty if no command can end it, so that doctor has a sentence; `after` does.
    pub(super) fix: &'static str,
    /// Brings the machine back to where it was, after the fix.
    pub(super) after: &'static str,
}

/// One that a command ends.
pub(super) const fn fix(
    fix: &'static str,
    name: &'static str,
    check: &'static str,
    found: &'static str,
    inject: &'static str,
    after: &'static str,
) -> Fault {
    Fault {
        name,
        inject,
        check,
        found,
        fix,
        after,
    }
}

/// One that a person ends.
pub(super) const fn advice(
    name: &'static str,
    check: &'static str,
    found: &'static str,
    inject: &'static str,
    after: &'static str,
) -> Fault {
    fix("", name, check, found, inject, after)
}

/// The data directory, the files of layerd and of containerd, and what the faults have in common.
pub(super) const PRELUDE: &str = r#"
R=/var/lib/containerd/io.containerd.snapshotter.v1.layerd
C=/etc/layerd/config.toml
D=/etc/systemd/system/layerd.service.d
K=/etc/containerd
both() { systemctl "$1" layerd.socket layerd.service; }
# Settings of the unit, until unit_back.
unit() { mkdir -p $D; printf '%s\n' '[Service]' "$@" >$D/test.conf; systemctl daemon-reload; systemctl restart layerd.service; }
unit_back() { rm -rf $D; systemctl daemon-reload; systemctl restart layerd.service; }
# conf TABLE KEY VALUE, until conf_back.
conf() { sed -i "/^\[$1\]/,/^\[/s|^#$2 = .*|$2 = $3|" $C; systemctl restart layerd.service; }
conf_back() { cp /root/config.toml $C; systemctl restart layerd.service; }
# A manual change of the drop-in, and a restart of containerd.
edit() { sed -i "$1" $K/conf.d/layerd.toml; systemctl restart containerd; }
edit_back() { rm -rf $K/conf.d $K/config.toml; cp -a /root/containerd/. $K/; systemctl restart containerd; }
# Many restarts within seconds are the test's, not an operator's.
restart_often() {
    mkdir -p /run/systemd/system/containerd.service.d
    printf '[Unit]\nStartLimitIntervalSec=0\n' >/run/systemd/system/containerd.service.d/test.conf; systemctl daemon-reload
}
# containerd says that it is of another release, until release_back.
release() { mv /usr/bin/containerd /usr/bin/containerd.own; printf '#!/bin/sh\n[ "$1" != --version ] || exec echo containerd x %s x\nexec /usr/bin/containerd.own "$@"\n' $1 >/usr/bin/containerd; chmod 755 /usr/bin/containerd; }
release_back() { mv /usr/bin/containerd.own /usr/bin/containerd; }
# The writable layer of a snapshot, and the number in its name.
layer() { layerctl snapshot mounts $1 -o json | grep -o 'upperdir=[^",]*' | cut -d = -f 2; }
number() { basename $(layer $1); }
volume() { layerctl volume inspect data -o json | sed 's/.*"path":"\([^"]*\)".*/\1/'; }
image() { layerctl snapshot ls -q | grep ^default/; }
wait_for() { for i in $(seq ${2:-300}); do if eval "$1"; then return; fi; sleep 0.1; done; echo "waited for $1"; return 1; }
"#;

/// Removed layers are kept for a while, however full the disk is, and there are some of each kind of thing.
pub(super) const BEFORE: &str = "
    conf trash keep_secs 3600; conf trash min_free_percent 0; conf overlayfs spare_layers 0
    restart_often
    systemctl stop containerd; cp /var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db /root/; systemctl start containerd
    ctr images import --snapshotter layerd /root/busybox.tar >/dev/null
    cp -a $C /root/config.toml
    mkdir /root/containerd; cp -a $K/. /root/containerd/
    layerctl snapshot prepare base >/dev/null
    layerctl snapshot commit kept base >/dev/null
    layerctl snapshot prepare work kept >/dev/null
    layerctl volume create data >/dev/null
";
