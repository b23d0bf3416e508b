//! The volume plugin, as Docker and Podman find it.

use std::path::Path;

use super::{Action, Finding};

const CHECK: &str = "volume plugin";

/// The outcome of Docker's own first question at the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is a volume plugin.
    Plugin,
    /// Something else answers.
    Other(String),
    /// There is no answer.
    None(String),
}

/// Checks the answer at a socket that is there.
pub(crate) fn finding(socket: &Path, answer: &Answer) -> Finding {
    let socket = socket.display();
    let impact = "`docker volume ls` waits for it, and containers with volumes of the driver layerd do not start.";
    match answer {
        Answer::Plugin => Finding::ok(CHECK, format!("answers Docker and Podman at {socket}")),
        Answer::Other(text) => Finding::error(
            CHECK,
            format!("{socket} is not layerd's volume plugin: it answers {text:?}"),
            impact,
            Action::advice("Stop what serves there, and restart layerd."),
        ),
        Answer::None(why) => Finding::error(
            CHECK,
            format!("{socket} does not answer: {why}"),
            impact,
            Action::safe("restart-plugin", "systemctl restart layerd.service"),
        ),
    }
}

/// Reads an answer of HTTP to `/Plugin.Activate`.
pub(crate) fn read(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let is_plugin = head.split(' ').nth(1) == Some("200") && body.contains("\"VolumeDriver\"");
    match is_plugin {
        true => Answer::Plugin,
        false => Answer::Other(
            text.lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(80)
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn a_plugin_is_known_by_its_answer() {
        let socket = Path::new("/run/docker/plugins/layerd.sock");
        let plugin =
            "HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n{\"Implements\":[\"VolumeDriver\"]}";
        for (text, wanted) in [
            (plugin, Severity::Ok),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Severity::Error),
            ("", Severity::Error),
        ] {
            assert_eq!(finding(socket, &read(text)).severity, wanted, "{text}");
        }
        let none = finding(socket, &Answer::None("connection refused".to_owned()));
        assert!(
            none.safe && none.found.contains("connection refused"),
            "{none:?}"
        );
    }
}
