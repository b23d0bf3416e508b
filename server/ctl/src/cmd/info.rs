//! `layerctl info`.

use layerd_proto::layerd::v1::{InfoResponse, Reserve};
use serde::Serialize;
use serde_json::{Value, json};

use super::Daemon;
use crate::error::Error;
use crate::format::Template;
use crate::human::size;
use crate::output::Output;
use crate::text::{escape, escape_message};

/// Shows alarms, the daemon, its driver, its disk and its counts
///
/// Alarms come first: removed snapshots that are held back, damaged ones, a database that takes
/// no changes or is lost. Each says what to do. Without alarms nothing needs a person.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go template, such as '{{.ServerVersion}}', or json
    #[arg(short, long, value_name = "TEMPLATE", value_parser = Template::parse)]
    format: Option<Template>,
}

#[derive(Serialize)]
struct Json<'a> {
    alarms: &'a [String],
    version: &'a str,
    root: &'a str,
    driver: &'a str,
    backing_filesystem: &'a str,
    kernel: &'a str,
    features: Vec<Feature<'a>>,
    durability: &'a str,
    active: u64,
    views: u64,
    committed: u64,
    quarantined: u64,
    trash: u64,
    bytes: u64,
    unmeasured: u64,
    disk_bytes: u64,
    disk_free_bytes: u64,
    uptime_seconds: u64,
    layers_unpacked: u64,
    layers_packed: u64,
    reserves: Vec<Reserves<'a>>,
}

#[derive(Serialize)]
struct Reserves<'a> {
    path: &'a str,
    level: &'a str,
    bytes: u64,
    bytes_free: u64,
    bytes_kept: u64,
    inodes: u64,
    inodes_free: u64,
    inodes_kept: u64,
}

impl<'a> From<&'a Reserve> for Reserves<'a> {
    fn from(one: &'a Reserve) -> Self {
        Self {
            path: &one.path,
            level: &one.level,
            bytes: one.bytes,
            bytes_free: one.bytes_free,
            bytes_kept: one.bytes_kept,
            inodes: one.inodes,
            inodes_free: one.inodes_free,
            inodes_kept: one.inodes_kept,
        }
    }
}

#[derive(Serialize)]
struct Feature<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> From<&'a InfoResponse> for Json<'a> {
    fn from(info: &'a InfoResponse) -> Self {
        let features = info.features.iter();
        Self {
            alarms: &info.alarms,
            version: &info.version,
            root: &info.root,
            driver: &info.driver,
            backing_filesystem: &info.backing_filesystem,
            kernel: &info.kernel,
            features: features
                .map(|feature| Feature {
                    name: &feature.name,
                    value: &feature.value,
                })
                .collect(),
            durability: &info.durability,
            active: info.active,
            views: info.views,
            committed: info.committed,
            quarantined: info.quarantined,
            trash: info.trash,
            bytes: info.bytes,
            unmeasured: info.unmeasured,
            disk_bytes: info.disk_bytes,
            disk_free_bytes: info.disk_free_bytes,
            uptime_seconds: info.uptime_seconds,
            layers_unpacked: info.layers_unpacked,
            layers_packed: info.layers_packed,
            reserves: info
                .health
                .iter()
                .flat_map(|health| &health.reserves)
                .map(Reserves::from)
                .collect(),
        }
    }
}

/// Name of the daemon's fact that the file system tells the types of directory entries.
const ENTRY_TYPES: &str = "entry types";

/// Driver that gives overlayfs one lower directory.
const FIRST_GENERATION: &str = "overlay1";

pub(crate) async fn run(args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let info = daemon.connect().await?.info().await?;
    if let Some(template) = args.format.as_ref().filter(|template| !template.is_table()) {
        return template.print(&[fields(&info)], out);
    }
    if out.json {
        return out.object(&Json::from(&info));
    }
    for alarm in &info.alarms {
        out.line(&alarm_line(alarm, out.colour))?;
    }
    for line in lines(&info) {
        out.line(&escape(&line))?;
    }
    Ok(())
}

/// Fields of `--format`, with the names of docker info where it has them.
fn fields(info: &InfoResponse) -> Value {
    let features = info.features.iter();
    let status = features.map(|feature| [&feature.name, &feature.value]);
    json!({
        "ServerVersion": info.version,
        "Driver": info.driver,
        "DriverStatus": status.collect::<Vec<_>>(),
        "BackingFilesystem": info.backing_filesystem,
        "Durability": info.durability,
        "RootDir": info.root,
        "KernelVersion": info.kernel,
        "Snapshots": info.active + info.views + info.committed,
        "Active": info.active,
        "Views": info.views,
        "Committed": info.committed,
        "Quarantined": info.quarantined,
        "Trash": info.trash,
        "DiskUsage": info.bytes,
        "DiskTotal": info.disk_bytes,
        "DiskFree": info.disk_free_bytes,
        "Uptime": uptime(info.uptime_seconds),
        "Warnings": info.alarms,
    })
}

/// Whole, however long; a terminal wraps it.
fn alarm_line(alarm: &str, colour: bool) -> String {
    let (start, end) = if colour {
        ("\x1b[1;31m", "\x1b[0m")
    } else {
        ("", "")
    };
    format!("{start}ALARM: {}{end}", escape_message(alarm))
}

fn lines(info: &InfoResponse) -> Vec<String> {
    // Without records the daemon knows no more of itself.
    if info.driver.is_empty() {
        return vec![
            format!("Server Version: {}", info.version),
            format!("Root Dir: {}", info.root),
        ];
    }
    let snapshots = info.active + info.views + info.committed;
    let mut lines = vec![
        format!("Server Version: {}", info.version),
        format!("Storage Driver: {}", info.driver),
        format!(" Backing Filesystem: {}", info.backing_filesystem),
    ];
    lines.extend(overlay(info));
    let features = info.features.iter();
    let others = features.filter(|feature| feature.name != ENTRY_TYPES);
    lines.extend(others.map(|feature| format!(" {}: {}", feature.name, feature.value)));
    lines.extend([
        format!(" Durability: {}", info.durability),
        format!("Snapshots: {snapshots}"),
        format!(" Committed: {}", info.committed),
        format!(" Active: {}", info.active),
        format!(" Views: {}", info.views),
        format!(" Quarantined: {}", info.quarantined),
        format!(" Disk Usage: {}", used(info)),
        format!("Trash: {}", trash(info.trash)),
        format!("Root Dir: {}", info.root),
        format!(" Disk: {}", disk(info)),
    ]);
    lines.extend(reserves(info));
    lines.extend([
        format!("Kernel Version: {}", info.kernel),
        format!("Uptime: {}", uptime(info.uptime_seconds)),
        format!(" Layers Unpacked: {}", info.layers_unpacked),
        format!(" Layers Packed: {}", info.layers_packed),
    ]);
    lines
}

/// Facts about overlayfs under the names that docker info has for them.
fn overlay(info: &InfoResponse) -> Vec<String> {
    let value = |name: &str| {
        let mut features = info.features.iter();
        features.find(|feature| feature.name == name)
    };
    // The daemon starts on no file system without entry types.
    let Some(_) = value(ENTRY_TYPES) else {
        return Vec::new();
    };
    // Docker's driver of the first generation told no more.
    if info.driver == FIRST_GENERATION {
        return vec![" Supports d_type: true".to_owned()];
    }
    let options = value("mount options").map_or("", |feature| &feature.value);
    let has = |option: &str| options.split(',').any(|one| one == option);
    let (metacopy, redirects) = (has("metacopy=on"), has("redirect_dir=on"));
    vec![
        " Supports d_type: true".to_owned(),
        format!(" Using metacopy: {metacopy}"),
        // Changes of a layer are read off its directory, which these options forbid.
        format!(" Native Overlay Diff: {}", !metacopy && !redirects),
        format!(" userxattr: {}", has("userxattr")),
    ]
}

fn used(info: &InfoResponse) -> String {
    match info.unmeasured {
        0 => size(info.bytes),
        some => format!("{} and {some} snapshots not measured yet", size(info.bytes)),
    }
}

fn trash(count: u64) -> String {
    match count {
        0 => "empty".to_owned(),
        some => format!("{some} removed snapshots still on disk"),
    }
}

fn disk(info: &InfoResponse) -> String {
    let free = size(info.disk_free_bytes);
    let percent = info
        .disk_free_bytes
        .saturating_mul(100)
        .checked_div(info.disk_bytes);
    let total = size(info.disk_bytes);
    format!("{total}, {free} free ({}%)", percent.unwrap_or_default())
}

/// What nothing new may take of each file system with data.
fn reserves(info: &InfoResponse) -> Vec<String> {
    let reserves = info.health.iter().flat_map(|health| &health.reserves);
    let line = |one: &Reserve| {
        let inodes = match one.inodes {
            0 => String::new(),
            _ => format!(" and {} inodes", one.inodes_kept),
        };
        let place = match one.path == info.root {
            true => String::new(),
            false => format!(" of {}", one.path),
        };
        let kept = size(one.bytes_kept);
        format!(" Reserve: {kept}{inodes}{place}, {}", one.level)
    };
    reserves.map(line).collect()
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::{InfoResponse, alarm_line, lines, reserves, uptime};
    use layerd_proto::layerd::v1::{Feature, Health, Reserve};

    fn info() -> InfoResponse {
        InfoResponse {
            version: "0.1.0".to_owned(),
            root: "/var/lib/l".to_owned(),
            driver: "overlayfs".to_owned(),
            backing_filesystem: "xfs".to_owned(),
            kernel: "6.12".to_owned(),
            features: [
                ("entry types", "told by the file system"),
                ("mount options", "index=off,userxattr"),
            ]
            .map(|(name, value)| Feature {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .to_vec(),
            active: 1,
            views: 2,
            committed: 3,
            trash: 4,
            bytes: 2048,
            unmeasured: 5,
            disk_bytes: 4 << 30,
            disk_free_bytes: 1 << 30,
            uptime_seconds: 90_000,
            alarms: Vec::new(),
            quarantined: 6,
            durability: "full".to_owned(),
            layers_unpacked: 7,
            layers_packed: 8,
            health: None,
            newest_copy: String::new(),
        }
    }

    #[test]
    fn reads_as_docker_info_does() {
        let wanted = [
            "Server Version: 0.1.0",
            "Storage Driver: overlayfs",
            " Backing Filesystem: xfs",
            " Supports d_type: true",
            " Using metacopy: false",
            " Native Overlay Diff: true",
            " userxattr: true",
            " mount options: index=off,userxattr",
            " Durability: full",
            "Snapshots: 6",
            " Committed: 3",
            " Active: 1",
            " Views: 2",
            " Quarantined: 6",
            " Disk Usage: 2.00KiB and 5 snapshots not measured yet",
            "Trash: 4 removed snapshots still on disk",
            "Root Dir: /var/lib/l",
            " Disk: 4.00GiB, 1.00GiB free (25%)",
            "Kernel Version: 6.12",
            "Uptime: 1d 1h",
            " Layers Unpacked: 7",
            " Layers Packed: 8",
        ];
        assert_eq!(lines(&info()), wanted);
    }

    #[test]
    fn the_first_generation_tells_less() {
        let first = InfoResponse {
            driver: "overlay1".to_owned(),
            ..info()
        };
        let lines = lines(&first);
        let of_driver = [
            "Storage Driver: overlay1",
            " Backing Filesystem: xfs",
            " Supports d_type: true",
            " mount options: index=off,userxattr",
        ];
        assert_eq!(lines[1..5], of_driver);
    }

    #[test]
    fn each_reserve_has_a_line() {
        let reserve = |path: &str, inodes| Reserve {
            path: path.to_owned(),
            level: "enough".to_owned(),
            bytes_kept: 1 << 20,
            inodes,
            inodes_kept: inodes / 100,
            ..Reserve::default()
        };
        let info = InfoResponse {
            root: "/r".to_owned(),
            health: Some(Health {
                reserves: vec![reserve("/r", 500), reserve("/r/volumes", 0)],
                ..Health::default()
            }),
            ..InfoResponse::default()
        };
        let wanted = [
            " Reserve: 1.00MiB and 5 inodes, enough",
            " Reserve: 1.00MiB of /r/volumes, enough",
        ];
        assert_eq!(reserves(&info), wanted);
    }

    #[test]
    fn uptimes_have_two_units() {
        let table = [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3600, "1h 0m"),
            (86400, "1d 0h"),
        ];
        for (seconds, text) in table {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn an_empty_disk_divides_nothing() {
        let info = InfoResponse {
            driver: "overlayfs".to_owned(),
            ..InfoResponse::default()
        };
        assert!(lines(&info).contains(&" Disk: 0B, 0B free (0%)".to_owned()));
    }

    #[test]
    fn a_daemon_without_records_shows_what_it_knows() {
        let info = InfoResponse {
            version: "0.1.0".to_owned(),
            root: "/r".to_owned(),
            ..InfoResponse::default()
        };
        assert_eq!(lines(&info), ["Server Version: 0.1.0", "Root Dir: /r"]);
    }

    #[test]
    fn alarms_are_red_and_harmless() {
        assert_eq!(
            alarm_line("all \x1b[2J gone", true),
            "\x1b[1;31mALARM: all \\u{1b}[2J gone\x1b[0m"
        );
        assert_eq!(alarm_line("all gone", false), "ALARM: all gone");
    }
}
