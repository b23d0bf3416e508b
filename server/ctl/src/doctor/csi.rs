//! The CSI socket, and whether kubelet was told of it.

use std::path::{Path, PathBuf};

use super::{Action, Finding};

const CHECK: &str = "csi";
const DRIVER: &str = "csi.layerd.dev";

/// Facts about the socket of the configuration.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The socket.
    pub(crate) socket: PathBuf,
    /// Name of the driver that answers, or why none does.
    pub(crate) answer: Result<String, String>,
    /// True if kubelet's registrar serves the driver; `None` where kubelet has no directory for that.
    pub(crate) is_registered: Option<bool>,
}

/// Socket of the driver's registrar, beside the plugins' directory that the socket is in.
pub(crate) fn registration(socket: &Path) -> Option<PathBuf> {
    let kubelet = socket.parent()?.parent()?.parent()?;
    socket
        .starts_with(kubelet.join("plugins").join(DRIVER))
        .then(|| {
            kubelet
                .join("plugins_registry")
                .join(format!("{DRIVER}-reg.sock"))
        })
}

/// Checks them.
pub(crate) fn finding(facts: &Facts) -> Finding {
    let socket = facts.socket.display();
    match (&facts.answer, facts.is_registered) {
        (Err(reason), _) => Finding::warning(
            CHECK,
            format!("the driver does not answer at {socket}: {reason}"),
            "Pods that need a volume of layerd's wait until it does. Pods that run go on.",
            Action::safe("restart-csi", "systemctl restart layerd.service"),
        ),
        (Ok(name), _) if name != DRIVER => Finding::warning(
            CHECK,
            format!("{socket} is served by {name}"),
            "Kubernetes finds no volume of layerd's on this node.",
            Action::advice(
                "Change `csi.socket` in layerd's configuration, or stop what serves it.",
            ),
        ),
        (Ok(_), None) => Finding::info(
            CHECK,
            format!("the driver answers at {socket}; kubelet does not look there"),
            "That is no trouble where something else than kubelet calls it.",
        ),
        (Ok(_), Some(false)) => Finding::warning(
            CHECK,
            format!("the driver answers at {socket}, and kubelet was not told of it"),
            "Pods that need a volume of layerd's stay pending on this node.",
            Action::advice(
                "Apply the manifests that `layerctl setup kubernetes` prints, and look at the log of node-driver-registrar.",
            ),
        ),
        (Ok(_), Some(true)) => Finding::ok(CHECK, format!("the driver answers at {socket}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrar_is_looked_for_beside_kubelets_plugins() {
        let socket = Path::new("/var/lib/kubelet/plugins/csi.layerd.dev/csi.sock");
        let registrar = "/var/lib/kubelet/plugins_registry/csi.layerd.dev-reg.sock";
        assert_eq!(registration(socket), Some(registrar.into()));
        assert_eq!(registration(Path::new("/run/layerd/csi.sock")), None);
        assert_eq!(registration(Path::new("/csi.sock")), None);
    }

    #[test]
    fn what_keeps_pods_waiting_is_a_trouble() {
        for (answer, is_registered, is_trouble) in [
            (Err("refused".to_owned()), Some(true), true),
            (Ok("other.example".to_owned()), Some(true), true),
            (Ok(DRIVER.to_owned()), Some(false), true),
            (Ok(DRIVER.to_owned()), Some(true), false),
            (Ok(DRIVER.to_owned()), None, false),
        ] {
            let facts = Facts {
                socket: "/s".into(),
                answer,
                is_registered,
            };
            assert_eq!(finding(&facts).is_trouble(), is_trouble, "{facts:?}");
        }
    }
}
