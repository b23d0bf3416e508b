//! What a new volume is to be like, and whether one that is there is like it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use layerd_mounts::volume_dirs::Top;
use layerd_store::{BadInput, Timestamp, Volume, VolumeId, VolumeName};

use super::{CreateVolume, LOCAL};
use crate::Error;

pub(crate) fn new_volume(
    id: VolumeId,
    request: &CreateVolume,
    filled_from: String,
    snapshot_of: Option<VolumeId>,
) -> Result<Volume, Error> {
    let now = Timestamp::now();
    Ok(Volume {
        id,
        name: request.name.clone().map_or_else(anonymous_name, Ok)?,
        anonymous: request.name.is_none(),
        driver: LOCAL.to_owned(),
        options: request.options.clone(),
        labels: request.labels.clone(),
        created: now,
        updated: now,
        filled_from,
        snapshot_of,
        usage: None,
        retired: None,
    })
}

/// 64 hexadecimal digits, as Docker's.
fn anonymous_name() -> Result<VolumeName, Error> {
    let mut bytes = [0_u8; 32];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|cause: io::Error| Error::Random { cause })?;
    let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(VolumeName::parse("name", &name)?)
}

/// Checks the driver and its options. Answers the owner and mode that the options ask for.
pub(super) fn top(request: &CreateVolume) -> Result<Top, Error> {
    if !matches!(request.driver.as_str(), "" | LOCAL) {
        let rule = format!("{:?} is unknown; there is \"local\"", request.driver);
        return Err(BadInput::new("driver", rule).into());
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
            "uid" => top.uid = Some(text.parse().map_err(|_| bad("is not a user id"))?),
            "gid" => top.gid = Some(text.parse().map_err(|_| bad("is not a group id"))?),
            "mode" => {
                let mode = u32::from_str_radix(text, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777);
                top.mode = Some(mode.ok_or_else(|| bad("is not a mode in octal"))?);
            }
            _ => {
                return Err(BadInput::new(
                    field,
                    "is unknown; there are uid, gid and mode",
                ));
            }
        }
    }
    Ok(top)
}

/// Checks driver and options of a volume that may have to be made.
pub(crate) fn check_settings(request: &CreateVolume) -> Result<(), Error> {
    top(request).map(drop)
}

/// Every field of a request to create that is given must be as it is.
pub(super) fn check_same(there: &Volume, request: &CreateVolume) -> Result<(), Error> {
    check_asked(there, request)?;
    let Some(source) = &request.clone_of else {
        return Ok(());
    };
    let want = format!("volume {source}");
    let have = match there.snapshot_of {
        None => there.filled_from.clone(),
        Some(_) => format!("a read-only snapshot of {}", there.filled_from),
    };
    if have == want {
        return Ok(());
    }
    Err(drift(there, "clone_of", have, want))
}

/// The driver, the options and the labels that are given must be those of the volume.
pub(crate) fn check_asked(there: &Volume, request: &CreateVolume) -> Result<(), Error> {
    if !request.driver.is_empty() && request.driver != there.driver {
        let want = request.driver.clone();
        return Err(drift(there, "driver", there.driver.clone(), want));
    }
    for (key, want) in &request.options {
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
    Error::Drift {
        name: there.name.clone(),
        field: field.to_owned(),
        have,
        want,
    }
}
