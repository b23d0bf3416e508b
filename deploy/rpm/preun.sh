# Runs before the files go. An upgrade ($1 is 1) stops nothing.
[ "$1" = 0 ] || exit 0

# With the drop-in, and without layerd, containerd would unpack nothing once it has restarted. What was
# edited stays, and is named.
dropin=/etc/containerd/conf.d/layerd.toml
if [ -e "$dropin" ]; then
    if layerctl setup containerd --remove; then
        echo "layerd: containerd asks for layerd until it is restarted: systemctl restart containerd"
    else
        echo "layerd: $dropin stays: remove it, then: systemctl restart containerd" >&2
    fi
fi
for program in docker podman; do
    layerctl setup "$program" --remove >/dev/null ||
        echo "layerd: what tells $program of its volume plugin stays, as it was edited: remove it" >&2
done

if [ -d /run/systemd/system ]; then
    for link in /etc/systemd/system/*.wants/layerd@?*; do
        [ ! -L "$link" ] || systemctl --quiet disable "${link##*/}" || :
    done
    systemctl stop 'layerd@*.socket' 'layerd@*.service' || :
    # All at once, so that no call starts the daemon anew in between.
    systemctl --quiet disable --now layerd.socket layerd-docker.socket layerd.service layerd-csi.socket layerd-nri.service || :
elif command -v systemctl >/dev/null; then
    systemctl --quiet disable layerd.socket layerd-docker.socket layerd.service layerd-csi.socket layerd-nri.service >/dev/null 2>&1 || :
fi
exit 0
