#!/bin/bash
# Makes what is published beside the Debian package, of that package: its list of files
# (package.metadata.deb in server/Cargo.toml) is that of every form. Prints the paths of all.
#
#   deploy/packages.sh release DEB DIR   what is released; the programs must be static
#   deploy/packages.sh dev DEB DIR       what is tested: packed quickly
#
# Into DIR go layerd-VERSION-linux-ARCH.tar.gz, layerd-VERSION-1.ARCH.rpm, layerd-VERSION-linux-ARCH.oci.tar and
# SHA256SUMS of all files there. The same programs and the same commit give the same bytes: times are
# SOURCE_DATE_EPOCH, which is the commit's unless set; owners, modes and order do not depend on the machine.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

cd "$(dirname "$0")/.."
profile=$1 deb=$(realpath "$2") to=$3
mkdir -p "$to"
to=$(realpath "$to")
case $profile in
release) level=9 ;;
dev) level=1 ;;
*)
    echo "packages.sh: release or dev, not $profile" >&2
    exit 2
    ;;
esac
date=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
version=$(dpkg-deb --field "$deb" Version)
version=${version%-*}
case $(dpkg-deb --field "$deb" Architecture) in
amd64) arch=x86_64 oci_arch=amd64 ;;
arm64) arch=aarch64 oci_arch=arm64 ;;
*)
    echo "packages.sh: $deb is of an architecture that has no name here" >&2
    exit 1
    ;;
esac
name=layerd-$version-linux-$arch
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# tar of a folder's content: folder, names in it.
pack() {
    local dir=$1
    shift
    tar --directory "$dir" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$date" --create "$@"
}

# The files of every form: those of the Debian package, without what Debian alone reads, at the paths that all have.
fill_tree() {
    local program
    dpkg-deb --extract "$deb" "$tree"
    rm -r "$tree/usr/share/lintian" "$tree/usr/share/doc/layerd/changelog.Debian.gz" "$tree/usr/share/doc/layerd/copyright"
    mkdir -p "$tree/usr/share/zsh/site-functions" "$tree/usr/share/licenses/layerd"
    mv "$tree/usr/share/zsh/vendor-completions/_layerctl" "$tree/usr/share/zsh/site-functions/"
    rmdir "$tree/usr/share/zsh/vendor-completions"
    install -m 644 LICENSE "$tree/usr/share/licenses/layerd/LICENSE"
    [[ $profile == release ]] || return 0
    for program in "$tree"/usr/bin/*; do
        # Without a loader and libraries it runs on every distribution.
        if readelf --program-headers --wide "$program" | grep -q INTERP; then
            echo "packages.sh: $program is not static: build it with deploy/build.sh" >&2
            exit 1
        fi
    done
}

tarball() {
    local top=$work/$name
    mkdir "$top"
    cp -a "$tree" "$top/files"
    install -m 755 deploy/install.sh "$top/"
    install -m 644 LICENSE README.md CHANGELOG.md "$top/"
    (cd "$top" && find . -type f -printf '%P\0' | sort -z | xargs -0 sha256sum) >"$work/sums"
    install -m 644 "$work/sums" "$top/SHA256SUMS"
    pack "$work" "$name" | gzip "-${level}n" >"$to/$name.tar.gz"
}

rpm_package() {
    target/debug/layerd-rpm --tree "$tree" --scripts deploy/rpm --version "$version" --arch "$arch" --date "$date" \
        --level "$level" --output "$to/layerd-$version-1.$arch.rpm"
}

# Writes what comes in as a blob of the image; prints its digest.
blob() {
    local digest
    cat >"$image/new"
    digest=$(sha256sum <"$image/new")
    digest=${digest%% *}
    mv "$image/new" "$image/blobs/sha256/$digest"
    echo "$digest"
}

size() {
    stat --format %s "$image/blobs/sha256/$1"
}

# What the DaemonSet of deploy/kubernetes runs: the programs, those that they run, and a configuration, in one layer.
fill_root() {
    local root=$1
    mkdir -p "$root"/{etc/layerd,run,tmp,usr/bin,usr/share/licenses,var/lib}
    chmod 1777 "$root/tmp"
    cp "$tree"/usr/bin/* "$root/usr/bin/"
    cp -r "$tree/usr/share/licenses/layerd" "$root/usr/share/licenses/"
    deploy/image-tools.sh "$root"
    # Of several nodes kubelet alone reaches the one that a volume is on.
    sed 's/^#node_expansion = false/node_expansion = true/' "$tree/etc/layerd/config.toml" >"$root/etc/layerd/config.toml"
    grep -qx 'node_expansion = true' "$root/etc/layerd/config.toml"
}

oci_image() {
    local image=$work/image root=$work/root layer diff config manifest created
    local types=application/vnd.oci.image reference=docker.io/library/layerd:$version labels
    mkdir -p "$image/blobs/sha256" "$root"
    fill_root "$root"
    (cd "$root" && printf '%s\n' *) >"$work/names"
    pack "$root" --files-from "$work/names" >"$work/layer.tar"
    diff=$(sha256sum <"$work/layer.tar")
    layer=$(gzip "-${level}n" <"$work/layer.tar" | blob)
    created=$(date --utc --date "@$date" +%Y-%m-%dT%H:%M:%SZ)
    labels="\"org.opencontainers.image.title\":\"layerd\",\"org.opencontainers.image.version\":\"$version\",\"org.opencontainers.image.licenses\":\"Apache-2.0\""
    config=$(printf '{"created":"%s","architecture":"%s","os":"linux","config":{"Env":["PATH=/usr/sbin:/usr/bin"],"Entrypoint":["/usr/bin/layerd"],"Labels":{%s}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"%s","created_by":"deploy/packages.sh"}]}' \
        "$created" "$oci_arch" "$labels" "${diff%% *}" "$created" | blob)
    manifest=$(printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s","digest":"sha256:%s","size":%s}],"annotations":{%s}}' \
        "$types.manifest.v1+json" "$types.config.v1+json" "$config" "$(size "$config")" "$types.layer.v1.tar+gzip" "$layer" "$(size "$layer")" "$labels" | blob)
    printf '{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"},"platform":{"architecture":"%s","os":"linux"}}]}' \
        "$types.index.v1+json" "$types.manifest.v1+json" "$manifest" "$(size "$manifest")" "$reference" "$version" "$oci_arch" >"$image/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$image/oci-layout"
    # For `docker load` before 25, which knows no layouts.
    printf '[{"Config":"blobs/sha256/%s","RepoTags":["layerd:%s"],"Layers":["blobs/sha256/%s"]}]' "$config" "$version" "$layer" >"$image/manifest.json"
    pack "$image" blobs index.json manifest.json oci-layout >"$to/$name.oci.tar"
}

tree=$work/tree
fill_tree
tarball
rpm_package
oci_image
(cd "$to" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum >SHA256SUMS)
find "$to" -maxdepth 1 -type f | sort
