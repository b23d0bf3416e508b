//! Reading of the metrics page of a daemon.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Head and body of the answer to one HTTP request over a unix socket.
///
/// # Panics
/// If the socket does not answer.
#[must_use]
pub fn get(socket: &Path, target: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: layerd\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Value of a series; `series` ends with the space before it.
///
/// # Panics
/// If the page lacks the series.
#[must_use]
pub fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    let line = line.unwrap_or_else(|| panic!("no {series} in:\n{page}"));
    line.trim().parse().unwrap()
}
