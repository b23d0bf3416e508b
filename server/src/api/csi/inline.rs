//! Inline volumes (`volumeLifecycleModes: [Ephemeral]`): made when a pod's directory is published, gone
//! when it is unpublished, and swept up with the pod's directory when that call never came.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use layerd_engine::{CreateVolume, Engine, VolumeEntry};
use layerd_store::Key;
use tonic::Status;
use tracing::{info, warn};

use super::record::{self, Kind, TARGET};
use super::{bad, failed};

/// Prefix of kubelet's own attributes of an inline volume.
const KUBERNETES: &str = "csi.storage.k8s.io/";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
/// Attributes that are kept as labels, so that people see whose a volume is.
const POD: [&str; 3] = [
    "csi.storage.k8s.io/pod.name",
    "csi.storage.k8s.io/pod.namespace",
    "csi.storage.k8s.io/pod.uid",
];

/// True if a volume is to be made for this pod alone.
pub(super) fn is_asked_for(context: &BTreeMap<String, String>) -> bool {
    context.get(EPHEMERAL).is_some_and(|text| text == "true")
}

/// Makes the volume of a pod, or finds it. Answers whether this call made it.
///
/// # Errors
/// INVALID_ARGUMENT for attributes that are unknown; ALREADY_EXISTS if it has others.
pub(super) fn make(
    engine: &Engine,
    id: &str,
    target: &Path,
    context: &BTreeMap<String, String>,
) -> Result<(VolumeEntry, bool), Status> {
    let options = options(context)?;
    let target = (TARGET.to_owned(), target.display().to_string());
    let pod = context
        .iter()
        .filter(|(key, _)| POD.contains(&key.as_str()));
    let pod = pod.map(|(key, value)| (key.clone(), value.clone()));
    let (name, labels) = record::new(Kind::Inline, id, pod.chain([target]))?;
    let request = CreateVolume {
        name: Some(name),
        options,
        labels,
        ..CreateVolume::default()
    };
    engine.volumes.create_volume(&request).map_err(failed)
}

/// The options that a pod's author wrote.
fn options(context: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Status> {
    let own = context
        .iter()
        .filter(|(key, _)| !key.starts_with(KUBERNETES));
    let checked = own.map(|(key, text)| match key.as_str() {
        "uid" | "gid" | "mode" => Ok((key.clone(), text.clone())),
        "size" => Ok((key.clone(), size(text)?.to_string())),
        _ => {
            let shown: String = key.chars().take(64).collect();
            let field = format!("volume_context[{shown:?}]");
            Err(bad(&field, "is unknown; there are size, uid, gid and mode"))
        }
    });
    checked.collect()
}

/// A quantity as Kubernetes writes it (`1Gi`), or as layerd does (`1g`, `1GiB`).
fn size(text: &str) -> Result<u64, Status> {
    let binary = text.strip_suffix('i').map(|_| format!("{text}B"));
    let bytes = layerd_spec::size(binary.as_deref().unwrap_or(text));
    bytes.ok_or_else(|| {
        let rule = format!("{text:?} is not a size above 0 such as 1073741824 or 1Gi");
        bad("volume_context[\"size\"]", rule)
    })
}

/// Deletes the volume of a pod for good, unless something holds it: no other caller was told of it.
pub(super) fn delete(engine: &Engine, entry: &VolumeEntry) -> Result<(), Status> {
    record::delete(engine, entry)?;
    purge(engine, entry);
    Ok(())
}

/// Deletes one in the trash; if that fails or is interrupted, the next [`sweep`] does it.
fn purge(engine: &Engine, entry: &VolumeEntry) {
    let purged = engine.volumes.purge_volume(Some(entry.volume.id), None);
    if let Err(cause) = purged {
        warn!(error = &cause as &dyn std::error::Error, name = %entry.volume.name, "delete an inline volume for good");
    }
}

/// The target path of an inline volume whose pod is gone.
fn target_gone(entry: &VolumeEntry) -> Option<PathBuf> {
    let target = entry.volume.labels.get(TARGET).map(PathBuf::from);
    target.filter(|target| is_gone(target))
}

/// Deletes volumes of pods whose directories are gone. They may have been published before the machine
/// was started anew, and the pod deleted before kubelet came to unpublish them.
pub(super) fn sweep(engine: &Engine) {
    let deleted = record::all_deleted(engine, Kind::Inline).into_iter();
    for entry in deleted.filter(|entry| target_gone(entry).is_some()) {
        purge(engine, &entry);
    }
    for entry in record::all(engine, Kind::Inline) {
        let Some(target) = target_gone(&entry) else {
            continue;
        };
        let swept = Key::parse("target_path", &record::attachment_key(&target))
            .map_err(layerd_engine::Error::Bad)
            .and_then(|key| engine.attachments.unpublish(&key, &target))
            .map_err(failed)
            .and_then(|()| delete(engine, &entry));
        match swept {
            Ok(()) => {
                info!(name = %entry.volume.name, target = %target.display(), "deleted the inline volume of a pod that is gone")
            }
            Err(status) => {
                warn!(name = %entry.volume.name, "delete the inline volume of a pod that is gone: {}", status.message())
            }
        }
    }
}

/// True if the pod of a target is gone: its directory is not there, while those of other pods are. No
/// other path is known well enough to say.
pub(super) fn is_gone(target: &Path) -> bool {
    let mut above = target.ancestors();
    let Some(volumes) = above.find(|path| path.ends_with("volumes/kubernetes.io~csi")) else {
        return false;
    };
    let pod = volumes.ancestors().nth(2);
    let pods = pod.and_then(Path::parent);
    let (Some(pod), Some(pods)) = (pod, pods) else {
        return false;
    };
    let is_there = fs::read_dir(pods).is_ok_and(|mut pods| pods.next().is_some());
    let is_missing = |cause: std::io::Error| cause.kind() == std::io::ErrorKind::NotFound;
    is_there && fs::symlink_metadata(pod).is_err_and(is_missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [
            ("1Gi", 1 << 30),
            ("64Mi", 64 << 20),
            ("7", 7),
            ("1g", 1 << 30),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "0", "i", "-1", "1Xi"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pod_is_gone_if_others_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let pods = dir.path().join("pods");
        let target = |uid: &str| pods.join(uid).join("volumes/kubernetes.io~csi/v/mount");
        assert!(!is_gone(&target("a")), "kubelet's disk may be away");
        fs::create_dir_all(&pods).unwrap();
        assert!(!is_gone(&target("a")));
        fs::create_dir_all(target("b")).unwrap();
        assert!(is_gone(&target("a")));
        assert!(!is_gone(&target("b")));
        assert!(!is_gone(&dir.path().join("elsewhere/mount")));
    }
}
