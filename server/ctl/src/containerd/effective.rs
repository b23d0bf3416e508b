//! Effective configuration of layerd in containerd: config.toml and its imports, merged as containerd
//! does: proxies by their name, a plugin's list as a whole, the last file first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::main_file::{DROP_INS, expand};
use crate::host_file;

/// A proxy plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Proxy {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) address: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) exports: BTreeMap<String, String>,
}

/// One entry of the transfer service's list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Unpack {
    pub(crate) snapshotter: String,
    pub(crate) differ: String,
}

/// Tables of plugins that layerd's drop-in has as well. It takes the place of their lists, and with
/// containerd 1.x of the whole tables, so that it has to say again what they say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Others {
    /// The transfer service's.
    pub(crate) transfer: Table,
    /// The diff service's.
    pub(crate) diff: Table,
}

/// Names of those plugins, from format 2 on.
pub(crate) const TRANSFER: &str = "io.containerd.transfer.v1.local";
pub(crate) const DIFF: &str = "io.containerd.service.v1.diff-service";
/// Names of the NRI plugin: the full one, and that of format 1.
pub(crate) const NRI: [&str; 2] = ["io.containerd.nri.v1.nri", "nri"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    imports: Vec<String>,
    disabled_plugins: Vec<String>,
    proxy_plugins: BTreeMap<String, Proxy>,
    plugins: Table,
}

/// A file that containerd does not start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

/// All files together.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Effective {
    /// Those that were read, in this order.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) proxies: BTreeMap<String, Proxy>,
    /// None if no file has the list.
    pub(crate) unpack: Option<Vec<Unpack>>,
    /// Plugins that do not run at all.
    pub(crate) disabled: Vec<String>,
    /// The files with settings of NRI; the last one counts.
    pub(crate) nri: Vec<(PathBuf, Table)>,
    pub(crate) others: Others,
}

impl Effective {
    /// Reads `main` and what it imports; the drop-ins alone if there is no `main`, as the defaults
    /// of some releases do. Fails where containerd would not start.
    pub(crate) fn read(main: &Path) -> Result<Self, Unreadable> {
        Self::read_without(main, None)
    }

    /// As [`read`](Self::read), as if there were no file `absent`.
    pub(crate) fn read_without(main: &Path, absent: Option<&Path>) -> Result<Self, Unreadable> {
        let real = |path: &Path| path.canonicalize().ok();
        let absent = absent.and_then(real);
        let mut all = Self::default();
        let mut waiting = vec![main.to_owned()];
        if !main.exists() {
            waiting = expand(Path::new(DROP_INS), "*.toml");
        }
        // Each file is read once, however they import each other.
        while !waiting.is_empty() {
            let path = waiting.remove(0);
            let is_absent = absent.is_some() && real(&path) == absent;
            if is_absent || all.files.contains(&path) {
                continue;
            }
            let raw = read(&path)?;
            let base = path.parent().unwrap_or(Path::new("/"));
            waiting.extend(raw.imports.iter().flat_map(|one| expand(base, one)));
            all.merge(raw, &path);
            all.files.push(path);
        }
        Ok(all)
    }

    fn merge(&mut self, raw: Raw, path: &Path) {
        self.proxies.extend(raw.proxy_plugins);
        self.disabled.extend(raw.disabled_plugins);
        let section = NRI.iter().find_map(|name| raw.plugins.get(*name));
        let section = section.and_then(Value::as_table);
        self.nri
            .extend(section.map(|table| (path.to_owned(), table.clone())));
        for (name, table) in [
            (TRANSFER, &mut self.others.transfer),
            (DIFF, &mut self.others.diff),
        ] {
            let section = raw.plugins.get(name).and_then(Value::as_table);
            table.extend(section.cloned().into_iter().flatten());
        }
        let transfer = raw.plugins.get(TRANSFER);
        let list = transfer.and_then(|table| table.get("unpack_config"));
        if let Some(Value::Array(entries)) = list {
            let entries = entries.iter().cloned();
            self.unpack = Some(entries.filter_map(|one| one.try_into().ok()).collect());
        }
    }
}

fn read(path: &Path) -> Result<Raw, Unreadable> {
    let unreadable = |why: String| Unreadable {
        path: path.to_owned(),
        why,
    };
    let text = host_file::read_to_string(path).map_err(|cause| unreadable(cause.to_string()))?;
    toml::from_str(&text).map_err(|cause| unreadable(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn imports_are_followed_and_the_last_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let main = write(
            "config.toml",
            "version = 2\nimports = [\"conf.d/*.toml\", \"./config.toml\"]\n\
             [proxy_plugins.other]\ntype = \"content\"\naddress = \"/c\"\n\
             [proxy_plugins.layerd]\ntype = \"snapshot\"\naddress = \"/old\"\n",
        );
        write("conf.d/notes.txt", "not TOML");
        write(
            "conf.d/layerd.toml",
            "version = 2\n[proxy_plugins.layerd]\ntype = \"snapshot\"\naddress = \"/new\"\n\
             [proxy_plugins.layerd.exports]\nroot = \"/r\"\n\
             [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
             platform = \"linux/amd64\"\nsnapshotter = \"layerd\"\ndiffer = \"walking\"\n",
        );
        let all = Effective::read(&main).unwrap();
        assert_eq!(all.files.len(), 2);
        assert_eq!(all.proxies["layerd"].address, "/new");
        assert_eq!(all.proxies["layerd"].exports["root"], "/r");
        assert_eq!(all.proxies["other"].kind, "content");
        assert_eq!(all.unpack.unwrap()[0].differ, "walking");
        assert!(all.others.transfer.contains_key("unpack_config"));
        let drop_in = dir.path().join("conf.d/layerd.toml");
        let without = Effective::read_without(&main, Some(&drop_in)).unwrap();
        assert_eq!(without.files, std::slice::from_ref(&main));
        assert_eq!(without.proxies["layerd"].address, "/old");
        assert_eq!((without.unpack, without.others), (None, Others::default()));
        write("conf.d/bad.toml", "version = ");
        assert!(
            Effective::read(&main)
                .unwrap_err()
                .path
                .ends_with("bad.toml")
        );
    }
}
