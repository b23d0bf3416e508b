//! Volumes made of a directory of the host, such as what another program kept of its own.

use std::os::fd::AsFd;
use std::path::Path;

use layerd_layers::copy::Copied;
use layerd_store::{Refusal, Volume};
use tracing::info;

use super::sizes::limit_asked;
use super::{CreateVolume, VolumeEntry, check_asked, new_volume, top};
use crate::reserve::Area;
use crate::{Error, Volumes, host_directory};

impl Volumes {
    /// Creates a volume with a copy of the directory `source` of the host, whose blocks are shared where the
    /// file system can. It appears whole and durable, or not at all; `source` is only read, and what is written
    /// to it meanwhile may be copied in part. Answers what was copied; nothing if the volume was
    /// made of `source` before and is as asked. Costs a look at each file, and the content too where no
    /// blocks can be shared.
    ///
    /// # Errors
    /// `Exists` if the name is taken by a volume that was made otherwise; `Invalid` if an option breaks a
    /// rule, or `source` is no absolute path of a directory outside the data directory; `Full`, also if the
    /// disk's reserve is reached.
    pub fn import_directory(
        &self,
        request: &CreateVolume,
        source: &Path,
    ) -> Result<(VolumeEntry, Copied), Error> {
        let top = top(request)?;
        let from = host_directory::open(source, &self.root.path)?;
        let filled_from = format!("directory {}", source.display());
        let there = (request.name.as_ref())
            .and_then(|name| self.root.store.records().volumes().find(name).cloned());
        if let Some(there) = there {
            check_made_of(&there, &filled_from)?;
            check_asked(&there, request)?;
            return Ok((self.volume_entry(there), Copied::default()));
        }
        self.root.check_reserve(Area::Volumes)?;
        let id = self.root.store.volume_id()?;
        let limit = limit_asked(&request.options)?;
        let held_by = self.held_by(limit);
        let volume = new_volume(id, request, filled_from.clone(), None, held_by)?;
        let staged = self.stage(id, top, limit)?;
        let copied = self.copy_directory(from.as_fd(), 0, &volume, &staged)?;
        let (entry, created) = self.publish_volume(volume, request)?;
        if !created {
            // Another call was first.
            check_made_of(&entry.volume, &filled_from)?;
            return Ok((entry, Copied::default()));
        }
        let name = &entry.volume.name;
        info!(%name, source = %source.display(), files = copied.files, bytes = copied.bytes, "volume imported");
        Ok((entry, copied))
    }
}

fn check_made_of(there: &Volume, filled_from: &str) -> Result<(), Error> {
    match there.filled_from == filled_from {
        true => Ok(()),
        false => {
            let name = there.name.clone();
            Err(Refusal::VolumeTaken { name }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use layerd_drivers::Memory;
    use layerd_mounts::fake::FakeMounter;
    use layerd_store::VolumeName;

    use crate::volumes::CreateVolume;
    use crate::{Engine, Error, ErrorKind, Options};

    #[test]
    fn a_directory_becomes_a_volume_once() {
        let (dir, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (memory, mounter) = (Arc::new(Memory::new()), Arc::new(FakeMounter::new()));
        let engine = Engine::open(dir.path(), memory, mounter, Options::default()).unwrap();
        fs::write(from.path().join("file"), "content").unwrap();
        std::os::unix::fs::symlink("/etc", from.path().join("link")).unwrap();
        let request = CreateVolume {
            name: Some(VolumeName::parse("name", "data").unwrap()),
            ..CreateVolume::default()
        };
        let import = |source| engine.volumes.import_directory(&request, source);
        let (entry, copied) = import(from.path()).unwrap();
        assert_eq!((copied.files, copied.bytes), (2, 7));
        assert_eq!(
            fs::read_to_string(entry.path.join("file")).unwrap(),
            "content"
        );
        assert!(entry.path.join("link").is_symlink());
        let wanted = format!("directory {}", from.path().display());
        assert_eq!(entry.volume.filled_from, wanted);
        fs::write(from.path().join("later"), "").unwrap();
        let (again, copied) = import(from.path()).unwrap();
        assert_eq!((again.volume.id, copied.files), (entry.volume.id, 0));
        let other = tempfile::tempdir().unwrap();
        let kind = |result: Result<_, Error>| result.map(|_: (_, _)| ()).unwrap_err().kind();
        assert_eq!(kind(import(other.path())), ErrorKind::Exists);
    }

    #[test]
    fn a_bad_source_is_refused_and_makes_no_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, mounter) = (Arc::new(Memory::new()), Arc::new(FakeMounter::new()));
        let engine = Engine::open(dir.path(), memory, mounter, Options::default()).unwrap();
        let inside = dir.path().join("volumes");
        for bad in [
            "",
            "etc",
            "/etc/../etc",
            "/no/such",
            "/etc/hostname",
            inside.to_str().unwrap(),
        ] {
            let request = CreateVolume {
                name: Some(VolumeName::parse("name", "data").unwrap()),
                ..CreateVolume::default()
            };
            let refused = engine.volumes.import_directory(&request, bad.as_ref());
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        assert!(
            engine
                .root
                .store
                .records()
                .volumes()
                .find(&VolumeName::parse("name", "data").unwrap())
                .is_none()
        );
    }
}
