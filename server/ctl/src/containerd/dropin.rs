//! The drop-in that makes layerd a snapshotter of containerd.
//!
//! What is left out is left out on purpose: before 2.2.3 the capability `rebase` loses deletions for
//! any snapshotter not named overlayfs, and needs layerd's setting of that name at any time; a
//! proxy of type `diff` crashes containerd 1.6 and early 1.7, so only later ones get it.

use toml::{Table, Value};

use super::effective::{DIFF, Others, TRANSFER};
use super::main_file::ROOT;
use super::{SNAPSHOTTER, Schema, Version};

/// containerd's own differ.
const WALKING: &str = "walking";

/// A layerd, as containerd knows it.
#[derive(Debug)]
pub(crate) struct Served {
    /// Name of the snapshotter.
    pub(crate) name: String,
    /// Path of the daemon's socket.
    pub(crate) socket: String,
    /// Data directory of the daemon.
    pub(crate) root: String,
}

impl Served {
    /// The instance that `layerd@NAME.service` runs.
    pub(crate) fn instance(name: &str) -> Self {
        Self {
            name: format!("{SNAPSHOTTER}-{name}"),
            socket: format!("/run/layerd/{name}.sock"),
            root: format!("{ROOT}-{name}"),
        }
    }
}

/// Name of a layerd's diff service: a proxy has one type, and `layerd` is the snapshotter.
pub(crate) fn differ_of(snapshotter: &str) -> String {
    format!("{snapshotter}-diff")
}

/// Everything the text depends on.
#[derive(Debug)]
pub(crate) struct DropIn {
    pub(crate) version: Version,
    pub(crate) schema: Schema,
    /// The layerd without a name, and instances.
    pub(crate) served: Vec<Served>,
    /// As `linux/amd64`.
    pub(crate) platform: String,
    /// Let containerd map ids while mounting, in the layerd without a name.
    pub(crate) remap_ids: bool,
    /// Have image names and layer digests passed on as labels.
    pub(crate) annotations: bool,
    /// Have the layers of an image unpacked at the same time, in the layerd without a name.
    pub(crate) parallel: bool,
    /// Have layerd unpack and pack layers, where the release can be told so safely.
    pub(crate) differ: bool,
    /// Settings of other files that this one replaces.
    pub(crate) others: Others,
}

/// Layers unpacked at a time: more wait for the disk and for each other's processors.
const AT_ONCE: u32 = 4;

impl DropIn {
    /// Why these options do not go with this release.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.remap_ids && !self.version.since(2, 0, 0) {
            return Err(format!(
                "--remap-ids needs containerd 2.0, this is {}",
                self.version
            ));
        }
        if self.annotations && !self.version.since(2, 1, 0) {
            return Err(format!(
                "--annotations needs containerd 2.1, this is {}",
                self.version
            ));
        }
        if self.parallel && !self.version.since(2, 2, 3) {
            return Err(format!(
                "--parallel needs containerd 2.2.3, earlier ones lose deletions with it; this is {}",
                self.version
            ));
        }
        Ok(())
    }

    /// Warning about these options, where the release accepts them but has a fault.
    pub(crate) fn warning(&self) -> Option<String> {
        (self.parallel && !self.version.since(2, 4, 0)).then(|| {
            format!(
                "--parallel: containerd {} loses an error of Prepare while layers are unpacked in parallel, as when layerd is \
                 restarted: the pull succeeds, and nothing is unpacked. 2.4 mends it.",
                self.version
            )
        })
    }

    pub(crate) fn render(&self) -> String {
        let mut text = format!(
            "# layerd as a snapshotter of containerd {}.\n",
            self.version
        );
        if let Some(line) = self.schema.line() {
            text.push_str(&format!("{line}\n"));
        }
        for served in &self.served {
            text.push_str(&self.proxy(served));
            if self.knows_exports() {
                text.push_str(&self.exports(served));
            }
        }
        if self.uses_differ() {
            text.push_str(&self.differ());
        }
        if self.wants_unpack() {
            text.push_str(&self.unpack());
        }
        text.push_str(&self.default_hint());
        text
    }

    fn proxy(&self, served: &Served) -> String {
        let (name, address) = (&served.name, quoted(&served.socket));
        let mut text =
            format!("\n[proxy_plugins.{name}]\ntype = \"snapshot\"\naddress = {address}\n");
        let is_unnamed = name == SNAPSHOTTER;
        let mut capabilities = Vec::new();
        if self.remap_ids && is_unnamed {
            text.push_str(
                "# Pods with user namespaces share layers instead of copying them (Linux 5.19).\n",
            );
            capabilities.push("remap-ids");
        }
        if self.parallel && is_unnamed {
            text.push_str(
                "# Layers are unpacked before the ones below are there. layerd refuses them unless\n\
                 # its configuration has `rebase = true` under [overlayfs].\n",
            );
            capabilities.push("rebase");
        }
        if !capabilities.is_empty() {
            let capabilities: Vec<_> = capabilities.into_iter().map(quoted).collect();
            text.push_str(&format!("capabilities = [{}]\n", capabilities.join(", ")));
        }
        if !self.knows_exports() {
            text.push_str(&format!(
                "# This release looks for the data directory, to tell the kubelet how full its\n\
                 # disk is, in one place only: io.containerd.snapshotter.v1.{name} below its own root.\n\
                 # The daemon uses {}.\n",
                served.root
            ));
        }
        text
    }

    /// Unknown to earlier releases, which would only warn.
    fn knows_exports(&self) -> bool {
        if self.version.is_series(1, 6) {
            self.version.since(1, 6, 32)
        } else {
            self.version.since(1, 7, 16)
        }
    }

    fn exports(&self, served: &Served) -> String {
        let mut text = format!(
            "\n[proxy_plugins.{}.exports]\n\
             # The daemon's data directory. The kubelet is told how full its disk is.\n\
             root = {}\n",
            served.name,
            quoted(&served.root)
        );
        if self.annotations {
            text.push_str("# Labels of new layers name the image and the layer's digest.\n");
            text.push_str("enable_remote_snapshot_annotations = \"true\"\n");
        }
        text
    }

    /// The transfer service exists from 1.7 on. There a file of format 1 cannot name it.
    fn wants_unpack(&self) -> bool {
        self.version.since(2, 0, 0) || (self.version.since(1, 7, 0) && self.schema > Schema::V1)
    }

    /// Releases before 1.7.4 crash on a proxy of this type. Where a differ cannot be named
    /// everywhere, as in a file of format 1, the mere presence of a second one could draw the
    /// layers of other snapshotters to it.
    fn uses_differ(&self) -> bool {
        self.differ && self.version.since(1, 7, 4) && self.schema > Schema::V1
    }

    fn differ(&self) -> String {
        let listed = self.others.diff.get("default").and_then(Value::as_array);
        let listed = listed.into_iter().flatten().filter_map(Value::as_str);
        let own: Vec<String> = self.served.iter().map(|one| differ_of(&one.name)).collect();
        let mut others: Vec<&str> = listed
            .filter(|name| !own.iter().any(|own| own == name))
            .collect();
        if others.is_empty() {
            others.push(WALKING);
        }
        let all = own.iter().map(String::as_str).chain(others);
        let all: Vec<String> = all.map(quoted).collect();
        let mut text = String::from(
            "\n# layerd unpacks and packs the layers of its own snapshots. What is not its own goes on to\n\
             # containerd's differ, but not while layerd is down: then nothing is unpacked at all.\n",
        );
        for (name, served) in own.iter().zip(&self.served) {
            let address = quoted(&served.socket);
            text.push_str(&format!(
                "[proxy_plugins.{name}]\ntype = \"diff\"\naddress = {address}\n\n"
            ));
        }
        let kept = self.kept(&self.others.diff, "default");
        let all = all.join(", ");
        text + &format!("[plugins.\"{DIFF}\"]\n{kept}default = [{all}]\n")
    }

    /// The lines of another file's table but for its list, where they would be lost.
    fn kept(&self, table: &Table, list: &str) -> String {
        let is_lost = !self.version.since(2, 0, 0);
        let kept = table.iter().filter(|(key, _)| is_lost && *key != list);
        kept.map(line).collect()
    }

    /// Entries of other files' list for other snapshotters than those served; none if there is no such list.
    fn other_entries(&self) -> Vec<&Table> {
        let listed = self.others.transfer.get("unpack_config");
        let listed = listed.and_then(Value::as_array).into_iter().flatten();
        let is_other = |entry: &&Table| {
            let name = entry.get("snapshotter").and_then(Value::as_str);
            self.served
                .iter()
                .all(|one| Some(one.name.as_str()) != name)
        };
        listed
            .filter_map(Value::as_table)
            .filter(is_other)
            .collect()
    }

    fn unpack(&self) -> String {
        let users = if self.version.since(2, 1, 0) {
            "CRI, ctr and nerdctl pull through it"
        } else if self.version.since(2, 0, 0) {
            "ctr and nerdctl pull through it"
        } else {
            "`ctr images pull --local=false` pulls through it"
        };
        let merging = if self.version.since(2, 0, 0) {
            "The list replaces the built-in one"
        } else {
            "This table replaces the one in config.toml as a whole"
        };
        let others = match self.other_entries().is_empty() {
            true => "overlayfs has an entry",
            false => "the entries of other files are here",
        };
        let mut text = format!(
            "\n# The transfer service: {users}, and without an entry here\n\
             # pulls into layerd fail. {merging}, so {others}, too.\n"
        );
        let kept = self.kept(&self.others.transfer, "unpack_config");
        if !kept.is_empty() {
            text.push_str(&format!("[plugins.\"{TRANSFER}\"]\n{kept}"));
        }
        if self.parallel {
            text.push_str(&format!(
                "[plugins.\"{TRANSFER}\"]\n\
                 # Layers of one image at a time, in overlayfs, too.\n\
                 max_concurrent_unpacks = {AT_ONCE}\n"
            ));
        }
        let entry = |snapshotter: &str, differ: &str| {
            format!(
                "platform = {}\nsnapshotter = \"{snapshotter}\"\ndiffer = \"{differ}\"\n",
                quoted(&self.platform)
            )
        };
        let others = self.other_entries().into_iter();
        let mut entries: Vec<String> = others.map(|one| one.iter().map(line).collect()).collect();
        if entries.is_empty() {
            entries.push(entry("overlayfs", WALKING));
        }
        entries.extend(self.served.iter().map(|one| match self.uses_differ() {
            true => entry(&one.name, &differ_of(&one.name)),
            false => entry(&one.name, WALKING),
        }));
        for entry in entries {
            text.push_str(&format!(
                "[[plugins.\"{TRANSFER}\".unpack_config]]\n{entry}"
            ));
        }
        text
    }

    fn default_hint(&self) -> String {
        let place = if self.version.since(2, 0, 0) {
            "in a file beside this one or in config.toml"
        } else {
            // There a drop-in replaces the whole table of a plugin.
            "in config.toml itself, within the table that is there"
        };
        let table = match self.schema {
            Schema::V1 => "plugins.cri.containerd",
            Schema::V2 => "plugins.\"io.containerd.grpc.v1.cri\".containerd",
            Schema::V3 => "plugins.\"io.containerd.cri.v1.images\"",
        };
        format!(
            "\n# To make layerd the default of Kubernetes, write {place}:\n\
             # [{table}]\n# snapshotter = \"layerd\"\n"
        )
    }
}

/// A setting on a line of its own.
fn line((key, value): (&String, &Value)) -> String {
    format!("{} = {value}\n", quoted(key))
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// This machine's platform as containerd writes it.
pub(crate) fn host_platform() -> String {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "arm" => "arm/v7",
        "loongarch64" => "loong64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        same => same,
    };
    format!("linux/{machine}")
}

#[cfg(test)]
mod tests;
