//! Attachments and mounts as layerctl shows them. The field names are the documented ones of
//! `-o json`.

use std::fmt;

use layerd_proto::layerd::v1 as wire;
use serde::Serialize;

/// Owner of an attachment: `KIND:ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    kind: String,
    id: String,
}

impl Owner {
    /// Splits at the first colon. Which kinds there are is the daemon's to say.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((kind, id)) if !kind.is_empty() && !id.is_empty() => Ok(Self {
                kind: kind.to_owned(),
                id: id.to_owned(),
            }),
            _ => Err("KIND:ID is wanted, such as container:web".to_owned()),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

impl From<Owner> for wire::Owner {
    fn from(owner: Owner) -> Self {
        Self {
            kind: owner.kind,
            id: owner.id,
        }
    }
}

impl From<wire::Owner> for Owner {
    fn from(owner: wire::Owner) -> Self {
        Self {
            kind: owner.kind,
            id: owner.id,
        }
    }
}

/// Meaning of a mount flag.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MountSpec {
    /// A value of `--mount` that parses to the same.
    pub(crate) canonical: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) access: String,
    pub(crate) on_missing: String,
    pub(crate) policy_origin: String,
    /// Set if the dialect, not the flag, asks for a shared label.
    #[serde(skip)]
    pub(crate) relabel_by_dialect: bool,
}

impl From<wire::MountSpec> for MountSpec {
    fn from(spec: wire::MountSpec) -> Self {
        Self {
            canonical: spec.canonical,
            kind: spec.r#type,
            source: spec.source,
            target: spec.target,
            access: spec.access,
            on_missing: spec.on_missing,
            policy_origin: spec.policy_origin,
            relabel_by_dialect: spec.relabel_by_dialect,
        }
    }
}

/// One entry of `mounts` in an OCI runtime's config.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OciMount {
    pub(crate) destination: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) options: Vec<String>,
}

impl From<wire::OciMount> for OciMount {
    fn from(mount: wire::OciMount) -> Self {
        Self {
            destination: mount.destination,
            kind: mount.r#type,
            source: mount.source,
            options: mount.options,
        }
    }
}

/// Something attached.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Attachment {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) owner: String,
    pub(crate) mount: MountSpec,
    /// Name of the volume it holds, also of an anonymous one; empty for none.
    pub(crate) volume: String,
    pub(crate) state: String,
    pub(crate) oci_mounts: Vec<OciMount>,
    pub(crate) mounted_at: String,
    pub(crate) effective_access: String,
    pub(crate) created: bool,
    pub(crate) filled: bool,
    /// Omitted steps, a sentence each.
    pub(crate) notes: Vec<String>,
    pub(crate) created_at: String,
    /// Set if this call attached it.
    #[serde(skip)]
    pub(crate) is_new: bool,
}

impl From<wire::Attachment> for Attachment {
    fn from(one: wire::Attachment) -> Self {
        Self {
            id: one.id,
            key: one.key,
            owner: Owner::from(one.owner.unwrap_or_default()).to_string(),
            mount: one.mount.unwrap_or_default().into(),
            volume: one.volume,
            state: one.state,
            oci_mounts: one.oci_mounts.into_iter().map(OciMount::from).collect(),
            mounted_at: one.mounted_at,
            effective_access: one.effective_access,
            created: one.created,
            filled: one.filled,
            notes: one.notes,
            is_new: one.new,
            created_at: one.created_at.unwrap_or_default().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Owner;

    #[test]
    fn owners_split_at_the_first_colon() {
        assert_eq!(
            Owner::parse("pod:ns:web").unwrap().to_string(),
            "pod:ns:web"
        );
        assert_eq!(Owner::parse("pod:ns:web").unwrap().id, "ns:web");
        for bad in ["", "pod", ":a", "pod:"] {
            assert!(Owner::parse(bad).is_err(), "{bad}");
        }
    }
}
