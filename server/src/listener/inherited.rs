//! Sockets that systemd handed over (sd_listen_fds(3)), told apart by their names.

use std::env;
use std::os::unix::net::{UnixListener, UnixStream};

use listenfd::ListenFd;
use nix::libc::{AF_UNIX, SOCK_STREAM};

use super::ListenError;

/// `FileDescriptorName=` of the units whose sockets are not layerd's own API. Any other name, or none, is
/// that of the API's socket.
const OTHER_APIS: [&str; 2] = ["csi", "docker"];

/// What the names of connections end with that an earlier layerd had systemd keep.
const CONNECTION: &str = "-connection";

/// The sockets that were handed over and not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    listening: Vec<(String, UnixListener)>,
    connected: Vec<(String, UnixStream)>,
}

impl Inherited {
    /// Takes them over from the environment; a second call finds none.
    ///
    /// # Errors
    /// [`ListenError::Inherit`] for what is no unix socket.
    #[expect(
        clippy::disallowed_methods,
        reason = "systemd names what it hands over in the environment alone"
    )]
    pub(crate) fn from_env() -> Result<Self, ListenError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut handed_over = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..handed_over.len() {
            let name = names.next().unwrap_or_default().to_owned();
            if name.ends_with(CONNECTION) {
                let socket = handed_over.take_custom(index, AF_UNIX, SOCK_STREAM, "connection");
                let socket = socket.map_err(ListenError::Inherit)?;
                inherited.connected.extend(socket.map(|one| (name, one)));
            } else {
                let socket = handed_over.take_unix_listener(index);
                let socket = socket.map_err(ListenError::Inherit)?;
                inherited.listening.extend(socket.map(|one| (name, one)));
            }
        }
        Ok(inherited)
    }

    /// The socket of layerd's own API.
    pub(crate) fn take_own(&mut self) -> Option<UnixListener> {
        self.take(|name| !OTHER_APIS.contains(&name))
    }

    /// The socket of another API, by its name.
    pub(crate) fn take_named(&mut self, name: &str) -> Option<UnixListener> {
        self.take(|other| other == name)
    }

    /// The connections of this name.
    pub(crate) fn take_connections(&mut self, name: &str) -> Vec<UnixStream> {
        let taken = self.connected.extract_if(.., |(other, _)| other == name);
        taken.map(|(_, connection)| connection).collect()
    }

    fn take(&mut self, is_meant: impl Fn(&str) -> bool) -> Option<UnixListener> {
        let at = self.listening.iter().position(|(name, _)| is_meant(name))?;
        Some(self.listening.remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_taken_by_name_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let socket = |name: &str| {
            let path = dir.path().join(format!("socket-{name}"));
            (name.to_owned(), UnixListener::bind(path).unwrap())
        };
        let mut inherited = Inherited {
            listening: vec![socket("csi"), socket("layerd.socket")],
            connected: Vec::new(),
        };
        let path = |socket: Option<UnixListener>| {
            let address = socket?.local_addr().unwrap();
            Some(address.as_pathname()?.file_name()?.to_owned())
        };
        assert_eq!(path(inherited.take_named("docker")), None);
        assert_eq!(
            path(inherited.take_own()),
            Some("socket-layerd.socket".into())
        );
        assert_eq!(
            path(inherited.take_own()),
            None,
            "the CSI socket is not the API's"
        );
        assert_eq!(path(inherited.take_named("csi")), Some("socket-csi".into()));
        let mut unnamed = Inherited {
            listening: vec![socket("")],
            connected: Vec::new(),
        };
        assert!(unnamed.take_own().is_some());
    }
}
