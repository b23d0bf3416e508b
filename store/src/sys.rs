//! The C symbol through which sled's log writes are ordered.
//!
//! sled ends each write to its log with `sync_file_range`, which flushes neither the disk's cache
//! nor the file's size and extents, and counts the data as stable afterwards. This program
//! defines that C symbol itself. The linker prefers it to libc's; [`calls`] lets the store prove at
//! run time that it did.
//!
//! sled relies on stable data twice. Once for the answer to a commit: the store ends it with an
//! fdatasync(2) of its own, once for all writes of the commit. And before it overwrites segments of
//! the log whose content it has rewritten elsewhere, which it does only after writing the header of a
//! later segment, which says up to where the log was stable. So a write at the begin of a segment is
//! followed by an fdatasync at once, which covers all earlier writes too; other writes wait for the
//! commit's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of a segment of sled's log; sled must be configured with it.
pub(crate) const SEGMENT: usize = 512 * 1024;

static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

/// Number of sled's calls in this process.
pub(crate) fn calls() -> u64 {
    CALLS.load(Ordering::Acquire)
}

/// True if a sync failed since [`forget_failure`]. The kernel reports such an error once and marks
/// the pages clean, so no later sync can be trusted.
pub(crate) fn sync_failed() -> bool {
    FAILED.load(Ordering::Acquire)
}

/// Clears [`sync_failed`], for a new database.
pub(crate) fn forget_failure() {
    FAILED.store(false, Ordering::Release);
}

/// Called by sled after each write, by nothing else in the process; see the module.
#[allow(
    unsafe_code,
    reason = "exporting a C symbol by name is the only way to reach sled's log writes"
)]
// SAFETY: the signature is that of sync_file_range(2) on 64-bit Linux.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(
    fd: libc::c_int,
    offset: i64,
    _length: i64,
    _flags: libc::c_uint,
) -> libc::c_int {
    CALLS.fetch_add(1, Ordering::AcqRel);
    if usize::try_from(offset).is_ok_and(|offset| offset % SEGMENT != 0) {
        return 0;
    }
    // SAFETY: fdatasync takes any integer and fails with EBADF on one that is no descriptor.
    let result = unsafe { libc::fdatasync(fd) };
    if result != 0 {
        FAILED.store(true, Ordering::Release);
    }
    result
}
