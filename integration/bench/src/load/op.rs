//! The calls that are measured.

use layerd_proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use tonic::Status;
use tonic::transport::Channel;

use super::request;

pub(super) type Client = SnapshotsClient<Channel>;

/// A call on the `i`-th snapshot of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Makes the active snapshot `a-i` on the base.
    Prepare,
    /// Asks how to mount it.
    Mounts,
    /// Describes it.
    Stat,
    /// Lists all there are.
    List,
    /// Lists those of its name: one.
    ListName,
    /// Lists those on the lowest layer of the base: one.
    ListParent,
    /// Asks for its size.
    Usage,
    /// Gives it a label.
    Update,
    /// Commits it as `c-i`.
    Commit,
    /// Makes the view `v-i` of the base.
    View,
    /// Removes the view `v-i`.
    RemoveView,
    /// Removes the committed `c-i`.
    Remove,
    /// Removes the active `a-i`.
    Drop,
    /// Prepares `l-i`, asks for its mounts and removes it: what a container does.
    Life,
}

impl Op {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Mounts => "mounts",
            Self::Stat => "stat",
            Self::List => "list",
            Self::ListName => "list, by name",
            Self::ListParent => "list, by parent",
            Self::Usage => "usage",
            Self::Update => "update",
            Self::Commit => "commit",
            Self::View => "view",
            Self::RemoveView => "remove (view)",
            Self::Remove => "remove (committed)",
            Self::Drop => "remove (active)",
            Self::Life => "prepare, mounts, remove",
        }
    }

    /// Its name for the peer that makes its calls itself.
    ///
    /// # Panics
    /// For operations that are never asked of that one.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Mounts => "mounts",
            Self::Stat => "stat",
            Self::List => "list",
            Self::ListName => "list-name",
            Self::ListParent => "list-parent",
            Self::Usage => "usage",
            Self::Commit => "commit",
            Self::Remove => "remove",
            Self::Life => "life",
            Self::Update | Self::View | Self::RemoveView | Self::Drop => {
                panic!("{} is not measured in process", self.name())
            }
        }
    }

    /// True if it changes nothing, so that it can be repeated.
    pub(crate) fn is_read(self) -> bool {
        matches!(
            self,
            Self::Mounts
                | Self::Stat
                | Self::List
                | Self::ListName
                | Self::ListParent
                | Self::Usage
        )
    }

    pub(super) async fn call(
        self,
        client: &mut Client,
        base: &str,
        i: usize,
    ) -> Result<(), Status> {
        let (active, committed, view) = (format!("a-{i}"), format!("c-{i}"), format!("v-{i}"));
        match self {
            Self::Prepare => drop(client.prepare(request::prepare(&active, base)).await?),
            Self::Mounts => drop(client.mounts(request::mounts(&active)).await?),
            Self::Stat => drop(client.stat(request::stat(&active)).await?),
            Self::List => drop(list(client, None).await?),
            Self::ListName => one(client, format!("name=={active}")).await?,
            Self::ListParent => one(client, "parent==base-0".into()).await?,
            Self::Usage => drop(client.usage(request::usage(&active)).await?),
            Self::Update => drop(client.update(request::update(&active)).await?),
            Self::Commit => drop(client.commit(request::commit(&active, &committed)).await?),
            Self::View => drop(client.view(request::view(&view, base)).await?),
            Self::RemoveView => drop(client.remove(request::remove(&view)).await?),
            Self::Remove => drop(client.remove(request::remove(&committed)).await?),
            Self::Drop => drop(client.remove(request::remove(&active)).await?),
            Self::Life => {
                let key = &format!("l-{i}");
                client.prepare(request::prepare(key, base)).await?;
                client.mounts(request::mounts(key)).await?;
                client.remove(request::remove(key)).await?;
            }
        }
        Ok(())
    }
}

async fn one(client: &mut Client, filter: String) -> Result<(), Status> {
    let found = list(client, Some(filter.clone())).await?;
    assert_eq!(found, 1, "{filter}");
    Ok(())
}

/// Answers how many there are.
async fn list(client: &mut Client, filter: Option<String>) -> Result<usize, Status> {
    let mut stream = client.list(request::list(filter)).await?.into_inner();
    let mut count = 0;
    while let Some(part) = stream.message().await? {
        count += part.info.len();
    }
    Ok(count)
}
