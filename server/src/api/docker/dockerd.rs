//! dockerd's own list of containers, over its API socket. Read-only: one GET is all that is ever sent.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest time for the whole answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest list that is read, in bytes: tens of thousands of containers.
const LIST_MAX: usize = 64 * 1024 * 1024;
/// All containers, those that do not run among them.
const LIST: &str = "/containers/json?all=1";

/// The API of a dockerd.
#[derive(Debug, Clone)]
pub(super) struct Dockerd {
    socket: Option<Arc<Path>>,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("connect to {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("ask dockerd")]
    Http(#[from] hyper::Error),
    #[error("dockerd answers {0}")]
    Status(StatusCode),
    #[error("read dockerd's list of containers: {0}")]
    Body(String),
    #[error("dockerd's list of containers is not as its API has it")]
    Json(#[from] serde_json::Error),
    #[error("dockerd did not answer within {} s", LIMIT.as_secs())]
    Late,
}

/// A container, as far as it is of interest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    pub(super) mounts: Vec<Mount>,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Mount {
    #[serde(default, rename = "Type")]
    kind: String,
    /// Name of the volume.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    driver: String,
    /// Path in the container.
    #[serde(default)]
    pub(super) destination: String,
    /// Set if the container may write.
    #[serde(default, rename = "RW")]
    pub(super) is_writable: bool,
}

impl Container {
    /// Its name without the slash; others than the first are of links.
    pub(super) fn name(&self) -> &str {
        let own = self.names.iter().filter_map(|name| name.strip_prefix('/'));
        let own = own.into_iter().find(|name| !name.contains('/'));
        own.unwrap_or(&self.id)
    }
}

impl Mount {
    /// True for a volume of a plugin.
    pub(super) fn is_of_plugin(&self) -> bool {
        self.kind == "volume" && self.driver != "local"
    }
}

impl Dockerd {
    pub(super) fn new(socket: Option<PathBuf>) -> Self {
        Self {
            socket: socket.map(Arc::from),
        }
    }

    /// The containers; `None` if dockerd is not to be asked or does not run. Its socket alone does not
    /// tell: systemd would start it for a question.
    pub(super) async fn containers(&self) -> Option<Result<Vec<Container>, AskError>> {
        let socket = self.socket.as_deref()?;
        if !is_running() {
            return None;
        }
        let asked = timeout(LIMIT, ask(socket)).await;
        Some(asked.unwrap_or(Err(AskError::Late)))
    }
}

async fn ask(socket: &Path) -> Result<Vec<Container>, AskError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|cause| AskError::Connect {
        path: socket.to_owned(),
        cause,
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(LIST).header(HOST, "docker");
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|cause| AskError::Body(cause.to_string()))?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(AskError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), LIST_MAX).collect().await;
        let body = body.map_err(|cause| AskError::Body(body_error(cause.as_ref())))?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    };
    // The connection ends when its sender is dropped with the answer; what it fails with is told there.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

fn body_error(cause: &(dyn std::error::Error + 'static)) -> String {
    match cause.is::<LengthLimitError>() {
        true => format!("it has over {LIST_MAX} bytes"),
        false => cause.to_string(),
    }
}

/// True if a process of the name `dockerd` runs.
fn is_running() -> bool {
    let Ok(all) = fs::read_dir("/proc") else {
        return false;
    };
    all.flatten()
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .any(|entry| {
            fs::read(entry.path().join("comm")).is_ok_and(|comm| comm.trim_ascii() == b"dockerd")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = r#"[{"Id":"c1","Names":["/web","/other/alias"],"State":"running","Image":"busybox",
        "Mounts":[{"Type":"volume","Name":"data","Source":"/x","Destination":"/data","Driver":"layerd","Mode":"z","RW":true},
                  {"Type":"volume","Name":"own","Driver":"local","Destination":"/own","RW":true},
                  {"Type":"bind","Source":"/etc","Destination":"/etc","RW":false}]},
        {"Id":"c2","State":"exited"}]"#;

    #[test]
    fn a_list_is_read_as_far_as_it_matters() {
        let all: Vec<Container> = serde_json::from_str(LISTED).unwrap();
        assert_eq!((all[0].name(), all[1].name()), ("web", "c2"));
        let ours: Vec<&str> = all[0]
            .mounts
            .iter()
            .filter(|mount| mount.is_of_plugin())
            .map(|mount| mount.name.as_str())
            .collect();
        assert_eq!(ours, ["data"]);
    }

    #[tokio::test]
    async fn without_a_socket_nothing_is_asked() {
        assert!(Dockerd::new(None).containers().await.is_none());
    }
}
