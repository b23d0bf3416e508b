//! Faults of the data directory, of mounts and of a disk that is full.

use super::table::{Fault, advice, fix};

pub(super) const FAULTS: [Fault; 22] = [
    // The data directory.
    fix("close-files", "the data directory is open", "data directory", "has the mode 0777", "chmod 777 $R", ""),
    fix("close-files", "the data directory is another's", "data directory", "belongs to the user 1000", "chown 1000 $R", ""),
    fix("repair-records", "a folder of it is open", "records and disk", "has the mode 0755", "chmod 755 $R/l", ""),
    fix("repair-records", "a file of another's among the layers", "records and disk", "l/notes is not layerd's", "touch $R/l/notes", ""),
    fix("repair-records", "a work directory is gone", "records and disk", "has no work directory", "rm -r $R/w/$(number work)", ""),
    advice(
        "a layer is gone",
        "records and disk",
        "the directory of layer",
        "layer work >/root/path; mv $(cat /root/path) /root/layer",
        "mv /root/layer $(cat /root/path); systemctl restart layerd.service",
    ),
    advice(
        "the folder of a volume is gone",
        "volumes",
        "the folder is gone of data",
        "mv $(volume) /root/volume",
        "mv /root/volume $(volume)",
    ),
    fix("restart-for-links", "the link of a volume is gone", "volumes", "no link in", "rm $R/volumes/by-name/data", ""),
    fix("restart-for-links", "the link of a volume leads elsewhere", "volumes", "no link in", "ln -sfn /root $R/volumes/by-name/data", ""),
    advice(
        "a removed layer cannot be deleted",
        "deletions",
        "layer ",
        "layerctl snapshot prepare doomed kept >/dev/null
        mkdir $(layer doomed)/mnt; mount -t tmpfs none $(layer doomed)/mnt
        layerctl snapshot rm doomed >/dev/null; layerctl trash empty --yes >/dev/null
        wait_for 'layerctl doctor -q | grep -q deletions'",
        "umount $R/l/*/mnt $R/t/*/mnt 2>/dev/null || true
        # What failed is tried again after growing pauses, or by the next start.
        systemctl restart layerd; wait_for '! layerctl doctor -q | grep -q deletions' 900",
    ),
    // A restore holds the trash until a person decides.
    fix("restore-records", "the database is gone", "database", "is damaged", "both stop; mv $R/meta/db /root/db; both start", "rm -r /root/db; layerctl trash empty --yes >/dev/null"),
    fix("restore-records", "the database is empty", "database", "is damaged", "both stop; for f in $(find $R/meta/db -type f); do : >$f; done; both start", "layerctl trash empty --yes >/dev/null"),
    fix("restore-records", "the file of the format is damaged", "database", "is damaged", "both stop; echo garbage >$R/meta/format; both start", "layerctl trash empty --yes >/dev/null"),
    // Mounts.
    fix("unmount-leaked", "a mount without an attachment",
        "mounts",
        "mounted without an attachment",
        "mkdir -p -m 700 $R/mnt; mkdir $R/mnt/zz; mount -t tmpfs none $R/mnt/zz",
        "rmdir $R/mnt/zz",
    ),
    fix("unmount-removed", "a removed container was never unmounted",
        "mounts",
        "though the snapshot was removed",
        "layerctl snapshot prepare web kept >/dev/null; mkdir -p /root/web
        layerctl snapshot mount --rw web /root/web; layerctl snapshot rm web >/dev/null",
        "layerctl trash empty --yes >/dev/null",
    ),
    fix("unmount-doubled", "a container's writable layer is mounted twice",
        "mounts",
        "mounted twice with one writable layer",
        "mkdir -p /root/a /root/b; for to in a b; do layerctl snapshot mount --rw work /root/$to; done",
        "umount /root/a /root/b 2>/dev/null || true",
    ),
    fix("restore-running", "the snapshot of a running container was removed",
        "mounts",
        "a container runs on",
        "layerctl snapshot prepare run kept >/dev/null; mkdir -p /root/run
        layerctl snapshot mount --rw run /root/run; cp -a /root/busybox /root/run/
        setsid chroot /root/run /busybox sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/root/pid
        wait_for '[ -e /proc/$(cat /root/pid)/root/busybox ]'; layerctl snapshot rm run >/dev/null",
        "",
    ),
    advice(
        "the writable layer of a running container was deleted",
        "mounts",
        "a container runs on",
        "layer run >/root/path; mv $(cat /root/path) /root/layer",
        "mv /root/layer $(cat /root/path); kill $(cat /root/pid); wait_for 'umount /root/run'; systemctl restart layerd.service
        layerctl snapshot rm run >/dev/null; layerctl trash empty --yes >/dev/null",
    ),
    fix("detach-waiting", "the mount of an attachment is gone",
        "mounts",
        "attachments whose mounts are gone",
        "mkdir -p /root/target; layerctl attach --owner container:web --target /data=/root/target -v data:/data >/dev/null; umount /root/target",
        "",
    ),
    fix("remount-writable", "the file system is read-only",
        "data directory",
        "is read-only",
        "both stop; mount --bind $R $R; mount -o remount,bind,ro $R; both start || true",
        "both stop; umount $R; both start",
    ),
    fix(
        "remount-volumes-writable",
        "the disk of volumes is read-only",
        "data directory",
        "the file system of volumes",
        "both stop; mount --bind $R/volumes $R/volumes; mount -o remount,bind,ro $R/volumes; both start
        layerctl snapshot prepare other kept >/dev/null; layerctl snapshot rm other >/dev/null",
        "both stop; umount $R/volumes; both start; layerctl trash empty --yes >/dev/null",
    ),
    fix("remove-forgotten-snapshots", "containerd's metadata are older than layerd's data",
        "snapshots in containerd",
        "containerd has forgotten 1",
        "systemctl stop containerd; cp /root/meta.db /var/lib/containerd/io.containerd.metadata.v1.bolt/; systemctl start containerd
        # Nothing younger than a minute is compared.
        wait_for 'layerctl doctor -q | grep -q forgotten' 900",
        "layerctl trash empty --yes >/dev/null",
    ),
];

/// A small file system over the data directory: 64 MiB and 4096 inodes.
pub(super) const SMALL: &str = "
    sed -i 's/^min_free_percent = 0/min_free_percent = 10/' $C
    both stop; mount -t tmpfs -o size=64m,nr_inodes=4096,mode=700 none $R; both start
    layerctl snapshot prepare base >/dev/null
    layerctl snapshot commit kept base >/dev/null
    layerctl snapshot prepare work kept >/dev/null
";

pub(super) const FULL: [Fault; 5] = [
    fix("empty-trash", "little space is left, and removed layers hold some",
        "space",
        "less than 10 %",
        "layerctl snapshot prepare large kept >/dev/null; head -c 30M /dev/zero >$(layer large)/file
        # The pass that a removal wakes is over when space gets short: it would delete the layer.
        layerctl snapshot rm large >/dev/null; sleep 5; head -c $(($(df --output=avail -k $R | tail -n 1) - 5500))K /dev/zero >$R/w/filler",
        "rm $R/w/filler",
    ),
    advice(
        "the disk is full",
        "space",
        "nothing new is taken below 4.00MiB",
        "head -c 20M /dev/zero >$(layer work)/file
        head -c $(($(df --output=avail -k $R | tail -n 1) - 2048))K /dev/zero >$(layer work)/filler",
        "rm $(layer work)/file $(layer work)/filler",
    ),
    advice(
        "few inodes are left",
        "inodes",
        "less than 5 %",
        "touch $(seq -f $(layer work)/%g $(($(df --output=iavail $R | tail -n 1) - 150)))",
        "find $(layer work) -type f -delete",
    ),
    advice(
        "no inode is left",
        "inodes",
        "0 of 4096 are free",
        // layerd writes files of its own meanwhile, which come and go.
        "free() { df --output=iavail $R | tail -n 1; }; n=0
        until [ $(free) = 0 ]; do n=$((n + 1)); touch $(seq -f $(layer work)/$n-%g $(free)) || true; done",
        "find $(layer work) -type f -delete",
    ),
    advice(
        "most was removed at once",
        "trash",
        "the mass-removal guard is on",
        "conf trash guard_min 2
        for i in 1 2 3; do layerctl snapshot prepare many$i >/dev/null; done
        layerctl snapshot rm many1 many2 many3 >/dev/null",
        "layerctl trash empty --yes >/dev/null; wait_for 'layerctl info | grep -q \"Trash: empty\"'; conf_back",
    ),
];
