# An image for demos: sourced, by scripts that run as root.

digest() {
    sha256sum "$1" | cut -d' ' -f1
}

# Packs the trees base/ and top/ of the directory $1 as the two layers of an image named $2, in the archive
# format of `docker save`, into the file $3.
pack_image() {
    local dir=$1 name=$2 archive=$3 layer
    for layer in base top; do
        tar -C "$dir/$layer" --numeric-owner -cf "$dir/$layer.tar" .
    done
    cat >"$dir/config.json" <<END
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
 "rootfs": {"type": "layers",
  "diff_ids": ["sha256:$(digest "$dir/base.tar")", "sha256:$(digest "$dir/top.tar")"]}}
END
    echo '[{"Config": "config.json", "RepoTags": ["'"$name"'"], "Layers": ["base.tar", "top.tar"]}]' \
        >"$dir/manifest.json"
    tar -C "$dir" -cf "$archive" manifest.json config.json base.tar top.tar
}
