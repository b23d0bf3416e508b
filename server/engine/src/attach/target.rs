//! Where layerd may be told to mount.

use std::path::{Path, PathBuf};

use layerd_store::BadInput;

use crate::Error;
use crate::spec::HostPath;

/// The shortest form of a target. As no symlink in a target is followed, it leads to the same place.
pub(super) fn clean(target: &Path) -> Result<PathBuf, Error> {
    let text = target.to_str().and_then(HostPath::new);
    let text = text.ok_or_else(|| {
        let rule = format!("{:?} is not an absolute path of UTF-8", target.display());
        BadInput::new("target_path", rule)
    })?;
    Ok(text.as_path().to_owned())
}

/// Whether a path lies strictly inside one of `outer`.
pub(super) fn lies_inside<'p>(path: &Path, mut outer: impl Iterator<Item = &'p Path>) -> bool {
    outer.any(|outer| path != outer && path.starts_with(outer))
}
