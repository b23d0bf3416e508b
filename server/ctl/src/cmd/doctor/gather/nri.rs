//! The plugin of NRI.

use std::path::Path;
use std::time::Duration;

use super::output;
use crate::cmd::doctor::Args;
use crate::containerd::effective::Effective;
use crate::containerd::nri as containerd_nri;
use crate::doctor::{Finding, nri};

/// The unit of `layerd-nri`, if it is used, and NRI in the containerd that starts next.
pub(super) async fn finding(args: &Args, limit: Duration) -> Option<Finding> {
    let unit = output(
        Path::new("systemctl"),
        &nri::ARGUMENTS.map(str::to_owned),
        limit,
    )
    .await?;
    let version = super::containerd::installed(limit).await;
    let files = Effective::read(&args.containerd_config).ok();
    let state = version
        .zip(files)
        .map(|(version, files)| containerd_nri::state(version, &files, None));
    nri::finding(&unit, state.as_ref())
}
