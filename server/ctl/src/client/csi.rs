//! layerd as a CSI driver, as far as the doctor asks it.

use std::path::Path;
use std::time::Duration;

use layerd_proto::csi::v1::identity_client::IdentityClient;
use layerd_proto::csi::v1::{GetPluginInfoRequest, ProbeRequest};

use super::{answer, channel};
use crate::error::{Error, Peer};

/// The name of the driver behind a socket, once it says that it can work.
pub(crate) async fn driver(socket: &Path, timeout: Duration) -> Result<String, Error> {
    let channel = channel(Peer::Layerd, socket, timeout).await?;
    let mut client = IdentityClient::new(channel);
    answer(
        "probe the CSI driver",
        timeout,
        client.probe(ProbeRequest {}),
    )
    .await?;
    let info = client.get_plugin_info(GetPluginInfoRequest {});
    Ok(answer("ask the CSI driver its name", timeout, info)
        .await?
        .name)
}
