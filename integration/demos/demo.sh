#!/bin/bash
# Shows layerd at work: an image unpacked into layers, a container that changes a file while the
# layer below keeps the old one, a crash of layerd meanwhile, and everything removed again. Uses a
# containerd of its own; all files are below target/demo/. `make demo` runs it, as root.
set -euo pipefail

# In a process and a mount namespace of its own, so that nothing outlives it, however it ends.
if [[ ${1:-} != inside ]]; then
    ((EUID == 0)) || { echo "demo.sh: must run as root: it mounts and starts containers" >&2 && exit 1; }
    exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$0" inside
fi

here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/image.sh"
target=$here/../../target
bin=$(cd "$target" && pwd -P)/debug
peer=$(cd "$target" && pwd -P)/peers/containerd-2.1/usr/bin
demo=$(cd "$target" && pwd -P)/demo
image=docker.io/demo/greeter:1
container=layerd-demo
steps=0
bold=
plain=
if [[ -t 1 ]]; then
    bold=$'\033[1m'
    plain=$'\033[0m'
fi
layerd_pid=
containerd_pid=

die() {
    echo "demo.sh: $*" >&2
    exit 1
}

step() {
    steps=$((steps + 1))
    printf '\n%s%d. %s%s\n' "$bold" "$steps" "$*" "$plain"
}

# Prints a command as a person would type it, then runs it.
show() {
    echo "\$ $*"
    "$@" | sed 's/^/    /'
}

ctr() {
    PATH=$peer:$PATH "$peer/ctr" --address "$demo/containerd.sock" --namespace demo "$@"
}

layerctl() {
    "$bin/layerctl" --address "$demo/layerd.sock" "$@"
}

# Waits up to ten seconds for a command to succeed.
await() {
    local what=$1 try
    shift
    for ((try = 0; try < 200; try++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.05
    done
    die "waited in vain for $what; see the logs in $demo"
}

# Runs on every way out. What it cannot end goes with the namespaces.
clean_up() {
    set +e
    ctr tasks kill --signal SIGKILL "$container" >/dev/null 2>&1 &&
        (await "the container's end" ctr tasks rm "$container")
    kill $containerd_pid $layerd_pid 2>/dev/null
    wait
    set -e
}

start_layerd() {
    "$bin/layerd" --root "$demo/layers" --socket "$demo/layerd.sock" >>"$demo/layerd.log" 2>&1 &
    layerd_pid=$!
    await layerd layerctl info
}

start_containerd() {
    PATH=$peer:$PATH "$peer/containerd" --config "$demo/containerd.toml" >"$demo/containerd.log" 2>&1 &
    containerd_pid=$!
    await containerd ctr version
}

configure_containerd() {
    cat >"$demo/containerd.toml" <<END
version = 3
root = "$demo/containerd"
state = "$demo/state"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[grpc]
address = "$demo/containerd.sock"

[proxy_plugins.layerd]
type = "snapshot"
address = "$demo/layerd.sock"

[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/$(dpkg --print-architecture)"
snapshotter = "layerd"
differ = "walking"
END
}

# Two layers in the archive format of `docker save`: busybox, and a file.
make_image() {
    local dir=$demo/image applet
    mkdir -p "$dir"/base/{bin,dev,proc,run,sys,tmp} "$dir/top/etc"
    cp /bin/busybox "$dir/base/bin/"
    for applet in cat echo sh sleep; do ln -s busybox "$dir/base/bin/$applet"; done
    echo "hello from the image" >"$dir/top/etc/greeting"
    pack_image "$dir" "$image" "$demo/image.tar"
}

in_container() {
    ctr tasks exec --exec-id demo "$container" "$@"
}

is_changed() {
    in_container cat /etc/greeting | grep -q container
}

# The directory that the container's mount names as upperdir, or as nearest lowerdir.
directory() {
    ctr snapshots --snapshotter layerd mounts /mnt "$container" | grep -o "$1=[^,:]*" | cut -d= -f2
}

layers_on_disk() {
    find "$demo"/layers/{l,w,t} -mindepth 1 -maxdepth 1
}

is_empty() {
    [[ -z $(layerctl snapshot ls --output json) && -z $(layers_on_disk) ]]
}

[[ -x $bin/layerd && -x $bin/layerctl ]] || die "run \`cargo build\` first"
[[ -x $peer/containerd && -x /bin/busybox ]] || die "run \`make peers\` (integration/peers/install.sh) first"
trap clean_up EXIT
trap 'exit 130' INT TERM
rm -rf --one-file-system "$demo"
mkdir -p "$demo"

step "Start layerd; it keeps everything below ${demo#"$PWD"/}/layers and serves one socket."
start_layerd
show layerctl info

step "Start a containerd of its own. This is all it is told about layerd:"
configure_containerd
grep -A2 '^\[proxy_plugins' "$demo/containerd.toml" | sed 's/^/    /'
start_containerd

step "Import an image of two layers. containerd asks layerd for a directory for each."
make_image
ctr images import --snapshotter layerd "$demo/image.tar" >/dev/null
show layerctl snapshot tree

step "Run a container on it that overwrites /etc/greeting. It gets a writable layer on top."
ctr run --detach --null-io --runc-root "$demo/runc" --snapshotter layerd "$image" "$container" \
    /bin/sh -c 'echo "changed by the container" > /etc/greeting; exec sleep 1000'
await "the container's write" is_changed
show layerctl snapshot tree

step "The container sees its own file; the layer below still has the old one."
upper=$(directory upperdir)
lower=$(directory lowerdir)
echo "in the container:                    $(in_container cat /etc/greeting)"
echo "in the container's layer, ${upper#"$demo/"}: $(cat "$upper/etc/greeting")"
echo "in the image's layer, ${lower#"$demo/"}:     $(cat "$lower/etc/greeting")"

step "Kill layerd as a crash would. The container goes on, and layerd comes back to the same layers."
kill -9 "$layerd_pid"
wait "$layerd_pid" 2>/dev/null || true
echo "while layerd is gone, the container reads: $(in_container cat /etc/greeting)"
start_layerd
show layerctl snapshot ls

step "Remove the container and the image. Nothing needs the layers now, so they go."
ctr tasks kill --signal SIGKILL "$container"
await "the container's end" ctr tasks rm "$container"
ctr containers rm "$container"
await "containerd to dial layerd again" ctr snapshots --snapshotter layerd usage
ctr images rm --sync "$image" >/dev/null
await "the layers to go" is_empty
echo "snapshots: $(layerctl snapshot ls --output json | wc -l), directories: $(layers_on_disk | wc -l)"

step "Stop both. Nothing stays mounted or running."
clean_up
containerd_pid= layerd_pid=
! grep " $demo/" /proc/self/mountinfo || die "something is still mounted below $demo"
! grep -l "$demo/" /proc/[0-9]*/cmdline 2>/dev/null || die "something still runs"
echo "The logs are in $demo."
