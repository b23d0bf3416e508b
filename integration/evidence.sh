#!/bin/bash
# Makes the transcripts in docs/evidence of what tests have left in target/evidence, and of runs of
# recovery.sh and rootless.sh. Called by `make evidence`.
set -euo pipefail

cd "$(dirname "$0")/.."
made=target/evidence
to=docs/evidence

{
    cat <<'TEXT'
Faults that a test injects into Debian machines under systemd (integration/tests/package/faults/), and what
`layerctl doctor` says of each: the finding, and the command that a shell ran exactly as printed, after which
doctor found the fault gone (in brackets the name of the fix, `fix_name` in JSON); or the advice, where no
command ends it. Made by `make evidence`.

TEXT
    for part in daemon data containerd old-containerd; do
        cat "$made/doctor-$part.txt"
    done
} >"$to/doctor.txt"
cp "$made/package.txt" "$to/package.txt"

# Of each client: the name, the title, and the files that its tests have left.
clients=(
    "docker|Docker 28 on layerd's volume plugin (volume_plugin/docker.rs)|docker"
    "compose|Docker Compose on layerd's volume plugin (volume_plugin/docker.rs)|compose"
    "podman|Podman 4.3, then 5, on layerd's volume plugin (volume_plugin/podman.rs)|podman-4.3 podman-5"
    "csi|An orchestrator on layerd's CSI sockets: its calls' answers (csi/node.rs, csi/snapshots.rs)|csi-node csi-snapshots"
    "cri-users|Pods with user namespaces on containerd 2.1 and runc 1.3, with volumes of CSI: answers of CRI (cri/users.rs)|cri-users"
    "cri|containerd 1.7, then 2.1, with layerd-nri: answers of CRI (cri.rs)|cri-root_containerd_1_7 cri-root_containerd_2_1"
)
for client in "${clients[@]}"; do
    IFS='|' read -r name title parts <<<"$client"
    {
        printf '%s.\nMade by `make evidence`; $DIR is a folder of the test, and long lines are cut.\n' "$title"
        for part in $parts; do
            printf '\n'
            cat "$made/$part.txt"
        done
    } >"$to/$name.txt"
done
integration/demos/recovery.sh >"$to/recovery.txt" 2>&1
integration/demos/rootless.sh >"$to/rootless.txt" 2>&1
