//! Sizes of volumes in their options: as they are asked for, and as they are recorded.

use std::collections::BTreeMap;

use layerd_mounts::limit::{Enforcement, Limit};
use layerd_store::{BadInput, Volume};

use crate::limit_text;

/// The option for the bytes that a volume can hold.
pub(super) const SIZE: &str = "size";
/// The option for the inodes that a volume can have.
pub(super) const INODES: &str = "inodes";
/// The option by which layerd notes how a volume is held to its size. Not to be asked for.
pub(super) const LIMIT: &str = "limit";
/// Values of the option [`LIMIT`].
const IMAGE: &str = "image";
pub(super) const QUOTA: &str = "quota";

/// Limit that the options of a new volume ask for.
pub(crate) fn limit_asked(options: &BTreeMap<String, String>) -> Result<Option<Limit>, BadInput> {
    let inodes = options.get(INODES).map(|text| inodes(text)).transpose()?;
    let Some(text) = options.get(SIZE) else {
        return match inodes {
            None => Ok(None),
            Some(_) => {
                let rule = "needs the option size: both are limits of one file system";
                Err(BadInput::new(format!("options[{INODES:?}]"), rule))
            }
        };
    };
    let bytes = size(text)?;
    let bytes = limit_text::within("a volume", text, bytes)
        .map_err(|rule| BadInput::new(format!("options[{SIZE:?}]"), rule))?;
    Ok(Some(Limit { bytes, inodes }))
}

/// A number of inodes that a limit can have.
pub(super) fn inodes(text: &str) -> Result<u64, BadInput> {
    limit_text::inodes(text).map_err(|rule| BadInput::new(format!("options[{INODES:?}]"), rule))
}

/// What holds a volume to its size: `image` or `quota`; none if nothing does, as with sizes that older releases
/// recorded.
#[must_use]
pub fn limit_of(volume: &Volume) -> Option<&str> {
    volume.options.get(LIMIT).map(String::as_str)
}

/// Value of the option [`LIMIT`] of a volume that is made now.
pub(super) fn note_of(enforcement: &Enforcement) -> &'static str {
    match enforcement {
        Enforcement::Quota => QUOTA,
        // Layers alone are held to bytes.
        Enforcement::Image { .. } | Enforcement::Bytes(_) | Enforcement::None(_) => IMAGE,
    }
}

/// Options by which a copy of a volume has its limit, or the size that is not enforced.
pub(super) fn limit_options(volume: &Volume) -> BTreeMap<String, String> {
    let keys = [SIZE, INODES].into_iter();
    let options = keys.filter_map(|key| Some((key.to_owned(), volume.options.get(key)?.clone())));
    options.collect()
}

/// Bytes that an option asks for.
pub(super) fn size(text: &str) -> Result<u64, BadInput> {
    layerd_spec::size(text).ok_or_else(|| {
        let rule = format!("{text:?} is not a size above 0 such as 67108864, 64m, 1.5g or 10GiB");
        BadInput::new(format!("options[{SIZE:?}]"), rule)
    })
}

/// Bytes that a volume is to hold at most, as it was asked for; see [`limit_of`] for
/// whether it is held to them.
#[must_use]
pub fn size_asked(volume: &Volume) -> Option<u64> {
    volume.options.get(SIZE)?.parse().ok()
}
