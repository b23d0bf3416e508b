//! The symbol that makes sled's log writes durable.
//!
//! sled ends each write to its log with `sync_file_range`, which flushes neither the disk's cache
//! nor the file's size and extents, and counts the data as stable afterwards. This program
//! defines that C symbol itself, as an fdatasync(2) of the descriptor. The linker prefers it to
//! libc's; [`syncs`] lets the store prove at run time that it did.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static SYNCS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

/// How often a log write was made durable in this process.
pub(crate) fn syncs() -> u64 {
    SYNCS.load(Ordering::Acquire)
}

/// Whether making a log write durable ever failed. The kernel reports such an error once and
/// marks the pages clean, so nothing after it can be trusted.
pub(crate) fn sync_failed() -> bool {
    FAILED.load(Ordering::Acquire)
}

/// Starts to watch anew, for a new database.
pub(crate) fn forget_failure() {
    FAILED.store(false, Ordering::Release);
}

/// fdatasync(2) under the name sled calls.
///
/// Defining the symbol cannot break others: an fdatasync does all that sync_file_range(2)
/// promises, and more.
#[allow(
    unsafe_code,
    reason = "exporting a C symbol by name is the only way to reach sled's log writes"
)]
// SAFETY: the signature is that of sync_file_range(2) on 64-bit Linux.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: i64,
    _length: i64,
    _flags: libc::c_uint,
) -> libc::c_int {
    SYNCS.fetch_add(1, Ordering::AcqRel);
    // SAFETY: fdatasync takes any integer and fails with EBADF on one that is no descriptor.
    let result = unsafe { libc::fdatasync(fd) };
    if result != 0 {
        FAILED.store(true, Ordering::Release);
    }
    result
}
