#!/bin/sh
# Builds containerd's overlayfs snapshotter, served on a socket, from Debian's Go packages
# (conformance/packages.txt), and prints the path of the program.
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
target=${CARGO_TARGET_DIR:-$here/../../../target}/bench
program=$target/overlayfs
sources=/usr/share/gocode/src/github.com/containerd/containerd/snapshots/overlay/overlay.go

[ -f "$sources" ] || {
    echo "build.sh: run make peers first" >&2
    exit 1
}
if ! [ "$program" -nt "$here/main.go" ] || ! [ "$program" -nt "$sources" ]; then
    mkdir -p "$target"
    # GOPATH mode: Debian ships the sources there, and nothing is fetched.
    (cd "$here" && GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= CGO_ENABLED=0 \
        GOCACHE="$target/cache" go build -o "$program.$$" .)
    mv "$program.$$" "$program"
fi
echo "$program"
