//! A raw client of Docker's volume plugin protocol, and the place where Docker looks for plugins.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Where Docker looks for the plugin `layerd`.
pub const SOCKET: &str = "/run/docker/plugins/layerd.sock";

/// Gives this thread, and what it starts, a mount namespace with an empty /run: Docker looks for plugins
/// at one place of the machine.
///
/// # Panics
/// Without root.
pub fn own_run() {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).expect("the test runs as root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).expect("mounts can be made private");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
        .expect("a tmpfs can be had");
    fs::create_dir_all("/run/docker/plugins").expect("a tmpfs can be written");
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status of HTTP.
    pub status: u16,
    /// Content-Type.
    pub content_type: String,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// The text of its `Err`; empty without one.
    #[must_use]
    pub fn error(&self) -> &str {
        self.body["Err"].as_str().unwrap_or_default()
    }
}

/// The client, with a connection for each call.
#[derive(Debug, Clone)]
pub struct Plugin(PathBuf);

impl Plugin {
    /// One that calls the plugin at a socket.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Calls a method of the volume driver that has to succeed.
    ///
    /// # Panics
    /// With the answer, if it does not.
    pub fn ok(&self, method: &str, body: &Value) -> Value {
        let answer = self.call(method, body);
        assert!(
            answer.status == 200 && answer.error().is_empty(),
            "{method} {body}: {answer:?}"
        );
        answer.body
    }

    /// Calls a method of the volume driver that has to fail, and answers why.
    ///
    /// # Panics
    /// With the answer, if it does not.
    pub fn refused(&self, method: &str, body: &Value) -> String {
        let answer = self.call(method, body);
        assert!(
            answer.status != 200 && !answer.error().is_empty(),
            "{method} {body}: {answer:?}"
        );
        answer.error().to_owned()
    }

    /// Calls a method of the volume driver.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn call(&self, method: &str, body: &Value) -> Answer {
        let path = format!("/VolumeDriver.{method}");
        self.send("POST", &path, body.to_string().as_bytes())
    }

    /// The names of all volumes.
    ///
    /// # Panics
    /// If List fails.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let listed = self.ok("List", &json!({}));
        let all = listed["Volumes"]
            .as_array()
            .expect("Volumes is a list")
            .clone();
        all.iter()
            .map(|one| one["Name"].as_str().expect("volumes have names").to_owned())
            .collect()
    }

    /// Sends a request as it is.
    ///
    /// # Panics
    /// If there is no answer within 20 seconds.
    pub fn send(&self, verb: &str, path: &str, body: &[u8]) -> Answer {
        let mut stream = UnixStream::connect(&self.0).expect("the plugin listens");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("it is a socket");
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        // It may answer before it has read all of a body that is too large.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        assert!(!answer.is_empty(), "{path}: no answer: {read:?}");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("it is HTTP");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let content_type = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-type")
                .then(|| value.to_owned())
        });
        Answer {
            status: status.expect("it has a status"),
            content_type: content_type.unwrap_or_default(),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    }
}
