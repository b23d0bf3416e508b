//! Check that metrics can be served at `metrics.address`.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Looked;
use crate::config::Config;
use crate::metrics::Address;

const CHECK: &str = "metrics";
/// Limit for an answer from the user of the port.
const LIMIT: Duration = Duration::from_secs(2);

/// State of an address.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Free,
    /// A running layerd answers there.
    Ours,
    /// Why it cannot be had.
    Barred(String),
}

/// None if there is nothing to serve.
pub(super) fn look(config: &Config) -> Option<Looked> {
    let address = config.metrics.as_ref()?;
    let state = match address {
        Address::Tcp(address) => tcp(*address),
        Address::Unix(path) => unix(path, &own_sockets(config)),
    };
    Some(match state {
        State::Free => Looked::well(CHECK, &format!("{address} can be had")),
        State::Ours => Looked::well(CHECK, &format!("{address} is served by layerd")),
        State::Barred(why) => Looked {
            advice: "choose another `metrics.address`, or remove what bars this one".to_owned(),
            ..Looked::unwell(CHECK, format!("{address} cannot be had: {why}"))
        },
    })
}

/// Sockets on which layerd serves other things.
fn own_sockets(config: &Config) -> Vec<&Path> {
    let csi = config.csi.socket.as_ref().map(|socket| &socket.path);
    let others = config.docker.socket.iter().chain(csi);
    others
        .chain([&config.socket.path])
        .map(PathBuf::as_path)
        .collect()
}

fn tcp(address: SocketAddr) -> State {
    match TcpListener::bind(address) {
        Ok(_) => State::Free,
        Err(_) if is_layerd_at(address).unwrap_or(false) => State::Ours,
        Err(cause) => State::Barred(cause.to_string()),
    }
}

fn is_layerd_at(address: SocketAddr) -> io::Result<bool> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    is_ours(stream)
}

/// As the daemon makes it: a socket that no process serves is replaced, any other file is not.
fn unix(path: &Path, own: &[&Path]) -> State {
    let barred = |why: &str| State::Barred(why.to_owned());
    if let Err(cause) = UnixAddress::from_pathname(path) {
        return State::Barred(cause.to_string());
    }
    let real = |path: &Path| {
        let folder = path.parent()?.canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    let Some(place) = real(path) else {
        return barred("there is no such folder");
    };
    if own.iter().any(|other| real(other).as_ref() == Some(&place)) {
        return barred("layerd serves something else there");
    }
    match fs::symlink_metadata(path) {
        Err(_) => return State::Free,
        Ok(meta) if !meta.file_type().is_socket() => {
            return barred("there is a file of that name, which is no socket");
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => State::Free,
        Err(cause) => State::Barred(cause.to_string()),
        Ok(stream) => {
            let limits = stream
                .set_read_timeout(Some(LIMIT))
                .and_then(|()| stream.set_write_timeout(Some(LIMIT)));
            match limits.and_then(|()| is_ours(stream)) {
                Ok(true) => State::Ours,
                _ => barred("another process serves it"),
            }
        }
    }
}

/// True if a running layerd answers.
fn is_ours(mut stream: impl Read + Write) -> io::Result<bool> {
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = Vec::new();
    stream.take(1 << 20).read_to_end(&mut page)?;
    Ok(String::from_utf8_lossy(&page).contains("layerd_build_info"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_path_that_no_socket_can_have_is_barred() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();
        fs::create_dir(at("folder")).unwrap();
        drop(UnixListener::bind(at("stale")).unwrap());
        let own = at("folder/../own");
        let state = |name: &str| unix(&at(name), &[&own]);
        for free in ["new", "stale", "folder/new"] {
            assert_eq!(state(free), State::Free, "{free}");
        }
        let long = "l".repeat(108);
        for (barred, why) in [
            ("file", "which is no socket"),
            ("folder", "which is no socket"),
            ("missing/new", "no such folder"),
            ("own", "something else"),
            ("./own", "something else"),
            (&long, "SUN_LEN"),
        ] {
            let State::Barred(said) = state(barred) else {
                panic!("{barred}: {:?}", state(barred));
            };
            assert!(said.contains(why), "{barred}: {said}");
        }
    }

    #[test]
    fn a_socket_of_another_program_is_barred() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other");
        let socket = UnixListener::bind(&path).unwrap();
        // It hangs up, whatever is asked.
        let serve = std::thread::spawn(move || drop(socket.accept()));
        assert_eq!(
            unix(&path, &[]),
            State::Barred("another process serves it".to_owned())
        );
        serve.join().unwrap();
    }
}
