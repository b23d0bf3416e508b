//! `[csi]`: the socket for kubelet, and who this node is.

use nix::unistd::gethostname;

use super::raw::RawCsi;
use super::value::{socket_path, value};
use super::{ConfigError, SocketConfig};

/// Checked settings of CSI.
#[derive(Debug, Clone)]
pub(crate) struct CsiConfig {
    /// Socket to serve on; none, unless systemd hands one over.
    pub(crate) socket: Option<SocketConfig>,
    /// This node, in its topology.
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
            node_id: node_id(given.unwrap_or_else(host_name))?,
            node_expansion: raw.node_expansion.unwrap_or(false),
        })
    }
}

fn host_name() -> String {
    let name = gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A value of a label of Kubernetes', as topologies are.
fn node_id(id: String) -> Result<String, ConfigError> {
    const MAX: usize = 63;
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = id.as_bytes();
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let is_good = is_end(bytes.first()) && is_end(bytes.last()) && bytes.iter().all(is_inner);
    if is_good && id.len() <= MAX {
        return Ok(id);
    }
    let rule = "must be 1 to 63 letters, digits, - _ or ., the first and last a letter or digit; without it, the host name is taken";
    Err(value("csi.node_id", id, rule))
}
