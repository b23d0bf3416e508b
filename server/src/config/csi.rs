//! `[csi]`: the socket for kubelet, and who this node is.

use nix::unistd::gethostname;

use super::ConfigError;
use super::raw::RawCsi;
use super::value::{socket_path, value};
use crate::listener::SocketConfig;

/// Checked settings of CSI.
#[derive(Debug, Clone)]
pub(crate) struct CsiConfig {
    /// Socket to serve on; none, unless systemd hands one over.
    pub(crate) socket: Option<SocketConfig>,
    /// This node, in its topology. Empty if the host name is none for a node and no other is set: CSI alone
    /// is not served then.
    pub(crate) node_id: String,
    /// True if kubelet grows volumes on their nodes, not the controller.
    pub(crate) node_expansion: bool,
}

impl TryFrom<RawCsi> for CsiConfig {
    type Error = ConfigError;

    fn try_from(raw: RawCsi) -> Result<Self, ConfigError> {
        let path = raw.socket.filter(|path| !path.as_os_str().is_empty());
        let path = path
            .map(|path| socket_path("csi.socket", path))
            .transpose()?;
        let given = raw.node_id.filter(|id| !id.is_empty());
        Ok(Self {
            socket: path.map(|path| SocketConfig {
                path,
                mode: 0o600,
                group: None,
            }),
            node_id: match given {
                Some(id) if !is_node_id(&id) => return Err(value("csi.node_id", id, RULE)),
                Some(id) => id,
                None => Some(host_name())
                    .filter(|name| is_node_id(name))
                    .unwrap_or_default(),
            },
            node_expansion: raw.node_expansion.unwrap_or(false),
        })
    }
}

fn host_name() -> String {
    let name = gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

const RULE: &str = "must be 1 to 63 letters, digits, - _ or ., the first and last a letter or digit; without it, the host name is taken";

/// True for a value of a label of Kubernetes', as topologies are.
fn is_node_id(id: &str) -> bool {
    const MAX: usize = 63;
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = id.as_bytes();
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let is_good = is_end(bytes.first()) && is_end(bytes.last()) && bytes.iter().all(is_inner);
    is_good && id.len() <= MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_that_no_label_takes_are_no_nodes() {
        for good in ["n", "node-1.example", "A_b.c"] {
            assert!(is_node_id(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "(none)", "-n", "n.", "n d", &long] {
            assert!(!is_node_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_node_that_is_named_must_be_one() {
        let named = |node_id: &str| {
            CsiConfig::try_from(RawCsi {
                node_id: Some(node_id.to_owned()),
                ..RawCsi::default()
            })
        };
        assert_eq!(named("n1").unwrap().node_id, "n1");
        named("(none)").unwrap_err();
    }
}
