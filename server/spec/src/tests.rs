//! Accepted and refused flags: the corpus, the table of missing sources, and properties.

mod corpus;
mod missing;
mod properties;

use super::{BadSpec, Dialect, HostPath, MountSpec, ParseRequest, parse};

/// A request with these flags, each written as on a command line: `-v vol:/data`.
fn request(dialect: Dialect, flags: &[&str]) -> ParseRequest {
    let mut request = ParseRequest {
        dialect,
        base_dir: HostPath::new("/corpus/cwd"),
        ..ParseRequest::default()
    };
    for flag in flags {
        let (name, value) = flag.split_once(' ').unwrap_or((flag, ""));
        let list = match name {
            "-v" => &mut request.volume_flags,
            "--mount" => &mut request.mount_flags,
            "--tmpfs" => &mut request.tmpfs_flags,
            other => panic!("no such flag: {other}"),
        };
        list.push(value.to_owned());
    }
    request
}

fn strict(flag: &str) -> Result<MountSpec, BadSpec> {
    parse(&request(Dialect::Strict, &[flag])).map(|mut specs| specs.remove(0))
}
