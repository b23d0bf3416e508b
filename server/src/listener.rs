//! The socket: systemd's, if it hands one over, else our own.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::unistd::{Gid, chown};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{info, warn};

mod authority;
mod inherited;

pub(crate) use authority::Connection;
pub(crate) use inherited::Inherited;

/// Time for a connected client to send its first call. If it is told to close before that, it has to
/// be one that tries again.
const FIRST_CALL: Duration = Duration::from_millis(500);

/// Where the socket is, if systemd hands none over.
#[derive(Debug, Clone)]
pub(crate) struct SocketConfig {
    pub(crate) path: PathBuf,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) group: Option<Gid>,
}

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
    /// Takes the socket that systemd handed over, or makes one at the configured path with its mode
    /// and group. A socket there that no process serves is replaced; any other file is not.
    pub(crate) fn open(
        config: &SocketConfig,
        inherited: Option<UnixListener>,
    ) -> Result<Self, ListenError> {
        if let Some(socket) = inherited {
            info!("serving on the socket that systemd handed over");
            return Self::inherit(socket);
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

    /// Takes a socket that systemd handed over.
    pub(crate) fn inherit(socket: UnixListener) -> Result<Self, ListenError> {
        Self::ready(socket, None)
    }

    fn ready(socket: UnixListener, own: Option<PathBuf>) -> Result<Self, ListenError> {
        socket.set_nonblocking(true).map_err(ListenError::Inherit)?;
        Ok(Self { socket, own })
    }

    /// Starts to accept clients.
    pub(crate) fn accept(self, stop: CancellationToken) -> io::Result<Accepting> {
        let patience = match self.own {
            None => FIRST_CALL,
            Some(_) => Duration::ZERO,
        };
        let latest = Latest {
            time: Mutex::default(),
            patience,
        };
        Ok(Accepting {
            socket: Socket::new(tokio::net::UnixListener::from_std(self.socket)?),
            stop: Box::pin(stop.cancelled_owned()),
            latest: Arc::new(latest),
        })
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

/// Pause after a client could not be accepted, as for want of descriptors: the socket stays ready, and
/// without a pause the loop would do nothing but try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Shortest time between two log lines about it.
const ACCEPT_WARN_EVERY: Duration = Duration::from_secs(30);

/// A socket that rests after a failure to accept.
pub(crate) struct Socket {
    socket: tokio::net::UnixListener,
    pause: Option<Pin<Box<Sleep>>>,
    warned: Option<Instant>,
}

impl Socket {
    pub(crate) fn new(socket: tokio::net::UnixListener) -> Self {
        Self {
            socket,
            pause: None,
            warned: None,
        }
    }

    /// Waits for a client. Failures are logged now and then, and tried again after a pause, in which
    /// clients wait in the socket's queue.
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<Connection> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.socket.poll_accept(context)) {
                Ok((stream, _)) => return Poll::Ready(Connection::new(stream)),
                Err(cause) => self.note_failure(&cause),
            }
        }
    }

    fn note_failure(&mut self, cause: &io::Error) {
        self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
        let is_due = |last: Instant| last.elapsed() >= ACCEPT_WARN_EVERY;
        if self.warned.is_none_or(is_due) {
            self.warned = Some(Instant::now());
            let error = cause as &dyn std::error::Error;
            warn!(
                error,
                "clients cannot be accepted; they wait until they can"
            );
        }
    }
}

impl Stream for Socket {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(context).map(|client| Some(Ok(client)))
    }
}

/// Clients as they connect, until the daemon is to stop. Those that come later stay in the socket's
/// queue, for the next daemon if the socket is systemd's.
pub(crate) struct Accepting {
    socket: Socket,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    latest: Arc<Latest>,
}

/// When a client connected last.
#[derive(Debug)]
pub(crate) struct Latest {
    time: Mutex<Option<Instant>>,
    patience: Duration,
}

impl Accepting {
    pub(crate) fn latest(&self) -> Arc<Latest> {
        self.latest.clone()
    }
}

impl Stream for Accepting {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Its end would be the end of the connections, too.
        if self.stop.as_mut().poll(context).is_ready() {
            return Poll::Pending;
        }
        let accepted = ready!(self.socket.poll_accept(context));
        *self.latest.held() = Some(Instant::now());
        Poll::Ready(Some(Ok(accepted)))
    }
}

impl Latest {
    fn held(&self) -> MutexGuard<'_, Option<Instant>> {
        self.time.lock()
    }

    /// Waits until a client that connected has surely called. Not if the socket is ours: it goes
    /// with us, and who calls a moment later fails all the same.
    pub(crate) async fn has_called(&self) {
        let latest = *self.held();
        if let Some(latest) = latest {
            sleep_until(latest + self.patience).await;
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
