# Runs when the files are gone, or those of the next package are there ($1 is 1). Layers and volumes stay:
# there is no other copy, and containers may still run on them.
if [ "$1" != 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload >/dev/null 2>&1 || :
        # Callers wait in the socket, which is never restarted.
        systemctl try-restart layerd.service layerd-nri.service 'layerd@*.service' || :
    fi
    exit 0
fi

# The default of `root` in config.toml.
data=/var/lib/containerd/io.containerd.snapshotter.v1.layerd
rm -f /run/layerd/*.sock /run/docker/plugins/layerd.sock
for dir in /run/layerd /run/docker/plugins /run/docker; do
    [ ! -d "$dir" ] || rmdir "$dir" 2>/dev/null || :
done
[ ! -d /run/systemd/system ] || systemctl daemon-reload >/dev/null 2>&1 || :
[ ! -d "$data" ] || echo "layerd: layers and volumes stay in $data"
exit 0
