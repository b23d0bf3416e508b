//! Turns a container's mounts into read-only ones for inspection.
//!
//! A container may be using the snapshot. A second overlay mount with the same writable directory
//! is undefined to the kernel, so the writable directory becomes one more read-only layer.

use crate::snapshot::Mount;

/// Read-only, and nothing in it can be executed or act as a device: images are others' work.
const GUARDS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// The same tree, read-only. Id mappings are left out: files show the ids they have on disk.
pub(crate) fn read_only(mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.into_iter().map(one).collect()
}

fn one(mount: Mount) -> Mount {
    let upper = value(&mount.options, "upperdir=").map(as_lower);
    let mut options: Vec<String> = mount
        .options
        .into_iter()
        .filter(|option| !dropped(option))
        .map(|option| match (option.strip_prefix("lowerdir="), &upper) {
            (Some(lower), Some(upper)) => format!("lowerdir={upper}:{lower}"),
            _ => option,
        })
        .collect();
    options.extend(GUARDS.map(str::to_owned));
    Mount { options, ..mount }
}

fn value(options: &[String], name: &str) -> Option<String> {
    options
        .iter()
        .find_map(|option| option.strip_prefix(name))
        .map(str::to_owned)
}

/// Between layers a colon separates; in `upperdir` it is a character.
fn as_lower(upper: String) -> String {
    let mut lower = String::with_capacity(upper.len());
    let mut escaped = false;
    for char in upper.chars() {
        if char == ':' && !escaped {
            lower.push('\\');
        }
        escaped = char == '\\' && !escaped;
        lower.push(char);
    }
    lower
}

/// Options about writing, and those the kernel does not know.
fn dropped(option: &str) -> bool {
    let names = ["upperdir=", "workdir=", "uidmap=", "gidmap=", "fsync="];
    option == "rw"
        || option == "volatile"
        || GUARDS.contains(&option)
        || names.iter().any(|name| option.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::read_only;
    use crate::snapshot::Mount;

    fn options(kind: &str, options: &[&str]) -> Vec<String> {
        let mount = Mount {
            kind: kind.to_owned(),
            source: "/l/1".to_owned(),
            target: String::new(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        read_only(vec![mount]).remove(0).options
    }

    #[test]
    fn a_writable_layer_becomes_one_more_lower_one() {
        let given = [
            "workdir=/w/3",
            "upperdir=/l/3",
            "lowerdir=/l/2:/l/1",
            "index=off",
            "userxattr",
        ];
        let wanted = [
            "lowerdir=/l/3:/l/2:/l/1",
            "index=off",
            "userxattr",
            "ro",
            "nosuid",
            "nodev",
            "noexec",
        ];
        assert_eq!(options("overlay", &given), wanted);
    }

    #[test]
    fn binds_lose_writing_and_mappings() {
        let given = ["uidmap=0:1:1", "gidmap=0:1:1", "rw", "rbind"];
        assert_eq!(
            options("bind", &given),
            ["rbind", "ro", "nosuid", "nodev", "noexec"]
        );
        assert_eq!(
            options("bind", &["ro", "rbind"]),
            ["rbind", "ro", "nosuid", "nodev", "noexec"]
        );
    }

    #[test]
    fn colons_are_escaped_once() {
        let given = ["upperdir=/a:b\\:c\\\\:d", "lowerdir=/l"];
        assert_eq!(
            options("overlay", &given)[0],
            "lowerdir=/a\\:b\\:c\\\\\\:d:/l"
        );
    }
}
