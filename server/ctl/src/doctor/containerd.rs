//! containerd: its release, what its files say of layerd, and what it has loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use layerd_proto::containerd::services::introspection::v1::Plugin;

use super::{Action, Finding, quoted};
use crate::containerd::dropin::differ_of;
use crate::containerd::effective::{Effective, Proxy};
use crate::containerd::main_file::{MAIN, ROOT};
use crate::containerd::{Version, instance_at, instance_of};

const DROP_IN: &str = "containerd's drop-in";
const DIFF: &str = "containerd's differ";
const RELEASE: &str = "containerd's release";
const RESTART: &str = "systemctl restart containerd";
const SNAPSHOTTERS: &str = "io.containerd.snapshotter.v1";

/// All that is known.
pub(crate) struct Facts<'a> {
    /// containerd's main file, whether or not it is there.
    pub(crate) main: &'a Path,
    pub(crate) files: &'a Effective,
    /// None if containerd does not answer.
    pub(crate) running: Option<&'a Running>,
    /// The release that starts next, as `containerd --version` says; none if it cannot be asked.
    pub(crate) installed: Option<Version>,
    /// The drop-in that `layerctl setup` writes, if a person edited it: that refuses to replace it.
    pub(crate) edited: Option<&'a Path>,
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
        let runs = self.running.map(|running| Version::parse(&running.version));
        let mut found = Vec::new();
        if let (Some(running), Some(version)) = (self.running, &runs) {
            found.push(release(running, version));
        }
        let runs = runs.and_then(Result::ok);
        found.extend(replaced(runs, self.installed));
        // What is wrong with the files shows when containerd starts next.
        let version = self.installed.or(runs);
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
            "containerd does not know layerd: who asks for this snapshotter is refused.",
            self.setup("write-drop-in"),
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
                self.setup("correct-proxy-type"),
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
                "containerd's calls reach no layerd, or another one.",
                self.setup("correct-proxy-socket"),
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

    /// Finding about the proxy in the running containerd.
    fn loaded(&self, proxy: &Proxy) -> Option<Finding> {
        const CHECK: &str = "containerd's plugin";
        let restart = |name| Action::safe(name, RESTART);
        let running = self.running?;
        if !has_snapshotter(running) && !self.files.files.iter().any(|file| file == self.main) {
            return Some(Finding::error(
                DROP_IN,
                format!(
                    "there is no {}, and containerd does not read drop-ins without it",
                    self.main.display()
                ),
                "containerd does not know layerd: who asks for this snapshotter is refused.",
                self.setup("write-main-file"),
            ));
        }
        if !has_snapshotter(running) {
            return Some(Finding::error(
                CHECK,
                format!("containerd has not loaded {}", self.name),
                "It was started before its files named layerd.",
                restart("load-proxy"),
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
                restart("load-proxy-socket"),
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
        let is_default = root.ends_with(&format!("/io.containerd.snapshotter.v1.{}", self.name));
        match told {
            Some(told) if is_known => Some(Finding::warning(
                DROP_IN,
                format!("it exports the data directory {told}, and layerd's is {root}"),
                "The kubelet is told of another disk, and frees space on the wrong one.",
                self.setup("correct-exported-root"),
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
        let own = differ_of(self.name);
        let differs = self
            .files
            .proxies
            .iter()
            .filter(|(_, proxy)| proxy.kind == "diff");
        let ours: Vec<_> = differs
            .filter(|(name, proxy)| **name == own || is_same(&proxy.address, self.socket))
            .collect();
        let Some((name, proxy)) = ours.first() else {
            let impact =
                "containerd's own differ unpacks, one thread a layer; layerd would do it faster.";
            return vec![Finding::info(DIFF, "layerd does not unpack", impact)];
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
                self.setup("correct-differ-socket"),
            )];
        }
        if version.is_some_and(|version| !version.since(1, 7, 4)) {
            return vec![Finding::error(
                DIFF,
                "a proxy of type \"diff\" is configured",
                "This release crashes on it at its next start; releases from 1.7.4 on know it.",
                self.setup("drop-unknown-differ"),
            )];
        }
        if self.is("unpack.enabled", "false") {
            return vec![Finding::error(
                DIFF,
                format!("{name} is configured, and layerd has unpack.enabled = false"),
                "Where containerd asks layerd alone, pulls fail.",
                self.setup("drop-disabled-differ"),
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
                    self.setup("add-transfer-entry"),
                )
            });
        };
        if own.differ.is_empty() {
            return Some(Finding::warning(
                CHECK,
                format!("the entry for {} names no differ", self.name),
                "Before 2.1.2 the first available differ unpacks, whichever it is.",
                self.setup("add-transfer-differ"),
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

    /// Command that writes the drop-in anew, with its present options where they can stay, under the
    /// name of what it mends. containerd is restarted only if that worked.
    fn setup(&self, name: &'static str) -> Action {
        let aside = self.edited.map(|path| {
            let path = path.display().to_string();
            format!(
                "mv --backup=numbered {} {} && ",
                quoted(&path),
                quoted(&format!("{path}.edited"))
            )
        });
        let command = format!(
            "{}layerctl setup containerd --write{} && {RESTART}",
            aside.unwrap_or_default(),
            self.options()
        );
        Action::safe(name, command)
    }

    fn options(&self) -> String {
        let mut options = options_of_settings(self.main, self.settings);
        options.push_str(&self.instances());
        let version = self.installed;
        let since =
            |major, minor, patch| version.is_some_and(|version| version.since(major, minor, patch));
        let Some(proxy) = self.files.proxies.get(self.name) else {
            return options;
        };
        let has = |name: &str| proxy.capabilities.iter().any(|one| one == name);
        for (is_wanted, option) in [
            (has("remap-ids") && since(2, 0, 0), " --remap-ids"),
            (
                proxy
                    .exports
                    .contains_key("enable_remote_snapshot_annotations")
                    && since(2, 1, 0),
                " --annotations",
            ),
            (
                has("rebase") && since(2, 4, 0) && self.is("overlayfs.rebase", "true"),
                " --parallel",
            ),
        ] {
            if is_wanted {
                options.push_str(option);
            }
        }
        options
    }
}

impl Facts<'_> {
    /// Options for all instances that the files have, and for this layerd if it is one.
    fn instances(&self) -> String {
        let named = self.files.proxies.iter();
        let named = named.filter(|(_, proxy)| proxy.kind == "snapshot");
        let named = named.map(|(name, _)| name.as_str()).chain([self.name]);
        let named: BTreeSet<&str> = named.filter_map(instance_of).collect();
        named
            .into_iter()
            .map(|name| format!(" --instance {name}"))
            .collect()
    }
}

/// Options of `layerctl setup containerd --write` that follow from layerd's settings.
pub(crate) fn options_of_settings(main: &Path, settings: &BTreeMap<String, String>) -> String {
    let mut options = String::new();
    if main != Path::new(MAIN) {
        options.push_str(&format!(
            " --config {}",
            quoted(&main.display().to_string())
        ));
    }
    let socket = settings.get("socket.path").map_or("", String::as_str);
    let root = settings.get("root").filter(|root| *root != ROOT);
    // The data of an instance lie where its name says.
    if let Some(root) = root.filter(|_| instance_at(Path::new(socket)).is_none()) {
        options.push_str(&format!(" --root {}", quoted(root)));
    }
    let unpacks = settings.get("unpack.enabled");
    if unpacks.is_some_and(|unpacks| unpacks == "false") {
        options.push_str(" --no-unpack");
    }
    options
}

/// A release that was installed and not started yet.
fn replaced(runs: Option<Version>, installed: Option<Version>) -> Option<Finding> {
    let (runs, installed) = (runs?, installed?);
    (!runs.is_same_series(installed)).then(|| {
        Finding::info(
            RELEASE,
            format!("containerd {runs} runs, and {installed} is installed"),
            "Its files are checked for the one that starts next.",
        )
    })
}

fn snapshotter(running: &Running) -> Option<&Plugin> {
    let mut plugins = running.plugins.iter();
    plugins.find(|plugin| plugin.r#type == SNAPSHOTTERS)
}

fn has_snapshotter(running: &Running) -> bool {
    snapshotter(running).is_some()
}

/// True if two paths are of one socket.
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
            "layerd was not tried with it.",
            Action::advice("Install containerd 1.6 or later."),
        ),
    }
}

/// Findings about capabilities of layerd that containerd is not told.
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
            facts.setup("drop-rebase-that-loses-deletions"),
        ));
    }
    if has("rebase") && !before(2, 2, 3) && before(2, 4, 0) {
        found.push(Finding::warning(
            RELEASE,
            "layers are unpacked in parallel",
            "Releases before 2.4 lose an error of Prepare then: a pull can succeed with nothing unpacked.",
            facts.setup("drop-parallel-unpacking"),
        ));
    }
    if has("rebase") && facts.is("overlayfs.rebase", "false") {
        found.push(Finding::error(
            DROP_IN,
            "it announces the capability rebase, and layerd has overlayfs.rebase = false",
            "layerd refuses to commit layers that were prepared without their parent: pulls fail.",
            facts.setup("drop-disabled-rebase"),
        ));
    }
    if has("remap-ids") && before(2, 0, 0) {
        found.push(Finding::error(
            RELEASE,
            "layerd is announced with the capability remap-ids",
            "Releases before 2.0 do not understand the mount options that follow from it.",
            facts.setup("drop-unknown-remap-ids"),
        ));
    }
    found
}

#[cfg(test)]
mod tests;
