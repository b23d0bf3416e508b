//! Pairing of a pool with a root: each batch of changes counts the transaction of the pool up by one, by
//! compare-and-set, and notes the new number in the root. Two roots on one pool, or copies of different
//! moments, show by it before anything is made.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use layerd_mounts::{Error, Slot};
use nix::errno::Errno;
use parking_lot::Mutex;

use super::devices::Devices;
use super::home::{Numbers, NumbersFile};

/// Ids that are announced at once, so that few calls wait for it.
const AHEAD: u64 = 256;
/// Ids below the announced ones among which an interrupted process can have left devices: it made them
/// nearly in order.
const SEARCHED: u64 = 1024;

/// The numbers of a root, and their file.
#[derive(Debug)]
pub(super) struct Pairing {
    file: NumbersFile,
    numbers: Mutex<Numbers>,
    /// Set if devices that no layer was made of are left, for the next start.
    has_leftovers: AtomicBool,
}

impl Pairing {
    /// `noted` are the numbers of the file, `found` is the transaction of the pool, which is known to fit.
    pub(super) fn new(file: NumbersFile, noted: Numbers, found: u64) -> Self {
        let numbers = Numbers {
            transaction: found,
            ..noted
        };
        let numbers = Mutex::new(numbers);
        Self {
            file,
            numbers,
            has_leftovers: AtomicBool::new(false),
        }
    }

    /// Announces a device that is about to be made, durably. Costs nothing but for each 256th.
    pub(super) fn announce(&self, slot: Slot) -> Result<(), Error> {
        let mut numbers = self.numbers.lock();
        if slot.0 < numbers.ids_below {
            return Ok(());
        }
        let new = Numbers {
            ids_below: slot.0.saturating_add(AHEAD),
            ..*numbers
        };
        self.file.write(new)?;
        *numbers = new;
        Ok(())
    }

    /// Makes all that was told to the pool, or written through it, durable, if there was anything.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] if another program changed the pool; [`Error::Io`].
    pub(super) fn advance(&self, devices: &Devices) -> Result<(), Error> {
        let mut numbers = self.numbers.lock();
        if !devices.take_change() {
            return Ok(());
        }
        let advanced = self.advanced(*numbers, devices);
        let advanced = advanced.inspect_err(|_| devices.note_change())?;
        devices.take_change();
        *numbers = advanced;
        Ok(())
    }

    fn advanced(&self, numbers: Numbers, devices: &Devices) -> Result<Numbers, Error> {
        let path = devices.pool.path();
        let old = numbers.transaction;
        let transaction = old.wrapping_add(1);
        let set = devices.control.message(
            &devices.pool.name,
            &format!("set_transaction_id {old} {transaction}"),
        );
        match set {
            Ok(()) => {}
            Err(Errno::EINVAL) => {
                return Err(Error::Unsuitable {
                    path,
                    check: "pairing",
                    problem: format!("the pool is not at transaction {old} any more"),
                    advice: "stop the other program that changes the pool, then start layerd anew"
                        .to_owned(),
                });
            }
            Err(cause) => return Err(Error::io("commit the metadata of", &path, cause)),
        }
        let new = Numbers {
            transaction,
            ..numbers
        };
        self.file.write(new)?;
        Ok(new)
    }

    /// Deletes devices that an interrupted process made and of which the power cut took the entry away:
    /// they would hold blocks of their parents for ever. `is_known` answers for those that have entries.
    pub(super) fn delete_leftovers(
        &self,
        root: &Path,
        devices: &Devices,
        is_known: &dyn Fn(Slot) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let below = self.numbers.lock().ids_below;
        let kept = set_aside(root);
        let from = below.saturating_sub(AHEAD + SEARCHED).max(1);
        for slot in (from..below).map(Slot) {
            if kept.contains(&slot) || is_known(slot)? {
                continue;
            }
            if let Err(cause) = devices.deactivate(slot, Duration::ZERO) {
                let error = &cause as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    slot = slot.0,
                    "a device that no layer was made of stays"
                );
                self.has_leftovers.store(true, Ordering::Relaxed);
                continue;
            }
            if devices.delete(slot)? {
                tracing::info!(slot = slot.0, "deleted a device that no layer was made of");
            }
        }
        Ok(())
    }

    /// Notes that no call is under way, so that the next start has nothing to look for.
    pub(super) fn end(&self) {
        if self.has_leftovers.load(Ordering::Relaxed) {
            return;
        }
        let mut numbers = self.numbers.lock();
        let new = Numbers {
            ids_below: 0,
            ..*numbers
        };
        match self.file.write(new) {
            Ok(()) => *numbers = new,
            Err(cause) => {
                let error = &cause as &dyn std::error::Error;
                tracing::warn!(error, "note the end of the driver");
            }
        }
    }
}

/// Layers whose entries were moved to `lost/`, and whose devices stay.
fn set_aside(root: &Path) -> Vec<Slot> {
    let entries = fs::read_dir(root.join("lost")).into_iter().flatten();
    let names = entries.flatten().map(|entry| entry.file_name());
    let slot = |name: &str| {
        let (_, name) = name.split_once('-')?;
        name.split('.').next()?.parse().ok()
    };
    names.filter_map(|name| slot(name.to_str()?)).collect()
}
