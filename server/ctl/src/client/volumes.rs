//! The calls about volumes.

use std::collections::BTreeMap;
use std::future::Future;

use layerd_proto::layerd::v1 as wire;
use tonic::{Code, Response, Status};

use super::{Client, answer, failed, within};
use crate::error::{Error, reason};
use crate::volume::Volume;

impl Client {
    /// Answers the volume and whether this call created it.
    pub(crate) async fn create_volume(
        &mut self,
        request: wire::CreateVolumeRequest,
    ) -> Result<(Volume, bool), Error> {
        let what = match request.name.as_str() {
            "" => "create a volume".to_owned(),
            name => format!("create volume \"{name}\""),
        };
        let fills = !request.clone_of.is_empty() && !request.name.is_empty();
        let filled = fills.then(|| request.name.clone()).into_iter().collect();
        let filling = self.filling(filled, true).await?;
        let call = self.volumes.create(request);
        let reply = about(filling.answer(&what, self.timeout, call).await)?;
        let created = reply.created;
        let lacks = "the volume";
        reply
            .volume
            .map(|volume| (volume.into(), created))
            .ok_or(Error::Malformed { what, lacks })
    }

    /// Has the daemon create a volume with a copy of a directory of the host. Answers how much was copied.
    pub(crate) async fn import_directory(
        &mut self,
        volume: wire::CreateVolumeRequest,
        source: &str,
    ) -> Result<wire::ImportDirectoryResponse, Error> {
        let what = format!("import volume \"{}\" from {source}", volume.name);
        let filling = self.filling(vec![volume.name.clone()], true).await?;
        let request = wire::ImportDirectoryRequest {
            volume: Some(volume),
            source: source.to_owned(),
        };
        let call = self.volumes.import_directory(request);
        about(filling.answer(&what, self.timeout, call).await)
    }

    pub(crate) async fn volume(&mut self, name: &str) -> Result<Volume, Error> {
        let request = wire::GetVolumeRequest {
            name: name.to_owned(),
        };
        let what = format!("look at volume \"{name}\"");
        one(&what, self.timeout, self.volumes.get(request)).await
    }

    /// In the order of their creation.
    pub(crate) async fn volumes(
        &mut self,
        request: wire::ListVolumesRequest,
    ) -> Result<Vec<Volume>, Error> {
        let what = "list volumes";
        let mut stream = answer(what, self.timeout, self.volumes.list(request)).await?;
        let mut all = Vec::new();
        while let Some(message) = within(what, self.timeout, stream.message())
            .await?
            .map_err(|status| failed(what, status))?
        {
            all.extend(message.volumes.into_iter().map(Volume::from));
        }
        Ok(all)
    }

    /// Sets labels; those with an empty value are removed. Others stay.
    pub(crate) async fn label_volume(
        &mut self,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Volume, Error> {
        self.update_volume(name, labels, String::new(), false).await
    }

    /// Changes labels, and the size unless it is empty.
    pub(crate) async fn update_volume(
        &mut self,
        name: &str,
        labels: BTreeMap<String, String>,
        size: String,
        force: bool,
    ) -> Result<Volume, Error> {
        let what = match size.is_empty() {
            true => format!("change the labels of volume \"{name}\""),
            false => format!("change volume \"{name}\""),
        };
        let request = wire::UpdateVolumeRequest {
            name: name.to_owned(),
            labels,
            size,
            force,
        };
        one(&what, self.timeout, self.volumes.update(request)).await
    }

    pub(crate) async fn rename_volume(&mut self, name: &str, new: &str) -> Result<Volume, Error> {
        let what = format!("rename volume \"{name}\" to \"{new}\"");
        let request = wire::RenameVolumeRequest {
            name: name.to_owned(),
            new_name: new.to_owned(),
        };
        one(&what, self.timeout, self.volumes.rename(request)).await
    }

    pub(crate) async fn delete_volume(
        &mut self,
        name: &str,
        force: bool,
    ) -> Result<wire::DeleteVolumeResponse, Error> {
        let request = wire::DeleteVolumeRequest {
            name: name.to_owned(),
            force,
        };
        let what = format!("remove volume \"{name}\"");
        about(answer(&what, self.timeout, self.volumes.delete(request)).await)
    }

    /// By id, or by name if the id is empty.
    pub(crate) async fn undelete_volume(
        &mut self,
        id: &str,
        name: &str,
        new_name: &str,
    ) -> Result<Volume, Error> {
        let what = match id {
            "" => format!("take back volume \"{name}\""),
            id => format!("take back volume {id}"),
        };
        let request = wire::UndeleteVolumeRequest {
            id: id.to_owned(),
            name: name.to_owned(),
            new_name: new_name.to_owned(),
        };
        let call = self.volumes.undelete(request);
        let reply = answer(&what, self.timeout, call).await;
        let hint = "`layerctl volume ls --deleted` shows what is in the trash.";
        reply.map(Volume::from).map_err(|error| advise(error, hint))
    }

    /// Deletes a volume in the trash for good. Answers how many volumes are left there.
    pub(crate) async fn purge_volume(&mut self, id: &str) -> Result<u64, Error> {
        let what = format!("delete volume {id} for good");
        let request = wire::PurgeVolumeRequest {
            id: id.to_owned(),
            ..wire::PurgeVolumeRequest::default()
        };
        let reply = answer(&what, self.timeout, self.volumes.purge(request)).await;
        let hint = "`layerctl volume ls --deleted` shows what is in the trash.";
        reply
            .map(|reply| reply.left)
            .map_err(|error| advise(error, hint))
    }

    /// Volumes in the trash, in the order of their creation.
    pub(crate) async fn deleted_volumes(&mut self) -> Result<Vec<Volume>, Error> {
        let request = wire::ListVolumesRequest {
            deleted: true,
            ..wire::ListVolumesRequest::default()
        };
        self.volumes(request).await
    }

    pub(crate) async fn plan_prune(
        &mut self,
        request: wire::PlanPruneRequest,
    ) -> Result<wire::PrunePlan, Error> {
        let call = self.volumes.plan_prune(request);
        answer("plan a prune", self.timeout, call).await
    }

    pub(crate) async fn execute_prune(
        &mut self,
        id: String,
    ) -> Result<Vec<wire::PruneOutcome>, Error> {
        let request = wire::ExecutePruneRequest { id };
        let call = self.volumes.execute_prune(request);
        let reply = answer("prune volumes", self.timeout, call).await?;
        Ok(reply.outcomes)
    }

    pub(crate) async fn volume_usage(
        &mut self,
        name: &str,
        exact: bool,
    ) -> Result<wire::VolumeUsageResponse, Error> {
        let what = format!("measure volume \"{name}\"");
        let request = wire::VolumeUsageRequest {
            name: name.to_owned(),
            exact,
        };
        about(answer(&what, self.timeout, self.volumes.usage(request)).await)
    }

    /// An empty name of the copy lets the daemon choose one.
    pub(crate) async fn snapshot_volume(
        &mut self,
        name: &str,
        snapshot_name: &str,
    ) -> Result<Volume, Error> {
        let what = format!("make a snapshot of volume \"{name}\"");
        let request = wire::SnapshotVolumeRequest {
            name: name.to_owned(),
            snapshot_name: snapshot_name.to_owned(),
        };
        one(&what, self.timeout, self.volumes.snapshot(request)).await
    }
}

async fn one(
    what: &str,
    limit: std::time::Duration,
    call: impl Future<Output = Result<Response<wire::Volume>, Status>>,
) -> Result<Volume, Error> {
    about(answer(what, limit, call).await).map(Volume::from)
}

/// Sends who looks for a volume to the volumes.
pub(super) fn about<T>(reply: Result<T, Error>) -> Result<T, Error> {
    reply.map_err(|error| advise(error, "`layerctl volume ls` shows what there is."))
}

fn advise(error: Error, hint: &str) -> Error {
    match error {
        Error::Call { what, status } if status.code() == Code::NotFound => Error::NotFound {
            why: reason(&what, &status).to_owned(),
            what,
            hint: hint.to_owned(),
        },
        other => other,
    }
}
