# Unpacks qemu and Debian's kernels below target/peers. peers/install.sh sources this and has the
# functions that are used here; nothing is installed.

# name, start of the version, suites to look in (first that has it)
kernels=(
    "linux-6.1|6.1.|bookworm"
    "linux-6.12|6.12.|trixie"
    "linux-newest||forky sid"
)

# Prints the packages that a kernel consists of: the one that the metapackage names, and, since 7.x,
# those with image and modules that this one names.
kernel_packages() {
    local image
    image=$(private apt-cache show "linux-image-amd64=$1" | grep -om1 'linux-image-[0-9][^ ,]*')
    echo "$image"
    private apt-cache show "$image" | sed -n 's/^Depends: //p' | tr ',' '\n' |
        awk '$1 ~ /^linux-(binary|modules)-/ && !seen[$1]++ { print $1 }'
}

# Keeps of a kernel its image and the modules of modules.txt, numbered in the order of loading.
unpack_kernel() {
    local name=$1 start=$2 suites=$3
    local new="$peers/.new-$name" version package packages release number=100 file
    rm -rf "$new" && mkdir -p "$new"/{debs,tree,modules}
    version=$(find_version linux-image-amd64 "$start" "$suites") ||
        die "the archive has no linux-image-amd64 $start* in: $suites"
    packages=$(kernel_packages "$version")
    for package in $packages; do
        (cd "$new/debs" && private apt-get download "$package")
        dpkg -x "$new"/debs/"${package}"_*.deb "$new/tree"
        echo "$package $version" >>"$new/VERSIONS"
    done
    # Older releases have /lib/modules, where modprobe looks; newer ones /usr/lib/modules.
    [[ -e $new/tree/lib ]] || ln -s usr/lib "$new/tree/lib"
    release=$(ls "$new/tree/lib/modules")
    cp "$(ls "$new"/tree/boot/vmlinuz-* "$new/tree/lib/modules/$release/vmlinuz" 2>/dev/null | head -n 1)" "$new/vmlinuz"
    depmod -b "$new/tree" "$release" 2>/dev/null
    modules_of "$new/tree" "$release" | while read -r file; do
        number=$((number + 1))
        case $file in
        *.xz) xz -dc "$file" >"$new/modules/$number-$(basename "${file%.xz}")" ;;
        *) cp "$file" "$new/modules/$number-$(basename "$file")" ;;
        esac
    done
    [[ -n $(ls "$new/modules") ]] || die "$name has none of the modules in modules.txt"
    cp "$here/../vm/modules.txt" "$new/"
    rm -r "$new/debs" "$new/tree"
    rm -rf "${peers:?}/$name" && mv "$new" "$peers/$name"
    echo "install.sh: $name: $(paste -sd, "$peers/$name/VERSIONS")"
}

# Files of the modules in modules.txt and of those they need, in the order of loading. What a kernel
# has built in has no file.
modules_of() {
    local names
    mapfile -t names < <(grep -v '^#' "$here/../vm/modules.txt")
    { modprobe -d "$1" -S "$2" --show-depends -a "${names[@]}" 2>/dev/null || true; } |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# qemu of this machine's own release, with the libraries that the machine lacks. Where it is installed
# nothing is unpacked, and that one is used.
unpack_qemu() {
    local new="$peers/.new-qemu" package
    rm -rf "$new" && mkdir -p "$new/debs/partial"
    apt-get update -qq
    apt-get install -y -qq --download-only --no-install-recommends \
        -o Dir::Cache::archives="$new/debs" -o APT::Sandbox::User=root qemu-system-x86 >/dev/null
    for package in "$new"/debs/*.deb; do
        [[ ! -e $package ]] || dpkg -x "$package" "$new"
    done
    rm -r "$new/debs"
    apt-cache policy qemu-system-x86 | awk '/Candidate:/ { print "qemu-system-x86 " $2 }' >"$new/VERSIONS"
    rm -rf "${peers:?}/qemu" && mv "$new" "$peers/qemu"
    echo "install.sh: qemu: $(cat "$peers/qemu/VERSIONS")"
}

unpack_vm() {
    local entry name start suites
    [[ -e $peers/qemu/VERSIONS ]] || unpack_qemu
    for entry in "${kernels[@]}"; do
        IFS='|' read -r name start suites <<<"$entry"
        ! cmp -s "$here/../vm/modules.txt" "$peers/$name/modules.txt" || continue
        [[ -n $lists_read ]] || read_lists
        lists_read=yes
        unpack_kernel "$name" "$start" "$suites"
    done
}
