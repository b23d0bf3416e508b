//! `csi.v1.Controller`: decodes and answers; the work is in `volumes.rs` and `snapshots.rs`.

use layerd_mounts::limit::Limit;
use layerd_proto::csi::v1::controller_server::Controller;
use layerd_proto::csi::v1::controller_service_capability::rpc::Type as Rpc;
use layerd_proto::csi::v1::controller_service_capability::{self as capability};
use layerd_proto::csi::v1::validate_volume_capabilities_response::Confirmed;
use layerd_proto::csi::v1::{self as pb};
use tonic::{Request, Response, Status};

use super::capacity::{Capacity, signed};
use super::record::{self, Kind};
use super::usage::{Unfit, Use};
use super::{Parts, bounded, failed, not_implemented, pages, required, snapshots, stats, volumes};

#[derive(Debug)]
pub(super) struct Service {
    parts: Parts,
}

impl Service {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts }
    }

    fn capabilities(&self) -> Vec<Rpc> {
        let mut all = vec![
            Rpc::CreateDeleteVolume,
            Rpc::ListVolumes,
            Rpc::GetCapacity,
            Rpc::CreateDeleteSnapshot,
            Rpc::ListSnapshots,
            Rpc::CloneVolume,
            Rpc::GetVolume,
            Rpc::SingleNodeMultiWriter,
        ];
        if !self.parts.node.node_expansion {
            all.push(Rpc::ExpandVolume);
        }
        all
    }
}

#[tonic::async_trait]
impl Controller for Service {
    async fn create_volume(
        &self,
        request: Request<pb::CreateVolumeRequest>,
    ) -> Result<Response<pb::CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        let wanted = volumes::Wanted::parse(&self.parts, &request)?;
        let turn = format!("the volume named {:?}", request.name);
        let create = move |engine: &layerd_engine::Engine| wanted.create(engine);
        let entry = self.parts.call_alone([turn], create).await?;
        let volume = Some(self.parts.volume(&entry));
        Ok(Response::new(pb::CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        request: Request<pb::DeleteVolumeRequest>,
    ) -> Result<Response<pb::DeleteVolumeResponse>, Status> {
        let id = request.into_inner().volume_id;
        required("volume_id", &id)?;
        let delete = {
            let id = id.clone();
            move |engine: &layerd_engine::Engine| match record::find_volume(engine, &id) {
                Some(entry) => record::delete(engine, &entry),
                None => Ok(()),
            }
        };
        self.parts.call_alone([turn(&id)], delete).await?;
        Ok(Response::new(pb::DeleteVolumeResponse {}))
    }

    async fn controller_publish_volume(
        &self,
        _: Request<pb::ControllerPublishVolumeRequest>,
    ) -> Result<Response<pb::ControllerPublishVolumeResponse>, Status> {
        Err(not_implemented("volumes are on their node already"))
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<pb::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<pb::ControllerUnpublishVolumeResponse>, Status> {
        Err(not_implemented("volumes are on their node already"))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<pb::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<pb::ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        let id = required("volume_id", &request.volume_id)?;
        let fit = match Use::parse_all(&request.volume_capabilities) {
            Err(Unfit::Malformed(status)) => return Err(status),
            Err(Unfit::Unsupported(why)) => Err(why),
            Ok(()) => Ok(()),
        };
        let engine = &self.parts.api.engine;
        record::find_volume(engine, id).ok_or_else(|| record::not_found("volume_id", id))?;
        let response = match fit {
            Err(message) => pb::ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message,
            },
            Ok(()) => pb::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        };
        Ok(Response::new(response))
    }

    async fn list_volumes(
        &self,
        request: Request<pb::ListVolumesRequest>,
    ) -> Result<Response<pb::ListVolumesResponse>, Status> {
        let request = request.into_inner();
        let parts = self.parts.clone();
        let list = move |engine: &layerd_engine::Engine| {
            let all = record::all(engine, Kind::Volume);
            let (page, next_token) =
                pages::page(all, request.max_entries, &request.starting_token)?;
            let conditions = stats::Conditions::look(engine)?;
            let entry = |entry: &layerd_engine::VolumeEntry| pb::list_volumes_response::Entry {
                volume: Some(parts.volume(entry)),
                status: Some(pb::list_volumes_response::VolumeStatus {
                    published_node_ids: Vec::new(),
                    volume_condition: Some(conditions.of(entry)),
                }),
            };
            Ok(pb::ListVolumesResponse {
                entries: page.iter().map(entry).collect(),
                next_token,
            })
        };
        self.parts.call(list).await.map(Response::new)
    }

    async fn get_capacity(
        &self,
        request: Request<pb::GetCapacityRequest>,
    ) -> Result<Response<pb::GetCapacityResponse>, Status> {
        let request = request.into_inner();
        bounded("parameters", &request.parameters)?;
        volumes::options(&request.parameters)?;
        let mut can = request
            .accessible_topology
            .is_none_or(|topology| self.parts.is_here(&topology));
        if !request.volume_capabilities.is_empty() {
            match Use::parse_all(&request.volume_capabilities) {
                Err(Unfit::Malformed(status)) => return Err(status),
                other => can &= other.is_ok(),
            }
        }
        let space = |engine: &layerd_engine::Engine| engine.volumes.space().map_err(failed);
        let free = match can {
            true => signed(self.parts.call(space).await?.bytes_free),
            false => 0,
        };
        Ok(Response::new(pb::GetCapacityResponse {
            available_capacity: free,
            maximum_volume_size: Some(free),
            minimum_volume_size: Some(signed(Limit::MIN_BYTES)),
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<pb::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<pb::ControllerGetCapabilitiesResponse>, Status> {
        let rpc = |rpc: Rpc| capability::Rpc { r#type: rpc.into() };
        let capabilities = self.capabilities().into_iter().map(|one| {
            let r#type = Some(capability::Type::Rpc(rpc(one)));
            pb::ControllerServiceCapability { r#type }
        });
        Ok(Response::new(pb::ControllerGetCapabilitiesResponse {
            capabilities: capabilities.collect(),
        }))
    }

    async fn create_snapshot(
        &self,
        request: Request<pb::CreateSnapshotRequest>,
    ) -> Result<Response<pb::CreateSnapshotResponse>, Status> {
        let request = request.into_inner();
        record::check_name(&request.name)?;
        required("source_volume_id", &request.source_volume_id)?;
        snapshots::check_parameters(&request.parameters)?;
        let turn = format!("the snapshot named {:?}", request.name);
        let create = move |engine: &layerd_engine::Engine| {
            snapshots::create(engine, &request.source_volume_id, &request.name)
        };
        let snapshot = self.parts.call_alone([turn], create).await?;
        let snapshot = Some(snapshots::snapshot(&snapshot));
        Ok(Response::new(pb::CreateSnapshotResponse { snapshot }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<pb::DeleteSnapshotRequest>,
    ) -> Result<Response<pb::DeleteSnapshotResponse>, Status> {
        let id = request.into_inner().snapshot_id;
        required("snapshot_id", &id)?;
        let delete = {
            let id = id.clone();
            move |engine: &layerd_engine::Engine| match record::find_snapshot(engine, &id) {
                Some(entry) => record::delete(engine, &entry),
                None => Ok(()),
            }
        };
        self.parts.call_alone([turn(&id)], delete).await?;
        Ok(Response::new(pb::DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(
        &self,
        request: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<pb::ListSnapshotsResponse>, Status> {
        let response = snapshots::list(&self.parts.api.engine, &request.into_inner())?;
        Ok(Response::new(response))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<pb::ControllerExpandVolumeRequest>,
    ) -> Result<Response<pb::ControllerExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = required("volume_id", &request.volume_id)?.to_owned();
        let capacity = Capacity::parse(request.capacity_range)?;
        let capability = request.volume_capability.as_ref();
        volumes::check_expansion(capacity, capability)?;
        let turn = turn(&id);
        let expand = move |engine: &layerd_engine::Engine| {
            let entry = record::find_volume(engine, &id);
            let entry = entry.ok_or_else(|| record::not_found("volume_id", &id))?;
            volumes::expand(engine, &entry, capacity)
        };
        Ok(Response::new(pb::ControllerExpandVolumeResponse {
            capacity_bytes: self.parts.call_alone([turn], expand).await?,
            node_expansion_required: false,
        }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<pb::ControllerGetVolumeRequest>,
    ) -> Result<Response<pb::ControllerGetVolumeResponse>, Status> {
        let id = request.into_inner().volume_id;
        required("volume_id", &id)?;
        let parts = self.parts.clone();
        let get = move |engine: &layerd_engine::Engine| {
            let entry = record::find_volume(engine, &id);
            let entry = entry.ok_or_else(|| record::not_found("volume_id", &id))?;
            let condition = stats::Conditions::look(engine)?.of(&entry);
            Ok(pb::ControllerGetVolumeResponse {
                volume: Some(parts.volume(&entry)),
                status: Some(pb::controller_get_volume_response::VolumeStatus {
                    published_node_ids: Vec::new(),
                    volume_condition: Some(condition),
                }),
            })
        };
        self.parts.call(get).await.map(Response::new)
    }
}

/// Name under which calls about one volume exclude each other.
pub(super) fn turn(id: &str) -> String {
    let shown: String = id.chars().take(128).collect();
    format!("volume {shown:?}")
}
