//! Folders of volumes, and the links by which people find them.

use std::fs;
use std::path::Path;

use super::{Action, Finding, some_of};
use crate::volume::Volume;

const CHECK: &str = "volumes";

/// Looks at the folders on this host; costs two looks for each volume.
pub(crate) fn findings(volumes: &[Volume], root: &Path) -> Vec<Finding> {
    let named = |is_wrong: &dyn Fn(&Volume) -> bool| -> Vec<String> {
        let wrong = volumes.iter().filter(|volume| is_wrong(volume));
        wrong.map(|volume| volume.name.clone()).collect()
    };
    let gone = named(&|volume| !Path::new(&volume.path).is_dir());
    let links = root.join("volumes/by-name");
    let unlinked = named(&|volume| !is_link(&links.join(&volume.name), Path::new(&volume.path)));
    let mut found = Vec::new();
    if !gone.is_empty() {
        found.push(Finding::error(
            CHECK,
            format!("the folder is gone of {}", some_of(&gone)),
            "Their content is lost; what attaches them finds nothing.",
            Action::advice(
                "Put the folder back from a backup, or remove the volume with `layerctl volume rm` and \
                 `layerctl volume import` its last export.",
            ),
        ));
    }
    if !unlinked.is_empty() {
        found.push(Finding::warning(
            CHECK,
            format!("no link in {} leads to {}", links.display(), some_of(&unlinked)),
            "People and backups look for them there. Containers do not. The links are made anew at each start.",
            Action::safe("restart-for-links", "systemctl restart layerd.service"),
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(
            CHECK,
            format!("{} have their folders", volumes.len()),
        ));
    }
    found
}

/// A volume without its folder is told as such.
fn is_link(link: &Path, folder: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder) else {
        return true;
    };
    fs::canonicalize(link).is_ok_and(|target| target == folder || folder.starts_with(target))
}
