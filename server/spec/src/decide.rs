//! Decisions about a mount's source, existing or missing.

use super::model::{CreateSource, Kind, MountSpec, OnMissing, Origin, Policy, Volume};

/// Decision about a mount's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Mounts what is there.
    Use,
    /// Makes it, then mounts it.
    Create(Made, Origin),
    /// Does nothing: it is missing and not to be made.
    Refuse(Refusal),
}

/// The source to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A volume with the name that was given.
    Volume,
    /// A volume that gets a name.
    AnonymousVolume,
    /// A directory of the host, with those above it.
    Directory,
    /// An empty file of the host, with the directories above it.
    File,
    /// A tmpfs.
    Tmpfs,
}

/// Why nothing was made of a missing source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `volume`, `host path` or `image`.
    pub what: &'static str,
    /// The name, path or reference that is missing.
    pub name: String,
    /// Origin of the policy.
    pub origin: Origin,
    /// The option that has it made.
    pub hint: String,
}

/// Decides about the source of `spec`: the volume of that name, the path on the host of any type, the
/// committed snapshot. `exists` is ignored without a source: anonymous volumes and tmpfs are always
/// made.
#[must_use]
pub fn decide(spec: &MountSpec, exists: bool) -> Decision {
    let OnMissing { policy, origin } = &spec.on_missing;
    let (made, what, name) = match &spec.kind {
        Kind::Tmpfs(_) => return Decision::Create(Made::Tmpfs, *origin),
        Kind::Volume(volume) => match &volume.name {
            None => return Decision::Create(Made::AnonymousVolume, *origin),
            Some(name) => (Some(Made::Volume), "volume", name.as_str()),
        },
        Kind::Bind(bind) => (made(bind.create), "host path", bind.source.as_str()),
        Kind::Image(image) => (None, "image", image.reference.as_str()),
    };
    match (policy, made) {
        _ if exists => Decision::Use,
        (Policy::Create, Some(made)) => Decision::Create(made, *origin),
        (Policy::Create, None) | (Policy::Fail, _) => Decision::Refuse(Refusal {
            what,
            name: name.to_owned(),
            origin: *origin,
            hint: hint(spec),
        }),
    }
}

fn made(create: CreateSource) -> Option<Made> {
    match create {
        CreateSource::None => None,
        CreateSource::Directory => Some(Made::Directory),
        CreateSource::File => Some(Made::File),
    }
}

fn hint(spec: &MountSpec) -> String {
    match &spec.kind {
        Kind::Volume(Volume {
            name: Some(name), ..
        }) => format!(
            "`--mount …,on-missing=create` or `-v {name}:{}` would create it",
            spec.target
        ),
        Kind::Bind(_) => "`--mount …,on-missing=create` would create a directory, \
             `--mount …,bind-create-src=file` an empty file"
            .to_owned(),
        Kind::Image(_) => "pull or commit it first".to_owned(),
        Kind::Volume(_) | Kind::Tmpfs(_) => String::new(),
    }
}
