//! A driver that tells of each call before it makes it, so that a test can hold one call at a known
//! point while others run. Tests only.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use layerd_mounts::fake::{Hook, HookCell};
use layerd_mounts::{Error, Mount, Slot, Usage};

use crate::driver::{Base, Driver, Found, Stack, Stamp};

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

impl Driver for Hooked {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn create(&self, slot: Slot, base: Base, writable: bool) -> Result<(), Error> {
        self.tell("create", Some(slot)).create(slot, base, writable)
    }

    fn take_spare(&self, slot: Slot, base: Base, writable: bool) -> Result<(), Error> {
        self.tell("take_spare", Some(slot))
            .take_spare(slot, base, writable)
    }

    fn settle(&self, slot: Slot) -> Result<Usage, Error> {
        self.tell("settle", Some(slot)).settle(slot)
    }

    fn sync(&self) -> Result<(), Error> {
        self.tell("sync", None).sync()
    }

    fn journal(&self) -> Option<u64> {
        self.inner.journal()
    }

    fn seal(&self, slot: Slot) -> Result<(), Error> {
        self.tell("seal", Some(slot)).seal(slot)
    }

    fn set_aside(&self, found: &Found) -> Result<PathBuf, Error> {
        self.tell("set_aside", None).set_aside(found)
    }

    fn ensure_work(&self, slot: Slot) -> Result<(), Error> {
        self.tell("ensure_work", Some(slot)).ensure_work(slot)
    }

    fn plan(&self, stack: &Stack) -> Result<Vec<Mount>, Error> {
        self.tell("plan", stack.own).plan(stack)
    }

    fn has(&self, slot: Slot) -> Result<bool, Error> {
        self.tell("has", Some(slot)).has(slot)
    }

    fn is_unused(&self, slot: Slot) -> Result<bool, Error> {
        self.tell("is_unused", Some(slot)).is_unused(slot)
    }

    fn retire(&self, slot: Slot) -> Result<(), Error> {
        self.tell("retire", Some(slot)).retire(slot)
    }

    fn delete(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<(), Error> {
        self.tell("delete", Some(slot)).delete(slot, keep_going)
    }

    fn usage(&self, slot: Slot, keep_going: &dyn Fn() -> bool) -> Result<Usage, Error> {
        self.tell("usage", Some(slot)).usage(slot, keep_going)
    }

    fn top_of(&self, mount: &Mount) -> Option<Slot> {
        self.inner.top_of(mount)
    }

    fn filled(&self) -> Result<(), Error> {
        self.tell("filled", None).filled()
    }

    fn stamp(&self, slot: Slot) -> Result<Option<Stamp>, Error> {
        self.tell("stamp", Some(slot)).stamp(slot)
    }

    fn open_layer(&self, slot: Slot) -> Result<OwnedFd, Error> {
        self.tell("open_layer", Some(slot)).open_layer(slot)
    }

    fn list(&self) -> Result<Vec<Found>, Error> {
        self.tell("list", None).list()
    }

    fn describe(&self) -> Vec<(String, String)> {
        self.inner.describe()
    }
}
