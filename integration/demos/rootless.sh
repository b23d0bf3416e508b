#!/bin/bash
# Shows layerd in the user namespace of a rootless containerd: an ordinary user starts RootlessKit, and in it
# layerd and containerd, runs a container, commits and deletes it, and attaches a volume. The user is made for
# the time it takes, in copies of /etc/passwd and /etc/subuid that only this script sees; all files are below
# target/rootless-demo/. `make demo-rootless` runs it, as root. `make evidence` keeps what it says:
#
#     integration/demos/rootless.sh > docs/evidence/rootless.txt 2>&1
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$(dirname "$here")")
demo=$top/target/rootless-demo
image=docker.io/demo/greeter:1
uid=20001
ranges="layerd-demo:300000:65536"

. "$here/image.sh"
. "$here/transcript.sh"

# An image of two layers, whose files belong to several users: busybox with a device, and a change.
make_image() {
    local dir=$1 applet
    mkdir -p "$dir"/base/{bin,dev,etc,home,proc,run,sys,tmp} "$dir/top/etc"
    cp /bin/busybox "$dir/base/bin/"
    for applet in cat echo id ls rm sh sleep; do ln -s busybox "$dir/base/bin/$applet"; done
    mknod "$dir/base/dev/null" c 1 3
    echo "hello" >"$dir/base/etc/greeting"
    echo "mail of user 1000" >"$dir/base/home/mail" && chown 1000:1001 "$dir/base/home/mail"
    : >"$dir/top/etc/.wh.greeting"
    echo "hello from the image" >"$dir/top/etc/motd"
    pack_image "$dir" "$image" "$dir/image.tar"
}

# As root: a user that is seen here alone, and programs and files that it can reach.
prepare() {
    local name
    ((EUID == 0)) || die "must run as root: it makes a user for itself"
    [[ -x $top/target/debug/layerd && -x $top/target/peers/containerd-2.1/usr/bin/containerd ]] ||
        die "run \`cargo build\` and \`make peers\` (integration/peers/install.sh) first"
    umask 022
    cd "$top"
    rm -rf --one-file-system "$demo"
    mkdir -p "$demo"/{etc,home/bin,run}
    make_image "$demo/image"
    for name in passwd group subuid subgid; do
        touch "/etc/$name"
        cp "/etc/$name" "$demo/etc/$name"
    done
    echo "layerd-demo:x:$uid:$uid::$demo/home:/bin/bash" >>"$demo/etc/passwd"
    echo "layerd-demo:x:$uid:" >>"$demo/etc/group"
    echo "$ranges" >"$demo/etc/subuid"
    echo "$ranges" >"$demo/etc/subgid"
    for name in passwd group subuid subgid; do mount --bind "$demo/etc/$name" "/etc/$name"; done
    cp target/debug/{layerd,layerctl} target/peers/containerd-2.1/usr/bin/* "$demo/home/bin/"
    cp integration/demos/{image,rootless,transcript}.sh "$demo/home/"
    chmod 700 "$demo/run"
    chown -R $uid:$uid "$demo/home" "$demo/run"
    # The user may not enter all folders on the way.
    mount --bind "$demo" /mnt
    export HOME=/mnt/home XDG_RUNTIME_DIR=/mnt/run
}

inside() {
    demo=/mnt
    export PATH=$HOME/bin:$PATH LAYERD_ADDRESS=$XDG_RUNTIME_DIR/layerd/layerd.sock
    case $1 in
    namespace) in_namespace ;;
    *) as_user ;;
    esac
}

as_user() {
    say "An ordinary user, with ids of its own in /etc/subuid, starts RootlessKit: root of a user namespace."
    show id
    show grep layerd-demo /etc/subuid /etc/subgid
    exec rootlesskit --state-dir="$XDG_RUNTIME_DIR/containerd-rootless" --copy-up=/run --pidns \
        "$HOME/rootless.sh" namespace
}

ctr() {
    command ctr --address "$XDG_RUNTIME_DIR/containerd/containerd.sock" --namespace demo "$@"
}

start_layerd() {
    layerd >>"$HOME/layerd.log" 2>&1 &
    layerd_pid=$!
    await layerctl info
}

start_containerd() {
    local config=$HOME/.config/containerd
    # Shims have sockets there, and the machine's own containerd may have a folder of that name.
    rm -f /run/containerd
    mkdir -p /run/containerd
    {
        echo 'version = 3'
        echo "root = \"$HOME/.local/share/containerd\""
        echo "state = \"$XDG_RUNTIME_DIR/containerd\""
        echo "imports = [\"$config/conf.d/*.toml\"]"
        echo 'disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
            "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]'
        echo "grpc.address = \"$XDG_RUNTIME_DIR/containerd/containerd.sock\""
    } >"$config/config.toml"
    containerd --config "$config/config.toml" >"$HOME/containerd.log" 2>&1 &
    await ctr version
}

# Runs a container. Control groups are left alone: a user has none without systemd.
run() {
    echo "\$ ctr run --cgroup '' --cpu-shares 0 --snapshotter layerd $*"
    ctr run --cgroup "" --cpu-shares 0 --snapshotter layerd "$@" || echo "(exit code $?)"
}

in_container() {
    ctr tasks exec --exec-id demo greeter "$@"
}

show_in_container() {
    echo "\$ ctr tasks exec --exec-id demo greeter $*"
    in_container "$@"
}

is_written() {
    in_container cat /written | grep -q changed
}

in_namespace() {
    local config=$HOME/.config/containerd
    show id
    show cat /proc/self/uid_map

    say "What layerd finds there, before it starts. It needs no configuration: its paths are the user's."
    show layerd check
    show layerd check --driver btrfs

    say "layerd starts, and containerd with the drop-in that \`layerctl setup\` writes for it."
    start_layerd
    mkdir -p "$config/conf.d"
    show layerctl setup containerd --user --write
    start_containerd

    say "An image whose files belong to users 0 and 1000. Its device is left out, as containerd does."
    show ctr images import --snapshotter layerd "$demo/image/image.tar"
    show layerctl snapshot tree
    grep -o 'devices of a layer.*' "$HOME/layerd.log"

    say "A container that reads, writes and deletes."
    run --detach --null-io "$image" greeter /bin/sh -c \
        'id >/written; cat /proc/self/uid_map >>/written; ls -ln /etc /home >>/written; cat /etc/motd /home/mail >>/written;
         rm /home/mail; echo changed >>/written; exec sleep 1000'
    await is_written
    show_in_container cat /written

    say "layerd is killed. The container goes on, and layerd comes back to the same layers."
    kill -9 $layerd_pid
    wait $layerd_pid 2>/dev/null || true
    show_in_container cat /etc/motd
    start_layerd
    show layerctl fsck

    say "What the container changed, as a layer: a deletion, and ids of the image."
    await ctr snapshots --snapshotter layerd usage
    ctr snapshots --snapshotter layerd diff greeter >"$HOME/diff.tar.gz"
    show tar --numeric-owner --full-time -tzf "$HOME/diff.tar.gz"

    say "A volume, attached for a container, and there again for the next."
    mkdir -p "$HOME/data"
    show layerctl attach --owner container:web --mount type=volume,src=data,dst=/data,on-missing=create \
        --target "/data=$HOME/data"
    run --rm --mount "type=bind,src=$HOME/data,dst=/data,options=rbind:rw" "$image" first \
        /bin/sh -c 'echo "kept by a volume" >/data/file'
    run --rm --mount "type=bind,src=$HOME/data,dst=/data,options=rbind:rw" "$image" second \
        /bin/cat /data/file
    show layerctl detach --owner container:web
    show ls "$HOME/data"

    say "What cannot be is refused by name."
    show layerctl volume create --size 64m limited
    show layerctl attach --owner container:web --mount type=bind,src=/,dst=/data,bind-recursive=disabled
    run --snapshotter-label containerd.io/snapshot/layerd.size=64m "$image" third /bin/id

    say "Container, commit and image are removed, and all layers with them."
    show ctr tasks kill --signal SIGKILL greeter
    await ctr tasks rm greeter
    ctr snapshots --snapshotter layerd commit kept greeter
    show layerctl snapshot tree
    ctr containers rm greeter
    ctr snapshots --snapshotter layerd rm kept
    show ctr images rm --sync "$image"
    ctr content prune references >/dev/null
    await is_empty
    show layerctl snapshot ls
    show layerctl fsck
    kill $layerd_pid
    wait $layerd_pid || die "layerd failed at its end; see $HOME/layerd.log"
    ! grep -E ' ERROR |panicked' "$HOME/layerd.log" || die "layerd logged errors"
}

is_empty() {
    [[ -z $(layerctl snapshot ls -q) ]]
}

case ${1:-} in
'') exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc "$0" root ;;
root)
    prepare
    cd /mnt/home
    setpriv --reuid $uid --regid $uid --clear-groups -- env -i HOME="$HOME" XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$HOME/rootless.sh" user
    ;;
*) inside "$1" ;;
esac
