#!/bin/bash
# Shows what an operator sees with layerctl doctor, du, why, orphans and events, before, during and
# after trouble. Uses a layerd and a containerd of its own in the places where packages have theirs:
# /etc, /run and /var/lib are its own, too, below target/visible-demo/. Run as root after
# `cargo build` and `make peers`:
#
#     integration/demos/visible.sh > docs/evidence/commands.txt 2>&1
set -euo pipefail

# In a process and a mount namespace of its own, so that nothing outlives it, however it ends.
if [[ ${1:-} != inside ]]; then
    ((EUID == 0)) || { echo "visible.sh: must run as root: it mounts" >&2 && exit 1; }
    exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$0" inside
fi

cd "$(dirname "$0")/../.."
bin=$PWD/target/debug
peer=$PWD/target/peers/containerd-2.1
demo=$PWD/target/visible-demo
image=docker.io/demo/greeter:1
config=/etc/layerd/config.toml
root=/var/lib/containerd/io.containerd.snapshotter.v1.layerd
layerd_pid=
containerd_pid=
export PATH=$peer/usr/bin:$PATH

. integration/demos/image.sh
. integration/demos/transcript.sh

layerctl() {
    "$bin/layerctl" "$@"
}

start_layerd() {
    "$bin/layerd" --config $config >>"$demo/layerd.log" 2>&1 &
    layerd_pid=$!
    await layerctl info
}

start_containerd() {
    containerd >>"$demo/containerd.log" 2>&1 &
    containerd_pid=$!
    await ctr version
}

end() {
    kill "$1"
    wait "$1" 2>/dev/null || true
}

# layerd's name of what containerd's clients call $1.
name_of() {
    layerctl snapshot ls -q | grep "/$1\$"
}

# An image of two layers.
make_image() {
    local dir=$demo/image
    mkdir -p "$dir/base/etc" "$dir/top/etc"
    head -c 2000000 /dev/zero >"$dir/base/data"
    echo "hello from the image" >"$dir/top/etc/greeting"
    pack_image "$dir" "$image" "$demo/image.tar"
}

[[ -x $bin/layerd && -x $bin/layerctl ]] || die "run \`cargo build\` first"
[[ -x $peer/usr/bin/containerd ]] || die "run \`make peers\` (integration/peers/install.sh) first"
rm -rf --one-file-system "$demo"
mkdir -p "$demo/lib" "$demo/etc" "$demo/work"
# Its own /etc, /run and /var/lib.
mount -t overlay none -o "lowerdir=/etc,upperdir=$demo/etc,workdir=$demo/work" /etc
mount --bind "$demo/lib" /var/lib
mount -t tmpfs none /run
mkdir -p /etc/layerd /etc/containerd/conf.d
# How full the disk of this machine is, is no part of the story.
sed 's/^#min_free_percent = .*/min_free_percent = 0/; s/^#keep_secs = .*/keep_secs = 3600/' deploy/config.toml >$config
cat >/etc/containerd/config.toml <<END
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper"]
END
make_image

say "layerd and containerd run, but containerd is not configured for layerd."
start_layerd
start_containerd
show layerctl doctor

say "What it says mends it."
show layerctl setup containerd --write
end "$containerd_pid"
start_containerd
show layerctl doctor

say "Events while an image is pulled and two containers are made."
"$bin/layerctl" events >"$demo/events" &
events_pid=$!
sleep 1
ctr images import --snapshotter layerd "$demo/image.tar" >/dev/null
ctr containers create --snapshotter layerd $image web
ctr containers create --snapshotter layerd $image db
layerctl volume create db-data >/dev/null
layerctl attach --owner container:db -v db-data:/var/lib/db >/dev/null
await grep -q attached "$demo/events"
echo "\$ layerctl events"
cat "$demo/events"
{ kill $events_pid; wait $events_pid; } 2>/dev/null || true

say "Who holds the bytes, and why is this layer here?"
show layerctl du
show layerctl why "$(layerctl snapshot ls --kind committed -q | tail -n 1)"

say "Something is here that containerd does not know, and something is gone that it needs."
layerctl snapshot prepare experiment >/dev/null
layerctl snapshot rm "$(name_of db)" >/dev/null
show layerctl orphans --grace 0s
say "What it says mends that, too."
show layerctl snapshot rm experiment
show layerctl trash restore "$(layerctl trash ls -o json | sed -n 's/.*"id":"\([0-9a-z]*\)","key":"[^"]*\/db".*/\1/p')"
show layerctl orphans --grace 0s

say "A layer loses its directory, the configuration has a typo, and containerd is down."
layer=$(layerctl snapshot mounts "$(name_of web)" | grep -o 'upperdir=[^ ,]*' | cut -d = -f 2)
mv "$layer" "$demo/kept"
sed -i 's/^keep_secs/kepe_secs/' $config
end "$containerd_pid"
show layerctl doctor

say "All of that undone; but layerd itself is killed."
mv "$demo/kept" "$layer"
sed -i 's/^kepe_secs/keep_secs/' $config
start_containerd
{ kill -9 "$layerd_pid" && wait "$layerd_pid"; } 2>/dev/null || true
show layerctl doctor

say "Monitoring reads the same as JSON, one object a line."
start_layerd
echo "\$ layerctl doctor -o json | grep -v '\"severity\":\"ok\"'"
layerctl doctor -o json | grep -v '"severity":"ok"' || true

layerctl detach --owner container:db >/dev/null
end "$containerd_pid"
end "$layerd_pid"
