#!/bin/bash
# Shows that the dashboard and the alerts of deploy/ have data: a Prometheus reads a layerd that is
# under load and in trouble, and is asked what each panel asks it. Uses a layerd and a Prometheus of
# its own; all files are below target/dashboard-demo/. Run as root after `cargo build` and
# `make peers`; more or less than 90 seconds and 300 containers may be named:
#
#     integration/demos/dashboard.sh > docs/evidence/dashboard.txt
#     cp target/dashboard-demo/dashboard.svg docs/evidence/
set -euo pipefail

# In namespaces of its own, so that nothing outlives it, however it ends, and that no port is taken.
if [[ ${1:-} != inside ]]; then
    ((EUID == 0)) || { echo "dashboard.sh: must run as root: it mounts" >&2 && exit 1; }
    exec unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc \
        "$0" inside "${1:-90}" "${2:-300}"
fi

load_secs=$2
containers=$3
cd "$(dirname "$0")/../.."
bin=${LAYERD_BIN:-$PWD/target/debug}
prom=$PWD/target/peers/prometheus/usr/bin
demo=$PWD/target/dashboard-demo
layer=$demo/layer.tar

. integration/demos/transcript.sh

layerctl() {
    "$bin/layerctl" --address "$demo/layerd.sock" "$@"
}

# A refusal shows in the panels, and in a log.
quietly() {
    layerctl "$@" >/dev/null 2>>"$demo/load.log" || true
}

# What happens, and how long after the first look of Prometheus.
happens() {
    say "After $(($(date +%s) - start)) s: $*"
}

# The containers that stay, on an image of one layer.
settle() {
    local number
    quietly snapshot prepare image-key
    quietly layer apply image-key "$layer"
    quietly snapshot commit image image-key
    for ((number = 0; number < containers; number++)); do
        echo "stays-$number"
    done | xargs -P 2 -I KEY "$bin/layerctl" --address "$demo/layerd.sock" snapshot prepare KEY image >/dev/null
}

# What a node does all day, by one of several at a time: an image is pulled, containers come and go
# on it, and it is removed.
work() {
    local me=$1 turn image
    for ((turn = 0; SECONDS < load_secs; turn++)); do
        image=$me-$turn
        quietly snapshot prepare "$image-key"
        quietly layer apply "$image-key" "$layer"
        quietly snapshot commit "$image" "$image-key"
        quietly snapshot view "$image-view" "$image"
        quietly snapshot prepare "$image-container" "$image"
        quietly attach --owner "container:$image" -v "data-$me:/data" -v /etc:/host:ro
        quietly snapshot usage "$image-container"
        # Is refused: containers build on it.
        quietly snapshot rm "$image"
        sleep 1
        quietly detach --owner "container:$image"
        quietly snapshot rm "$image-view" "$image-container" "$image"
        quietly volume ls
    done
}

# The directory of an active snapshot.
directory() {
    layerctl snapshot mounts -o json "$1" | grep -o "$demo/root/l/[^\",:]*"
}

# Removes a layer that cannot be deleted, because something is mounted in it.
stick() {
    quietly snapshot prepare stuck
    stuck=$(directory stuck)
    mkdir "$stuck/mnt"
    mount -t tmpfs none "$stuck/mnt"
    quietly snapshot rm stuck
}

# Takes a layer's directory away.
damage() {
    quietly snapshot prepare damaged
    mv "$(directory damaged)" "$demo/kept"
    quietly fsck --repair
}

# Removes all containers that stay.
lose() {
    local keys
    mapfile -t keys < <(layerctl snapshot ls -q --kind active | grep '^stays-')
    quietly snapshot rm "${keys[@]}"
}

is_scraped() {
    "$prom/promtool" query instant http://localhost:9090 layerd_build_info | grep -q layerd
}

[[ -x $bin/layerd && -x $bin/layerctl ]] || die "run \`cargo build\` first"
[[ -x $prom/prometheus ]] || die "run \`make peers\` (integration/peers/install.sh) first"
rm -rf --one-file-system "$demo"
mkdir -p "$demo/files"
ip link set lo up
cat >"$demo/layerd.toml" <<END
[metrics]
address = "127.0.0.1:9323"
[overlayfs]
layers = "images"
[reaper]
every_secs = 1
[trash]
min_free_percent = 0
guard_min = $containers
guard_percent = 30
END
cat >"$demo/prometheus.yml" <<END
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [$PWD/deploy/alerts.yml]
scrape_configs:
  - job_name: layerd
    static_configs: [{targets: ["localhost:9323"]}]
END
head -c 4000000 /dev/urandom >"$demo/files/data"
tar -C "$demo/files" -cf "$layer" .

"$bin/layerd" --config "$demo/layerd.toml" --root "$demo/root" --socket "$demo/layerd.sock" \
    >"$demo/layerd.log" 2>&1 &
await layerctl info
"$prom/prometheus" --config.file="$demo/prometheus.yml" --storage.tsdb.path="$demo/data" \
    --web.listen-address=127.0.0.1:9090 >"$demo/prometheus.log" 2>&1 &
await is_scraped
start=$(date +%s)

# With fewer snapshots than guard_min, its deletion is tried at once.
happens "Something is mounted in a layer that is removed."
stick
happens "A node gets $containers containers."
settle
happens "Images come and go for $load_secs seconds."
SECONDS=0
workers=()
for me in a b; do
    work $me &
    workers+=($!)
done
sleep $((load_secs * 3 / 10))
happens "A layer loses its directory."
damage
sleep $((load_secs * 2 / 10))
happens "All $containers containers are removed at once, and not restored."
lose
sleep $((load_secs * 3 / 10))
happens "An operator unmounts the mounts, and confirms the removal of the containers."
umount "$(echo "$demo"/root/*/*/mnt)"
quietly trash empty --yes
wait "${workers[@]}"

say "What the panels of deploy/grafana.json show of this, last, least and most."
python3 integration/demos/dashboard.py deploy/grafana.json http://localhost:9090 "$start" "$(date +%s)" "$demo/dashboard.svg"
