#!/bin/bash
# Fuzzes the reading and unpacking of archives, and images of EROFS: run.sh MINUTES [TARGET...]. Guided by coverage, on
# the stable toolchain: the flags are those of LLVM's SanitizerCoverage, the fuzzer is libFuzzer,
# which libfuzzer-sys brings. It starts from corpus/TARGET; what it learns stays below target/fuzz.
# Run as root: unpacking makes devices. Ends with 1 and names the input when something was found.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd -P)
made=${CARGO_TARGET_DIR:-$here/../../../target}/fuzz
minutes=${1:?"usage: run.sh MINUTES [TARGET...]"}
shift
targets=("$@")
((${#targets[@]})) || targets=(reader apply erofs)
triple=$(rustc -vV | sed -n 's/^host: //p')

build() {
    local coverage="-sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters
        -sanitizer-coverage-pc-table -sanitizer-coverage-trace-compares" flags flag
    flags="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module"
    for flag in $coverage; do
        flags+=" -Cllvm-args=$flag"
    done
    RUSTFLAGS=$flags cargo build --quiet --release --target "$triple" \
        --target-dir "$made" --manifest-path "$here/Cargo.toml"
}

build
for target in "${targets[@]}"; do
    mkdir -p "$made/found/$target" "$here/corpus/$target"
    echo "run.sh: $target, $minutes minutes; what it finds goes to $made/found/$target"
    # Mounts of a target are gone with the namespace.
    unshare --mount --propagation private "$made/$triple/release/$target" \
        "$made/found/$target" "$here/corpus/$target" -artifact_prefix="$made/found/$target-" \
        -max_total_time=$((minutes * 60)) -max_len=65536 -timeout=20 -rss_limit_mb=1024 \
        -print_final_stats=1 -verbosity=0
done
