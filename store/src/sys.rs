//! The symbol that orders sled's log writes.
//!
//! sled ends each write to its log with `sync_file_range`, which flushes neither the disk's cache
//! nor the file's size and extents, and counts the data as stable afterwards. This program
//! defines that C symbol itself. The linker prefers it to libc's; [`calls`] lets the store prove at
//! run time that it did.
//!
//! Two things depend on what sled counts as stable. One is the answer to a commit: for that, the
//! store ends it with an fdatasync(2) of its own, once for all writes of the commit. The other is
//! that sled overwrites segments of the log whose content it has written anew elsewhere. It does
//! so only after the header of a later segment, which says up to where the log was stable, has been
//! written. So a write with which a segment begins is followed by an fdatasync here and now, which
//! makes durable all that was written before it too, and other writes wait for the commit's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of a segment of sled's log; must be what it is configured with.
pub(crate) const SEGMENT: usize = 512 * 1024;

static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

/// How often sled asked for a log write to be made durable in this process.
pub(crate) fn calls() -> u64 {
    CALLS.load(Ordering::Acquire)
}

/// Whether making a log write durable here ever failed. The kernel reports such an error once and
/// marks the pages clean, so nothing after it can be trusted.
pub(crate) fn sync_failed() -> bool {
    FAILED.load(Ordering::Acquire)
}

/// Starts to watch anew, for a new database.
pub(crate) fn forget_failure() {
    FAILED.store(false, Ordering::Release);
}

/// What sled calls after each write; see above. Nothing else in the process calls it by this name.
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
