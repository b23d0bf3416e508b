#!/bin/bash
# Process 1 of the virtual machine once the host's files are there: runs the tests that /run/vm/list
# names, each in a process of its own, two at a time, and switches the machine off.
#
# Lines of the list, separated by tabs: a test program, its working directory, the name of a test.
#
# Prints "vm: ok PROGRAM NAME SECONDS", or what the test said and "vm: failed PROGRAM NAME", and a last
# line with both counts. Without that line the run did not end.
set -u

# Runs one test: program, working directory, name.
one() {
    local log=/run/vm/log.$BASHPID start=$EPOCHREALTIME program=${1##*/} rc
    program=${program%-*} # without cargo's hash
    (cd "$2" && exec timeout --kill-after 10 "$limit" "$1" --exact "$3" --nocapture) >"$log" 2>&1 </dev/null
    rc=$?
    # A name that matches no test is no success.
    if ((rc == 0)) && grep -q '^test result: ok\. 1 passed' "$log"; then
        awk -v name="$program $3" -v start="$start" -v now="$EPOCHREALTIME" \
            'BEGIN { printf "vm: ok %s %.1f\n", name, now - start }'
    else
        { sed 's/^/    /' "$log" && echo "vm: failed $program $3 (exit code $rc)"; } >"$log.told"
        cat "$log.told"
    fi
    rm -f "$log" "$log.told"
}

. /run/vm/settings # limit, disk, extra
export limit PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
if [[ -n $extra ]]; then
    PATH=$extra/usr/sbin:$extra/sbin:$PATH
    LD_LIBRARY_PATH=$(printf '%s:' "$extra"/usr/lib/*-linux-gnu "$extra"/lib/*-linux-gnu)
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH%:}
fi
# Without hardware virtualisation random cases cost much, and they are tried natively.
export PROPTEST_CASES=4
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Layers cannot lie on an overlay: the folder that the tests use gets a disk.
truncate -s 3G /run/disk
mkfs.ext4 -q /run/disk
mkdir -p "$disk"
mount -o loop /run/disk "$disk"
mkdir -p "$disk/tmp"
export TMPDIR=$disk/tmp

echo "vm: up at $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"
export -f one
tr '\t\n' '\0\0' </run/vm/list | xargs -0 -r -n 3 -P 2 bash -c 'one "$@"' one | tee /run/vm/results
echo "vm: end at $(cut -d' ' -f1 /proc/uptime) s," \
    "ok $(grep -c '^vm: ok' /run/vm/results), failed $(grep -c '^vm: failed' /run/vm/results)"
echo o >/proc/sysrq-trigger
sleep 60
