#!/bin/bash
# Makes layerd_VERSION_ARCH.deb of programs that are built, and prints its path.
#
#   deploy/package.sh release            what is released: of target/release, in target/debian, with
#                                        layerd-dbgsym beside it, which backtraces read
#   deploy/package.sh dev VERSION DIR    what is tested: of target/debug, packed quickly
#
# What goes into it is in server/Cargo.toml under package.metadata.deb. Pages and completions are
# printed by the programs themselves.
set -euo pipefail

cd "$(dirname "$0")/.."
profile=${1:-release}
case $profile in
release) programs=target/release how=(--dbgsym) ;;
dev) programs=target/debug how=(--strip --fast) ;;
*)
    echo "package.sh: release or dev, not $profile" >&2
    exit 2
    ;;
esac

made=target/package
mkdir -p "$made"
exec 9>"$made.lock"
flock 9
rm -rf "$made" && mkdir -p "$made"/{man1,man8,man5,completions}
"$programs/layerctl" man "$made/man1" >/dev/null
"$programs/layerd" man "$made/man8"
mv "$made"/man8/*.5 "$made/man5"
for shell in bash zsh fish; do
    "$programs/layerctl" completions "$shell" >"$made/completions/$shell"
done
PATH=$PWD/target/tools/bin:$PATH cargo deb --quiet --package layerd --no-build --profile "$profile" --locked \
    --offline ${2:+--deb-version "$2"} --output "${3:-target/debian}/" "${how[@]}"
