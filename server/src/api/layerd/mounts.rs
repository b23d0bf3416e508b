//! `layerd.v1.Mounts` and `.Attachments`.

use std::path::PathBuf;

use layerd_engine::{Attach, AttachError, AttachmentEntry, Error, Living};
use layerd_proto::layerd::v1::attachments_server::Attachments;
use layerd_proto::layerd::v1::mounts_server::Mounts;
use layerd_proto::layerd::v1::{self as pb};
use layerd_spec::{Decision, Kind, MountSpec, Origin, Policy, ReadOnly, Relabel};
use layerd_store::{AttachState, BadInput, Key, Owner, VolumeName};
use tonic::{Request, Response, Status};

use crate::api::wire::{self, timestamp};
use crate::api::{Messages, Parts, in_messages, status};

#[derive(Debug)]
pub(crate) struct Service {
    parts: Parts,
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts }
    }
}

#[tonic::async_trait]
impl Mounts for Service {
    async fn parse(
        &self,
        request: Request<pb::ParseMountsRequest>,
    ) -> Result<Response<pb::ParseMountsResponse>, Status> {
        let specs = parse(request.into_inner())?;
        let mounts = specs.iter().map(mount_spec).collect();
        Ok(Response::new(pb::ParseMountsResponse { mounts }))
    }

    async fn check(
        &self,
        request: Request<pb::ParseMountsRequest>,
    ) -> Result<Response<pb::CheckMountsResponse>, Status> {
        let specs = parse(request.into_inner())?;
        let checked = self.parts.call(move |engine| {
            Ok(specs
                .iter()
                .map(|spec| {
                    checked(
                        spec,
                        engine.attachments.check_mount(spec),
                        engine.attachments.label_note(spec),
                    )
                })
                .collect())
        });
        let mounts = checked.await?;
        Ok(Response::new(pb::CheckMountsResponse { mounts }))
    }
}

#[tonic::async_trait]
impl Attachments for Service {
    type ListStream = Messages<pb::ListAttachmentsResponse>;

    async fn attach(
        &self,
        request: Request<pb::AttachRequest>,
    ) -> Result<Response<pb::AttachResponse>, Status> {
        let request = request.into_inner();
        let owner = required_owner(request.owner)?;
        let mounts = request
            .mounts
            .into_iter()
            .map(attach)
            .collect::<Result<Vec<_>, _>>()?;
        let attached = self
            .parts
            .call(move |engine| engine.attachments.attach(&owner, &mounts))
            .await?;
        let attachments = attached.into_iter().map(attachment).collect();
        Ok(Response::new(pb::AttachResponse { attachments }))
    }

    async fn detach(
        &self,
        request: Request<pb::DetachRequest>,
    ) -> Result<Response<pb::DetachResponse>, Status> {
        let request = request.into_inner();
        let mut keys = keys(&request.keys)?;
        if let Some(owner) = request.owner {
            let owner = parse_owner(&owner)?;
            keys.extend(self.parts.engine.attachments.keys_of(&owner));
        } else if keys.is_empty() {
            return Err(status::bad(BadInput::new(
                "keys",
                "name at least one, or an owner",
            )));
        }
        let detached = self
            .parts
            .call(move |engine| engine.attachments.detach(&keys, request.lazy))
            .await?;
        let detached = detached.iter().map(|key| key.as_str().to_owned()).collect();
        Ok(Response::new(pb::DetachResponse { detached }))
    }

    async fn list(
        &self,
        request: Request<pb::ListAttachmentsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let owner = request.owner.as_ref().map(parse_owner).transpose()?;
        let volume = (!request.volume.is_empty())
            .then(|| self.volume(&request.volume))
            .transpose()?;
        let found = self
            .parts
            .call(move |engine| engine.attachments.attachments(owner.as_ref(), volume));
        let all: Vec<_> = found.await?.into_iter().map(attachment).collect();
        Ok(Response::new(in_messages(all, |attachments| {
            pb::ListAttachmentsResponse { attachments }
        })))
    }

    async fn holders(
        &self,
        request: Request<pb::HoldersRequest>,
    ) -> Result<Response<pb::HoldersResponse>, Status> {
        let volume = self.volume(&request.into_inner().volume)?;
        let found = self
            .parts
            .call(move |engine| engine.attachments.attachments(None, Some(volume)));
        let attachments = found.await?.into_iter().map(attachment).collect();
        Ok(Response::new(pb::HoldersResponse { attachments }))
    }

    async fn reconcile(
        &self,
        request: Request<pb::ReconcileRequest>,
    ) -> Result<Response<pb::ReconcileResponse>, Status> {
        let request = request.into_inner();
        let dry_run = request.dry_run;
        let living = living(request)?;
        let outcome = self
            .parts
            .call(move |engine| Ok(engine.attachments.reconcile(&living, dry_run)))
            .await?;
        let text = |key: &Key| key.as_str().to_owned();
        Ok(Response::new(pb::ReconcileResponse {
            kept: outcome.kept.iter().map(text).collect(),
            released: outcome.released.iter().map(text).collect(),
            failed: outcome
                .failed
                .iter()
                .map(|(key, why)| (text(key), why.clone()))
                .collect(),
            unknown: outcome.unknown.iter().map(text).collect(),
        }))
    }
}

impl Service {
    fn volume(&self, name: &str) -> Result<layerd_store::VolumeId, Status> {
        let name = VolumeName::parse("volume", name).map_err(status::bad)?;
        let entry = self
            .parts
            .engine
            .volumes
            .volume(&name)
            .map_err(|error| status::of(&error))?;
        Ok(entry.volume.id)
    }
}

fn parse(request: pb::ParseMountsRequest) -> Result<Vec<MountSpec>, Status> {
    let dialect = match request.dialect() {
        pb::Dialect::Unspecified | pb::Dialect::Strict => layerd_spec::Dialect::Strict,
        pb::Dialect::Docker => layerd_spec::Dialect::Docker,
    };
    let base_dir = match request.base_dir.as_str() {
        "" => None,
        given => {
            let rule = || status::bad(BadInput::new("base_dir", "must be an absolute path"));
            Some(layerd_spec::HostPath::new(given).ok_or_else(rule)?)
        }
    };
    let request = layerd_spec::ParseRequest {
        dialect,
        volume_flags: request.volumes,
        mount_flags: request.mounts,
        tmpfs_flags: request.tmpfs,
        base_dir,
    };
    layerd_spec::parse(&request).map_err(|bad| status::of(&bad.into()))
}

fn mount_spec(spec: &MountSpec) -> pb::MountSpec {
    let (kind, source, has_source) = match &spec.kind {
        Kind::Volume(volume) => {
            let name = volume.name.as_ref().map(|name| name.as_str());
            ("volume", name.unwrap_or_default(), volume.name.is_some())
        }
        Kind::Bind(bind) => ("bind", bind.source.as_str(), true),
        Kind::Tmpfs(_) => ("tmpfs", "", false),
        Kind::Image(image) => ("image", image.reference.as_str(), true),
    };
    let policy = match spec.on_missing.policy {
        Policy::Create => "create",
        Policy::Fail => "fail",
    };
    let origin = match spec.on_missing.origin {
        Origin::Explicit => "explicit",
        Origin::Dialect => "dialect",
    };
    let said = |word: &str| {
        if has_source {
            word.to_owned()
        } else {
            String::new()
        }
    };
    pb::MountSpec {
        canonical: spec.to_string(),
        relabel_by_dialect: spec.relabel == Some(Relabel::SharedByDialect),
        r#type: kind.to_owned(),
        source: source.to_owned(),
        target: spec.target.to_string(),
        access: access(spec).to_owned(),
        on_missing: said(policy),
        policy_origin: said(origin),
    }
}

/// The access that is promised. Mounts that propagate to a bind later are as writable as at their
/// origin, so such a bind is read-only at its top alone.
fn access(spec: &MountSpec) -> &'static str {
    let propagates = match &spec.kind {
        Kind::Bind(bind) => !bind.propagation.is_private(),
        Kind::Volume(_) | Kind::Tmpfs(_) | Kind::Image(_) => false,
    };
    match spec.read_only {
        ReadOnly::Rw => "rw",
        ReadOnly::RoTop => "ro",
        ReadOnly::RoRecursiveIfPossible if propagates => "ro",
        ReadOnly::RoRecursiveIfPossible => "ro-if-possible",
        ReadOnly::RoRecursiveRequired => "ro-recursive",
    }
}

fn checked(
    spec: &MountSpec,
    decision: Result<Decision, Error>,
    note: Option<String>,
) -> pb::CheckedMount {
    let refused = |error| ("fail", status::of(&error).message().to_owned());
    let (decision, detail) = match decision {
        Ok(Decision::Use) => ("use", "what is there is used".to_owned()),
        Ok(Decision::Create(made, _)) => ("create", format!("{} is made", made_name(made))),
        Ok(Decision::Refuse(refusal)) => refused(AttachError::SourceMissing { refusal }.into()),
        Err(error) => refused(error),
    };
    let detail = match note.filter(|_| decision != "fail") {
        Some(note) => format!("{detail}; {note}"),
        None => detail,
    };
    pb::CheckedMount {
        mount: Some(mount_spec(spec)),
        decision: decision.to_owned(),
        detail,
    }
}

fn made_name(made: layerd_spec::Made) -> &'static str {
    match made {
        layerd_spec::Made::Volume => "a volume of this name",
        layerd_spec::Made::AnonymousVolume => "an anonymous volume",
        layerd_spec::Made::Directory => "a directory of the host",
        layerd_spec::Made::File => "an empty file of the host",
        layerd_spec::Made::Tmpfs => "a tmpfs",
    }
}

fn required_owner(owner: Option<pb::Owner>) -> Result<Owner, Status> {
    let missing = || status::bad(BadInput::new("owner", "must be set"));
    parse_owner(&owner.ok_or_else(missing)?)
}

fn parse_owner(owner: &pb::Owner) -> Result<Owner, Status> {
    Owner::parse(&owner.kind, &owner.id).map_err(status::bad)
}

/// Of a kind of owners or of one owner, never of both: what is not named is let go.
fn living(request: pb::ReconcileRequest) -> Result<Living, Status> {
    let bad = |field, rule| Err(status::bad(BadInput::new(field, rule)));
    match request.owner {
        None if !request.keys.is_empty() => bad("owner", "must be set, as `keys` are its"),
        None => {
            // The same rule as for an owner; the id is any that keeps it.
            Owner::parse(&request.kind, "any").map_err(status::bad)?;
            Ok(Living::Owners {
                kind: request.kind,
                ids: request.alive,
            })
        }
        Some(_) if !request.kind.is_empty() || !request.alive.is_empty() => {
            bad("owner", "must not be set together with `kind` or `alive`")
        }
        Some(owner) => Ok(Living::Keys {
            owner: parse_owner(&owner)?,
            keys: keys(&request.keys)?,
        }),
    }
}

fn keys(raw: &[String]) -> Result<Vec<Key>, Status> {
    raw.iter().map(|key| wire::key("keys", key)).collect()
}

fn attach(message: pb::AttachSpec) -> Result<Attach, Status> {
    let target = (!message.target_path.is_empty()).then(|| PathBuf::from(&message.target_path));
    if target
        .as_ref()
        .is_some_and(|path| !path.is_absolute() || message.target_path.len() > 4096)
    {
        let rule = "must be an absolute path of at most 4096 bytes";
        return Err(status::bad(BadInput::new("target_path", rule)));
    }
    let fill_from = (!message.fill_from.is_empty())
        .then(|| wire::key("fill_from", &message.fill_from))
        .transpose()?;
    Ok(Attach {
        key: wire::key("key", &message.key)?,
        mount: message.mount,
        target,
        fill_from,
        selinux_label: (!message.selinux_label.is_empty()).then_some(message.selinux_label),
        relabel_by_dialect: message.relabel_by_dialect,
        exclusive: false,
    })
}

fn attachment(entry: AttachmentEntry) -> pb::Attachment {
    let record = &entry.attachment;
    let state = match entry.state {
        AttachState::Preparing => "preparing",
        AttachState::Attached => "attached",
        AttachState::Waiting => "waiting",
    };
    let oci = entry.oci.into_iter().map(|mount| pb::OciMount {
        destination: mount.destination,
        r#type: mount.kind,
        source: mount.source,
        options: mount.options,
    });
    pb::Attachment {
        id: record.id.to_string(),
        key: record.key.as_str().to_owned(),
        owner: Some(pb::Owner {
            kind: record.owner.kind.clone(),
            id: record.owner.id.clone(),
        }),
        mount: Some(mount_spec(&entry.spec)),
        state: state.to_owned(),
        oci_mounts: oci.collect(),
        mounted_at: record
            .mount
            .as_ref()
            .map(|mount| mount.target.clone())
            .unwrap_or_default(),
        created: entry.created,
        filled: entry.filled,
        notes: entry.notes,
        new: entry.is_new,
        effective_access: record
            .mount
            .as_ref()
            .map(|mount| mount.access.clone())
            .unwrap_or_default(),
        created_at: Some(timestamp(record.created)),
        volume: entry
            .volume
            .map(|name| name.to_string())
            .unwrap_or_default(),
    }
}
