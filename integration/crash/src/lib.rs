//! Crash testing: proof that what was acknowledged is never lost.
//!
//! Two tools, neither of which knows layerd:
//!
//! - [`trace`] runs a program, or attaches to a running one, under ptrace and counts the system
//!   calls that change state. It can kill the program with SIGKILL at the n-th of them, let the
//!   n-th fail with an errno, or list them. [`trace::sweep`] repeats an experiment with the kill at
//!   the first call, the second, the third and so on until the program gets through.
//! - [`disk`] puts ext4, xfs or btrfs on a block device that logs every write and every flush, and builds
//!   the images that a power cut at any moment could have left behind.
//!
//! The tracer changes registers by name and knows x86-64's system calls, so that the crate is
//! empty on other machines.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

pub mod disk;
pub mod trace;
