//! The settings against the limits that systemd's unit sets.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use layerd_mounts::user_namespace;

use super::Looked;
use crate::config::Config;
use crate::ending::CLOSE_LIMIT;
use crate::metrics::Address;
use crate::traces::Endpoint;

const CHECK: &str = "unit";
const PROPERTIES: &str = "LoadState,ExecStart,RestrictAddressFamilies,IPAddressAllow,IPAddressDeny,TimeoutStopUSec,RequiresMountsFor";

/// Compares the configuration with layerd.service, or with an instance, if that starts layerd with this `file`.
pub(super) fn look(config: &Config, file: Option<&Path>) -> Vec<Looked> {
    // As sd_booted(3) tells. The unit of a user sets no such limits.
    if !Path::new("/run/systemd/system").exists() || user_namespace::current().is_some() {
        return Vec::new();
    }
    let mut show = Command::new("systemctl");
    show.args(["show", &name(file), "--property", PROPERTIES]);
    let shown = show.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let shown = shown.map_or(Vec::new(), |shown| shown.stdout);
    let unit = Unit(String::from_utf8_lossy(&shown).into_owned());
    match file.is_some_and(|file| unit.starts_with_file(file)) {
        true => compare(&unit, config),
        false => Vec::new(),
    }
}

/// The unit whose configuration is a file of this name.
fn name(file: Option<&Path>) -> String {
    let stem = file
        .and_then(Path::file_stem)
        .and_then(|stem| stem.to_str());
    match stem.filter(|stem| *stem != "config") {
        Some(instance) => format!("layerd@{instance}.service"),
        None => "layerd.service".to_owned(),
    }
}

fn compare(unit: &Unit, config: &Config) -> Vec<Looked> {
    let network = [
        network(unit, "metrics.address", metrics_peer(config)),
        network(unit, "tracing.endpoint", traces_peer(config)),
    ];
    let mut found: Vec<Looked> = network.into_iter().flatten().collect();
    found.extend(stop(unit, config));
    found.extend(disk(unit, config));
    if found.is_empty() {
        found.push(Looked::well(CHECK, "it allows what is configured"));
    }
    found
}

/// Whom a service over TCP talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Programs of this host.
    Local,
    Anywhere,
}

fn metrics_peer(config: &Config) -> Option<Peer> {
    match &config.metrics {
        Some(Address::Tcp(address)) if address.ip().is_loopback() => Some(Peer::Local),
        Some(Address::Tcp(_)) => Some(Peer::Anywhere),
        _ => None,
    }
}

fn traces_peer(config: &Config) -> Option<Peer> {
    match &config.tracing.endpoint {
        Some(Endpoint::Http(url)) => {
            let host = url.trim_start_matches("http://");
            let local = ["localhost:", "127.", "[::1]:"];
            let is_local = local.iter().any(|start| host.starts_with(start));
            Some(if is_local {
                Peer::Local
            } else {
                Peer::Anywhere
            })
        }
        _ => None,
    }
}

fn network(unit: &Unit, key: &str, peer: Option<Peer>) -> Option<Looked> {
    let peer = peer?;
    let families = unit.value("RestrictAddressFamilies");
    let has_families = families.is_empty()
        || families.starts_with('~')
        || families.split(' ').any(|one| one.starts_with("AF_INET"));
    let has_peers = !unit.value("IPAddressDeny").contains("0.0.0.0/0")
        || !unit.value("IPAddressAllow").is_empty();
    if has_families && has_peers {
        return None;
    }
    let found = format!(
        "`{key}` is a TCP address, and layerd.service {}",
        match has_families {
            false => "allows unix sockets alone (RestrictAddressFamilies=)",
            true => "lets it talk to no address (IPAddressDeny=, IPAddressAllow=)",
        }
    );
    Some(match peer {
        Peer::Local => Looked {
            fix: widen(key),
            fix_name: "open-unit-to-host",
            ..Looked::unwell(CHECK, found)
        },
        Peer::Anywhere => Looked {
            advice: "run `systemctl edit layerd`, add RestrictAddressFamilies=AF_INET AF_INET6 and name in IPAddressAllow= \
                     who may talk to it; or use a unix socket"
                .to_owned(),
            ..Looked::unwell(CHECK, found)
        },
    })
}

/// A drop-in for the unit that opens it to this host.
fn widen(key: &str) -> String {
    let (name, _) = key.split_once('.').unwrap_or((key, ""));
    let dir = "/etc/systemd/system/layerd.service.d";
    format!(
        "mkdir -p {dir} && printf '[Service]\\nRestrictAddressFamilies=AF_INET AF_INET6\\nIPAddressAllow=localhost\\n' \
         >{dir}/{name}.conf && systemctl daemon-reload && systemctl restart layerd.service"
    )
}

fn stop(unit: &Unit, config: &Config) -> Option<Looked> {
    let given = time_span(unit.value("TimeoutStopUSec"))?;
    let own = config.stop_timeout;
    (given < own + CLOSE_LIMIT).then(|| Looked {
        advice: "set TimeoutStopSec= of the unit 15 s above stop_timeout_secs with `systemctl edit layerd`".to_owned(),
        ..Looked::unwell(
            CHECK,
            format!(
                "stop_timeout_secs is {}, and layerd.service kills layerd {} s after it was told to stop",
                own.as_secs(),
                given.as_secs()
            ),
        )
    })
}

/// A start before its disk is mounted begins a second, empty store.
fn disk(unit: &Unit, config: &Config) -> Option<Looked> {
    let mut waited_for = unit.value("RequiresMountsFor").split(' ');
    let is_waited_for = waited_for.any(|path| Path::new(path).starts_with(&config.root));
    (!is_waited_for).then(|| Looked {
        fix_name: "wait-for-disk",
        fix: format!(
            "mkdir -p /etc/systemd/system/layerd.service.d && printf '[Unit]\\nRequiresMountsFor=\"%s\"\\n' {} \
             >/etc/systemd/system/layerd.service.d/root.conf && systemctl daemon-reload",
            shell_word(&config.root.display().to_string())
        ),
        ..Looked::unwell(
            CHECK,
            format!(
                "layerd.service does not wait for the file system of root = {} (RequiresMountsFor=)",
                config.root.display()
            ),
        )
    })
}

fn shell_word(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Output of `systemctl show`.
struct Unit(String);

impl Unit {
    fn value(&self, name: &str) -> &str {
        let mut lines = self.0.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default()
    }

    fn starts_with_file(&self, file: &Path) -> bool {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let file = file.display().to_string();
        self.value("LoadState") == "loaded"
            && self
                .value("ExecStart")
                .split([' ', '='])
                .any(|word| word == file)
    }
}

/// Reads `1min 30s`; none for `infinity` and what it does not know.
fn time_span(text: &str) -> Option<Duration> {
    let mut whole = Duration::ZERO;
    for part in text.split(' ') {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = part.split_at(digits);
        let seconds = match unit {
            "h" => 3600,
            "min" => 60,
            "s" => 1,
            _ => return None,
        };
        whole += Duration::from_secs(count.parse::<u64>().ok()?.checked_mul(seconds)?);
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = "LoadState=loaded\n\
        ExecStart={ path=/usr/bin/layerd ; argv[]=/usr/bin/layerd --config /etc/layerd/config.toml ; ignore_errors=no }\n\
        RestrictAddressFamilies=AF_UNIX\nIPAddressAllow=\nIPAddressDeny=0.0.0.0/0 ::/0\nTimeoutStopUSec=45s\n\
        RequiresMountsFor=/var/lib/containerd/io.containerd.snapshotter.v1.layerd\n";

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let settings = crate::Settings {
            config: Some(path),
            root: None,
            driver: None,
            socket: None,
            csi_socket: None,
            csi_node_id: None,
            log_level: None,
            log_format: None,
        };
        Config::load(&settings).unwrap()
    }

    fn found(unit: &str, text: &str) -> Vec<Looked> {
        compare(&Unit(unit.to_owned()), &config(text))
    }

    #[test]
    fn what_the_shipped_unit_allows_is_well() {
        for text in [
            "",
            "[metrics]\naddress = 'unix:/run/m.sock'",
            "[tracing]\nendpoint = 'unix:/run/o.sock'",
        ] {
            let found = found(SHIPPED, text);
            assert!(found.len() == 1 && found[0].ok, "{found:?}");
        }
    }

    #[test]
    fn what_it_does_not_allow_is_named() {
        let table = [
            (
                "[metrics]\naddress = '127.0.0.1:9100'",
                "`metrics.address` is a TCP",
                true,
            ),
            (
                "[metrics]\naddress = '0.0.0.0:9100'",
                "`metrics.address` is a TCP",
                false,
            ),
            (
                "[tracing]\nendpoint = 'http://localhost:4317'",
                "`tracing.endpoint` is a TCP",
                true,
            ),
            (
                "[tracing]\nendpoint = 'http://far:4317'",
                "unix sockets alone",
                false,
            ),
            ("stop_timeout_secs = 36", "kills layerd 45 s after", false),
            (
                "root = '/data'",
                "does not wait for the file system of root = /data",
                true,
            ),
        ];
        for (text, wanted, has_fix) in table {
            let found = found(SHIPPED, text);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                !found[0].ok && found[0].wanted && found[0].found.contains(wanted),
                "{found:?}"
            );
            assert_eq!(
                (found[0].fix.is_empty(), found[0].advice.is_empty()),
                (!has_fix, has_fix)
            );
        }
        let open = SHIPPED.replace("AF_UNIX", "AF_UNIX AF_INET");
        let tcp = "[metrics]\naddress = '127.0.0.1:9100'";
        assert!(found(&open, tcp)[0].found.contains("talk to no address"));
        let open = open.replace("IPAddressAllow=", "IPAddressAllow=127.0.0.0/8");
        assert!(found(&open, tcp)[0].ok);
    }

    #[test]
    fn another_file_than_the_unit_s_is_not_compared() {
        let unit = Unit(SHIPPED.to_owned());
        assert!(unit.starts_with_file(Path::new("/etc/layerd/config.toml")));
        assert!(!unit.starts_with_file(Path::new("/etc/layerd/config")));
    }

    #[test]
    fn time_spans_are_read() {
        assert_eq!(time_span("1min 30s"), Some(Duration::from_secs(90)));
        assert_eq!(time_span("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(time_span("infinity"), None);
        assert_eq!(time_span(""), None);
    }
}
