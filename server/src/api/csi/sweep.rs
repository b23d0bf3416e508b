//! Publications whose end was never told: after a restart of the machine, or when a pod was deleted by
//! force, kubelet may remove a target path without NodeUnpublishVolume.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use layerd_engine::Engine;
use layerd_store::Attachment;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{inline, record};
use crate::tasks::Tasks;

/// Time between looks for paths that are gone.
const EVERY: Duration = Duration::from_secs(600);

/// Looks for paths that are gone at the start, and then regularly, until `stop`.
pub(super) async fn run(engine: Arc<Engine>, tasks: Tasks, stop: CancellationToken) {
    let mut tick = interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let engine = engine.clone();
        let sweep = move || {
            inline::sweep(&engine);
            release(&engine);
        };
        // A sweep that panicked is in the log; the next one begins anew.
        let _ = tasks.call(sweep).await;
    }
}

/// Lets go of volumes whose target paths are gone. The volumes stay: they are their claims'.
fn release(engine: &Engine) {
    for attachment in engine.attachments.attachment_records(None) {
        let Some(target) = target_gone(engine, &attachment) else {
            continue;
        };
        match engine.attachments.release_vanished(&attachment.key) {
            Ok(false) => {}
            Ok(true) => info!(
                target = %target.display(),
                owner = %attachment.owner,
                "let go of a volume: its target path was removed without NodeUnpublishVolume"
            ),
            Err(cause) => warn!(
                error = &cause as &dyn std::error::Error,
                target = %target.display(),
                "let go of a volume whose target path is gone"
            ),
        }
    }
}

/// The target path of a publication, if it is gone. Inline volumes are swept with their pods.
fn target_gone<'a>(engine: &Engine, attachment: &'a Attachment) -> Option<&'a Path> {
    let target = Path::new(attachment.target.as_deref()?);
    let is_published = attachment.key.as_str() == record::attachment_key(target);
    let volume = engine.volumes.volume_by_id(attachment.volume?).ok()?;
    let is_inline = record::kind(&volume.volume) == Some(record::Kind::Inline);
    (is_published && !is_inline && is_gone(target)).then_some(target)
}

/// True if a path is not there while the directory that it lay in is, or while other pods are: a disk that
/// is not mounted yet has neither.
fn is_gone(target: &Path) -> bool {
    let is_missing =
        fs::symlink_metadata(target).is_err_and(|cause| cause.kind() == ErrorKind::NotFound);
    let has_parent = target.parent().is_some_and(Path::is_dir);
    is_missing && (has_parent || inline::is_gone(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_gone_if_what_it_lay_in_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("publish/volume");
        assert!(!is_gone(&target), "the disk may be away");
        fs::create_dir(dir.path().join("publish")).unwrap();
        assert!(is_gone(&target));
        fs::create_dir(&target).unwrap();
        assert!(!is_gone(&target));
    }
}
