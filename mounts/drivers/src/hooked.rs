//! A driver that tells of each call before it makes it, so that a test can hold one call at a known
//! point while others run. Tests only.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use layerd_layers::Layering;
use layerd_mounts::fake::{Hook, HookCell};
use layerd_mounts::{Error, Mount, Slot, Usage};

use crate::driver::{
    Base, CheckedImage, Directories, Driver, Features, Found, ImageCounts, ImageFile, Images, Info,
    LayerPool, Limits, Stack, Stamp, Survey, WorkDirs,
};

/// Another driver behind a hook.
#[derive(Debug)]
pub struct Hooked {
    inner: Arc<dyn Driver>,
    hook: HookCell,
}

impl Hooked {
    /// Passes everything on to `inner`; without a hook at first.
    #[must_use]
    pub fn new(inner: Arc<dyn Driver>) -> Self {
        let hook = HookCell::default();
        Self { inner, hook }
    }

    /// Sets the hook, or takes it off.
    pub fn set(&self, hook: Option<Hook>) {
        self.hook.set(hook);
    }

    fn tell(&self, method: &'static str, slot: Option<Slot>) -> &dyn Driver {
        self.hook.tell(method, slot);
        self.inner.as_ref()
    }
}

impl Survey for Hooked {
    fn folders(&self) -> &'static [&'static str] {
        self.inner.folders()
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        self.tell("list", None).list()
    }

    fn needs_work(&self, base: &Base) -> bool {
        self.inner.needs_work(base)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        self.tell("is_unused", Some(slot)).is_unused(slot)
    }

    fn is_empty(&self, slot: Slot) -> Result<bool, Error> {
        self.tell("is_empty", Some(slot)).is_empty(slot)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.tell("open_layer", Some(slot)).open_layer(slot)
    }

    fn check_image(
        &self,
        slot: Slot,
        keep_going: &dyn Fn(u64) -> bool,
    ) -> Result<Option<CheckedImage>, Error> {
        let inner = self.tell("check_image", Some(slot));
        inner.check_image(slot, keep_going)
    }
}

impl Images for Hooked {
    fn is_due(&self, slot: Slot) -> Result<bool, Error> {
        let inner = self.tell("is_due", Some(slot));
        inner.images().expect(LACKING).is_due(slot)
    }

    fn create_image(&self, slot: Slot) -> Result<ImageFile, Error> {
        let inner = self.tell("create_image", Some(slot));
        inner.images().expect(LACKING).create_image(slot)
    }

    fn finish_image(&self, slot: Slot, file: ImageFile, durable: bool) -> Result<Usage, Error> {
        let inner = self.tell("finish_image", Some(slot));
        inner
            .images()
            .expect(LACKING)
            .finish_image(slot, file, durable)
    }

    fn is_image(&self, slot: Slot) -> bool {
        self.inner.images().expect(LACKING).is_image(slot)
    }

    fn counts(&self) -> ImageCounts {
        self.inner.images().expect(LACKING).counts()
    }

    fn open_image(&self, slot: Slot) -> Result<Option<OwnedFd>, Error> {
        let inner = self.tell("open_image", Some(slot));
        inner.images().expect(LACKING).open_image(slot)
    }

    fn expand(&self, slot: Slot) -> Result<(), Error> {
        let inner = self.tell("expand", Some(slot));
        inner.images().expect(LACKING).expand(slot)
    }
}

impl Driver for Hooked {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn info(&self) -> Info {
        self.inner.info()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn create(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        self.tell("create", Some(slot)).create(slot, base)
    }

    fn write_back(&self, slot: Slot) -> Result<Usage, Error> {
        self.tell("write_back", Some(slot)).write_back(slot)
    }

    fn freeze(&self, stack: &Stack) -> Result<(), Error> {
        self.tell("freeze", stack.own).freeze(stack)
    }

    fn make_mountable(&self, stack: &Stack) -> Result<(), Error> {
        self.tell("make_mountable", stack.own).make_mountable(stack)
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        self.tell("plan", stack.own).plan(stack)
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        self.inner.top_of(mount)
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        self.tell("has", Some(slot)).has(slot)
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        self.tell("usage", Some(slot)).usage(slot, keep_going)
    }

    fn discard(&self, slot: Slot) -> Result<(), Error> {
        self.tell("discard", Some(slot)).discard(slot)
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        self.tell("delete", Some(slot)).delete(slot, keep_going)
    }

    fn sync(&self) -> Result<(), Error> {
        self.tell("sync", None).sync()
    }

    fn move_to_lost_found(&self, found: &Found) -> Result<PathBuf, Error> {
        self.tell("move_to_lost_found", None)
            .move_to_lost_found(found)
    }

    fn pool(&self) -> Option<&dyn LayerPool> {
        self.inner.pool().map(|_| self as _)
    }

    fn directories(&self) -> Option<&dyn Directories> {
        self.inner.directories().map(|_| self as _)
    }

    fn images(&self) -> Option<&dyn Images> {
        self.inner.images().map(|_| self as _)
    }

    fn work_dirs(&self) -> Option<&dyn WorkDirs> {
        self.inner.work_dirs().map(|_| self as _)
    }

    fn limits(&self) -> Option<&dyn Limits> {
        self.inner.limits()
    }

    fn shared_journal_device(&self) -> Option<u64> {
        self.inner.shared_journal_device()
    }
}

/// Only of a driver that has the capability.
const LACKING: &str = "the driver has the capability";

impl LayerPool for Hooked {
    fn take(&self, slot: Slot, base: &Base) -> Result<(), Error> {
        let inner = self.tell("take", Some(slot));
        inner.pool().expect(LACKING).take(slot, base)
    }
}

impl Directories for Hooked {
    fn layering(&self) -> Layering {
        self.inner.directories().expect(LACKING).layering()
    }

    fn filled(&self) -> Result<(), Error> {
        let inner = self.tell("filled", None);
        inner.directories().expect(LACKING).filled()
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        let inner = self.tell("stamp", Some(slot));
        inner.directories().expect(LACKING).stamp(slot)
    }
}

impl WorkDirs for Hooked {
    fn restore(&self, slot: Slot) -> Result<(), Error> {
        let inner = self.tell("restore", Some(slot));
        inner.work_dirs().expect(LACKING).restore(slot)
    }

    fn remove(&self, slot: Slot) -> Result<(), Error> {
        let inner = self.tell("remove", Some(slot));
        inner.work_dirs().expect(LACKING).remove(slot)
    }
}
