# Builds OpenZFS for the kernel of linux-6.1 and unpacks its programs, to target/peers/zfs-6.1.
# peers/install.sh sources this and has the functions that are used here; nothing is installed, and no
# script of a package runs. Debian has no built module; its source is in contrib. Only `install.sh zfs`
# comes here, for `make test-vm`: the build takes some six minutes of two processors.
#
#   modules/NNN-NAME.ko   the modules, numbered in the order of loading, after those of the kernel
#   tree/                 zfs, zpool and their libraries

# In the order of loading.
zfs_modules=(spl znvpair zcommon icp zavl zlua zzstd zunicode zfs)
zfs_programs=(zfsutils-linux libzfs4linux libzpool5linux libnvpair3linux libuutil3linux)

# Packages of bookworm, all components that are needed, to the current folder.
download_for_zfs() {
    local new=$1 options
    shift
    mkdir -p "$new/apt/state/lists/partial" "$new/apt/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(archive) bookworm main contrib" >"$new/sources.list"
    options=(-o Dir::State="$new/apt/state" -o Dir::Cache="$new/apt/cache" -o Dir::Etc::sourcelist="$new/sources.list")
    private apt-get "${options[@]}" update
    (cd "$new/debs" && private apt-get "${options[@]}" download "$@") ||
        die "the archive has not all of these in bookworm: $*"
    rm -r "$new/apt" "$new/sources.list"
}

build_zfs() {
    local new="$peers/.new-zfs-6.1" release common source headers deb name number=900
    [[ -e $peers/linux-6.1/VERSIONS ]] || die "zfs is built for linux-6.1, which is not there: run install.sh first"
    release=$(sed -n 's/^linux-image-\([^ ]*\) .*/\1/p' "$peers/linux-6.1/VERSIONS")
    common=${release%-amd64}-common
    echo "install.sh: building zfs for Linux $release; this takes minutes"
    rm -rf "$new" && mkdir -p "$new"/{debs,build,tree,modules}
    download_for_zfs "$new" zfs-dkms "linux-headers-$release" "linux-headers-$common" linux-kbuild-6.1 "${zfs_programs[@]}"
    for deb in "$new"/debs/*.deb; do
        case ${deb##*/} in
        zfs-dkms_* | linux-*) dpkg -x "$deb" "$new/build" ;;
        *) dpkg -x "$deb" "$new/tree" ;;
        esac
    done
    versions "$new"
    headers=$new/build/usr/src/linux-headers-$release
    # It names the place where it would be installed.
    sed -i "s|/usr/src/|$new/build/usr/src/|g" "$headers/Makefile"
    source=$(echo "$new"/build/usr/src/zfs-*)
    (
        cd "$source"
        ./configure --with-config=kernel --with-linux="$new/build/usr/src/linux-headers-$common" --with-linux-obj="$headers"
        make -j"$(nproc)"
    ) >"$new/log" 2>&1 || { tail -n 20 "$new/log" >&2 && die "zfs cannot be built: see target/peers/.new-zfs-6.1/log"; }
    for name in "${zfs_modules[@]}"; do
        number=$((number + 1))
        strip --strip-debug -o "$new/modules/$number-$name.ko" "$(find "$source/module" -name "$name.ko")"
    done
    echo "$release" >"$new/RELEASE"
    rm -r "$new/debs" "$new/build" "$new/log"
    rm -rf "$peers/zfs-6.1" && mv "$new" "$peers/zfs-6.1"
    echo "install.sh: zfs-6.1: $(grep -E '^zfs' "$peers/zfs-6.1/VERSIONS" | paste -sd,)"
}

# A module fits one kernel.
unpack_zfs() {
    local release
    release=$(sed -n 's/^linux-image-\([^ ]*\) .*/\1/p' "$peers/linux-6.1/VERSIONS")
    [[ $(cat "$peers/zfs-6.1/RELEASE" 2>/dev/null) == "$release" ]] || build_zfs
}
