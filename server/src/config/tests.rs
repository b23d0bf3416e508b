use nix::unistd::Gid;

use super::places::ROOT;
use super::*;

fn parse(text: &str) -> Result<Config, String> {
    let raw: Raw = toml::from_str(text).map_err(|error| error.to_string())?;
    Config::try_from(raw).map_err(|error| error.to_string())
}

#[test]
fn everything_has_a_default() {
    let config = parse("").unwrap();
    assert_eq!(config.root, Path::new(ROOT));
    assert_eq!(config.socket.mode, 0o600);
    assert_eq!(config.socket.group, None);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn mistakes_name_key_value_and_rule() {
    for (text, want) in [
        ("rot = '/x'", "unknown field `rot`"),
        (
            "[socket]\nmode = '0888'",
            "setting `socket.mode` is \"0888\": must be octal",
        ),
        (
            "[socket]\ngroup = 'no such'",
            "setting `socket.group` is \"no such\": no such group",
        ),
        (
            "[reaper]\nevery_secs = 0",
            "setting `reaper.every_secs` is \"0\": must be from 1 to 86400",
        ),
        (
            "[tracing]\nendpoint = 'localhost:4317'",
            "setting `tracing.endpoint` is \"localhost:4317\": must be \"http://HOST:PORT\"",
        ),
        (
            "[tracing]\nendpoint = 'https://localhost:4317'",
            "without encryption, or \"unix:/PATH\"",
        ),
        (
            "[tracing]\nsampling_ratio = 1.5",
            "setting `tracing.sampling_ratio` is \"1.5\": must be from 0 to 1",
        ),
        (
            "[tracing]\nsampling_ratio = nan",
            "setting `tracing.sampling_ratio` is \"NaN\": must be from 0 to 1",
        ),
        (
            "[tracing]\nservice_name = ''",
            "setting `tracing.service_name` is \"\": must have 1 to 255 bytes",
        ),
        (
            "[overlayfs]\nlayers = 'image'",
            "setting `overlayfs.layers` is \"image\": must be \"directories\", \"images\" or \"auto\"",
        ),
        ("[log]\nformat = 'xml'", "unknown variant `xml`"),
        ("[log]\nlevel = 'loud=='", "setting `log.level`"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(want), "{text}: {error}");
    }
    let long = format!("[socket]\npath = '/{}'", "s".repeat(107));
    assert!(parse(&long).unwrap_err().contains("is 108 bytes long"));
}

/// Every key of the sample, in its table.
#[test]
fn every_key_is_told_to_those_who_ask() {
    let sample = include_str!("../../../deploy/config.toml");
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in sample.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
        }
        let bare = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        keys.extend(bare.map(|rest| format!("{table}{}", rest.split_once(" =").unwrap().0)));
    }
    keys.sort();
    let told = effective::all(&parse("").unwrap());
    assert_eq!(
        told.keys().collect::<Vec<_>>(),
        keys.iter().collect::<Vec<_>>()
    );
}

/// The sample documents each key with its default, commented out. With the comment signs gone
/// it must parse, and change nothing.
#[test]
fn the_sample_names_every_key_with_its_default() {
    let sample = include_str!("../../../deploy/config.toml");
    let bare = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| !rest.starts_with(' '))
    };
    let text: Vec<_> = sample
        .lines()
        .map(|line| if bare(line) { &line[1..] } else { line })
        .collect();
    let config = parse(&text.join("\n")).unwrap();
    let mut default = parse("").unwrap();
    assert_eq!(config.socket.group, Some(Gid::from_raw(0)));
    default.socket.group = config.socket.group;
    assert_eq!(format!("{config:?}"), format!("{default:?}"));
    for key in [
        "root",
        "stop_timeout_secs",
        "path",
        "mode",
        "group",
        "level",
        "format",
        "mount_options",
        "id_mapping",
        "patience_ms",
        "every_secs",
        "durability",
        "keep_secs",
        "min_free_percent",
        "guard_percent",
        "guard_min",
        "address",
        "endpoint",
        "sampling_ratio",
        "service_name",
        "enabled",
        "at_once",
        "workers",
        "max_layer_bytes",
        "max_entries",
        "max_ratio",
        "file_digests",
        "import_keep_percent",
        "keep_free_percent",
        "socket",
        "api",
        "mount_grace_secs",
    ] {
        assert!(
            text.iter()
                .any(|line| line.starts_with(&format!("{key} ="))),
            "{key}"
        );
    }
}
