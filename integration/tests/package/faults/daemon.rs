//! Faults of the daemon, its units and its configuration.

use super::table::{Fault, advice, fix};

pub(super) const FAULTS: [Fault; 26] = [
    // The daemon and its units.
    fix("layerd is stopped", "daemon", "cannot reach layerd", "both stop", ""),
    fix("the file of the socket is gone", "daemon", "cannot reach layerd", "rm /run/layerd/layerd.sock", ""),
    fix("the service is disabled", "unit", "layerd.service is not enabled", "systemctl disable layerd.service", ""),
    fix("the service is masked", "unit", "is masked", "both stop; systemctl mask layerd.service", ""),
    fix("the socket is masked", "unit", "is masked", "both stop; systemctl mask layerd.socket", ""),
    fix(
        "a unit was changed and not read again",
        "unit",
        "changed since systemd read them",
        "mkdir -p $D; echo '[Service]' >$D/test.conf",
        "unit_back",
    ),
    fix("nothing restarts it", "unit", "has Restart=no", "unit Restart=no", "unit_back"),
    fix("it has no watchdog", "unit", "has no WatchdogSec=", "unit WatchdogSec=0", "unit_back"),
    fix(
        "a capability is taken away",
        "unit",
        "lacks CAP_MKNOD",
        "unit CapabilityBoundingSet= 'CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_FOWNER CAP_LINUX_IMMUTABLE CAP_CHOWN CAP_FSETID CAP_SETFCAP'",
        "unit_back",
    ),
    fix("PrivateMounts=yes", "unit", "a mount namespace of its own", "unit PrivateMounts=yes", "unit_back"),
    fix("PrivateTmp=yes", "unit", "a mount namespace of its own", "unit PrivateTmp=yes", "unit_back"),
    fix("ProtectSystem=full", "unit", "a mount namespace of its own", "unit ProtectSystem=full", "unit_back"),
    fix("few descriptors", "unit", "may have 1024 file descriptors", "unit LimitNOFILE=1024", "unit_back"),
    fix(
        "the program was replaced",
        "unit",
        "was replaced since it started",
        "cp /usr/bin/layerd /root/layerd; mv /root/layerd /usr/bin/layerd",
        "",
    ),
    fix(
        "it crashed",
        "unit",
        "started layerd anew 1 times",
        "systemctl kill -s KILL layerd.service; wait_for '[ $(systemctl show --value -p NRestarts layerd.service) = 1 ]'; layerctl info",
        "",
    ),
    // Its configuration.
    fix(
        "metrics over TCP that the unit forbids",
        "host: unit",
        "`metrics.address` is a TCP address",
        "conf metrics address '\"127.0.0.1:9100\"'",
        "conf_back; unit_back",
    ),
    advice(
        "metrics at a port that is taken",
        "metrics.address",
        "Address already in use",
        "systemd-run --quiet --unit=taken --socket-property=ListenStream=127.0.0.1:9100 true
        unit 'RestrictAddressFamilies=AF_INET' IPAddressAllow=localhost; conf metrics address '\"127.0.0.1:9100\"'",
        "systemctl stop taken.socket; conf_back; unit_back",
    ),
    fix(
        "traces over TCP that the unit forbids",
        "host: unit",
        "`tracing.endpoint` is a TCP address",
        "conf tracing endpoint '\"http://localhost:4317\"'",
        "conf_back; unit_back",
    ),
    advice(
        "a collector of traces that is away",
        "tracing.endpoint",
        "does not work",
        "conf tracing endpoint '\"unix:/run/away.sock\"'; wait_for 'layerctl info | grep -q tracing.endpoint'",
        "conf_back",
    ),
    advice(
        "a stop that the unit does not wait for",
        "host: unit",
        "stop_timeout_secs is 60",
        "sed -i 's/^#stop_timeout_secs = 30/stop_timeout_secs = 60/' $C; systemctl restart layerd.service",
        "conf_back",
    ),
    advice("an unknown setting", "configuration", "unknown field `bogus`", "sed -i '1i bogus = 1' $C", "conf_back"),
    fix(
        "a setting that is not in force",
        "configuration in force",
        "is \"9\" in the file",
        "sed -i 's/^keep_secs = 3600/keep_secs = 9/' $C",
        "conf_back",
    ),
    fix("others may write the configuration", "configuration files", "has the mode 0666", "chmod 666 $C", ""),
    fix("the configuration is another's", "configuration files", "belongs to the user 1000", "chown 1000 $C", ""),
    fix("others may write the drop-in", "configuration files", "has the mode 0646", "chmod 646 $K/conf.d/layerd.toml", ""),
    fix("others may connect", "socket", "has the mode 0666", "chmod 666 /run/layerd/layerd.sock", ""),
];
