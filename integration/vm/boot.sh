#!/bin/bash
# Boots a kernel that peers/install.sh unpacked, in a virtual machine without a disk that sees the
# files of this one, and runs tests there: boot.sh KERNEL LIST DISK LIMIT SECONDS [EXTRA].
#
# KERNEL is a folder of target/peers, as linux-6.1. LIST is described in guest.sh. DISK is the folder
# that is a disk of its own there; LIMIT are the seconds that one test may take, SECONDS those of
# all. EXTRA is another folder of target/peers: its modules are loaded as well, and its tree/ has programs
# that the tests find. Exits with 124 if they are over. qemu itself always succeeds: who calls this counts what the
# machine printed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
peers=$here/../../target/peers
kernel=$peers/$1
qemu=$peers/qemu
[[ -e $kernel/VERSIONS && -e $qemu/VERSIONS ]] || {
    echo "boot.sh: no $1 or no qemu: run make peers" >&2
    exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,dev,proc,sys,host,upper,root,vm}
cp /bin/busybox "$work/root/bin/"
cp "$here/init" "$work/root/"
cp -r "$kernel/modules" "$work/root/"
cp "$here/guest.sh" "$work/root/vm/"
cp "$2" "$work/root/vm/list"
printf 'disk=%q\nlimit=%q\nextra=\n' "$3" "$4" >"$work/root/vm/settings"
if [[ -n ${6-} ]]; then
    [[ -e $peers/$6/VERSIONS ]] || { echo "boot.sh: no $6: run install.sh for it" >&2 && exit 1; }
    cp "$peers/$6"/modules/* "$work/root/modules/"
    printf 'extra=%q\n' "$(cd "$peers/$6" && pwd -P)/tree" >>"$work/root/vm/settings"
fi
(cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

run=(qemu-system-x86_64)
if [[ -x $qemu/usr/bin/qemu-system-x86_64 ]]; then
    run=("$qemu/usr/bin/qemu-system-x86_64" -L "$qemu/usr/share/qemu" -L "$qemu/usr/share/seabios")
    export LD_LIBRARY_PATH=$qemu/usr/lib/x86_64-linux-gnu:$qemu/lib/x86_64-linux-gnu
fi
# Emulated, so that it works where there is no KVM. On a busy machine the kernel measures the clock of
# the emulated processor wrong, by factors; the HPET it knows.
timeout --foreground --kill-after 10 "$5" "${run[@]}" \
    -accel tcg,thread=multi -cpu max -smp 2 -m 2G \
    -nographic -no-reboot -nodefaults -serial stdio \
    -kernel "$kernel/vmlinuz" -initrd "$work/initrd" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    </dev/null | sed -u 's/\r$//'
