#!/bin/sh
# Installs layerd from the folder that this script lies in, or takes away what it installed.
#
#   ./install.sh [--prefix DIR] [--root DIR] [--no-start] [--dry-run]
#   ./install.sh --uninstall [--prefix DIR] [--root DIR] [--dry-run]
#
#   --prefix DIR   where programs, units and pages go; /usr/local unless given. Configuration is in /etc
#   --root DIR     the top directory of another machine's tree, such as an image's: nothing is started there
#   --no-start     enable and start no units
#   --dry-run      print what would be done, and change nothing
#
# Nothing is changed if a file is in the way that is not layerd's and not the same; it is named. What was put
# is noted with its checksums in DIR/share/layerd/installed. Files that were changed since stay on --uninstall,
# configuration among them, and so do all data. Running it again upgrades: configuration that was changed is
# kept, and the new default lies beside it as *.new. Needs a POSIX shell, and sha256sum, sed, find and mktemp of
# coreutils or busybox.
set -eu
umask 022
PATH=$PATH:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL

units="layerd.socket layerd-docker.socket layerd.service"
data=/var/lib/containerd/io.containerd.snapshotter.v1.layerd
here=$(cd "$(dirname "$0")" && pwd -P)

die() {
    echo "install.sh: $*" >&2
    exit 1
}

usage() {
    sed -n 's/^# \{0,1\}//; 2,12p' "$0"
}

# Changes something, or says that it would.
act() {
    if [ -n "$dry" ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}

checksum() {
    sum=$(sha256sum <"$1")
    echo "${sum%% *}"
}

# Path on the machine of a file of the package.
place() {
    case $1 in
    etc/*) echo "/$1" ;;
    usr/lib/systemd/* | usr/lib/tmpfiles.d/*) echo "$lib/${1#usr/lib/}" ;;
    usr/*) echo "$prefix/${1#usr/}" ;;
    *) die "$1 is no path of a package" ;;
    esac
}

# True if the file at $1 is as the record says that it was put.
is_recorded() {
    [ ! -L "$root$1" ] && [ -f "$root$1" ] && [ -f "$record" ] &&
        grep -qxF "$(checksum "$root$1")  $1" "$record"
}

is_named() {
    [ -f "$record" ] && grep -q "^[0-9a-f]*  $1\$" "$record"
}

# Fills $stage with all files under their paths on the machine.
fill_stage() {
    (cd "$here" && sha256sum -c SHA256SUMS >/dev/null) || die "$here: files differ from SHA256SUMS: unpack the archive anew"
    [ -n "$root" ] || "$here/files/usr/bin/layerd" --version >/dev/null ||
        die "$here/files/usr/bin/layerd does not run on this machine ($(uname -m))"
    (cd "$here/files" && find . -type f) | sed 's|^\./||' | sort >"$work/names"
    while read -r name; do
        path=$(place "$name")
        mkdir -p "$stage${path%/*}"
        case $name in
        usr/lib/systemd/*) sed "s|/usr/bin/|$prefix/bin/|g" "$here/files/$name" >"$stage$path" ;;
        *) cp -p "$here/files/$name" "$stage$path" ;;
        esac
    done <"$work/names"
    mkdir -p "$stage$prefix/share/layerd"
    cp -p "$here/install.sh" "$stage$prefix/share/layerd/install.sh"
    (cd "$stage" && find . -type f) | sed 's|^\.||' | sort >"$work/paths"
}

# Names other installations, whose units would win over these or lose to them.
find_others() {
    for dir in /etc/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
        other=$root$dir/layerd.service
        [ -e "$other" ] || [ -L "$other" ] || continue
        is_named "$dir/layerd.service" && continue
        [ "$other" -ef "$root$lib/systemd/system/layerd.service" ] && continue
        echo "$dir/layerd.service is of another installation of layerd: remove that first"
    done
}

# Decides what becomes of each file: one line of `put`, `keep`, `kept` or `same`, and the path.
plan() {
    while read -r path; do
        if [ ! -e "$root$path" ] && [ ! -L "$root$path" ]; then
            echo "put $path"
        elif [ ! -L "$root$path" ] && [ -f "$root$path" ] && [ "$(checksum "$root$path")" = "$(checksum "$stage$path")" ]; then
            echo "same $path"
        elif is_recorded "$path"; then
            echo "put $path"
        elif [ "${path#/etc/}" != "$path" ] && [ ! -L "$root$path" ] && [ -f "$root$path" ]; then
            # The default that its administrator has seen before is not shown again.
            if [ -f "$record" ] && grep -qxF "$(checksum "$stage$path")  $path" "$record"; then
                echo "kept $path"
            else
                echo "keep $path"
            fi
        else
            echo "$path is in the way: it is not as install.sh puts it" >>"$work/conflicts"
        fi
    done <"$work/paths"
}

# Directories that are missing, the deepest last.
missing_directories() {
    for path in $(cat "$work/paths") "$prefix/share/layerd/installed"; do
        dir=${path%/*}
        while [ -n "$dir" ] && [ ! -d "$root$dir" ]; do
            echo "$dir"
            dir=${dir%/*}
        done
    done | sort -u
}

# Puts a file under its name whole: a program may be running.
put() {
    mode=644
    [ ! -x "$stage$1" ] || mode=755
    cp "$stage$1" "$root$2.layerd-new" || {
        rm -f "$root$2.layerd-new"
        die "$2 is not put; run this again, or with --uninstall"
    }
    chmod "$mode" "$root$2.layerd-new"
    mv -f "$root$2.layerd-new" "$root$2"
}

put_all() {
    while read -r how path; do
        case $how in
        put) put "$path" "$path" ;;
        keep) put "$path" "$path.new" ;;
        esac
    done <"$work/plan"
}

# Lines of the record: checksum and path, or `dir` and path.
new_record() {
    while read -r how path; do
        echo "$(checksum "$stage$path")  $path"
        [ "$how" != keep ] || echo "$(checksum "$stage$path")  $path.new"
    done <"$work/plan"
    sed 's/^/dir  /' "$work/directories"
    [ ! -f "$record" ] || grep '^dir  ' "$record" || true
}

# Removes files of an older release that this one has no more.
remove_old() {
    [ -f "$work/old" ] || return 0
    while read -r sum path; do
        [ "$sum" != dir ] && ! grep -q "  $path\$" "$work/record" || continue
        ! is_recorded "$path" || rm -f "$root$path"
    done <"$work/old"
}

has_systemd() {
    [ -z "$root" ] && [ -d /run/systemd/system ]
}

start() {
    has_systemd || return 0
    act systemctl daemon-reload
    [ -z "$no_start" ] || return 0
    # As a package does: the sockets, and not the daemon, which the first call starts.
    if [ -z "$is_upgrade" ]; then
        # shellcheck disable=SC2086
        act systemctl --quiet enable $units || echo "install.sh: units are not enabled" >&2
        act systemctl start layerd.socket || true
    else
        act systemctl try-restart layerd.service layerd-nri.service 'layerd@*.service' || true
    fi
    act systemctl start layerd-docker.socket || true
}

install_all() {
    fill_stage
    : >"$work/conflicts"
    find_others >>"$work/conflicts"
    plan >"$work/plan"
    if [ -s "$work/conflicts" ]; then
        sed 's/^/install.sh: /' "$work/conflicts" >&2
        die "nothing was changed"
    fi
    missing_directories >"$work/directories"
    is_upgrade=
    [ ! -f "$record" ] || is_upgrade=yes
    if [ -n "$dry" ]; then
        sed -n 's/^put /would put /p; s/^keep \(.*\)/would keep \1, and put \1.new/p' "$work/plan"
        start
        return
    fi
    new_record | sort -u >"$work/record"
    while read -r dir; do
        mkdir -p "$root$dir"
    done <"$work/directories"
    mkdir -p "$root$prefix/share/layerd"
    # First both records: an installation that is cut short can be repeated or undone.
    [ ! -f "$record" ] || cp "$record" "$work/old"
    cat "$work/record" ${is_upgrade:+"$work/old"} | sort -u >"$record.layerd-new"
    mv -f "$record.layerd-new" "$record"
    put_all
    remove_old
    cp "$work/record" "$record.layerd-new"
    mv -f "$record.layerd-new" "$record"
    sed -n 's/^keep \(.*\)/install.sh: \1 was changed and is kept; the new default is \1.new/p' "$work/plan"
    start
    echo "layerd is installed below $prefix; to remove it: $prefix/share/layerd/install.sh --uninstall"
}

# Takes layerd out of other programs' configuration, and ends it.
stop() {
    [ -z "$root" ] || return 0
    layerctl=$prefix/bin/layerctl
    if [ -x "$layerctl" ]; then
        for program in containerd docker podman; do
            [ "$program" != containerd ] || [ -e /etc/containerd/conf.d/layerd.toml ] || continue
            act "$layerctl" setup "$program" --remove >"$work/said" 2>&1 ||
                echo "install.sh: what tells $program of layerd stays, as it was edited: remove it" >&2
            [ -z "$dry" ] || cat "$work/said"
        done
    fi
    has_systemd || return 0
    for link in /etc/systemd/system/*.wants/layerd@?*; do
        [ ! -L "$link" ] || act systemctl --quiet disable "${link##*/}" || true
    done
    act systemctl stop 'layerd@*.socket' 'layerd@*.service' || true
    # shellcheck disable=SC2086
    act systemctl --quiet disable --now $units layerd-csi.socket layerd-nri.service || true
}

remove_recorded() {
    while read -r sum path; do
        [ "$sum" != dir ] || continue
        if [ ! -e "$root$path" ] && [ ! -L "$root$path" ]; then
            continue
        elif is_recorded "$path"; then
            act rm -f "$root$path"
        else
            echo "install.sh: $path was changed and stays"
        fi
    done <"$work/old"
}

uninstall_all() {
    [ -f "$record" ] || die "$record is not there: nothing was installed below $prefix (see --prefix)"
    cp "$record" "$work/old"
    stop
    remove_recorded
    act rm -f "$record"
    sed -n 's/^dir  //p' "$work/old" | sort -r | while read -r dir; do
        [ ! -d "$root$dir" ] || act rmdir "$root$dir" 2>/dev/null || true
    done
    if [ -z "$root" ]; then
        act rm -f /run/layerd/*.sock /run/docker/plugins/layerd.sock
        for dir in /run/layerd /run/docker/plugins /run/docker; do
            [ ! -d "$dir" ] || act rmdir "$dir" 2>/dev/null || true
        done
    fi
    ! has_systemd || act systemctl daemon-reload
    [ ! -d "$root$data" ] || echo "layerd: layers and volumes stay in $data"
}

options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --prefix | --root)
            [ $# -gt 1 ] || die "$1 needs a directory"
            case $2 in
            /*) ;;
            *) die "$1 is $2, and must be an absolute path" ;;
            esac
            case $2 in
            *[!A-Za-z0-9._/+-]* | */../* | */..) die "$1 is $2, and may hold letters, digits and . _ + - / alone, and no .." ;;
            esac
            [ "$1" = --root ] && root=${2%/} || prefix=${2%/}
            shift
            ;;
        --uninstall) what=uninstall_all ;;
        --no-start) no_start=yes ;;
        --dry-run) dry=yes ;;
        --help | -h)
            usage
            exit
            ;;
        *) die "$1 is no option; see --help" ;;
        esac
        shift
    done
}

main() {
    prefix=/usr/local root='' what=install_all no_start='' dry='' is_upgrade=''
    # The copy that an installation leaves knows where it is.
    [ -d "$here/files" ] || prefix=${here%/share/layerd}
    options "$@"
    [ -n "$prefix" ] || die "--prefix is /, and must be a directory below it"
    [ "$(id -u)" = 0 ] || [ -n "$dry" ] || die "run it as root"
    [ "$what" = uninstall_all ] || [ -d "$here/files" ] || die "$here has no files to install: run the install.sh of an unpacked archive"
    # systemd looks into these alone.
    case $prefix in
    /usr | /usr/local) lib=$prefix/lib ;;
    *) lib=/etc ;;
    esac
    record=$root$prefix/share/layerd/installed
    work=$(mktemp -d)
    stage=$work/stage
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    $what
}

main "$@"
exit
