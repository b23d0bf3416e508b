//! Mounts as a started container sees them.

use std::collections::BTreeSet;
use std::path::Path;

use super::facts::Mount;

/// Compares the mounts with the container's `/proc/mounts`.
pub(crate) fn compare(expected: &[Mount], table: &str) -> Result<(), String> {
    for mount in expected {
        check(mount, table).map_err(|difference| format!("{}: {difference}", mount.target))?;
    }
    Ok(())
}

fn check(mount: &Mount, table: &str) -> Result<(), String> {
    let at_target: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split(' ').collect())
        .filter(|fields: &Vec<&str>| fields.len() > 3 && unescape(fields[1]) == mount.target)
        .collect();
    let [line] = &at_target[..] else {
        return Err(format!("{} mounts are there", at_target.len()));
    };
    let source = mount.value("source").unwrap_or_default();
    if mount.has("type=bind") && !Path::new(source).exists() {
        return Err(format!("{source} was not created"));
    }
    if mount.has("type=tmpfs") {
        return tmpfs(mount, line[2], &line[3].split(',').collect());
    }
    Ok(())
}

fn tmpfs(mount: &Mount, kind: &str, options: &BTreeSet<&str>) -> Result<(), String> {
    if kind != "tmpfs" {
        return Err(format!("it is a {kind}"));
    }
    let access = if mount.has("readonly") { "ro" } else { "rw" };
    let mut wanted = vec![access.to_owned()];
    let mut unwanted = vec![];
    for (field, word) in [
        ("tmpfs-exec", "noexec"),
        ("tmpfs-opt=suid", "nosuid"),
        ("tmpfs-opt=dev", "nodev"),
    ] {
        let list = if mount.has(field) {
            &mut unwanted
        } else {
            &mut wanted
        };
        list.push(word.to_owned());
    }
    wanted.extend(numbers(mount));
    match options.iter().find(|option| option.starts_with("size=")) {
        Some(_) if limits(mount) => {}
        Some(option) => unwanted.push((*option).to_owned()),
        // The kernel does not show the size that it gives by default, half of the memory.
        None if limits(mount) && mount.value("tmpfs-size") != Some("50%") => {
            return Err("it has no limit".to_owned());
        }
        None => {}
    }
    let missing = wanted
        .iter()
        .find(|option| !options.contains(option.as_str()));
    let extra = unwanted
        .iter()
        .find(|option| options.contains(option.as_str()));
    match (missing, extra) {
        (None, None) => Ok(()),
        _ => Err(format!("{options:?}: misses {missing:?}, has {extra:?}")),
    }
}

fn limits(mount: &Mount) -> bool {
    let blocks = |field: &String| field.starts_with("tmpfs-opt=nr_blocks=");
    mount.value("tmpfs-size").is_some() || mount.fields.iter().any(blocks)
}

/// Options as the kernel shows them.
fn numbers(mount: &Mount) -> Vec<String> {
    let mut shown = Vec::new();
    for field in &mount.fields {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let number = value.parse::<u64>();
        match (key, number) {
            ("tmpfs-size", Ok(bytes)) => {
                shown.push(format!("size={}k", bytes.div_ceil(4096) * 4));
            }
            ("tmpfs-size", _) if value == "unlimited" => shown.push("size=0k".to_owned()),
            ("tmpfs-mode", _) => {
                let mode = u32::from_str_radix(value, 8).expect("modes are octal");
                shown.push(format!("mode={mode:03o}"));
            }
            ("uid" | "gid", Ok(id)) => shown.push(format!("{key}={id}")),
            ("tmpfs-inodes", Ok(count)) => shown.push(format!("nr_inodes={count}")),
            ("tmpfs-opt", _) => match value.split_once('=') {
                Some(("nr_blocks", blocks)) => {
                    let blocks: u64 = blocks.parse().expect("blocks are a number");
                    shown.push(format!("size={}k", blocks * 4));
                }
                Some(_) => shown.push(value.to_owned()),
                // What is taken away shows by its absence; nothing spreads from a tmpfs.
                None if ["suid", "dev", "shared"].contains(&value) => {}
                None => shown.push(value.to_owned()),
            },
            _ => {}
        }
    }
    shown
}

/// Spaces and the like are octal in the table.
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}
