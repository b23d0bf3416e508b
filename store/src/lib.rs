//! Records of snapshots, volumes and attachments: durable in sled, all of them in memory.
//!
//! Invariants:
//! - A change is on stable storage before the call that asked for it returns, and is visible to
//!   readers only then. A reader holds one [`Records`], a consistent set; it takes no lock that a
//!   writer holds while it waits for the disk.
//! - One caller writes at a time. It decides every change against the newest state, so two callers cannot
//!   both take a key, and all callers that wait at one time share one flush.
//! - An id is handed out once, across restarts and crashes.
//! - This crate knows records only: no directory, no mount, no RPC message.

mod batches;
pub mod call_phase;
mod clock;
mod codec;
mod database;
mod db;
mod error;
mod export;
pub mod file;
mod folder;
mod item;
mod lock;
mod model;
mod published;
mod records;
mod sequence_file;
mod shared;
mod space;
mod stall;
mod state;
mod store;
mod sys;
mod volume;
mod volume_state;
mod volumes;
mod wal;
mod worker_thread;
mod writer;

pub use clock::boot_id;
pub use error::{Error, Refusal};
pub use export::{Export, newest_export};
pub use model::{
    BadInput, Key, Kind, LABEL_MAX, LABELS_TOTAL_MAX, LabelChange, Labels, LayerId, NAME_MAX,
    Record, Removal, SteadyTime, Timestamp, Usage,
};
pub use records::Records;
pub use shared::{Files, Options};
pub use space::Room;
pub use state::{Checked, Commit, Create};
pub use store::{Claim, Store};
pub use volume::{
    AttachState, Attachment, AttachmentId, MadePath, MadeSource, MountedAt, Owner, SPEC_MAX,
    VOLUME_NAME_MAX, Volume, VolumeId, VolumeName,
};
pub use volumes::Volumes;
