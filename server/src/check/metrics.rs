//! Check that metrics can be served at `metrics.address`.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::Looked;
use crate::config::Config;
use crate::metrics::Address;

const CHECK: &str = "metrics";
/// Limit for an answer from the user of the port.
const LIMIT: Duration = Duration::from_secs(2);

/// None if there is nothing to serve, or a unix socket, which is made at any time.
pub(super) fn look(config: &Config) -> Option<Looked> {
    let Some(Address::Tcp(address)) = config.metrics else {
        return None;
    };
    Some(match TcpListener::bind(address) {
        Ok(_) => Looked::well(CHECK, &format!("{address} can be had")),
        Err(_) if is_ours(address).unwrap_or(false) => {
            Looked::well(CHECK, &format!("{address} is served by layerd"))
        }
        Err(cause) => Looked {
            advice: "choose another `metrics.address`, or stop what has this one".to_owned(),
            ..Looked::unwell(CHECK, format!("{address} cannot be had: {cause}"))
        },
    })
}

/// True if a running layerd answers there.
fn is_ours(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = Vec::new();
    stream.take(1 << 20).read_to_end(&mut page)?;
    Ok(String::from_utf8_lossy(&page).contains("layerd_build_info"))
}
