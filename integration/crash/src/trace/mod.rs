//! Kills a program, or makes a system call of it fail, at a chosen call.
//!
//! A process of its own (`crash-tracer`) does the tracing: the kernel hands a tracee's stops to any
//! thread of the tracer's process that waits for it, so that a test that is both the parent and
//! the tracer would take them from itself. [`Tracer`] is the handle on that process; the traced
//! program stays a plain child of the test.
//!
//! A plan counts calls of chosen classes below chosen directories, over all threads and child
//! processes, from the moment it is armed. The order in which threads reach the kernel is not
//! repeatable, so that call n of one run need not be call n of the next.
//!
//! Not seen: stores to shared memory mappings, io_uring, and 32-bit system calls.

mod calls;
mod client;
mod plan;
mod run;
pub mod server;
mod session;
mod sweep;
mod tracee;

pub use client::{Error, Tracer};
pub use plan::{Call, Class, End, Moment, Plan, Status, Times};
pub use sweep::{Attempt, sweep};
