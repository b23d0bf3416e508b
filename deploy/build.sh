#!/bin/bash
# Builds the programs of all packages into target/dist/release: linked with glibc statically, so that they run on
# every distribution, and each with the list of the crates that it is made of (cargo-auditable). The same commit,
# toolchain and Debian release give the same bytes in any folder: paths are replaced in what debuggers and panics
# show.
set -euo pipefail

cd "$(dirname "$0")/.."
target=$(rustc -vV | sed -n 's/^host: //p')
cargo_home=${CARGO_HOME:-$HOME/.cargo}
dist=$PWD/target/dist
export PATH=$PWD/target/tools/bin:$PATH CARGO_TARGET_DIR=$dist CARGO_INCREMENTAL=0
export RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$PWD=/usr/src/layerd --remap-path-prefix=$cargo_home=/usr/src/cargo"
export CFLAGS="-ffile-prefix-map=$PWD=/usr/src/layerd -ffile-prefix-map=$cargo_home=/usr/src/cargo"

cargo auditable build --release --locked --target "$target" --package layerd --package layerctl --package layerd-nri
mkdir -p "$dist/release"
for program in layerd layerctl layerd-nri; do
    install -m 755 "$dist/$target/release/$program" "$dist/release/$program"
done
