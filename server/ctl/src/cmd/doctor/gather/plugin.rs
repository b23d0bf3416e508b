//! Asks the volume plugin what Docker asks it first.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Settings;
use crate::doctor::Finding;
use crate::doctor::plugin::{self, Answer};

/// Where Docker looks for it, and systemd holds it.
const SOCKET: &str = "/run/docker/plugins/layerd.sock";
/// Longest answer that is read.
const ANSWER_MAX: u64 = 4096;

/// None if there is no socket: that is for its unit to say.
pub(super) async fn finding(settings: &Settings, limit: Duration) -> Option<Finding> {
    let configured = settings
        .get("docker.socket")
        .filter(|path| !path.is_empty());
    let socket = configured.map_or_else(|| PathBuf::from(SOCKET), PathBuf::from);
    if !socket.exists() {
        return None;
    }
    let answer = match timeout(limit, ask(&socket)).await {
        Ok(Ok(text)) => plugin::read(&text),
        Ok(Err(cause)) => Answer::None(cause.to_string()),
        Err(late) => Answer::None(late.to_string()),
    };
    Some(plugin::finding(&socket, &answer))
}

async fn ask(socket: &Path) -> io::Result<String> {
    const REQUEST: &[u8] = b"POST /Plugin.Activate HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
