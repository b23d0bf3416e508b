//! The commands, one file a noun.

pub(crate) mod attach;
pub(crate) mod attachments;
pub(crate) mod backup;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod events;
pub(crate) mod fsck;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod layer;
pub(crate) mod man;
pub(crate) mod mount;
pub(crate) mod oci_apply;
pub(crate) mod oci_hook;
pub(crate) mod orphans;
pub(crate) mod report;
pub(crate) mod restore;
pub(crate) mod setup;
pub(crate) mod snapshot;
pub(crate) mod top;
pub(crate) mod trash;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod why;

use std::path::PathBuf;
use std::time::Duration;

use crate::client::Client;
use crate::error::Error;

/// Time for a daemon that is known to be down: one that was started by hand answers within it.
const DOWN: Duration = Duration::from_secs(2);

/// Where the daemon is and how long it may take.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) address: PathBuf,
    timeout: Duration,
}

impl Daemon {
    pub(crate) fn new(address: PathBuf, timeout: Duration) -> Self {
        Self { address, timeout }
    }

    /// The same, for a daemon that is known to be down.
    fn expected_down(&self) -> Self {
        Self {
            address: self.address.clone(),
            timeout: self.timeout.min(DOWN),
        }
    }

    async fn connect(&self) -> Result<Client, Error> {
        Client::connect(&self.address, self.timeout).await
    }
}
