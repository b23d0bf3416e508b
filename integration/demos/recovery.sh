#!/bin/bash
# Loses layerd's database and gets everything back with one command. Uses a layerd of its own; all
# files are below /var/tmp/layerd-recovery-demo/. Run as root after `cargo build`:
#
#     integration/demos/recovery.sh > docs/evidence/recovery.txt 2>&1
set -euo pipefail

# In a process and a mount namespace of its own, so that nothing outlives it, however it ends.
if [[ ${1:-} != inside ]]; then
    ((EUID == 0)) || { echo "recovery.sh: must run as root: it mounts" >&2 && exit 1; }
    exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$0" inside
fi

cd "$(dirname "$0")/../.."
demo=/var/tmp/layerd-recovery-demo
pid=

. integration/demos/transcript.sh

layerctl() {
    target/debug/layerctl --address $demo/layerd.sock "$@"
}

start() {
    target/debug/layerd --root $demo/root --socket $demo/layerd.sock >>$demo/layerd.log 2>&1 &
    pid=$!
    await layerctl info
}

crash() {
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
}

# A committed snapshot with one file: layer NAME PARENT TEXT.
layer() {
    layerctl snapshot prepare key ${2:+"$2"} >/dev/null
    layerctl snapshot mount --rw key $demo/mnt >/dev/null
    echo "$3" >"$demo/mnt/$1"
    layerctl snapshot umount $demo/mnt >/dev/null
    layerctl snapshot commit "$1" key
}

checksums() {
    (cd $demo/root/l && find . -type f -print0 | sort -z | xargs -0 sha256sum)
}

is_exported() {
    layerctl backup --force $demo/now
    cmp $demo/now "$(ls -v $demo/root/meta/export.* | tail -n 1)"
}

[[ -x target/debug/layerd && -x target/debug/layerctl ]] || die "run \`cargo build\` first"
rm -rf --one-file-system $demo
mkdir -p $demo/mnt

say "A layerd with three layers and a container's writable snapshot on top."
start
layer base "" "hello from the base"
layer middle base "hello from the middle"
layer top middle "hello from the top"
layerctl snapshot prepare container top >/dev/null
layerctl snapshot mount --rw container $demo/mnt >/dev/null
echo "written by the container" >$demo/mnt/data
layerctl snapshot umount $demo/mnt >/dev/null
show layerctl snapshot ls
layerctl snapshot ls -o json >$demo/before.json
checksums >$demo/before.sums

say "layerd exports its records by itself, a few seconds after the last change."
await is_exported
show ls $demo/root/meta

say "One more layer, and a crash before it is exported. Then the database is lost."
layer newest top "newer than the export"
crash
show rm -r $demo/root/meta/db

say "layerd starts, but does not pretend that there is nothing: clients are told to wait."
start
show layerctl snapshot ls
show layerctl info

say "One command."
show layerctl restore

say "Everything is back, and the bytes are the same."
show layerctl snapshot ls
layerctl snapshot ls -o json | diff $demo/before.json - && echo "the records are equal"
checksums | diff $demo/before.sums - && echo "the layers are equal"
show layerctl snapshot mount container $demo/mnt
show head $demo/mnt/base $demo/mnt/middle $demo/mnt/top $demo/mnt/data
show layerctl snapshot umount $demo/mnt

say "The layer that is newer than the export was set aside, not deleted."
show find $demo/root/lost
show head $demo/root/lost/l-5/newest

say "Work goes on."
show layerctl fsck
show layerctl snapshot prepare next top
kill "$pid"
wait "$pid"
