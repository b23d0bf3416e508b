//! The socket: systemd's, if it hands one over, else our own.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use nix::unistd::chown;
use tracing::info;

use crate::config::SocketConfig;

/// Why there is no socket to serve on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("take over the socket from systemd")]
    Inherit(#[source] io::Error),
    #[error("{} is served by another process; stop it or choose another socket", path.display())]
    InUse { path: PathBuf },
    #[error("{attempt} {}", path.display())]
    Io {
        attempt: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// A listening socket and, if it is ours, the path to remove at the end.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: UnixListener,
    own: Option<PathBuf>,
}

impl Listener {
    /// Takes systemd's socket, or makes one at the configured path with its mode and group. A
    /// socket there that nobody serves is replaced; any other file is not.
    pub(crate) fn open(config: &SocketConfig) -> Result<Self, ListenError> {
        let inherited = ListenFd::from_env()
            .take_unix_listener(0)
            .map_err(ListenError::Inherit)?;
        if let Some(socket) = inherited {
            info!("serving on the socket that systemd handed over");
            return Self::ready(socket, None);
        }
        let path = &config.path;
        make_folder(path)?;
        remove_stale(path)?;
        let socket = UnixListener::bind(path).map_err(io_error("make the socket", path))?;
        let access = chown(path, None, config.group).map_err(io::Error::from);
        let access =
            access.and_then(|()| fs::set_permissions(path, Permissions::from_mode(config.mode)));
        access.map_err(io_error("set group and mode of", path))?;
        info!(path = %path.display(), "serving");
        Self::ready(socket, Some(path.clone()))
    }

    fn ready(socket: UnixListener, own: Option<PathBuf>) -> Result<Self, ListenError> {
        socket.set_nonblocking(true).map_err(ListenError::Inherit)?;
        Ok(Self { socket, own })
    }

    /// Removes the socket at the end, if it is ours. After a kill the next start replaces it.
    pub(crate) fn remover(&self) -> impl FnOnce() + use<> {
        let own = self.own.clone();
        move || {
            if let Some(path) = own {
                // It may be gone already, and nothing depends on it.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The folder can be entered by all; the socket's own mode says who may connect.
fn make_folder(path: &Path) -> Result<(), ListenError> {
    let Some(folder) = path.parent().filter(|folder| !folder.exists()) else {
        return Ok(());
    };
    let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
    let made = made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o755)));
    made.map_err(io_error("make the folder", folder))
}

/// A refused connection alone proves nothing: it is what any other file answers as well.
pub(crate) fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let is_socket = |meta: fs::Metadata| meta.file_type().is_socket();
    if !fs::symlink_metadata(path).is_ok_and(is_socket) {
        return Ok(());
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse {
            path: path.to_owned(),
        }),
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io_error("remove the stale socket", path))
        }
        Err(_) => Ok(()),
    }
}

fn io_error(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |cause| ListenError::Io {
        attempt,
        path,
        cause,
    }
}
