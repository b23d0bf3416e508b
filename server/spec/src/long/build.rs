//! From what the fields of a `--mount` said to the mount they mean together.

use super::super::error::{Fault, Rule};
use super::super::model::{
    Bind, CreateSource, Image, ImageReference, Kind, MountSpec, OnMissing, Origin, Policy,
    Propagation, ReadOnly, Relabel, Volume, volume_name,
};
use super::super::path::{HostPath, Subpath, Target};
use super::super::{Dialect, tmpfs};
use super::{Draft, Type};

impl Draft<'_> {
    pub(super) fn build(mut self) -> Result<MountSpec, Fault> {
        if self.target.is_empty() {
            return Err(Fault::new("target", Rule::Missing, "is required"));
        }
        let target = Target::parse("target", &self.target, self.context.dialect)?;
        match self.kind {
            Type::Volume => self.volume(target),
            Type::Bind => self.bind(target),
            Type::Tmpfs => self.tmpfs(target),
            Type::Image => self.image(target),
        }
    }

    fn volume(&mut self, target: Target) -> Result<MountSpec, Fault> {
        let name = match self.source.as_str() {
            "" => None,
            source => Some(volume_name("source", source)?),
        };
        let anonymous = name.is_none();
        let subpath = self.subpath()?;
        // Docker refuses any path here, one that names the root included.
        if let (true, Some((key, _))) = (anonymous, &self.subpath) {
            let detail = "needs a source: an anonymous volume is empty";
            return Err(Fault::new(key, Rule::Conflict, detail));
        }
        if anonymous && self.policy == Some(Policy::Fail) {
            let detail = "needs a source: an anonymous volume is always made";
            return Err(Fault::new("on-missing", Rule::Conflict, detail));
        }
        let creates = anonymous || self.context.dialect == Dialect::Docker;
        let kind = Kind::Volume(Volume {
            name,
            subpath,
            copy_up: !self.nocopy,
            create_with: std::mem::take(&mut self.create_with),
        });
        let shared = self.context.dialect == Dialect::Docker;
        Ok(MountSpec {
            kind,
            target,
            read_only: self.read_only(),
            on_missing: self.on_missing(creates),
            relabel: self.relabel.or(shared.then_some(Relabel::SharedByDialect)),
        })
    }

    fn bind(&mut self, target: Target) -> Result<MountSpec, Fault> {
        let source = self.source.as_str();
        if source.is_empty() {
            return Err(Fault::new(
                "source",
                Rule::Missing,
                "is required for a bind",
            ));
        }
        let source = HostPath::parse("source", source)?;
        self.check_recursion()?;
        let (on_missing, create) = self.create()?;
        let kind = Kind::Bind(Bind {
            source,
            propagation: self.propagation.unwrap_or_default(),
            recursive: !self.recursion.disabled,
            create,
            idmap: self.idmap.take(),
        });
        Ok(MountSpec {
            kind,
            target,
            read_only: self.bind_read_only(),
            on_missing,
            relabel: self.relabel,
        })
    }

    fn tmpfs(self, target: Target) -> Result<MountSpec, Fault> {
        if !self.source.is_empty() {
            let detail = "a tmpfs has no source";
            return Err(Fault::new("source", Rule::OtherType, detail));
        }
        self.refuse_source_keys()?;
        let read_only = self.read_only == Some(true);
        Ok(tmpfs::spec(self.options.finish(), target, read_only))
    }

    fn image(&mut self, target: Target) -> Result<MountSpec, Fault> {
        let reference = ImageReference::parse("source", &self.source)?;
        self.refuse_source_keys()?;
        if self.context.is_strict() && self.read_only == Some(false) {
            let detail = "an image can only be mounted read-only";
            return Err(Fault::new("readonly", Rule::Conflict, detail));
        }
        let subpath = self.subpath()?;
        Ok(MountSpec {
            kind: Kind::Image(Image { reference, subpath }),
            target,
            read_only: ReadOnly::RoRecursiveIfPossible,
            on_missing: OnMissing {
                policy: Policy::Fail,
                origin: Origin::Dialect,
            },
            relabel: None,
        })
    }

    fn subpath(&self) -> Result<Option<Subpath>, Fault> {
        match &self.subpath {
            Some((key, path)) => Subpath::parse(key, path),
            None => Ok(None),
        }
    }

    fn read_only(&self) -> ReadOnly {
        match self.read_only {
            Some(true) => ReadOnly::RoRecursiveIfPossible,
            Some(false) | None => ReadOnly::Rw,
        }
    }

    /// Without the mounts below, the top is all there is.
    fn bind_read_only(&self) -> ReadOnly {
        let recursion = &self.recursion;
        match self.read_only() {
            ReadOnly::Rw => ReadOnly::Rw,
            _ if recursion.disabled || recursion.writable => ReadOnly::RoTop,
            _ if recursion.read_only => ReadOnly::RoRecursiveRequired,
            other => other,
        }
    }

    fn check_recursion(&self) -> Result<(), Fault> {
        let recursion = &self.recursion;
        let conflict = |detail: &str| Err(Fault::new("bind-recursive", Rule::Conflict, detail));
        if recursion.writable && recursion.read_only {
            return conflict("cannot be both writable and readonly");
        }
        if (recursion.writable || recursion.read_only) && self.read_only != Some(true) {
            return conflict("writable and readonly need readonly, too");
        }
        // Docker wants it said; in our dialect it is the default.
        let private = match self.propagation {
            Some(propagation) => propagation == Propagation::Rprivate,
            None => self.context.is_strict(),
        };
        if recursion.read_only && !private {
            return conflict("readonly needs bind-propagation=rprivate");
        }
        Ok(())
    }

    fn create(&self) -> Result<(OnMissing, CreateSource), Fault> {
        let conflict = |detail: &str| Err(Fault::new("bind-create-src", Rule::Conflict, detail));
        let create = match (self.policy, self.create) {
            (Some(Policy::Create), Some(CreateSource::None)) => {
                return conflict("on-missing=create says the opposite");
            }
            (Some(Policy::Fail), Some(CreateSource::Directory | CreateSource::File)) => {
                return conflict("on-missing=fail says the opposite");
            }
            (Some(Policy::Create), None) => CreateSource::Directory,
            (_, create) => create.unwrap_or_default(),
        };
        let said = self.policy.is_some() || self.create.is_some();
        let policy = match create {
            CreateSource::None => Policy::Fail,
            CreateSource::Directory | CreateSource::File => Policy::Create,
        };
        let origin = if said {
            Origin::Explicit
        } else {
            Origin::Dialect
        };
        Ok((OnMissing { policy, origin }, create))
    }

    fn on_missing(&self, creates: bool) -> OnMissing {
        let default = if creates {
            Policy::Create
        } else {
            Policy::Fail
        };
        OnMissing {
            policy: self.policy.unwrap_or(default),
            origin: self.policy.map_or(Origin::Dialect, |_| Origin::Explicit),
        }
    }

    /// Refuses keys about a source on the host for mounts without one.
    fn refuse_source_keys(&self) -> Result<(), Fault> {
        let said = [
            ("on-missing", self.policy.is_some()),
            ("relabel", self.relabel.is_some()),
        ];
        match said.into_iter().find(|(_, said)| *said) {
            Some((key, _)) => {
                let detail = "belongs to type=volume and type=bind";
                Err(Fault::new(key, Rule::OtherType, detail))
            }
            None => Ok(()),
        }
    }
}
