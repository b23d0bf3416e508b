#!/bin/sh
# Builds a program of ours from Debian's Go packages (conformance/packages.txt) where it or they
# have changed, and prints its path: go-build.sh FOLDER PROGRAM.
set -eu

folder=$(cd "$1" && pwd -P)
here=$(cd "$(dirname "$0")" && pwd -P)
target=${CARGO_TARGET_DIR:-$here/../../target}/bench
program=$target/$2
sources=/usr/share/gocode/src/github.com/containerd/containerd/client.go

[ -f "$sources" ] || {
    echo "go-build.sh: run make peers first" >&2
    exit 1
}
if ! [ -x "$program" ] || [ -n "$(find "$folder"/*.go "$sources" -newer "$program")" ]; then
    mkdir -p "$target"
    # GOPATH mode: Debian ships the sources there, and nothing is fetched.
    (cd "$folder" && GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= CGO_ENABLED=0 \
        GOCACHE="$target/cache" go build -o "$program.$$" .)
    mv "$program.$$" "$program"
fi
echo "$program"
