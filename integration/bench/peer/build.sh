#!/bin/sh
# Builds containerd's overlayfs snapshotter, served on a socket, and prints the path of the program.
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
exec "$here/../../peers/go-build.sh" "$here" overlayfs
