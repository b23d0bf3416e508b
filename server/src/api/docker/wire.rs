//! Requests and answers of the protocol.

use std::collections::BTreeMap;

use layerd_engine::{CreateVolume, VolumeEntry, VolumeRef};
use layerd_store::VolumeName;
use serde_json::{Map, Value, json};

use super::Refused;
use crate::api::wire::timestamp;

/// Longest mount id, in bytes: Docker's and Podman's have 64.
const ID_MAX: usize = 128;
/// Most bytes of all options together, as over gRPC.
const OPTIONS_MAX: usize = 4096;
/// The options of Create, as an error names them.
const OPTIONS: &str = "size, inodes, uid, gid, mode, clone, snapshot and nocopy";

/// A request: an object of which each method reads its fields. Those that are unknown are passed over,
/// as newer clients may send more.
#[derive(Debug)]
pub(super) struct Asked(Map<String, Value>);

impl Asked {
    /// An empty body is an empty object.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refused> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => Err(Refused::bad_request(format!(
                "the request is {}, it must be a JSON object",
                kind(&other)
            ))),
            Err(cause) => Err(Refused::bad_request(format!(
                "the request is no JSON: {cause}"
            ))),
        }
    }

    pub(super) fn name(&self) -> Result<VolumeName, Refused> {
        let raw = self.text("Name")?;
        VolumeName::parse("Name", raw).map_err(|bad| Refused::bad_request(bad.to_string()))
    }

    /// The id of one mount of a volume.
    pub(super) fn id(&self) -> Result<&str, Refused> {
        let raw = self.text("ID")?;
        let bad = |rule: String| Err(Refused::bad_request(format!("ID: {rule}")));
        if raw.is_empty() || raw.len() > ID_MAX {
            return bad(format!(
                "has {} bytes, it must have 1 to {ID_MAX}",
                raw.len()
            ));
        }
        if !raw.bytes().all(|byte| byte.is_ascii_graphic()) {
            let shown: String = raw.chars().take(64).collect();
            return bad(format!(
                "{shown:?} must consist of printable ASCII without spaces"
            ));
        }
        Ok(raw)
    }

    /// The volume that Create asks for, and whether what it is copied from has to be a snapshot.
    pub(super) fn create(&self) -> Result<(CreateVolume, bool), Refused> {
        let mut options = self.options()?;
        let clone = options.remove("clone");
        let snapshot = options.remove("snapshot");
        if clone.is_some() && snapshot.is_some() {
            let text = "Opts[\"clone\"] and Opts[\"snapshot\"]: only one of them can be given";
            return Err(Refused::bad_request(text));
        }
        let from_snapshot = snapshot.is_some();
        let field = if from_snapshot {
            "Opts[\"snapshot\"]"
        } else {
            "Opts[\"clone\"]"
        };
        let source = clone
            .or(snapshot)
            .map(|raw| VolumeName::parse(field, &raw))
            .transpose();
        for key in options.keys() {
            if !["size", "inodes", "uid", "gid", "mode", "nocopy"].contains(&key.as_str()) {
                let text = format!("Opts[{key:?}]: is unknown; there are {OPTIONS}");
                return Err(Refused::bad_request(text));
            }
        }
        let request = CreateVolume {
            name: Some(self.name()?),
            options,
            clone_of: source
                .map_err(|bad| Refused::bad_request(bad.to_string()))?
                .map(VolumeRef::Name),
            ..CreateVolume::default()
        };
        Ok((request, from_snapshot))
    }

    fn options(&self) -> Result<BTreeMap<String, String>, Refused> {
        let given = match self.0.get("Opts") {
            None | Some(Value::Null) => return Ok(BTreeMap::new()),
            Some(Value::Object(given)) => given,
            Some(other) => {
                let text = format!("Opts: is {}, it must be an object of strings", kind(other));
                return Err(Refused::bad_request(text));
            }
        };
        let text = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            other => Err(Refused::bad_request(format!(
                "Opts[{key:?}]: is {}, it must be a string",
                kind(other)
            ))),
        };
        let options: BTreeMap<_, _> = given.iter().map(text).collect::<Result<_, _>>()?;
        let total: usize = options
            .iter()
            .map(|(key, text)| key.len() + text.len())
            .sum();
        if total > OPTIONS_MAX {
            let text =
                format!("Opts: hold {total} bytes together, at most {OPTIONS_MAX} are allowed");
            return Err(Refused::bad_request(text));
        }
        Ok(options)
    }

    fn text(&self, field: &str) -> Result<&str, Refused> {
        match self.0.get(field) {
            Some(Value::String(text)) => Ok(text),
            None | Some(Value::Null) => {
                // dockerd repeats a call whose connection broke, and has used its content up (moby#39331).
                let hint = match self.0.is_empty() {
                    true => {
                        ", and the request is empty: Docker repeats a call whose connection broke without its content; try again"
                    }
                    false => "",
                };
                Err(Refused::bad_request(format!(
                    "{field}: is missing, it must be a string{hint}"
                )))
            }
            Some(other) => Err(Refused::bad_request(format!(
                "{field}: is {}, it must be a string",
                kind(other)
            ))),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A volume as List describes it.
pub(super) fn volume(entry: &VolumeEntry) -> Value {
    json!({
        "Name": entry.volume.name.as_str(),
        "Mountpoint": entry.path,
        "CreatedAt": timestamp(entry.volume.created).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> String {
        let asked = Asked::parse(body.as_bytes());
        let text = asked.and_then(|asked| {
            asked.id()?;
            asked.create()
        });
        text.unwrap_err().text
    }

    #[test]
    fn a_request_that_breaks_a_rule_is_named_by_field_value_and_rule() {
        let ok = r#""ID":"a","Name":"data""#;
        for (body, wanted) in [
            ("[]", "the request is an array, it must be a JSON object"),
            ("{", "the request is no JSON: EOF"),
            ("{}", "ID: is missing, it must be a string"),
            (r#"{"ID":7}"#, "ID: is a number, it must be a string"),
            (r#"{"ID":""}"#, "ID: has 0 bytes, it must have 1 to 128"),
            (
                r#"{"ID":"a b"}"#,
                "ID: \"a b\" must consist of printable ASCII",
            ),
            (r#"{"ID":"a"}"#, "Name: is missing"),
            (
                r#"{"ID":"a","Name":"a/b"}"#,
                "Name: \"a/b\" is no name of a volume",
            ),
            (r#"{"ID":"a","Name":"a"}"#, "Name: \"a\" is too short"),
            (&format!(r#"{{{ok},"Opts":7}}"#), "Opts: is a number"),
            (
                &format!(r#"{{{ok},"Opts":{{"size":7}}}}"#),
                "Opts[\"size\"]: is a number, it must be a string",
            ),
            (
                &format!(r#"{{{ok},"Opts":{{"type":"nfs"}}}}"#),
                "Opts[\"type\"]: is unknown; there are size, inodes, uid, gid, mode, clone, snapshot and nocopy",
            ),
            (
                &format!(r#"{{{ok},"Opts":{{"clone":"aa","snapshot":"bb"}}}}"#),
                "only one of them",
            ),
            (
                &format!(r#"{{{ok},"Opts":{{"clone":"/a"}}}}"#),
                "Opts[\"clone\"]: \"/a\" is no name of a volume",
            ),
            (
                &format!(r#"{{{ok},"Opts":{{"size":"{}"}}}}"#, "9".repeat(4096)),
                "Opts: hold 4100 bytes together",
            ),
        ] {
            let text = refused(body);
            assert!(text.contains(wanted), "{body}: {text}");
        }
    }

    #[test]
    fn no_options_and_unknown_fields_are_taken() {
        for body in [
            r#"{"Name":"data","Opts":null,"Next":1}"#,
            r#"{"Name":"data","Opts":{}}"#,
            r#"{"Name":"data"}"#,
        ] {
            let (request, _) = Asked::parse(body.as_bytes()).unwrap().create().unwrap();
            assert_eq!(request.name.unwrap().as_str(), "data");
        }
        assert!(Asked::parse(b" \n").is_ok());
    }
}
