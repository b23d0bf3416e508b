//! `layerctl setup kubernetes`: the manifests of `deploy/kubernetes`, which are built in.

use std::fs;
use std::path::{Path, PathBuf};

use super::{edited, failed, invalid, write};
use crate::error::Error;
use crate::managed_file::{self, Done, Owner};
use crate::output::Output;
use crate::text::escape;

/// kubelet's directory in the manifests.
const KUBELET: &str = "/var/lib/kubelet";
/// Begin of the lines with the sidecars' images.
const IMAGE: &str = "image: sig-storage/";

/// Prints, writes or removes the manifests that make layerd a CSI driver of a cluster
///
/// Without --write they are printed, for `kubectl apply -f -`. layerd serves the driver where its
/// configuration has `csi.socket`, or where layerd-csi.socket is enabled. `kubectl delete -f DIR` before
/// --remove takes back what was applied; volumes stay.
#[derive(Debug, clap::Args)]
pub(super) struct Kubernetes {
    /// Write them
    #[arg(long, conflicts_with = "remove")]
    write: bool,

    /// Remove what --write wrote
    #[arg(long)]
    remove: bool,

    /// Directory for the manifests
    #[arg(long, value_name = "DIR", default_value = "/etc/layerd/kubernetes")]
    dir: PathBuf,

    /// Registry that has the sidecars of kubernetes-csi, as your cluster's nodes reach it
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,

    /// kubelet's directory on the nodes
    #[arg(long, value_name = "DIR", default_value = KUBELET)]
    kubelet: PathBuf,

    /// Run layerd in the DaemonSet too, and not as a service of the host
    #[arg(long)]
    with_layerd: bool,

    /// The example too: a database, its snapshot and a restore
    #[arg(long)]
    example: bool,
}

/// File names and texts. Of the two DaemonSets one is taken.
const MANIFESTS: [(&str, &str); 5] = [
    (
        "driver.yaml",
        include_str!("../../../../../deploy/kubernetes/driver.yaml"),
    ),
    (
        "rbac.yaml",
        include_str!("../../../../../deploy/kubernetes/rbac.yaml"),
    ),
    (
        HOST,
        include_str!("../../../../../deploy/kubernetes/daemonset.yaml"),
    ),
    (
        POD,
        include_str!("../../../../../deploy/kubernetes/daemonset-layerd.yaml"),
    ),
    (
        EXAMPLE,
        include_str!("../../../../../deploy/kubernetes/example.yaml"),
    ),
];
const HOST: &str = "daemonset.yaml";
const POD: &str = "daemonset-layerd.yaml";
const EXAMPLE: &str = "example.yaml";

pub(super) fn run(args: &Kubernetes, out: &mut Output) -> Result<(), Error> {
    if args.remove {
        return remove(&args.dir, out);
    }
    let all = args.manifests()?;
    if args.registry.is_none() {
        out.progress("layerctl: warning: the images of the sidecars are named without a registry; see --registry")?;
    }
    if !args.write {
        let texts: Vec<_> = all.into_iter().map(|(_, text)| text).collect();
        return out.raw(texts.join("---\n").as_bytes());
    }
    for (name, text) in all {
        let path = args.dir.join(name);
        let shown = escape(&path.display().to_string());
        match write(&path, &managed_file::sealed(&text))? {
            Done::Already => out.line(&format!("{shown} is up to date"))?,
            Done::Now => out.line(&format!("Wrote {shown}"))?,
        }
    }
    out.line(&format!(
        "Then, where kubectl works: kubectl apply -f {}",
        escape(&args.dir.display().to_string())
    ))
}

impl Kubernetes {
    /// The manifests that are asked for.
    fn manifests(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let kubelet = super::absolute("--kubelet", &self.kubelet)?;
        let kubelet = kubelet.trim_end_matches('/');
        let registry = self.registry.as_deref().unwrap_or_default();
        if registry
            .chars()
            .any(|c| c.is_control() || c.is_whitespace())
        {
            let why = format!("--registry is {registry:?}, and a name has no spaces");
            return Err(invalid(why, "Give a name such as registry.example:5000."));
        }
        let prefix = match registry {
            "" => IMAGE.to_owned(),
            name => format!("image: {}/sig-storage/", name.trim_end_matches('/')),
        };
        let left_out = match self.with_layerd {
            true => HOST,
            false => POD,
        };
        let is_wanted = |name: &str| name != left_out && (name != EXAMPLE || self.example);
        let wanted = MANIFESTS.into_iter().filter(|(name, _)| is_wanted(name));
        let made = wanted.map(|(name, text)| {
            let text = text.replace(KUBELET, kubelet).replace(IMAGE, &prefix);
            (name, text)
        });
        Ok(made.collect())
    }
}

/// Edited files stay, and are named.
fn remove(dir: &Path, out: &mut Output) -> Result<(), Error> {
    let mut is_any = false;
    for (name, _) in MANIFESTS {
        let path = dir.join(name);
        match managed_file::owner(&path).map_err(|cause| failed("read", &path, cause))? {
            Owner::Absent => continue,
            Owner::Foreign(_) => return Err(edited("remove", &path, "")),
            Owner::Us(_) => {}
        }
        managed_file::remove(&path).map_err(|cause| failed("remove", &path, cause))?;
        out.line(&format!("Removed {}", escape(&path.display().to_string())))?;
        is_any = true;
    }
    if !is_any {
        let shown = escape(&dir.display().to_string());
        return out.line(&format!("There is nothing of layerctl's in {shown}"));
    }
    // Only an empty directory goes.
    let _ = fs::remove_dir(dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Kubernetes {
        Kubernetes {
            write: false,
            remove: false,
            dir: "/etc/layerd/kubernetes".into(),
            registry: Some("registry.example".to_owned()),
            kubelet: "/data/kubelet/".into(),
            with_layerd: false,
            example: false,
        }
    }

    #[test]
    fn manifests_name_the_registry_and_kubelets_directory() {
        for (with_layerd, other) in [(false, POD), (true, HOST)] {
            let args = Kubernetes {
                with_layerd,
                example: true,
                ..args()
            };
            let all = args.manifests().unwrap();
            assert_eq!(all.len(), MANIFESTS.len() - 1);
            assert!(all.iter().all(|(name, _)| *name != other));
            let text: String = all.into_iter().map(|(_, text)| text).collect();
            assert!(!text.contains(KUBELET) && !text.contains(IMAGE), "{text}");
            assert!(text.contains("/data/kubelet/plugins/csi.layerd.dev/csi.sock"));
            assert!(text.contains("image: registry.example/sig-storage/csi-provisioner"));
        }
    }

    #[test]
    fn what_is_no_path_or_registry_is_refused() {
        let mut bad = args();
        bad.kubelet = "kubelet".into();
        assert!(bad.manifests().is_err());
        let mut bad = args();
        bad.registry = Some("a b".to_owned());
        assert!(bad.manifests().is_err());
    }
}
