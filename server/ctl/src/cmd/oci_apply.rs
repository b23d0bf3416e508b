//! `layerctl oci-apply`: from mount flags to an OCI bundle that has them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Daemon;
use super::attach::{What, send, undo};
use super::attachments::print;
use crate::attachment::OciMount;
use crate::bundle::Bundle;
use crate::error::Error;
use crate::output::Output;

/// Attaches mounts and writes them into an OCI bundle
///
/// They are written into the config.json of the bundle.
///
/// Afterwards `runc run` (or another runtime) starts a container that has them. A mount of the
/// bundle with the same destination is replaced; the others stay, in their order, and no mount
/// comes before one above it. linux.rootfsPropagation is widened where a mount asks for shared or
/// slave propagation. Saying the same again changes nothing. If the config.json cannot be written,
/// what was attached is undone. When the container is gone:
/// `layerctl detach --owner KIND:ID`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with the config.json
    bundle: PathBuf,

    #[command(flatten)]
    what: What,
}

pub(crate) async fn run(args: Args, daemon: &Daemon, out: &mut Output) -> Result<(), Error> {
    // What could fail without the daemon fails before anything is attached.
    let bundle = Bundle::open(&args.bundle)?;
    let mut client = daemon.connect().await?;
    let mut what = args.what;
    what.selinux_label
        .get_or_insert_with(|| bundle.mount_label().to_owned());
    let attachments = send(what, BTreeMap::new(), &mut client).await?;
    let mounts: Vec<OciMount> = attachments
        .iter()
        .flat_map(|one| one.oci_mounts.iter().cloned())
        .collect();
    if let Err(error) = bundle.put(&mounts) {
        return Err(Error::Several(
            std::iter::once(error)
                .chain(undo(&attachments, &mut client).await)
                .collect(),
        ));
    }
    print(&attachments, out)
}
