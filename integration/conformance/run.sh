#!/bin/sh
# Builds containerd's snapshotter suite from Debian's Go packages (packages.txt) and runs it
# through layerd's socket, one daemon and one fresh root to a test.
#
#   run.sh --build            build only; prints the path of the test binary
#   run.sh LAYERD [WORKDIR [DRIVER]]  run it on this layerd binary; roots go under WORKDIR
#   run.sh --reference        run it on containerd's own overlayfs, to check the harness itself
#
# Needs root. Mounts are made in a mount namespace of their own, so none outlives the run. WORKDIR
# (a directory under target/conformance unless given) must not lie on overlayfs with the driver overlay.
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
target=${CARGO_TARGET_DIR:-$here/../../target}/conformance
suite=$target/suite.test
go_sources=/usr/share/gocode/src/github.com/containerd/containerd/snapshots/testsuite/testsuite.go

fail() {
    echo "run.sh: $*" >&2
    exit 1
}

build() {
    [ -f "$go_sources" ] || fail "install the packages named in $here/packages.txt first"
    [ "$suite" -nt "$here/main_test.go" ] && [ "$suite" -nt "$go_sources" ] && return
    mkdir -p "$target"
    # GOPATH mode: Debian ships the sources there, and nothing is fetched.
    (cd "$here" && GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= CGO_ENABLED=0 \
        GOCACHE="$target/cache" go test -c -o "$suite.$$" .)
    mv "$suite.$$" "$suite"
}

run() {
    [ "$(id -u)" = 0 ] || fail "the suite mounts: run it as root"
    mkdir -p "$work"
    # A short TMPDIR keeps the sockets' paths within the 107 bytes that the kernel takes.
    TMPDIR=$(cd "$work" && pwd -P) exec unshare --mount --propagation private \
        "$suite" -test.v -test.timeout 10m "$@"
}

case ${1:-} in
--build)
    build
    echo "$suite"
    ;;
--reference)
    build
    work=${2:-$target/work}
    run -reference
    ;;
"" | -*) fail "usage: run.sh --build | --reference | LAYERD [WORKDIR [DRIVER]]" ;;
*)
    daemon=$(realpath "$1")
    [ -x "$daemon" ] || fail "$1 is not a program"
    build
    work=${2:-$target/work}
    run -daemon "$daemon" -driver "${3:-overlay}"
    ;;
esac
