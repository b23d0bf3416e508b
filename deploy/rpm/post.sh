# Starts nothing by itself: presets of the distribution decide, as is usual there. Of an upgrade, the old
# package's last script restarts what runs, while systemd holds the socket.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null 2>&1 || :
fi
if [ "$1" = 1 ] && command -v systemctl >/dev/null; then
    systemctl --no-reload preset layerd.socket layerd-docker.socket layerd.service >/dev/null 2>&1 || :
    if [ -d /run/systemd/system ]; then
        for unit in layerd.socket layerd-docker.socket; do
            ! systemctl --quiet is-enabled "$unit" 2>/dev/null || systemctl start "$unit" || :
        done
    fi
fi
exit 0
