//! Creating volumes, and growing them.

use std::collections::BTreeMap;

use layerd_engine::{CreateVolume, Engine, Error, VolumeEntry, VolumeError, VolumeRef, size_asked};
use layerd_proto::csi::v1::volume_content_source::Type as Source;
use layerd_proto::csi::v1::{CreateVolumeRequest, VolumeCapability};
use layerd_store::{Labels, VolumeName};
use tonic::Status;

use super::capacity::{Capacity, shown};
use super::record::{self, Handle, Kind};
use super::usage::Use;
use super::{Parts, bad, bounded, failed, required};

/// Prefix of the parameters that external-provisioner adds with `--extra-create-metadata`: kept as labels.
const KUBERNETES: &str = "csi.storage.k8s.io/";

/// A volume that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    name: String,
    capacity: Capacity,
    /// `uid`, `gid` and `mode` of the top directory.
    options: BTreeMap<String, String>,
    /// Labels of Kubernetes'.
    labels: BTreeMap<String, String>,
    source: Option<Source>,
    /// True if it may be on this node.
    is_here: bool,
}

impl Wanted {
    /// Checks a request without looking at anything.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, OUT_OF_RANGE.
    pub(super) fn parse(parts: &Parts, request: &CreateVolumeRequest) -> Result<Self, Status> {
        record::check_name(&request.name)?;
        Use::parse_all(&request.volume_capabilities).map_err(|unfit| unfit.into_status())?;
        bounded("parameters", &request.parameters)?;
        if let Some(key) = request.mutable_parameters.keys().next() {
            let field = format!("mutable_parameters[{key:?}]");
            return Err(bad(&field, "is unknown: volumes have no such parameters"));
        }
        let places = request.accessibility_requirements.as_ref();
        let requisite = places.map_or(&[][..], |places| &places.requisite);
        let kubernetes = |(key, _): &(&String, &String)| key.starts_with(KUBERNETES);
        let own = |(key, value): (&String, &String)| (key.clone(), value.clone());
        Ok(Self {
            name: request.name.clone(),
            capacity: Capacity::parse(request.capacity_range)?,
            options: options(&request.parameters)?,
            labels: request
                .parameters
                .iter()
                .filter(kubernetes)
                .map(own)
                .collect(),
            source: source(request)?,
            is_here: requisite.is_empty() || requisite.iter().any(|one| parts.is_here(one)),
        })
    }

    /// Creates it, or answers the one that was created by this name, if it will do.
    pub(super) fn create(&self, engine: &Engine) -> Result<VolumeEntry, Status> {
        if let Some(there) = record::named(engine, Kind::Volume, &self.name) {
            return self.check_same(there);
        }
        if !self.is_here {
            return Err(Status::resource_exhausted(
                "accessibility_requirements: none of the requisite topologies is that of this node",
            ));
        }
        let source = self
            .source
            .as_ref()
            .map(|source| find(engine, source))
            .transpose()?;
        let size = match &source {
            None => self.capacity.of_new()?,
            Some(source) => self.capacity.of_copy(size_asked(&source.volume))?,
        };
        self.check_room(engine, size)?;
        let (name, labels) = self.record(source.as_ref())?;
        let mut options = self.options.clone();
        options.extend(size.map(|size| ("size".to_owned(), size.to_string())));
        let request = CreateVolume {
            name: Some(name.clone()),
            options,
            labels,
            clone_of: source.map(|source| VolumeRef::Id(source.volume.id)),
            ..CreateVolume::default()
        };
        let (entry, created) = engine.volumes.create_volume(&request).map_err(failed)?;
        let is_ours = record::kind(&entry.volume) == Some(Kind::Volume);
        if created || is_ours {
            return Ok(entry);
        }
        Err(Status::already_exists(format!(
            "name: the volume {name} was not created through CSI"
        )))
    }

    fn record(&self, source: Option<&VolumeEntry>) -> Result<(VolumeName, Labels), Status> {
        let source = source.map(|source| record::source_label(Handle::of(&source.volume)));
        let more = self.labels.clone().into_iter().chain(source);
        record::new(Kind::Volume, &self.name, more)
    }

    /// Answers a volume of this name if it will do.
    fn check_same(&self, there: VolumeEntry) -> Result<VolumeEntry, Status> {
        let volume = &there.volume;
        let differs = |what: &str, have: &str, want: &str| {
            Err(Status::already_exists(format!(
                "{what}: the volume named {:?} has {have:?}, and {want:?} is asked for",
                self.name
            )))
        };
        if !self.capacity.fits(size_asked(volume)) {
            let wanted = self.capacity.wanted().unwrap_or(0).to_string();
            return differs("capacity_range", &shown(volume).to_string(), &wanted);
        }
        let wanted = self.source.as_ref().map_or("", id);
        if record::source(volume) != wanted {
            return differs("volume_content_source", record::source(volume), wanted);
        }
        for key in OPTIONS {
            let [have, want] = [&volume.options, &self.options].map(|options| options.get(key));
            if have != want {
                let text = |value: Option<&String>| value.cloned().unwrap_or_default();
                return differs(&format!("parameters[{key:?}]"), &text(have), &text(want));
            }
        }
        Ok(there)
    }

    /// A size that the disk cannot hold now is refused, so that another node is tried; nothing is kept
    /// free for one that is taken.
    fn check_room(&self, engine: &Engine, size: Option<u64>) -> Result<(), Status> {
        let free = engine.volumes.bytes_left().map_err(failed)?;
        match size {
            Some(size) if size > free => Err(Status::resource_exhausted(format!(
                "capacity_range: {size} bytes are asked for, and {free} are free on the disk"
            ))),
            _ => Ok(()),
        }
    }
}

/// Parameters that are options of the volume.
const OPTIONS: [&str; 3] = ["uid", "gid", "mode"];

/// The parameters that are layerd's, as options of a volume.
///
/// # Errors
/// INVALID_ARGUMENT for one that is unknown.
pub(super) fn options(
    parameters: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Status> {
    let own = parameters
        .iter()
        .filter(|(key, _)| !key.starts_with(KUBERNETES));
    let checked = own.map(|(key, value)| match OPTIONS.contains(&key.as_str()) {
        true => Ok((key.clone(), value.clone())),
        false => {
            let shown: String = key.chars().take(64).collect();
            let field = format!("parameters[{shown:?}]");
            Err(bad(&field, "is unknown; there are uid, gid and mode"))
        }
    });
    checked.collect()
}

fn source(request: &CreateVolumeRequest) -> Result<Option<Source>, Status> {
    const FIELD: &str = "volume_content_source";
    let Some(source) = &request.volume_content_source else {
        return Ok(None);
    };
    let source = source.r#type.clone();
    let source = source.ok_or_else(|| bad(FIELD, "must have one of snapshot and volume set"))?;
    required(FIELD, id(&source))?;
    Ok(Some(source))
}

fn id(source: &Source) -> &str {
    match source {
        Source::Snapshot(source) => &source.snapshot_id,
        Source::Volume(source) => &source.volume_id,
    }
}

fn find(engine: &Engine, source: &Source) -> Result<VolumeEntry, Status> {
    let id = id(source);
    let (found, field) = match source {
        Source::Snapshot(_) => (
            record::find_snapshot(engine, id),
            "volume_content_source.snapshot_id",
        ),
        Source::Volume(_) => (
            record::find_volume(engine, id),
            "volume_content_source.volume_id",
        ),
    };
    found.ok_or_else(|| record::not_found(field, id))
}

/// Checks a request to grow a volume without looking at it.
pub(super) fn check_expansion(
    capacity: Capacity,
    capability: Option<&VolumeCapability>,
) -> Result<(), Status> {
    if !capacity.is_given() {
        return Err(bad("capacity_range", "must be set"));
    }
    match capability {
        None => Ok(()),
        Some(given) => Use::parse("volume_capability", Some(given))
            .map(drop)
            .map_err(|unfit| unfit.into_status()),
    }
}

/// Notes a larger size. Answers the size that the volume has then.
///
/// # Errors
/// OUT_OF_RANGE if it is larger than is allowed already, or the disk or its file system cannot hold that.
pub(super) fn expand(
    engine: &Engine,
    entry: &VolumeEntry,
    capacity: Capacity,
) -> Result<i64, Status> {
    let have = size_asked(&entry.volume);
    if !capacity.is_given() || have.is_some() && capacity.fits(have) {
        return Ok(shown(&entry.volume));
    }
    let wanted = capacity.wanted().unwrap_or(0);
    let have = have.unwrap_or(0);
    if wanted < have {
        return Err(Status::out_of_range(format!(
            "capacity_range: at most {wanted} bytes are allowed, and the volume has {have}; it does not shrink"
        )));
    }
    let free = engine.volumes.bytes_left().map_err(failed)?;
    if wanted - have > free {
        return Err(Status::out_of_range(format!(
            "capacity_range: {wanted} bytes are asked for, which is {} more than the volume has, and {free} are free on the disk",
            wanted - have
        )));
    }
    match engine.volumes.grow_volume(entry.volume.id, wanted) {
        Err(Error::Volume(cause @ VolumeError::TooLarge { .. })) => {
            Err(Status::out_of_range(format!("capacity_range: {cause}")))
        }
        grown => Ok(shown(&grown.map_err(failed)?.volume)),
    }
}
