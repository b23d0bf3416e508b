#!/bin/bash
# Installs what the end-to-end tests drive: Debian packages of this machine's own release
# (packages.txt here, in conformance/, crash/, vm/ and mounts/layers/), and under target/peers/ the containerd, Docker and
# Prometheus versions the tests name. Those come from other Debian releases, so they are only unpacked
# there, never installed; three kernels and a qemu to boot them (vm/fetch.sh); and three releases of Debian
# as directory trees. Run as root. `install.sh mariadb` also downloads a database, for `make demo-docker`;
# `install.sh packages` installs the packages alone, which the build needs some of; `install.sh zfs`
# builds OpenZFS for one of the kernels that are there, for `make test-vm`.
#
# Which archive: the one this machine's apt is set up to use, whatever suites it lists itself.
# A second run finds everything in place and downloads nothing.
set -euo pipefail
# Of the trees that are made here users other than root read as well.
umask 022

here=$(cd "$(dirname "$0")" && pwd)
peers=$(cd "$here/../.." && pwd)/target/peers

# name, start of the version, suites to look in (first that has it), packages, binary to try
wanted=(
    "containerd-1.6|1.6.|bookworm|containerd|usr/bin/containerd"
    "containerd-1.7|1.7.|trixie|containerd|usr/bin/containerd"
    "containerd-2.1|2.1.|forky sid|containerd|usr/bin/containerd"
    "docker-28|28.|forky sid|docker.io docker-cli|usr/sbin/dockerd"
    "docker-compose|2.|forky sid|docker-compose|usr/libexec/docker/cli-plugins/docker-compose"
    "prometheus|2.|bookworm|prometheus|usr/bin/prometheus"
)

# Podman by name and release of Debian, to be laid over the tree of that release.
podmans=("podman-4.3|bookworm" "podman-5|trixie")

# Debian releases that the package is tested in: 12, 13 and the next.
suites_of_trees=(bookworm trixie forky)

die() {
    echo "install.sh: $*" >&2
    exit 1
}

# What the lists name and is not installed.
missing_packages() {
    local name
    grep -hv '^#' "$here"/packages.txt "$here"/../{conformance,crash,vm}/packages.txt "$here"/../../mounts/layers/packages.txt | sort -u | while read -r name; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || echo "$name"
    done
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    ((${#missing[@]})) || return 0
    echo "install.sh: installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Address of the archive from which this machine's own release comes. Asked for once: the lists that it is
# read from may be updated meanwhile.
archive() {
    local codename
    [[ -z ${of_this_machine:-} ]] || { echo "$of_this_machine" && return; }
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v release="$codename" '$1 == release && $2 == "main" { print $3; exit }'
}

# apt with lists and caches of its own, so that the machine's are neither used nor changed.
# The machine's proxy and other settings still apply, but for those of images of containers that keep no cache:
# without one each call reads the lists anew, for seconds.
private() {
    local tool=$1
    shift
    "$tool" -qq \
        -o Dir::State="$peers/.apt/state" -o Dir::State::status=/dev/null \
        -o Dir::Cache="$peers/.apt/cache" \
        -o Dir::Cache::pkgcache=pkgcache.bin -o Dir::Cache::srcpkgcache=srcpkgcache.bin \
        -o Dir::Etc::sourcelist="$peers/.apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root "$@"
}

# Reads the package lists of the suites that are needed; a suite that the archive does not serve
# is noticed later, when nothing is found in it.
read_lists() {
    local uri suite
    uri=$(archive)
    [[ -n $uri ]] || die "apt lists no archive for this release, main component"
    mkdir -p "$peers/.apt/state/lists/partial" "$peers/.apt/cache/archives/partial"
    for suite in bookworm trixie forky sid; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"
    done >"$peers/.apt/sources.list"
    private apt-get update || echo "install.sh: some package lists could not be read" >&2
}

# Prints suite and version of the first match: package, start of version, suites.
find_version() {
    local suite version
    for suite in $3; do
        version=$(private apt-cache madison "$1" |
            awk -F ' *[|] *' -v start="$2" -v suite="$suite" '
                { gsub(/ /, "", $2) }
                substr($2, 1, length(start)) == start && $3 ~ (" " suite "/main ") { print $2; exit }')
        [[ -z $version ]] || { echo "$version" && return; }
    done
    return 1
}

# Unpacks one peer beside its place, tries it, and moves it there, so that a half-made one is
# never taken for a whole one.
unpack() {
    local name=$1 start=$2 suites=$3 packages=$4 binary=$5
    local new="$peers/.new-$name" package version
    rm -rf "$new" && mkdir -p "$new/debs"
    for package in $packages; do
        version=$(find_version "$package" "$start" "$suites") ||
            die "the archive has no $package $start* in: $suites"
        (cd "$new/debs" && private apt-get download "$package=$version")
        dpkg -x "$new"/debs/"${package}"_*.deb "$new"
        echo "$package $version" >>"$new/VERSIONS"
    done
    rm -r "$new/debs"
    "$new/$binary" --version >/dev/null || die "$name does not run on this machine"
    rm -rf "${peers:?}/$name" && mv "$new" "$peers/$name"
    echo "install.sh: $name: $(paste -sd, "$peers/$name/VERSIONS")"
}

# Makes the smallest Debian with systemd of one suite, for the tests that install layerd's package in
# one and the test that unpacks one as an image, and beside it the packages of that suite's
# containerd, which the tree does not have yet. The tests take both as they are and change neither.
make_tree() {
    local suite=$1
    local new="$peers/.new-debian-$suite" uri script=/usr/share/debootstrap/scripts/$1
    uri=$(archive)
    [[ -n $uri ]] || die "apt lists no archive for this release, main component"
    [[ -e $script ]] || script=/usr/share/debootstrap/scripts/sid
    # What a run that was cut short mounted went with its namespace.
    rm -rf "$new" && mkdir -p "$new/debs"
    echo "install.sh: making a tree of Debian $suite"
    # debootstrap takes no path with a space in it.
    unshare --mount --propagation private -- sh -c 'mount --bind "$1" /mnt && shift && exec "$@"' sh "$new" \
        debootstrap --variant=minbase --include=systemd,systemd-sysv,init-system-helpers "$suite" /mnt/tree "$uri" "$script" >"$new/log" 2>&1 ||
        die "debootstrap: $(tail -n 3 "$new/log")"
    rm -rf "$new"/tree/var/cache/apt/*.bin "$new"/tree/var/cache/apt/archives/*.deb \
        "$new"/tree/var/lib/apt/lists/* "$new/tree/var/log/bootstrap.log"
    packages_for_tree "$suite" "$new"
    echo "debian $suite" >"$new/VERSIONS"
    rm -rf "${peers:?}/debian-$suite" && mv "$new" "$peers/debian-$suite"
}

# Downloads containerd and what it needs beyond a tree, from the tree's suite alone.
packages_for_tree() {
    local suite=$1 new=$2
    download_beyond "$suite" "$new" "$new/tree" containerd
}

# Downloads packages and what they need beyond a tree, from the tree's suite alone, to debs/ of a folder.
download_beyond() {
    local suite=$1 new=$2 tree=$3
    shift 3
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(archive) $suite main" >"$new/sources.list"
    mkdir -p "$new/debs" "$new/apt/state/lists/partial" "$new/apt/cache/archives/partial"
    local options=(-o Dir::State="$new/apt/state" -o Dir::State::status="$tree/var/lib/dpkg/status"
        -o Dir::Cache="$new/apt/cache" -o Dir::Etc::sourcelist="$new/sources.list")
    private apt-get "${options[@]}" update
    private apt-get "${options[@]}" install --yes --download-only --no-install-recommends "$@" >/dev/null
    mv "$new"/apt/cache/archives/*.deb "$new/debs/"
    rm -r "$new/apt" "$new/sources.list"
}

# Writes the names and versions of the packages in debs/ of a folder to VERSIONS beside it.
versions() {
    (cd "$1/debs" && printf '%s\n' *.deb) | sed 's/^\([^_]*\)_\([^_]*\)_.*/\1 \2/' >"$1/VERSIONS"
}

# Unpacks Podman, runc and what they need beyond the tree of their suite. No script of a package runs;
# the tests lay the result over the tree.
unpack_podman() {
    local name=$1 suite=$2 deb dir
    local new="$peers/.new-$name"
    rm -rf "$new" && mkdir -p "$new/tree/usr"
    download_beyond "$suite" "$new" "$peers/debian-$suite/tree" podman runc
    for deb in "$new"/debs/*.deb; do
        dpkg -x "$deb" "$new/tree"
    done
    # Debian's trees have links to usr/ in their place.
    for dir in bin sbin lib lib64; do
        [[ ! -d $new/tree/$dir ]] || { cp -a --remove-destination "$new/tree/$dir" "$new/tree/usr/" && rm -r "$new/tree/$dir"; }
    done
    versions "$new"
    rm -r "$new/debs"
    rm -rf "${peers:?}/$name" && mv "$new" "$peers/$name"
    echo "install.sh: $name: $(grep -E '^(podman|runc) ' "$peers/$name/VERSIONS" | paste -sd,)"
}

# Downloads the packages of MariaDB and what it needs beyond the tree of its suite: Docker installs them
# in that tree, when it builds the image of a demonstration.
download_mariadb() {
    local suite=trixie new="$peers/.new-mariadb"
    echo "install.sh: downloading MariaDB of Debian $suite"
    rm -rf "$new" && mkdir -p "$new"
    download_beyond "$suite" "$new" "$peers/debian-$suite/tree" mariadb-server
    versions "$new"
    rm -rf "${peers:?}/mariadb" && mv "$new" "$peers/mariadb"
    echo "install.sh: mariadb: $(grep '^mariadb-server ' "$peers/mariadb/VERSIONS")"
}

# erofs-utils that know every feature of the format, with the libraries they are linked to: this
# machine's may be older. `run PROGRAM` starts one of them by the loader that belongs to these.
unpack_erofs_utils() {
    local new=$peers/.new-erofs-utils deb
    local packages=(erofs-utils libc6 libdeflate0 libgcc-s1 liblz4-1 liblzma5 libpcre2-8-0 libselinux1 libuuid1 libxxhash0 libzstd1 zlib1g)
    [[ ! -e $peers/erofs-utils/VERSIONS ]] || return 0
    [[ -n $lists_read ]] || read_lists
    lists_read=yes
    rm -rf "$new" && mkdir -p "$new/debs"
    # In one call: each reads all lists.
    (cd "$new/debs" && private apt-get download "${packages[@]/%//trixie}") || die "the archive has not all of these in trixie: ${packages[*]}"
    for deb in "$new"/debs/*.deb; do
        dpkg -x "$deb" "$new"
    done
    versions "$new"
    rm -r "$new/debs"
    cat >"$new/run" <<'EOF'
#!/bin/bash
# Starts a program of erofs-utils: run fsck.erofs ARGUMENT...
here=$(dirname "$0")
shopt -s nullglob
loaders=("$here"/usr/lib64/ld-linux-*.so.* "$here"/usr/lib/ld-linux-*.so.*)
libraries=("$here"/usr/lib/*-linux-gnu)
program=$1
shift
exec "${loaders[0]}" --library-path "${libraries[0]}" "$here/usr/bin/$program" "$@"
EOF
    chmod +x "$new/run"
    "$new/run" fsck.erofs --version >/dev/null || die "erofs-utils do not run on this machine"
    rm -rf "$peers/erofs-utils" && mv "$new" "$peers/erofs-utils"
    echo "install.sh: erofs-utils: $(grep '^erofs-utils ' "$peers/erofs-utils/VERSIONS")"
}

# gRPC on its C core, for the Python that is here; from PyPI, as Debian's is older than what it does
# to the name of a unix socket.
unpack_grpcio() {
    local new=$peers/.new-grpcio version=1.85.3
    echo "install.sh: unpacking grpcio $version"
    rm -rf "$new"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --target "$new" "grpcio==$version"
    echo "grpcio $version" >"$new/VERSIONS"
    mv "$new" "$peers/grpcio"
}

# Schemas of Kubernetes' API, and the program that holds manifests to them.
unpack_kubernetes_validate() {
    local new=$peers/.new-kubernetes-validate version=1.37.0
    echo "install.sh: unpacking kubernetes-validate $version"
    rm -rf "$new"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --target "$new" "kubernetes-validate==$version"
    echo "kubernetes-validate $version" >"$new/VERSIONS"
    mv "$new" "$peers/kubernetes-validate"
}

. "$here/../vm/fetch.sh"
. "$here/../vm/zfs.sh"

# What comes from several releases by one set of package lists, one after the other.
unpack_wanted() {
    local entry name start suites packages binary
    lists_read=
    for entry in "${wanted[@]}"; do
        IFS='|' read -r name start suites packages binary <<<"$entry"
        [[ ! -e $peers/$name/VERSIONS ]] || continue
        [[ -n $lists_read ]] || read_lists
        lists_read=yes
        unpack "$name" "$start" "$suites" "$packages" "$binary"
    done
    unpack_vm
    unpack_erofs_utils
    rm -rf "$peers/.apt"
}

# A tree, and the Podman that is laid over it.
make_tree_with_podman() {
    local entry name
    [[ -e $peers/debian-$1/VERSIONS ]] || make_tree "$1"
    for entry in "${podmans[@]}"; do
        name=${entry%|*}
        [[ ${entry#*|} != "$1" || -e $peers/$name/VERSIONS ]] || unpack_podman "$name" "$1"
    done
}

unpack_python() {
    [[ -e $peers/grpcio/VERSIONS ]] || unpack_grpcio
    [[ -e $peers/kubernetes-validate/VERSIONS ]] || unpack_kubernetes_validate
}

# Everything below target/peers: what waits for the network beside what unpacks and configures.
unpack_all() {
    local suite pid pids=() failed=
    of_this_machine=$(archive)
    unpack_wanted &
    pids+=($!)
    for suite in "${suites_of_trees[@]}"; do
        make_tree_with_podman "$suite" &
        pids+=($!)
    done
    unpack_python &
    pids+=($!)
    for pid in "${pids[@]}"; do
        wait "$pid" || failed=yes
    done
    [[ -z $failed ]] || die "not everything is there: see above"
}

((EUID == 0)) || die "must run as root"
(($# == 0)) || [[ $* == mariadb || $* == packages || $* == zfs ]] || die "usage: install.sh [mariadb | packages | zfs]"
mkdir -p "$peers"
exec 9>"$peers/.lock"
flock 9
install_packages
[[ ${1:-} != packages ]] || exit 0
[[ ${1:-} != zfs ]] || { unpack_zfs && exit 0; }
unpack_all
[[ ${1:-} != mariadb || -e $peers/mariadb/VERSIONS ]] || download_mariadb
