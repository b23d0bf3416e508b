//! Limits of volumes: what enforces them, and their change.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use layerd_mounts::Space;
use layerd_mounts::limit::{Enforcement, Limit};
use layerd_mounts::volume_dirs::Top;
use layerd_store::{Refusal, Volume, VolumeId};
use tracing::info;

use super::sizes::{LIMIT, QUOTA, SIZE, limit_asked, limit_of, note_of, size_asked};
use super::{VolumeEntry, VolumeRef, slot};
use crate::events::Topic;
use crate::{Error, VolumeError, Volumes};

impl Volumes {
    /// Stages a new volume, held to its limit if it has one.
    ///
    /// # Errors
    /// `Refused` if nothing here enforces limits.
    pub(super) fn stage(
        &self,
        id: VolumeId,
        top: Top,
        limit: Option<Limit>,
    ) -> Result<OwnedFd, Error> {
        self.check_enforced(limit)?;
        let staged = self.dirs.stage(slot(id), top, limit);
        staged.map_err(Error::driver("make the folder of a volume"))
    }

    /// Stages content that is to take the place of an empty volume's, with the same limit.
    pub(crate) fn stage_again(&self, volume: &Volume) -> Result<OwnedFd, Error> {
        let limit = match limit_of(volume) {
            Some(_) => limit_asked(&volume.options)?,
            None => None,
        };
        self.stage(volume.id, Top::default(), limit)
    }

    /// Means by which a new volume is held to this limit, as it is recorded.
    pub(super) fn held_by(&self, limit: Option<Limit>) -> Option<&'static str> {
        limit.map(|_| note_of(self.dirs.enforcement()))
    }

    /// Notes what holds a volume to its limit whose content was exchanged, if that is something else now.
    pub(crate) fn note_limit_again(&self, volume: &Volume) -> Result<(), Error> {
        let held_by = note_of(self.dirs.enforcement());
        if limit_of(volume).is_some_and(|noted| noted != held_by) {
            let store = &self.root.store;
            store.set_volume_option(volume.id, LIMIT, held_by.to_owned())?;
        }
        Ok(())
    }

    fn check_enforced(&self, limit: Option<Limit>) -> Result<(), Error> {
        match (limit, self.dirs.enforcement()) {
            (Some(_), Enforcement::None(why)) => {
                Err(Error::Volume(VolumeError::NoLimits { why: why.clone() }))
            }
            _ => Ok(()),
        }
    }

    /// How limits of new volumes are enforced, in words.
    #[must_use]
    pub fn enforcement(&self) -> String {
        self.dirs.enforcement().to_string()
    }

    /// Changes the limit of a volume, also while it is in use; one that is as large is success. That of an
    /// image only grows, and with `force` a quota is set to less than is used. Durable on return. Costs one
    /// call for a quota, and for an image as many new groups of blocks as there are.
    ///
    /// # Errors
    /// `Missing`; `Refused` if it has no limit that is enforced, or would shrink and cannot, or holds more
    /// than `bytes`, or is an ext4 in use that the kernel does not enlarge, or one that was made too small for
    /// that; `Invalid` if it can have no such limit; `Full`.
    pub fn resize_volume(
        &self,
        volume: &VolumeRef,
        bytes: u64,
        force: bool,
    ) -> Result<VolumeEntry, Error> {
        let held = match volume {
            VolumeRef::Name(name) => self.hold_volume(name)?,
            VolumeRef::Id(id) => self
                .hold_volume_id(*id)
                .ok_or(Refusal::VolumeGone { id: *id })?,
        };
        let (volume, text) = (&held.volume, bytes.to_string());
        let name = volume.name.clone();
        let Some(have) = limit_of(volume).and(size_asked(volume)) else {
            return Err(Error::Volume(VolumeError::NoLimit { name }));
        };
        limit_asked(&BTreeMap::from([(SIZE.to_owned(), text.clone())]))?;
        drop(self.open_content(volume.id)?);
        if bytes < have {
            self.check_shrinkable(volume, (have, bytes), force)?;
        }
        let records = self.root.store.records();
        let is_held = records.volumes().holders(volume.id).next().is_some();
        match self.dirs.resize(slot(volume.id), bytes, is_held) {
            Err(layerd_mounts::Error::Busy { .. }) => {
                return Err(Error::Volume(VolumeError::NoGrowth { name }));
            }
            Err(layerd_mounts::Error::TooLarge { most, .. }) => {
                return Err(Error::Volume(VolumeError::TooLarge { name, most }));
            }
            resized => resized.map_err(Error::driver("resize a volume"))?,
        }
        if bytes == have {
            return Ok(self.volume_entry(volume.clone()));
        }
        let resized = self.root.store.set_volume_option(volume.id, SIZE, text)?;
        self.root
            .events
            .tell(Topic::Volume, "updated", name.as_str());
        info!(%name, bytes, "volume resized");
        Ok(self.volume_entry(resized))
    }

    /// Refuses to make a volume smaller that an image holds, or that holds more already.
    fn check_shrinkable(
        &self,
        volume: &Volume,
        (have, bytes): (u64, u64),
        force: bool,
    ) -> Result<(), Error> {
        let name = volume.name.clone();
        if limit_of(volume) != Some(QUOTA) {
            return Err(Error::Volume(VolumeError::NoShrink { name, have, bytes }));
        }
        let space = self.space_in(volume.id)?.unwrap_or_default();
        let used = space.bytes.saturating_sub(space.bytes_free);
        match used > bytes && !force {
            true => Err(Error::Volume(VolumeError::HoldsMore { name, used, bytes })),
            false => Ok(()),
        }
    }

    /// Refuses a volume without what held it to its limit: its folder would take what is written without a limit.
    pub(super) fn check_limited(&self, id: VolumeId) -> Result<(), Error> {
        let view = self.root.store.records();
        let Some(volume) = view.volumes().get(id) else {
            return Ok(());
        };
        let Some(held_by) = limit_of(volume) else {
            return Ok(());
        };
        match self.dirs.has_limit(slot(id)) {
            Ok(false) => Err(Error::Volume(VolumeError::NoLimitThere {
                name: volume.name.clone(),
                path: self.dirs.limit_path(slot(id), held_by == QUOTA),
            })),
            Ok(true) => Ok(()),
            Err(cause) => Err(self.not_opened(id, cause)),
        }
    }

    /// Opens the content of a volume, mounted if it is in an image: all that reads it or lends it comes here.
    /// A mount point at which the image is not mounted is no content.
    ///
    /// # Errors
    /// `Damaged` if the content is missing, or what holds it to its limit; `Refused` if another program has
    /// mounted something in its place; `Internal`.
    pub(crate) fn open_content(&self, id: VolumeId) -> Result<OwnedFd, Error> {
        self.check_limited(id)?;
        let data = self.dirs.open_data(slot(id));
        data.map_err(|cause| self.not_opened(id, cause))
    }

    /// True if a volume is empty.
    ///
    /// # Errors
    /// As for [`open_content`](Self::open_content).
    pub(crate) fn is_empty(&self, id: VolumeId) -> Result<bool, Error> {
        self.check_limited(id)?;
        let looked = self.dirs.is_empty(slot(id));
        looked.map_err(|cause| self.not_opened(id, cause))
    }

    /// Room in a volume that is held to a size, as those see it who write to it; none in others.
    ///
    /// # Errors
    /// `Damaged` if what holds it to its limit is missing; [`Error::Driver`].
    pub fn space_in(&self, id: VolumeId) -> Result<Option<Space>, Error> {
        self.check_limited(id)?;
        let space = self.dirs.space_in(slot(id));
        space.map_err(Error::driver("look for room in a volume"))
    }
}
