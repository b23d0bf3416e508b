//! containerd: its release, what its files say of layerd, and what it has loaded.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use layerd_proto::containerd::services::introspection::v1::Plugin;

use super::{Finding, quoted};
use crate::containerd::Version;
use crate::containerd::dropin::DIFFER;
use crate::containerd::effective::{Effective, Proxy};
use crate::containerd::main_file::MAIN;

const DROP_IN: &str = "containerd's drop-in";
const DIFF: &str = "containerd's differ";
const RELEASE: &str = "containerd's release";
const SNAPSHOTTERS: &str = "io.containerd.snapshotter.v1";

/// All that is known.
pub(crate) struct Facts<'a> {
    /// containerd's main file, whether or not it is there.
    pub(crate) main: &'a Path,
    pub(crate) files: &'a Effective,
    /// None if containerd does not answer.
    pub(crate) running: Option<&'a Running>,
    /// Where layerd serves.
    pub(crate) socket: &'a Path,
    /// layerd's settings, as far as they are known.
    pub(crate) settings: &'a BTreeMap<String, String>,
    /// The name of the snapshotter.
    pub(crate) name: &'a str,
}

/// A containerd that answers.
#[derive(Debug)]
pub(crate) struct Running {
    /// As it says.
    pub(crate) version: String,
    /// Its plugins with the name of the snapshotter.
    pub(crate) plugins: Vec<Plugin>,
}

impl Facts<'_> {
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let version = self.running.map(|running| Version::parse(&running.version));
        let mut found = Vec::new();
        if let (Some(running), Some(version)) = (self.running, &version) {
            found.push(release(running, version));
        }
        let version = version.and_then(Result::ok);
        let Some(proxy) = self.files.proxies.get(self.name) else {
            found.push(self.not_told());
            return found;
        };
        found.push(self.drop_in(proxy));
        found.extend(self.loaded(proxy));
        found.extend(self.export(proxy, version));
        found.extend(capabilities(self, proxy, version));
        found.extend(self.differ(version));
        found.extend(self.transfer(version));
        found
    }

    /// No file has the proxy.
    fn not_told(&self) -> Finding {
        let is_loaded = self.running.is_some_and(has_snapshotter);
        let main = self.main.display();
        if is_loaded {
            return Finding::info(
                DROP_IN,
                format!(
                    "{main} and what it imports do not name {}, but containerd has it",
                    self.name
                ),
                "containerd was started with another file: name it with --containerd-config.",
            );
        }
        Finding::error(
            DROP_IN,
            format!("{main} and what it imports do not name {}", self.name),
            "containerd does not know layerd: whoever asks for this snapshotter is refused.",
            self.setup(),
        )
    }

    fn drop_in(&self, proxy: &Proxy) -> Finding {
        if proxy.kind != "snapshot" {
            return Finding::error(
                DROP_IN,
                format!(
                    "the proxy {} is of type {:?}, not \"snapshot\"",
                    self.name, proxy.kind
                ),
                "containerd does not start, or knows no such snapshotter.",
                self.setup(),
            );
        }
        if !is_same(&proxy.address, self.socket) {
            return Finding::error(
                DROP_IN,
                format!(
                    "it names the socket {}, and layerd serves {}",
                    proxy.address,
                    self.socket.display()
                ),
                "containerd's calls reach nobody, or another layerd.",
                self.setup(),
            );
        }
        let file = self.files.files.last().unwrap_or(&self.files.files[0]);
        Finding::ok(
            DROP_IN,
            format!(
                "names layerd's socket; the last of {} files is {}",
                self.files.files.len(),
                file.display()
            ),
        )
    }

    /// What the running containerd has of it.
    fn loaded(&self, proxy: &Proxy) -> Option<Finding> {
        const CHECK: &str = "containerd's plugin";
        const RESTART: &str = "systemctl restart containerd";
        let running = self.running?;
        if !has_snapshotter(running) {
            return Some(Finding::error(
                CHECK,
                format!("containerd has not loaded {}", self.name),
                "It was started before its files named layerd.",
                RESTART,
            ));
        }
        // Later releases tell where a proxy is.
        let told = snapshotter(running).and_then(|plugin| plugin.exports.get("address"));
        if let Some(told) = told.filter(|told| **told != proxy.address) {
            return Some(Finding::error(
                CHECK,
                format!(
                    "containerd calls {told}, and its files name {} by now",
                    proxy.address
                ),
                "It was started before its files were changed.",
                RESTART,
            ));
        }
        Some(Finding::ok(CHECK, "loaded"))
    }

    /// Where the kubelet is told to look for the disk.
    fn export(&self, proxy: &Proxy, version: Option<Version>) -> Option<Finding> {
        let root = self.settings.get("root")?;
        let told = proxy.exports.get("root");
        let is_known = version.is_none_or(knows_exports);
        if told == Some(root) && is_known {
            return None;
        }
        let is_default = root.ends_with("/io.containerd.snapshotter.v1.layerd");
        match told {
            Some(told) if is_known => Some(Finding::warning(
                DROP_IN,
                format!("it exports the data directory {told}, and layerd's is {root}"),
                "The kubelet is told of another disk, and frees space on the wrong one.",
                self.setup(),
            )),
            _ if is_default => None,
            _ => Some(Finding::info(
                DROP_IN,
                format!("it does not say where {root} is"),
                "Without it containerd tells the kubelet of the disk below its own data directory.",
            )),
        }
    }

    fn differ(&self, version: Option<Version>) -> Vec<Finding> {
        let differs = self
            .files
            .proxies
            .iter()
            .filter(|(_, proxy)| proxy.kind == "diff");
        let ours: Vec<_> = differs
            .filter(|(name, proxy)| name.as_str() == DIFFER || is_same(&proxy.address, self.socket))
            .collect();
        let Some((name, proxy)) = ours.first() else {
            let means =
                "containerd's own differ unpacks, one thread a layer; layerd would do it faster.";
            return vec![Finding::info(DIFF, "layerd does not unpack", means)];
        };
        if !is_same(&proxy.address, self.socket) {
            return vec![Finding::error(
                DIFF,
                format!(
                    "{name} names the socket {}, and layerd serves {}",
                    proxy.address,
                    self.socket.display()
                ),
                "Nothing is unpacked, for any snapshotter.",
                self.setup(),
            )];
        }
        if version.is_some_and(|version| !version.since(1, 7, 4)) {
            return vec![Finding::error(
                DIFF,
                "a proxy of type \"diff\" is configured",
                "This release crashes on it at its next start; releases from 1.7.4 on know it.",
                self.setup(),
            )];
        }
        if self.is("unpack.enabled", "false") {
            return vec![Finding::error(
                DIFF,
                format!("{name} is configured, and layerd has unpack.enabled = false"),
                "Where containerd asks layerd alone, pulls fail.",
                format!("{} --no-unpack", self.setup_alone()),
            )];
        }
        vec![Finding::ok(DIFF, format!("{name} is layerd"))]
    }

    /// The list of the transfer service, through which later releases pull.
    fn transfer(&self, version: Option<Version>) -> Option<Finding> {
        const CHECK: &str = "containerd's transfer service";
        let pulls_through_it = version?.since(2, 0, 0);
        let entries = self.files.unpack.as_deref().unwrap_or_default();
        let own = entries.iter().find(|entry| entry.snapshotter == self.name);
        let Some(own) = own.filter(|_| pulls_through_it) else {
            return pulls_through_it.then(|| {
                Finding::error(
                    CHECK,
                    format!("its list unpack_config has no entry for {}", self.name),
                    "Pulls into layerd through it fail: those of ctr and nerdctl, and from 2.1 on Kubernetes'.",
                    self.setup(),
                )
            });
        };
        if own.differ.is_empty() {
            return Some(Finding::warning(
                CHECK,
                format!("the entry for {} names no differ", self.name),
                "Before 2.1.2 the first differ there is unpacks, whoever that is.",
                self.setup(),
            ));
        }
        Some(Finding::ok(
            CHECK,
            format!("unpacks for {} with {}", self.name, own.differ),
        ))
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.settings.get(key).is_some_and(|given| given == value)
    }

    /// What writes the drop-in anew.
    fn setup(&self) -> String {
        format!("{}; systemctl restart containerd", self.setup_alone())
    }

    fn setup_alone(&self) -> String {
        let mut command = "layerctl".to_owned();
        if self.socket != Path::new("/run/layerd/layerd.sock") {
            command.push_str(&format!(
                " --address {}",
                quoted(&self.socket.display().to_string())
            ));
        }
        command.push_str(" setup containerd --write");
        if self.main != Path::new(MAIN) {
            command.push_str(&format!(
                " --config {}",
                quoted(&self.main.display().to_string())
            ));
        }
        command
    }
}

fn snapshotter(running: &Running) -> Option<&Plugin> {
    let mut plugins = running.plugins.iter();
    plugins.find(|plugin| plugin.r#type == SNAPSHOTTERS)
}

fn has_snapshotter(running: &Running) -> bool {
    snapshotter(running).is_some()
}

/// Whether two paths are of one socket.
fn is_same(address: &str, socket: &Path) -> bool {
    let address = Path::new(address.strip_prefix("unix://").unwrap_or(address));
    let file = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    address == socket || (file(address).is_some() && file(address) == file(socket))
}

fn knows_exports(version: Version) -> bool {
    version.since(1, 7, 16) || (version.is_series(1, 6) && version.since(1, 6, 32))
}

fn release(running: &Running, version: &Result<Version, String>) -> Finding {
    match version {
        Ok(_) => Finding::ok(RELEASE, running.version.clone()),
        Err(why) => Finding::warning(
            RELEASE,
            why.clone(),
            "Nobody tried layerd with it.",
            "containerd --version",
        ),
    }
}

/// What containerd may not be told that layerd can.
fn capabilities(facts: &Facts<'_>, proxy: &Proxy, version: Option<Version>) -> Vec<Finding> {
    let has = |name: &str| proxy.capabilities.iter().any(|one| one == name);
    let before =
        |major, minor, patch| version.is_some_and(|version| !version.since(major, minor, patch));
    let mut found = Vec::new();
    if has("rebase") && before(2, 2, 3) {
        found.push(Finding::error(
            RELEASE,
            "layerd is announced with the capability rebase",
            "Releases before 2.2.3 lose deletions with it: files that an image removed come back.",
            facts.setup(),
        ));
    }
    if has("rebase") && facts.is("overlayfs.rebase", "false") {
        found.push(Finding::error(
            DROP_IN,
            "it announces the capability rebase, and layerd has overlayfs.rebase = false",
            "layerd refuses to commit layers that were prepared without their parent: pulls fail.",
            facts.setup(),
        ));
    }
    if has("remap-ids") && before(2, 0, 0) {
        found.push(Finding::error(
            RELEASE,
            "layerd is announced with the capability remap-ids",
            "Releases before 2.0 do not understand the mount options that follow from it.",
            facts.setup(),
        ));
    }
    found
}

#[cfg(test)]
mod tests;
