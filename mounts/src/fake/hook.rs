//! Where a test may hold one call at a known point while others run. Tests only.

use std::fmt;
use std::sync::Arc;

use crate::Slot;
use parking_lot::{Mutex, MutexGuard};

/// Called with the name of the method and the slot it is about, on the thread of the caller.
pub type Hook = Arc<dyn Fn(&'static str, Option<Slot>) + Send + Sync>;

/// Where a hook may be set. A hook that holds one call does not hold the others.
#[derive(Default)]
pub struct HookCell(Mutex<Option<Hook>>);

impl HookCell {
    /// Sets the hook, or takes it off.
    pub fn set(&self, hook: Option<Hook>) {
        *self.lock() = hook;
    }

    /// Tells the hook of a call.
    pub fn tell(&self, step: &'static str, slot: Option<Slot>) {
        let hook = self.lock().clone();
        if let Some(hook) = hook {
            hook(step, slot);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Hook>> {
        self.0.lock()
    }
}

impl fmt::Debug for HookCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookCell").finish_non_exhaustive()
    }
}
