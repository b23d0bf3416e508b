//! A repeated call, and the names that the volumes of attachments have by now.

use std::path::Path;

use layerd_spec::{Kind, MountSpec};
use layerd_store::{Attachment, Owner, Records, VolumeName};

use super::{Wanted, parse, target};
use crate::{AttachError, Attachments, Error};

impl Attachments {
    /// Refuses a call whose key has something else. A volume goes by the name it has now, and by the
    /// one it was attached by, as long as no other volume has that.
    pub(super) fn check_same(
        &self,
        there: &Attachment,
        owner: &Owner,
        wanted: &Wanted<'_>,
    ) -> Result<(), Error> {
        let view = self.root.store.records();
        let old = parse(&there.spec)?;
        let now = with_current_name(&view, there, old.clone());
        let is_free = name_of(&old).is_none_or(|old| view.volumes().find(old).is_none());
        let have = match wanted.canonical == there.spec && is_free {
            true => there.spec.clone(),
            false => now.to_string(),
        };
        let shown =
            |path: Option<&Path>| path.map_or(String::new(), |path| path.display().to_string());
        // Older records have the target as it was written.
        let recorded = there.target.as_deref().map(Path::new);
        let recorded = recorded.map(|path| target::clean(path).unwrap_or_else(|_| path.to_owned()));
        let fields = [
            ("owner", there.owner.to_string(), owner.to_string()),
            ("mount", have, wanted.canonical.clone()),
            (
                "target_path",
                shown(recorded.as_deref()),
                shown(wanted.target.as_deref()),
            ),
            (
                "exclusive",
                there.exclusive.to_string(),
                wanted.request.exclusive.to_string(),
            ),
        ];
        match fields.into_iter().find(|(_, have, want)| have != want) {
            None => Ok(()),
            Some((field, have, want)) => Err(Error::Attach(AttachError::AttachmentDrift {
                key: there.key.clone(),
                field,
                have,
                want,
            })),
        }
    }
}

/// The name by which a specification asks for a volume.
fn name_of(spec: &MountSpec) -> Option<&VolumeName> {
    match &spec.kind {
        Kind::Volume(volume) => volume.name.as_ref(),
        _ => None,
    }
}

/// The specification of an attachment with the name that its volume has now.
pub(super) fn with_current_name(
    view: &Records,
    attachment: &Attachment,
    mut spec: MountSpec,
) -> MountSpec {
    let held = attachment.volume.and_then(|id| view.volumes().get(id));
    if let (Kind::Volume(volume), Some(held)) = (&mut spec.kind, held)
        && let Some(name) = &mut volume.name
    {
        *name = held.name.clone();
    }
    spec
}
