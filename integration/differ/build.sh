#!/bin/sh
# Builds the reference for unpacking and prints the path of the program.
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
exec "$here/../peers/go-build.sh" "$here" differ
