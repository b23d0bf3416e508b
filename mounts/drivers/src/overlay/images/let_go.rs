//! Unmounts images of layers, and nothing else.

use layerd_mounts::mountinfo::Entry;
use layerd_mounts::{Error, Slot, mount};

use super::{LOOP_MAJOR, LayerImages};

impl LayerImages {
    /// Unmounts the image of a layer, also while it is in use. Nothing mounted is success.
    ///
    /// # Errors
    /// [`Error::Busy`] for a mount of another program, which stays; [`Error::Io`].
    pub(super) fn let_go(&self, slot: Slot) -> Result<(), Error> {
        let image = self.path(slot);
        // The image may have been moved to the trash since, or be deleted: an EROFS there holds nothing else.
        let is_own = |mount: &Entry| {
            mount.kind == "erofs" && (mount.device.0 == LOOP_MAJOR || image == *mount.source)
        };
        mount::let_go(&self.point(slot), &is_own)
    }
}
