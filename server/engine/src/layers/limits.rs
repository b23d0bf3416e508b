//! Limits of writable layers: asked for by labels, or by the configuration for containers.

use layerd_mounts::limit::{Enforcement, Limit};
use layerd_store::{BadInput, Create, Kind, LabelChange, LayerId, Record};

use super::labels::REF;
use crate::{Error, LayerError, Layers, limit_text, slot};

/// The label for the bytes that a layer can hold, or [`NONE`].
const SIZE: &str = "containerd.io/snapshot/layerd.size";
/// The label for the inodes that a layer can have.
const INODES: &str = "containerd.io/snapshot/layerd.inodes";
/// Value of the label [`SIZE`] of a container that the configuration does not limit.
const NONE: &str = "none";
/// The setting for containers without the labels.
const SETTING: &str = "limits.container_size";
/// Prefix of the keys of snapshots that containerd unpacks layers of images into.
const UNPACKING: &str = "extract-";

impl Layers {
    /// Limit of a new snapshot. A label notes one that the configuration gives. Labels of a view are
    /// checked and mean nothing: nothing can be written to it.
    ///
    /// # Errors
    /// `Invalid` if a label breaks a rule; `Refused` if nothing here enforces limits.
    pub(crate) fn limit_of_new(&self, create: &mut Create) -> Result<Option<Limit>, Error> {
        let (limit, from) = match self.limit_asked(create)? {
            Asked::Label(limit) => (limit, format!("the label {SIZE}")),
            Asked::None => return Ok(None),
            Asked::Default(limit) => {
                create.labels = create.labels.with(SIZE, &limit.bytes.to_string())?;
                (limit, format!("the setting `{SETTING}`"))
            }
        };
        let why = match self.driver.limits() {
            None => "it keeps no layer in a file system of its own; overlay does".to_owned(),
            Some(limits) => match limits.enforcement() {
                Enforcement::Quota | Enforcement::Image { .. } => return Ok(Some(limit)),
                Enforcement::Bytes(_) if limit.inodes.is_none() => return Ok(Some(limit)),
                Enforcement::Bytes(of) => {
                    format!("{of} are of bytes alone, and the label {INODES} asks for inodes")
                }
                Enforcement::None(why) => why.clone(),
            },
        };
        let driver = self.driver.name();
        Err(Error::Layer(LayerError::NoLimits { from, driver, why }))
    }

    fn limit_asked(&self, create: &Create) -> Result<Asked, BadInput> {
        let labels = &create.labels;
        let inodes = labels.get(INODES).map(inodes).transpose()?;
        let asked = labels.get(SIZE).filter(|text| *text != NONE).map(size);
        let asked = asked.transpose()?;
        if create.kind == Kind::View {
            return Ok(Asked::None);
        }
        if let Some(bytes) = asked {
            if create.parent.is_some() {
                return Ok(Asked::Label(Limit { bytes, inodes }));
            }
            let rule = "needs a parent: the layer of a container has one, and no other is limited";
            return Err(bad(SIZE, rule));
        }
        let default = self.root.options.container_size;
        match default.filter(|_| labels.get(SIZE).is_none() && is_container(create)) {
            Some(bytes) => Ok(Asked::Default(Limit { bytes, inodes })),
            None if inodes.is_some() => {
                let rule = format!("needs the label {SIZE}: both are limits of one file system");
                Err(bad(INODES, rule))
            }
            None => Ok(Asked::None),
        }
    }

    /// True if a layer is held to a size. Reads memory only.
    pub(crate) fn is_limited(&self, id: LayerId) -> bool {
        let limits = self.driver.limits();
        limits.is_some_and(|limits| limits.is_limited(slot(id)))
    }

    /// Enforcement of the limits of new layers, their default, and the number of limited layers, in words.
    #[must_use]
    pub fn limits(&self) -> String {
        let driver = self.driver.name();
        let Some(limits) = self.driver.limits() else {
            return format!("none: the driver {driver} has no limits");
        };
        let how = limits.enforcement();
        let default = match self.root.options.container_size {
            None => "by label".to_owned(),
            Some(bytes) => format!("{bytes} bytes for each container"),
        };
        format!("{how}; {default}; {} held", limits.count())
    }
}

/// Limit of a new snapshot, and where it comes from.
enum Asked {
    /// A label.
    Label(Limit),
    /// The configuration.
    Default(Limit),
    None,
}

/// True if a snapshot is a container's, or a build's: one on an image that no layer is unpacked into.
fn is_container(create: &Create) -> bool {
    let name = create.key.as_str().rsplit('/').next().unwrap_or_default();
    create.parent.is_some() && create.labels.get(REF).is_none() && !name.starts_with(UNPACKING)
}

/// Changes of labels that leave those of limits as they are: a limit is as long as its layer.
///
/// # Errors
/// [`BadInput`] if one of them is to change.
pub(crate) fn keep_limits(
    record: &Record,
    mut changes: Vec<LabelChange>,
) -> Result<Vec<LabelChange>, BadInput> {
    if record.kind != Kind::Active {
        return Ok(changes);
    }
    for label in [SIZE, INODES] {
        let have = record.labels.get(label);
        let other = |change: &LabelChange| match change {
            LabelChange::Set(key, value) => key == label && Some(value.as_str()) != have,
            LabelChange::Delete(key) => key == label && have.is_some(),
            LabelChange::Replace(all) => all.get(label).is_some_and(|value| Some(value) != have),
        };
        if changes.iter().any(other) {
            return Err(bad(
                label,
                "is said when a snapshot is prepared, and not changed",
            ));
        }
        changes.extend(have.map(|value| LabelChange::Set(label.to_owned(), value.to_owned())));
    }
    Ok(changes)
}

/// Bytes of a size that a layer can be held to.
///
/// # Errors
/// The rule that the text breaks.
pub fn layer_size(text: &str) -> Result<u64, String> {
    let Some(bytes) = layerd_spec::size(text) else {
        return Err(format!(
            "{text:?} is not a size above 0 such as 67108864, 64m, 1.5g or 10GiB, nor \"{NONE}\""
        ));
    };
    limit_text::within("a layer", text, bytes)
}

fn size(text: &str) -> Result<u64, BadInput> {
    layer_size(text).map_err(|rule| bad(SIZE, rule))
}

fn inodes(text: &str) -> Result<u64, BadInput> {
    limit_text::inodes(text).map_err(|rule| bad(INODES, rule))
}

fn bad(label: &str, rule: impl Into<String>) -> BadInput {
    BadInput::new(format!("labels[{label:?}]"), rule)
}

#[cfg(test)]
mod tests;
