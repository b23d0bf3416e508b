//! The way back: a mount as the value of a `--mount`.

use std::fmt;

use super::csv;
use super::model::{
    Bind, CreateSource, CreateWith, IdMap, Image, Kind, MountSpec, Origin, Policy, Propagation,
    ReadOnly, Relabel, Tmpfs, TmpfsSize, Volume,
};
use super::value::UNLIMITED;

/// The value of a `--mount` in our dialect that means the same: keys in a fixed order, defaults
/// left out, and the policy for a missing source said wherever it is not the dialect's. Reading
/// it back gives the same mount, whichever dialect made it, save that a policy which is said is
/// explicit. (Only quoting can make it longer than [`FLAG_MAX`](super::FLAG_MAX).)
impl fmt::Display for MountSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.fields();
        let encoded: Vec<String> = fields.iter().map(|field| csv::encode(field)).collect();
        f.write_str(&encoded.join(","))
    }
}

impl MountSpec {
    fn fields(&self) -> Vec<String> {
        let mut fields = Fields(Vec::new());
        let (name, source) = match &self.kind {
            Kind::Volume(volume) => ("volume", volume.name.as_ref().map(|name| name.as_str())),
            Kind::Bind(bind) => ("bind", Some(bind.source.as_str())),
            Kind::Tmpfs(_) => ("tmpfs", None),
            Kind::Image(image) => ("image", Some(image.reference.as_str())),
        };
        fields.pair("type", name);
        fields.maybe("source", source);
        fields.pair("target", &self.target);
        let is_image = matches!(self.kind, Kind::Image(_));
        fields.word("readonly", self.read_only != ReadOnly::Rw && !is_image);
        match &self.kind {
            Kind::Volume(volume) => fields.volume(volume),
            Kind::Bind(bind) => fields.bind(bind, self.read_only),
            Kind::Tmpfs(tmpfs) => fields.tmpfs(tmpfs),
            Kind::Image(image) => fields.image(image),
        }
        fields.maybe("relabel", self.relabel.map(relabel));
        fields.maybe("on-missing", self.policy_word());
        fields.0
    }

    /// Mounts without a source have no policy.
    fn policy_word(&self) -> Option<&'static str> {
        let always = match &self.kind {
            Kind::Tmpfs(_) | Kind::Image(_) => return None,
            Kind::Volume(volume) => volume.name.is_none(),
            Kind::Bind(_) => false,
        };
        match (self.on_missing.policy, self.on_missing.origin) {
            (_, Origin::Dialect) if always => None,
            (Policy::Create, _) => Some("create"),
            (Policy::Fail, Origin::Explicit) => Some("fail"),
            (Policy::Fail, Origin::Dialect) => None,
        }
    }
}

fn relabel(relabel: Relabel) -> &'static str {
    match relabel {
        Relabel::Shared | Relabel::SharedByDialect => "shared",
        Relabel::Private => "private",
    }
}

struct Fields(Vec<String>);

impl Fields {
    fn pair(&mut self, key: &str, value: impl fmt::Display) {
        self.0.push(format!("{key}={value}"));
    }

    fn maybe(&mut self, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.pair(key, value);
        }
    }

    fn word(&mut self, word: &str, said: bool) {
        if said {
            self.0.push(word.to_owned());
        }
    }

    fn bind(&mut self, bind: &Bind, read_only: ReadOnly) {
        let recursion = match read_only {
            _ if !bind.recursive => Some("disabled"),
            ReadOnly::RoTop => Some("writable"),
            ReadOnly::RoRecursiveRequired => Some("readonly"),
            ReadOnly::Rw | ReadOnly::RoRecursiveIfPossible => None,
        };
        self.maybe("bind-recursive", recursion);
        let propagation = bind.propagation;
        let said = propagation != Propagation::Rprivate || recursion == Some("readonly");
        self.maybe("bind-propagation", said.then_some(propagation.as_str()));
        let file = bind.create == CreateSource::File;
        self.maybe("bind-create-src", file.then_some("file"));
        self.maybe("bind-idmap", bind.idmap.as_ref().map(idmap));
    }

    fn volume(&mut self, volume: &Volume) {
        self.word("volume-nocopy", !volume.copy_up);
        self.maybe("volume-subpath", volume.subpath.as_ref());
        let CreateWith {
            driver,
            options,
            labels,
        } = &volume.create_with;
        self.maybe("volume-driver", driver.as_ref());
        for (name, value) in options {
            self.pair("volume-opt", format_args!("{name}={value}"));
        }
        for (name, value) in labels {
            let equals = if value.is_empty() { "" } else { "=" };
            self.pair("volume-label", format_args!("{name}{equals}{value}"));
        }
    }

    fn tmpfs(&mut self, tmpfs: &Tmpfs) {
        self.maybe("tmpfs-size", tmpfs.size.map(size));
        let mode = tmpfs.mode.map(|mode| format!("{mode:04o}"));
        self.maybe("tmpfs-mode", mode);
        self.maybe("uid", tmpfs.uid);
        self.maybe("gid", tmpfs.gid);
        self.maybe("tmpfs-inodes", tmpfs.inodes);
        self.word("tmpfs-exec", tmpfs.exec);
        for option in &tmpfs.more {
            self.pair("tmpfs-opt", option);
        }
    }

    fn image(&mut self, image: &Image) {
        self.maybe("image-subpath", image.subpath.as_ref());
    }
}

fn idmap(idmap: &IdMap) -> String {
    match idmap {
        IdMap::UserNamespace => "userns".to_owned(),
        IdMap::MatchUser(None) => "match-user".to_owned(),
        IdMap::MatchUser(Some(user)) => format!("match-user:{user}"),
    }
}

fn size(size: TmpfsSize) -> String {
    match size {
        TmpfsSize::Bytes(0) => UNLIMITED.to_owned(),
        TmpfsSize::Bytes(bytes) => bytes.to_string(),
        TmpfsSize::Percent(percent) => format!("{percent}%"),
    }
}
