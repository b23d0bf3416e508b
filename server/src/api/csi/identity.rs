//! `csi.v1.Identity`.

use layerd_proto::csi::v1::identity_server::Identity;
use layerd_proto::csi::v1::plugin_capability::{Service as Has, Type, VolumeExpansion};
use layerd_proto::csi::v1::plugin_capability::{service, volume_expansion};
use layerd_proto::csi::v1::{self as pb};
use tonic::{Request, Response, Status};

use super::{DRIVER, Parts};

#[derive(Debug)]
pub(super) struct Service {
    parts: Parts,
}

impl Service {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts }
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn get_plugin_info(
        &self,
        _: Request<pb::GetPluginInfoRequest>,
    ) -> Result<Response<pb::GetPluginInfoResponse>, Status> {
        Ok(Response::new(pb::GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<pb::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<pb::GetPluginCapabilitiesResponse>, Status> {
        let has = |has: service::Type| Type::Service(Has { r#type: has.into() });
        let capabilities = [
            has(service::Type::ControllerService),
            has(service::Type::VolumeAccessibilityConstraints),
            Type::VolumeExpansion(VolumeExpansion {
                r#type: volume_expansion::Type::Online.into(),
            }),
        ];
        let capabilities = capabilities.map(|one| pb::PluginCapability { r#type: Some(one) });
        Ok(Response::new(pb::GetPluginCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn probe(
        &self,
        _: Request<pb::ProbeRequest>,
    ) -> Result<Response<pb::ProbeResponse>, Status> {
        let ping = |engine: &layerd_engine::Engine| {
            let sick = |cause| Status::failed_precondition(crate::with_causes(&cause));
            engine.ping().map_err(sick)
        };
        self.parts.call(ping).await?;
        Ok(Response::new(pb::ProbeResponse { ready: Some(true) }))
    }
}
