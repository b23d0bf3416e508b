//! `csi.v1.Node`: volumes at paths of this node.

use std::path::PathBuf;

use layerd_engine::{Attach, Engine, Publish, VolumeEntry};
use layerd_proto::csi::v1::node_server::Node;
use layerd_proto::csi::v1::node_service_capability::rpc::Type as Rpc;
use layerd_proto::csi::v1::node_service_capability::{self as capability};
use layerd_proto::csi::v1::{self as pb};
use layerd_store::{Key, Owner};
use tonic::{Request, Response, Status};

use super::capacity::Capacity;
use super::controller::turn;
use super::usage::Use;
use super::{
    Parts, bad, bounded, failed, inline, not_implemented, record, required, stats, volumes,
};

const POD: &str = "csi.storage.k8s.io/pod.uid";

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
impl Node for Service {
    async fn node_stage_volume(
        &self,
        _: Request<pb::NodeStageVolumeRequest>,
    ) -> Result<Response<pb::NodeStageVolumeResponse>, Status> {
        Err(not_implemented(
            "volumes are published without being staged",
        ))
    }

    async fn node_unstage_volume(
        &self,
        _: Request<pb::NodeUnstageVolumeRequest>,
    ) -> Result<Response<pb::NodeUnstageVolumeResponse>, Status> {
        Err(not_implemented(
            "volumes are published without being staged",
        ))
    }

    async fn node_publish_volume(
        &self,
        request: Request<pb::NodePublishVolumeRequest>,
    ) -> Result<Response<pb::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        required("volume_id", &request.volume_id)?;
        required("target_path", &request.target_path)?;
        bounded("volume_context", &request.volume_context)?;
        let capability = request.volume_capability.as_ref();
        let way = Use::parse("volume_capability", capability);
        let way = way.map_err(|unfit| unfit.into_refusal())?;
        let turns = turns(&request.volume_id, &request.target_path);
        let publish = move |engine: &Engine| publish(engine, &request, &way);
        self.parts.call_alone(turns, publish).await?;
        Ok(Response::new(pb::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<pb::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<pb::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        required("volume_id", &request.volume_id)?;
        required("target_path", &request.target_path)?;
        let turns = turns(&request.volume_id, &request.target_path);
        let walks = self.parts.walks.clone();
        let unpublish = move |engine: &Engine| {
            unpublish(engine, &request.volume_id, &request.target_path, &walks)
        };
        self.parts.call_alone(turns, unpublish).await?;
        Ok(Response::new(pb::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<pb::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<pb::NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        required("volume_id", &request.volume_id)?;
        required("volume_path", &request.volume_path)?;
        let walks = self.parts.walks.clone();
        let look = move |engine: &Engine| {
            let entry = published(engine, &request.volume_id, &request.volume_path)?;
            let used = walks.usage(engine, &entry)?;
            Ok(pb::NodeGetVolumeStatsResponse {
                usage: stats::figures(engine, &entry, used)?,
                volume_condition: Some(stats::Conditions::look(engine)?.of_used(&entry, used)),
            })
        };
        self.parts.call(look).await.map(Response::new)
    }

    async fn node_expand_volume(
        &self,
        request: Request<pb::NodeExpandVolumeRequest>,
    ) -> Result<Response<pb::NodeExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        required("volume_id", &request.volume_id)?;
        required("volume_path", &request.volume_path)?;
        let capacity = Capacity::parse(request.capacity_range)?;
        let turn = turn(&request.volume_id);
        let expand = move |engine: &Engine| {
            let entry = published(engine, &request.volume_id, &request.volume_path)?;
            volumes::expand(engine, &entry, capacity)
        };
        Ok(Response::new(pb::NodeExpandVolumeResponse {
            capacity_bytes: self.parts.call_alone([turn], expand).await?,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<pb::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<pb::NodeGetCapabilitiesResponse>, Status> {
        let all = [
            Rpc::GetVolumeStats,
            Rpc::ExpandVolume,
            Rpc::VolumeCondition,
            Rpc::SingleNodeMultiWriter,
            Rpc::VolumeMountGroup,
        ];
        let capabilities = all.map(|one| {
            let rpc = capability::Rpc { r#type: one.into() };
            let r#type = Some(capability::Type::Rpc(rpc));
            pb::NodeServiceCapability { r#type }
        });
        Ok(Response::new(pb::NodeGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<pb::NodeGetInfoRequest>,
    ) -> Result<Response<pb::NodeGetInfoResponse>, Status> {
        Ok(Response::new(pb::NodeGetInfoResponse {
            node_id: self.parts.node.id.clone(),
            max_volumes_per_node: 0,
            accessible_topology: Some(self.parts.topology()),
        }))
    }
}

/// A path in its shortest form, and the key of its attachment.
fn target(field: &str, text: &str) -> Result<(PathBuf, Key), Status> {
    let path = layerd_spec::HostPath::new(text);
    let path = path.ok_or_else(|| {
        let shown: String = text.chars().take(256).collect();
        bad(field, format!("{shown:?} {}", layerd_spec::HostPath::RULE))
    })?;
    let path = path.as_path().to_owned();
    let key = Key::parse(field, &record::attachment_key(&path)).map_err(super::status::bad)?;
    Ok((path, key))
}

/// Names under which calls about a volume or about a target path exclude each other: a path has one
/// attachment, by whatever volume it is asked for.
fn turns(id: &str, path: &str) -> impl Iterator<Item = String> + use<> {
    let path = layerd_spec::HostPath::new(path);
    let path = path.map(|path| format!("target path {:?}", path.as_path()));
    std::iter::once(turn(id)).chain(path)
}

/// The mount's specification. The path inside the container is kubelet's to know; in its place stands what else
/// was asked for, so that a repeated call with something else is told apart.
fn mount(entry: &VolumeEntry, way: &Use, read_only: bool) -> String {
    let group = way
        .group
        .map_or_else(String::new, |gid| format!("/gid-{gid}"));
    let read_only = match read_only {
        true => ",readonly",
        false => "",
    };
    let (name, mode) = (&entry.volume.name, way.mode);
    format!("type=volume,src={name},dst=/csi/{mode}{group}{read_only}")
}

fn publish(
    engine: &Engine,
    request: &pb::NodePublishVolumeRequest,
    way: &Use,
) -> Result<(), Status> {
    let is_inline = inline::is_asked_for(&request.volume_context);
    if !is_inline {
        record::volume(engine, &request.volume_id)?;
    }
    let (path, key) = target("target_path", &request.target_path)?;
    let (entry, is_new) = match is_inline {
        true => inline::make(engine, &request.volume_id, &path, &request.volume_context)?,
        false => (record::volume(engine, &request.volume_id)?, false),
    };
    let read_only = request.readonly || way.read_only;
    let owner = owner(engine, &key, request);
    let publish = Publish {
        volume: entry.volume.id,
        group: way.group.filter(|_| !read_only),
        attach: Attach {
            mount: mount(&entry, way, read_only),
            key,
            target: Some(path),
            fill_from: None,
            selinux_label: None,
            relabel_by_dialect: false,
            exclusive: way.exclusive,
        },
    };
    let published = engine.attachments.publish(&owner, &publish).map(drop);
    if published.is_err() && is_new {
        inline::delete(engine, &entry)?;
    }
    published.map_err(failed)
}

/// Owner of the attachment: the pod, where kubelet tells it. A repeated call may know more or less
/// than the first one.
fn owner(engine: &Engine, key: &Key, request: &pb::NodePublishVolumeRequest) -> Owner {
    let pod = request.volume_context.get(POD);
    let pod = pod.and_then(|uid| Owner::parse("pod", uid).ok());
    let there = engine
        .attachments
        .attachment(key)
        .map(|there| there.owner.clone());
    there.or(pod).unwrap_or_else(|| Owner {
        kind: "plugin".to_owned(),
        id: "csi".to_owned(),
    })
}

fn unpublish(
    engine: &Engine,
    id: &str,
    target_path: &str,
    walks: &stats::Walks,
) -> Result<(), Status> {
    let (path, key) = target("target_path", target_path)?;
    let entry = record::volume(engine, id).ok();
    let known = entry.as_ref().map(|entry| entry.volume.id);
    let there = engine
        .attachments
        .attachment(&key)
        .and_then(|there| there.volume);
    if let Some(there) = there
        && known != Some(there)
    {
        let rule = format!(
            "{} has another volume, of id {there}, than {id:?}",
            path.display()
        );
        return Err(Status::failed_precondition(format!("target_path: {rule}")));
    }
    engine.attachments.unpublish(&key, &path).map_err(failed)?;
    let Some(entry) = entry else {
        return Ok(());
    };
    walks.forget(entry.volume.id);
    let is_its = entry.volume.labels.get(record::TARGET) == path.to_str();
    match record::kind(&entry.volume) {
        Some(record::Kind::Inline) if is_its => inline::delete(engine, &entry),
        _ => Ok(()),
    }
}

/// The volume that is published at a path.
///
/// # Errors
/// NOT_FOUND if there is no such volume, or it is not published there, whatever the path looks like.
fn published(engine: &Engine, id: &str, path: &str) -> Result<VolumeEntry, Status> {
    let entry = record::volume(engine, id)?;
    let there = target("volume_path", path).ok();
    let there = there.and_then(|(_, key)| engine.attachments.attachment(&key));
    let is_it = there.is_some_and(|there| there.volume == Some(entry.volume.id));
    is_it.then_some(entry).ok_or_else(|| {
        let shown: String = path.chars().take(256).collect();
        Status::not_found(format!("volume_path: {id} is not published at {shown:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::busy::Busy;
    use super::*;

    #[test]
    fn calls_about_one_path_or_one_volume_exclude_each_other() {
        let busy = Busy::default();
        let begin = |id, path| {
            let turns = turns(id, path).map(|one| busy.begin(one));
            turns.collect::<Result<Vec<_>, _>>()
        };
        let first = begin("vol-1-1", "/pods/a").unwrap();
        for (id, path) in [
            ("vol-1-1", "/pods/b"),
            ("vol-2-2", "/pods/a"),
            ("vol-2-2", "/pods//b/../a/"),
        ] {
            let second = begin(id, path).unwrap_err();
            assert_eq!(second.code(), tonic::Code::Aborted, "{id} {path}");
        }
        // What was begun for the path of a refused call is over.
        begin("vol-2-2", "/pods/b").unwrap();
        drop(first);
        begin("vol-2-2", "/pods/a").unwrap();
    }
}
