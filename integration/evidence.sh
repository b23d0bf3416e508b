#!/bin/bash
# Makes docs/evidence/doctor.txt, package.txt and recovery.txt of what `make test-package` has left in
# target/evidence, and of a run of recovery.sh. Called by `make evidence`.
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
integration/demos/recovery.sh >"$to/recovery.txt" 2>&1
