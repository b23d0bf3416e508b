//! Properties of a new volume, and their comparison with an existing one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use layerd_mounts::volume_dirs::Top;
use layerd_store::{BadInput, Timestamp, Volume, VolumeId, VolumeName};

use super::sizes::{INODES, LIMIT, SIZE, inodes, limit_asked, size};
use super::{CreateVolume, LOCAL, VolumeRef, Volumes};
use crate::{Error, VolumeError};

/// The option that keeps an empty volume from being filled from an image.
const NOCOPY: &str = "nocopy";

/// Prefix of the labels by which the CSI driver knows its volumes again.
const OWN_LABELS: &str = "csi.layerd.dev/";

/// Refuses labels that are layerd's own to write, where a client of another API asks for them: a volume
/// that has them is taken for the one that an orchestrator had made.
///
/// # Errors
/// [`BadInput`] naming the label.
pub fn refuse_own_labels<'k>(keys: impl IntoIterator<Item = &'k String>) -> Result<(), BadInput> {
    let mut keys = keys.into_iter();
    match keys.find(|key| key.starts_with(OWN_LABELS)) {
        None => Ok(()),
        Some(key) => {
            let shown: String = key.chars().take(64).collect();
            let rule = format!("is layerd's to write, as all labels that begin with {OWN_LABELS}");
            Err(BadInput::new(format!("labels[{shown:?}]"), rule))
        }
    }
}

pub(crate) fn new_volume(
    id: VolumeId,
    request: &CreateVolume,
    filled_from: String,
    snapshot_of: Option<VolumeId>,
    held_by: Option<&str>,
) -> Result<Volume, Error> {
    let mut options = recorded(&request.options)?;
    options.extend(held_by.map(|what| (LIMIT.to_owned(), what.to_owned())));
    let now = Timestamp::now();
    Ok(Volume {
        id,
        name: request.name.clone().map_or_else(anonymous_name, Ok)?,
        anonymous: request.name.is_none(),
        driver: LOCAL.to_owned(),
        options,
        labels: request.labels.clone(),
        created: now,
        updated: now,
        filled_from,
        snapshot_of,
        usage: None,
        removed: None,
    })
}

/// 64 hexadecimal digits, as Docker's.
fn anonymous_name() -> Result<VolumeName, Error> {
    let mut bytes = [0_u8; 32];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|cause: io::Error| Error::Volume(VolumeError::Random { cause }))?;
    let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(VolumeName::parse("name", &name)?)
}

/// Checks the driver and its options. Answers the owner and mode that the options ask for.
pub(super) fn top(request: &CreateVolume) -> Result<Top, Error> {
    if !matches!(request.driver.as_str(), "" | LOCAL) {
        let rule = format!("{:?} is unknown; there is \"local\"", request.driver);
        return Err(BadInput::new("driver", rule).into());
    }
    if request.options.contains_key(LIMIT) {
        let rule = "is layerd's to say; ask for a size";
        return Err(BadInput::new(format!("options[{LIMIT:?}]"), rule).into());
    }
    Ok(top_asked(&request.options)?)
}

/// Owner and mode of the top folder, as far as the options of a volume ask for them.
pub(crate) fn top_asked(options: &BTreeMap<String, String>) -> Result<Top, BadInput> {
    let mut top = Top::default();
    for (key, text) in options {
        let field = format!("options[{key:?}]");
        let bad = |rule: &str| BadInput::new(field.clone(), format!("{text:?} {rule}"));
        match key.as_str() {
            "uid" => top.uid = Some(owner_id(text).ok_or_else(|| bad("is not a user id"))?),
            "gid" => top.gid = Some(owner_id(text).ok_or_else(|| bad("is not a group id"))?),
            "mode" => {
                let mode = u32::from_str_radix(text, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777);
                top.mode = Some(mode.ok_or_else(|| bad("is not a mode in octal"))?);
            }
            SIZE => drop(size(text)?),
            INODES => drop(inodes(text)?),
            NOCOPY => drop(truth(text)?),
            // In a record.
            LIMIT => {}
            _ => {
                return Err(BadInput::new(
                    field,
                    "is unknown; there are uid, gid, mode, size, inodes and nocopy",
                ));
            }
        }
    }
    Ok(top)
}

/// Id of a user or group. The last number is none: chown(2) leaves an owner as it is for it.
#[must_use]
pub fn owner_id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// Options as they are recorded: a size in bytes, a truth value in one spelling, so that two ways to
/// write the same are no difference.
fn recorded(options: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, BadInput> {
    let canonical = |(key, text): (&String, &String)| {
        let text = match key.as_str() {
            SIZE => size(text)?.to_string(),
            NOCOPY => truth(text)?.to_string(),
            _ => text.clone(),
        };
        Ok((key.clone(), text))
    };
    options.iter().map(canonical).collect()
}

fn truth(text: &str) -> Result<bool, BadInput> {
    match text {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => {
            let rule = format!("{text:?} is not true, 1, false or 0");
            Err(BadInput::new(format!("options[{NOCOPY:?}]"), rule))
        }
    }
}

/// True if a volume was created with `nocopy`: it is not filled from an image.
#[must_use]
pub fn is_nocopy(volume: &Volume) -> bool {
    volume
        .options
        .get(NOCOPY)
        .is_some_and(|text| text == "true")
}

/// Checks driver and options of a volume that may have to be made.
pub(crate) fn check_settings(request: &CreateVolume) -> Result<(), Error> {
    top(request)?;
    Ok(limit_asked(&request.options).map(drop)?)
}

impl Volumes {
    /// Every field of a request to create that is given must be as it is.
    pub(super) fn check_volume_same(
        &self,
        there: &Volume,
        request: &CreateVolume,
    ) -> Result<(), Error> {
        check_asked(there, request)?;
        let name = match &request.clone_of {
            None => return Ok(()),
            Some(VolumeRef::Name(name)) => name.clone(),
            Some(VolumeRef::Id(id)) => self.volume_by_id(*id)?.volume.name.clone(),
        };
        let want = filled_from(&name);
        let have = match there.snapshot_of {
            None => there.filled_from.clone(),
            Some(_) => format!("a read-only snapshot of {}", there.filled_from),
        };
        if have == want {
            return Ok(());
        }
        Err(drift(there, "clone_of", have, want))
    }
}

/// Origin of a copy, as its record has it.
pub(super) fn filled_from(source: &VolumeName) -> String {
    format!("volume {source}")
}

/// The driver, the options and the labels that are given must be those of the volume.
pub(crate) fn check_asked(there: &Volume, request: &CreateVolume) -> Result<(), Error> {
    if !request.driver.is_empty() && request.driver != there.driver {
        let want = request.driver.clone();
        return Err(drift(there, "driver", there.driver.clone(), want));
    }
    for (key, want) in &recorded(&request.options)? {
        let have = there.options.get(key).map(String::as_str);
        check_entry(there, format!("options[{key:?}]"), have, want)?;
    }
    for (key, want) in request.labels.iter() {
        check_entry(
            there,
            format!("labels[{key:?}]"),
            there.labels.get(key),
            want,
        )?;
    }
    Ok(())
}

fn check_entry(there: &Volume, field: String, have: Option<&str>, want: &str) -> Result<(), Error> {
    match have {
        Some(have) if have == want => Ok(()),
        Some(have) => Err(drift(there, &field, have.to_owned(), want.to_owned())),
        None => Err(drift(there, &field, "not set".to_owned(), want.to_owned())),
    }
}

fn drift(there: &Volume, field: &str, have: String, want: String) -> Error {
    Error::Volume(VolumeError::Drift {
        name: there.name.clone(),
        field: field.to_owned(),
        have,
        want,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(key: &str, text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), text.to_owned())])
    }

    #[test]
    fn options_are_recorded_in_one_spelling() {
        for (key, text, wanted) in [
            ("size", "10g", "10737418240"),
            ("size", "10GiB", "10737418240"),
            ("size", "1.5k", "1536"),
            ("size", "7", "7"),
            ("nocopy", "", "true"),
            ("nocopy", "1", "true"),
            ("nocopy", "0", "false"),
            ("uid", "7", "7"),
        ] {
            assert_eq!(
                recorded(&options(key, text)),
                Ok(options(key, wanted)),
                "{key}={text}"
            );
            assert!(top_asked(&options(key, text)).is_ok(), "{key}={text}");
        }
    }

    #[test]
    fn an_option_that_breaks_a_rule_is_named_with_its_value() {
        for (key, text, rule) in [
            ("size", "0", "\"0\" is not a size above 0"),
            ("size", "10%", "\"10%\" is not a size"),
            ("size", "-1", "\"-1\" is not a size"),
            ("nocopy", "yes", "\"yes\" is not true, 1, false or 0"),
            ("mode", "9", "\"9\" is not a mode"),
            ("uid", "4294967295", "\"4294967295\" is not a user id"),
            ("gid", "4294967295", "\"4294967295\" is not a group id"),
            (
                "quota",
                "1g",
                "is unknown; there are uid, gid, mode, size, inodes and nocopy",
            ),
            ("inodes", "0", "\"0\" is not a number from 1"),
        ] {
            let error = top_asked(&options(key, text)).unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
            assert!(error.contains(&format!("options[{key:?}]")), "{error}");
        }
    }
}
