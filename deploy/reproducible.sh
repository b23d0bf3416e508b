#!/bin/bash
# Makes the packages of the last commit in two folders of different names, each with whole builds, and compares
# them. Takes two release builds, and says which files differ.
set -euo pipefail

cd "$(dirname "$0")/.."
[[ -z $(git status --porcelain --untracked-files=no) ]] || {
    echo "reproducible.sh: there are changes that are not committed" >&2
    exit 1
}
top=$PWD work=$PWD/target/reproducible
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
for name in one another/folder; do
    git clone --quiet "$top" "$work/$name"
    mkdir -p "$work/$name/target"
    ln -s "$top/target/tools" "$work/$name/target/tools"
    make --no-print-directory -C "$work/$name" package
    cp "$work/$name/target/packages/SHA256SUMS" "$work/sums-${name%/*}"
    # The second finds nothing of the first.
    rm -rf "${work:?}/$name"
done
if diff "$work/sums-one" "$work/sums-another"; then
    cat "$work/sums-one"
    echo "reproducible.sh: both builds gave the same bytes"
else
    echo "reproducible.sh: the builds differ" >&2
    exit 1
fi
