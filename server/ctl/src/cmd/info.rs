//! `layerctl info`.

use layerd_proto::layerd::v1::InfoResponse;
use serde::Serialize;

use super::Daemon;
use crate::error::Error;
use crate::human::size;
use crate::output::Output;
use crate::text::escape;

/// Shows the daemon, its driver, its disk and how much it keeps
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Json<'a> {
    version: &'a str,
    root: &'a str,
    driver: &'a str,
    backing_filesystem: &'a str,
    kernel: &'a str,
    features: Vec<Feature<'a>>,
    active: u64,
    views: u64,
    committed: u64,
    trash: u64,
    bytes: u64,
    unmeasured: u64,
    disk_bytes: u64,
    disk_free_bytes: u64,
    uptime_seconds: u64,
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
            active: info.active,
            views: info.views,
            committed: info.committed,
            trash: info.trash,
            bytes: info.bytes,
            unmeasured: info.unmeasured,
            disk_bytes: info.disk_bytes,
            disk_free_bytes: info.disk_free_bytes,
            uptime_seconds: info.uptime_seconds,
        }
    }
}

pub(crate) async fn run(_args: &Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    let info = daemon.connect().await?.info().await?;
    if out.json {
        return out.object(&Json::from(&info));
    }
    for line in lines(&info) {
        out.line(&escape(&line))?;
    }
    Ok(())
}

fn lines(info: &InfoResponse) -> Vec<String> {
    let snapshots = info.active + info.views + info.committed;
    let mut lines = vec![
        format!("Server Version: {}", info.version),
        format!("Storage Driver: {}", info.driver),
        format!(" Backing Filesystem: {}", info.backing_filesystem),
    ];
    let features = info.features.iter();
    lines.extend(features.map(|feature| format!(" {}: {}", feature.name, feature.value)));
    lines.extend([
        format!("Snapshots: {snapshots}"),
        format!(" Committed: {}", info.committed),
        format!(" Active: {}", info.active),
        format!(" Views: {}", info.views),
        format!(" Disk Usage: {}", used(info)),
        format!("Trash: {}", trash(info.trash)),
        format!("Root Dir: {}", info.root),
        format!(" Disk: {}", disk(info)),
        format!("Kernel Version: {}", info.kernel),
        format!("Uptime: {}", uptime(info.uptime_seconds)),
    ]);
    lines
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
    use super::{InfoResponse, lines, uptime};
    use layerd_proto::layerd::v1::Feature;

    #[test]
    fn reads_as_docker_info_does() {
        let info = InfoResponse {
            version: "0.1.0".to_owned(),
            root: "/var/lib/l".to_owned(),
            driver: "overlayfs".to_owned(),
            backing_filesystem: "xfs".to_owned(),
            kernel: "6.12".to_owned(),
            features: vec![Feature {
                name: "userxattr".to_owned(),
                value: "no".to_owned(),
            }],
            active: 1,
            views: 2,
            committed: 3,
            trash: 4,
            bytes: 2048,
            unmeasured: 5,
            disk_bytes: 4 << 30,
            disk_free_bytes: 1 << 30,
            uptime_seconds: 90_000,
        };
        let wanted = [
            "Server Version: 0.1.0",
            "Storage Driver: overlayfs",
            " Backing Filesystem: xfs",
            " userxattr: no",
            "Snapshots: 6",
            " Committed: 3",
            " Active: 1",
            " Views: 2",
            " Disk Usage: 2.00KiB and 5 snapshots not measured yet",
            "Trash: 4 removed snapshots still on disk",
            "Root Dir: /var/lib/l",
            " Disk: 4.00GiB, 1.00GiB free (25%)",
            "Kernel Version: 6.12",
            "Uptime: 1d 1h",
        ];
        assert_eq!(lines(&info), wanted);
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
        assert!(lines(&InfoResponse::default()).contains(&" Disk: 0B, 0B free (0%)".to_owned()));
    }
}
