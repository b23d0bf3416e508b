//! layerd under crashes: killed at any system call, powered off at any write, refused any call.
//!
//! Each test keeps a model of what was acknowledged and compares all that the daemon answers, and
//! every byte of its layers, with it. Tests named `root_full_*` try every point there is and take
//! minutes; the others try a part of the same points.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "this program is tests as a whole"
)]

mod calls;
mod content;
mod disks;
mod errors;
mod home;
mod images;
mod imports;
mod limits;
mod model;
mod operation;
mod power;
mod process;
mod random;
mod rescue;
mod soak;
mod sweep;
mod unpack;
mod volumes;
mod whole_trees;
mod worker;

/// Result of a check; the error is the reason.
type Verdict<T = ()> = Result<T, String>;
