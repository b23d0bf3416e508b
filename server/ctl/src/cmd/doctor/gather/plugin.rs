//! Asks the volume plugin what Docker asks it first.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    let path = socket.clone();
    let asked = tokio::task::spawn_blocking(move || ask(&path, limit)).await;
    let answer = match asked {
        Ok(Ok(text)) => plugin::read(&text),
        Ok(Err(cause)) => Answer::None(cause.to_string()),
        Err(lost) => Answer::None(lost.to_string()),
    };
    Some(plugin::finding(&socket, &answer))
}

fn ask(socket: &Path, limit: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(
        b"POST /Plugin.Activate HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
