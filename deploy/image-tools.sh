#!/bin/bash
# Copies into a tree the programs that layerd runs to hold volumes to their sizes where the file system has no
# quotas of projects: mkfs and its kin, of this machine's Debian, with the libraries that they load. The packages they
# are of, with versions, are listed in usr/share/doc/layerd/debian-packages; their licences lie beside it.
#
#   deploy/image-tools.sh DIR
set -euo pipefail
umask 022
export LC_ALL=C

root=$1
programs=(mke2fs e2fsck resize2fs mkfs.xfs xfs_growfs)
docs=$root/usr/share/doc/layerd
mkdir -p "$root/usr/sbin" "$root/etc" "$docs/licences"

files=()
for program in "${programs[@]}"; do
    path=$(PATH=/usr/sbin:/sbin:/usr/bin:/bin command -v "$program") || {
        echo "image-tools.sh: $program is missing: install e2fsprogs and xfsprogs" >&2
        exit 1
    }
    files+=("$path")
    install -m 755 "$path" "$root/usr/sbin/$program"
done
ln -s mke2fs "$root/usr/sbin/mkfs.ext4"
install -m 644 /etc/mke2fs.conf "$root/etc/mke2fs.conf"

# The loader, too, by the path that is written in the programs.
mapfile -t libraries < <(ldd "${files[@]}" | sed -n 's/^\t\(.* => \)\?\(\/[^ ]*\) (0x.*/\2/p' | sort -u)
for library in "${libraries[@]}"; do
    install -D -m 755 "$library" "$root$library"
done

# dpkg knows a file by its path before or after /lib and /sbin became links into /usr.
owner() {
    dpkg-query --search "$1" 2>/dev/null || dpkg-query --search "/usr$1" 2>/dev/null || dpkg-query --search "${1#/usr}" 2>/dev/null ||
        dpkg-query --search "$(realpath "$1")" 2>/dev/null || dpkg-query --search "$(realpath "$1" | sed 's|^/usr||')"
}
for file in "${files[@]}" "${libraries[@]}"; do
    owner "$file" | sed 's/: .*//; s/, .*//'
done | sort -u >"$docs/.owners"
while read -r package; do
    dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' "$package"
    install -m 644 "/usr/share/doc/${package%%:*}/copyright" "$docs/licences/${package%%:*}"
done <"$docs/.owners" >"$docs/debian-packages"
rm "$docs/.owners"
