//! Volumes, trash and attachments, as the test believes and as the daemon says.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use layerd_proto::layerd::v1 as pb;

use super::client::Client;
use crate::Verdict;
use crate::content::Layer;

/// One volume.
#[derive(Debug, Clone)]
pub(crate) struct Vol {
    /// `None` until it was seen.
    pub(crate) id: Option<String>,
    /// Its name, unpredictable if it is anonymous.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) filled_from: String,
    pub(crate) snapshot_of: String,
    /// `None` for nothing.
    pub(crate) content: Option<Arc<Layer>>,
}

/// Something attached.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// `None` until it was seen.
    pub(crate) id: Option<String>,
    /// Type, source and target, separated by blanks.
    pub(crate) what: String,
    /// The host path it was asked for at; empty for none.
    pub(crate) target: String,
    /// `None` if it may be either.
    pub(crate) is_attached: Option<bool>,
    /// Where it is mounted; empty for nowhere.
    pub(crate) place: String,
}

/// All there is.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// By name; anonymous ones by their label `mark`.
    pub(crate) volumes: BTreeMap<String, Vol>,
    /// Deleted volumes, by their old names.
    pub(crate) trash: BTreeMap<String, Vol>,
    /// By key.
    pub(crate) held: BTreeMap<String, Held>,
}

impl Vol {
    /// An empty volume.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            id: None,
            name: name.into(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            filled_from: String::new(),
            snapshot_of: String::new(),
            content: None,
        }
    }

    fn difference(&self, found: &Self) -> Option<String> {
        let facts = |vol: &Self| {
            let words = (vol.filled_from.clone(), vol.snapshot_of.clone());
            (words, vol.labels.clone(), vol.options.clone())
        };
        let is_same = self.id.is_none() || found.id == self.id;
        if !is_same || facts(self) != facts(found) {
            return Some(format!(
                "is {:?} {:?}, should be {:?} {:?}",
                found.id,
                facts(found),
                self.id,
                facts(self)
            ));
        }
        match (&found.content, &self.content) {
            (Some(found), Some(wanted)) => found.difference(wanted),
            (None, None) => None,
            (Some(_), None) => Some("should be empty".into()),
            (None, Some(_)) => Some("is empty".into()),
        }
    }
}

impl Held {
    fn difference(&self, found: &Self) -> Option<String> {
        let is_same = (self.id.is_none() || found.id == self.id)
            && self.what == found.what
            && (self.is_attached.is_none() || self.is_attached == found.is_attached);
        (!is_same).then(|| format!("is {found:?}, should be {self:?}"))
    }
}

impl State {
    /// Checks that the found state matches this one.
    pub(crate) fn check(&self, found: &Self) -> Verdict {
        each("volume", &self.volumes, &found.volumes, Vol::difference)?;
        each("deleted", &self.trash, &found.trash, Vol::difference)?;
        each("attachment", &self.held, &found.held, Held::difference)
    }
}

/// Requires the same names on both sides, and no difference.
fn each<T>(
    what: &str,
    wanted: &BTreeMap<String, T>,
    found: &BTreeMap<String, T>,
    difference: impl Fn(&T, &T) -> Option<String>,
) -> Verdict {
    if let Some(name) = found.keys().find(|name| !wanted.contains_key(*name)) {
        return Err(format!("{what} {name} should not exist"));
    }
    for (name, wanted) in wanted {
        let found = found
            .get(name)
            .ok_or_else(|| format!("{what} {name} is lost"))?;
        if let Some(text) = difference(wanted, found) {
            return Err(format!("{what} {name} {text}"));
        }
    }
    Ok(())
}

/// Asks for everything, and reads the content of each volume.
pub(crate) fn observe(client: &mut Client, root: &Path) -> Verdict<State> {
    observe_some(client, root, &|_| true)
}

/// As [`observe`], for the volumes and attachments whose name is `wanted`: others may change
/// meanwhile.
pub(crate) fn observe_some(
    client: &mut Client,
    root: &Path,
    wanted: &dyn Fn(&str) -> bool,
) -> Verdict<State> {
    let told = |status| format!("List: {status}");
    let mut state = State::default();
    for deleted in [false, true] {
        for volume in client.list(deleted).map_err(told)? {
            let mark = volume.labels.get("mark");
            let name = mark.unwrap_or(&volume.name).clone();
            if !wanted(&name) {
                continue;
            }
            let folder = if deleted { "volumes/.trash" } else { "volumes" };
            let mut holder = root.join(folder).join(&volume.id);
            // One whose move failed stays in its place until the next start.
            if deleted && !holder.exists() {
                holder = root.join("volumes").join(&volume.id);
            }
            let vol = seen(volume, &holder.join("data"))
                .map_err(|why| format!("volume {name} (deleted: {deleted}) {why}"))?;
            let all = if deleted {
                &mut state.trash
            } else {
                &mut state.volumes
            };
            if all.insert(name.clone(), vol).is_some() {
                return Err(format!("List: volume {name} twice"));
            }
        }
    }
    let attached = client.attached().map_err(told)?;
    for attachment in attached.into_iter().filter(|one| wanted(&one.key)) {
        state.held.insert(attachment.key.clone(), held(attachment));
    }
    Ok(state)
}

fn seen(volume: pb::Volume, data: &Path) -> Verdict<Vol> {
    if !data.is_dir() {
        return Err("has no folder".into());
    }
    let mut layer = Layer::try_read(data)?;
    if volume.filled_from.starts_with("image ") {
        layer = layer.forget_time_of_top();
    }
    if layer.is_bare() {
        top_is_as_asked(&volume, data)?;
    }
    Ok(Vol {
        id: Some(volume.id),
        name: volume.name,
        labels: volume.labels,
        options: volume.options,
        filled_from: volume.filled_from,
        snapshot_of: volume.snapshot_of,
        content: (!layer.is_bare()).then(|| Arc::new(layer)),
    })
}

/// An empty volume has the owner and mode that its options say.
fn top_is_as_asked(volume: &pb::Volume, data: &Path) -> Verdict {
    let top = data.metadata().map_err(|error| error.to_string())?;
    let found = (top.uid(), top.mode() & 0o7777);
    let option = |key: &str, radix, default| {
        let text = volume.options.get(key);
        text.map_or(default, |text| u32::from_str_radix(text, radix).unwrap())
    };
    let wanted = (option("uid", 10, 0), option("mode", 8, 0o755));
    if found == wanted {
        return Ok(());
    }
    Err(format!(
        "has owner and mode {found:?}, should be {wanted:?}"
    ))
}

/// Attachment by an answer.
pub(crate) fn held(attachment: pb::Attachment) -> Held {
    let mount = attachment.mount.unwrap_or_default();
    Held {
        id: Some(attachment.id),
        what: format!("{} {} {}", mount.r#type, mount.source, mount.target),
        target: String::new(),
        is_attached: Some(attachment.state == "attached"),
        place: attachment.mounted_at,
    }
}
