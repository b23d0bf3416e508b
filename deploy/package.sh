#!/bin/bash
# Makes layerd_VERSION_ARCH.deb of programs that are built, and prints its path.
#
#   deploy/package.sh release            what is released: of target/dist/release, where deploy/build.sh puts
#                                        it, in target/packages, with layerd-dbgsym beside it, which
#                                        backtraces read
#   deploy/package.sh dev VERSION DIR    what is tested: of target/debug, packed quickly
#
# What goes into it is in server/Cargo.toml under package.metadata.deb. Pages and completions are
# printed by the programs themselves. Who publishes it sets DEBFULLNAME and DEBEMAIL, as for Debian's
# own tools: the package names them as its maintainer. Times are SOURCE_DATE_EPOCH, the commit's unless set.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

cd "$(dirname "$0")/.."
profile=${1:-release}
case $profile in
release) programs=target/dist/release how=(--dbgsym) ;;
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
"$programs/layerd-nri" man "$made/man8"
mv "$made"/man8/*.5 "$made/man5"
for shell in bash zsh fish; do
    "$programs/layerctl" completions "$shell" >"$made/completions/$shell"
done
sed -f deploy/instance.sed deploy/layerd.service >"$made/layerd@.service"
gzip -9n <CHANGELOG.md >"$made/changelog.gz"
version=${2:-$(cargo metadata --no-deps --offline --format-version 1 | sed 's/.*"name":"layerd","version":"\([^"]*\)".*/\1/')-1}
maintainer=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' server/Cargo.toml)
[[ -z ${DEBEMAIL:-} ]] || maintainer="${DEBFULLNAME:-$DEBEMAIL} <$DEBEMAIL>"
date=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
printf 'layerd (%s) unstable; urgency=medium\n\n  * /usr/share/doc/layerd/changelog.gz says what changed.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(date --utc --date "@$date" -R)" >"$made/changelog.Debian"

# What dpkg --verify compares with; cargo-deb leaves it out.
finish() {
    local tree="$made/tree" compression=(-Zxz)
    [[ $profile == release ]] || compression=(-Znone)
    rm -rf "$tree"
    dpkg-deb --raw-extract "$1" "$tree"
    # Static programs need no libraries: docs/packages.md says why they are static.
    if [[ $profile == release && -d $tree/usr/bin ]]; then
        sed -i '/^Depends:/{s/, *libgcc-s1//; s/libgcc-s1, *//}' "$tree/DEBIAN/control"
        echo 'layerd: shared-library-lacks-prerequisites [usr/bin/*]' >>"$tree/usr/share/lintian/overrides/layerd"
    fi
    (cd "$tree" && find . -path ./DEBIAN -prune -o -path ./etc -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$made/md5sums"
    install -m 644 "$made/md5sums" "$tree/DEBIAN/md5sums"
    sed -i "s|^Maintainer: .*|Maintainer: $maintainer|" "$tree/DEBIAN/control"
    find "$tree" -exec touch --no-dereference --date "@$date" {} +
    SOURCE_DATE_EPOCH=$date dpkg-deb --root-owner-group "${compression[@]}" --build "$tree" "$1" >/dev/null
    rm -r "$tree"
}

[[ $profile != release ]] || export CARGO_TARGET_DIR=$PWD/target/dist
packages=$(PATH=$PWD/target/tools/bin:$PATH cargo deb --quiet --package layerd --no-build --profile "$profile" --locked \
    --offline ${2:+--deb-version "$2"} --output "${3:-target/packages}/" "${how[@]}")
while read -r package; do
    finish "$package"
    echo "$package"
done <<<"$packages"
