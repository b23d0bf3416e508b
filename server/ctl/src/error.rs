//! Errors, their exit codes and hints.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tonic::{Code, Status};

use crate::text::escape_message;

/// Exit codes. Scripts rely on them; `reference.rs` documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Wrong = 2,
    NotFound = 3,
    Exists = 4,
    Refused = 5,
    Invalid = 6,
    Unavailable = 7,
    TimedOut = 8,
    DataLoss = 9,
    Full = 10,
    ProblemsLeft = 11,
}

impl Exit {
    /// Name for programs, as `code` of an error has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Wrong => "usage",
            Self::NotFound => "not_found",
            Self::Exists => "exists",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::DataLoss => "data_loss",
            Self::Full => "full",
            Self::ProblemsLeft => "problems_left",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error as `-o json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Json {
    pub(crate) error: String,
    pub(crate) code: &'static str,
    pub(crate) exit_code: u8,
    /// Empty for none.
    pub(crate) hint: String,
}

/// Peer of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Layerd,
    Containerd,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Layerd => "layerd",
            Self::Containerd => "containerd",
        })
    }
}

/// Everything a command can fail with. `what` completes "cannot ...".
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot reach {peer} at {address}: {cause}")]
    Unreachable {
        peer: Peer,
        address: String,
        #[source]
        cause: io::Error,
    },
    #[error("cannot {what}: {}", reason(what, status))]
    Call {
        what: String,
        #[source]
        status: Box<Status>,
    },
    #[error("cannot {what}: no answer within {}", crate::human::duration(*limit))]
    TimedOut { what: String, limit: Duration },
    #[error("cannot {what}: the answer lacks {lacks}")]
    Malformed { what: String, lacks: &'static str },
    #[error("cannot {what}: {cause}")]
    Io {
        what: String,
        #[source]
        cause: io::Error,
    },
    #[error("cannot {what}: {why}")]
    Refused {
        what: String,
        why: String,
        hint: String,
    },
    #[error("cannot {what}: {why}")]
    Invalid {
        what: String,
        why: String,
        hint: String,
    },
    #[error("cannot {what}: {why}")]
    NotFound {
        what: String,
        why: String,
        hint: String,
    },
    #[error("{left} of {found} problems are left")]
    ProblemsLeft {
        found: usize,
        left: usize,
        hint: String,
    },
    /// Everything was said on standard output; only the exit code is left.
    #[error("not all is well")]
    Told(Exit),
    #[error("cannot mount snapshot \"{key}\" at {}: {}", dir.display(), chain(&**cause))]
    Mount {
        key: String,
        dir: PathBuf,
        #[source]
        cause: Box<layerd_mounts::Error>,
    },
    #[error("cannot unmount {}: {}", dir.display(), chain(&**cause))]
    Unmount {
        dir: PathBuf,
        #[source]
        cause: Box<layerd_mounts::Error>,
    },
    #[error("cannot {what}: {}", chain(&**cause))]
    Container {
        what: String,
        #[source]
        cause: Box<layerd_mounts::mounter::MountError>,
    },
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
    #[error("{} of the operands failed", .0.len())]
    Several(Vec<Error>),
}

impl Error {
    /// The exit code; of several failures, the first one's.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } => Exit::Unavailable,
            Self::Call { status, .. } => exit_of(status.code()),
            Self::TimedOut { .. } => Exit::TimedOut,
            Self::Refused { .. } => Exit::Refused,
            Self::NotFound { .. } => Exit::NotFound,
            Self::Invalid { .. } => Exit::Invalid,
            Self::ProblemsLeft { .. } => Exit::ProblemsLeft,
            Self::Told(exit) => *exit,
            Self::Several(all) => all.first().map_or(Exit::Failed, Self::exit),
            Self::Malformed { .. }
            | Self::Io { .. }
            | Self::Mount { .. }
            | Self::Unmount { .. }
            | Self::Container { .. }
            | Self::Output(_) => Exit::Failed,
        }
    }

    /// The failures to report one by one.
    pub(crate) fn each(&self) -> &[Error] {
        match self {
            Self::Several(all) => all,
            Self::Told(_) => &[],
            one => std::slice::from_ref(one),
        }
    }

    /// One line, safe to print: messages quote what clients sent.
    pub(crate) fn describe(&self) -> String {
        escape_message(&self.to_string())
    }

    /// The error for programs.
    pub(crate) fn json(&self) -> Json {
        let exit = self.exit();
        Json {
            error: self.describe(),
            code: exit.name(),
            exit_code: exit as u8,
            hint: self.hint().unwrap_or_default(),
        }
    }

    /// Hint for the reader, where there is one.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { peer, cause, .. } => Some(unreachable_hint(*peer, cause.kind())),
            Self::Call { status, .. } => call_hint(status).map(str::to_owned),
            Self::TimedOut { .. } => Some(
                "Is the disk stuck? Look at `systemctl status layerd`; wait longer with --timeout.\n\
                 A change may have been made all the same: layerd finishes what it started."
                    .to_owned(),
            ),
            Self::Refused { hint, .. }
            | Self::Invalid { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::ProblemsLeft { hint, .. } => Some(hint.clone()),
            Self::Mount { .. } | Self::Unmount { .. } => {
                Some("Mounting needs root; `dmesg` says what the kernel disliked.".to_owned())
            }
            Self::Malformed { .. } => {
                Some("Do layerctl and layerd come from the same release?".to_owned())
            }
            Self::Io { .. }
            | Self::Container { .. }
            | Self::Output(_)
            | Self::Several(_)
            | Self::Told(_) => None,
        }
    }
}

/// The daemon's message, without the attempt if it names it as well.
pub(crate) fn reason<'a>(what: &str, status: &'a Status) -> &'a str {
    let message = status.message();
    message
        .strip_prefix("cannot ")
        .and_then(|rest| rest.strip_prefix(what)?.strip_prefix(": "))
        .unwrap_or(message)
}

/// Makes the error of an attempt to mount for a container.
pub(crate) fn mounting(what: &str) -> impl FnOnce(layerd_mounts::mounter::MountError) -> Error {
    move |cause| Error::Container {
        what: what.to_owned(),
        cause: Box::new(cause),
    }
}

/// Success if nothing failed.
pub(crate) fn all_or(mut failed: Vec<Error>) -> Result<(), Error> {
    match failed.len() {
        0 => Ok(()),
        1 => Err(failed.remove(0)),
        _ => Err(Error::Several(failed)),
    }
}

/// An error and everything that led to it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists => Exit::Exists,
        Code::FailedPrecondition => Exit::Refused,
        Code::InvalidArgument => Exit::Invalid,
        Code::Unavailable => Exit::Unavailable,
        Code::DeadlineExceeded => Exit::TimedOut,
        Code::DataLoss => Exit::DataLoss,
        Code::ResourceExhausted => Exit::Full,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::PermissionDenied
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => Exit::Failed,
    }
}

fn unreachable_hint(peer: Peer, kind: io::ErrorKind) -> String {
    match kind {
        _ if peer == Peer::Containerd => {
            "Is containerd running? Look at `systemctl status containerd`. If its socket is elsewhere, \
             name it with --containerd-address."
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "The socket is for root: use sudo, or join the group that owns it.".to_owned()
        }
        io::ErrorKind::NotFound => {
            "Is layerd running? Look at `systemctl status layerd`. If its socket is elsewhere, \
             name it with --address or LAYERD_ADDRESS."
                .to_owned()
        }
        _ => "Is layerd running? Look at `systemctl status layerd` and `journalctl -u layerd`."
            .to_owned(),
    }
}

/// Hint beyond the daemon's message.
fn call_hint(status: &Status) -> Option<&'static str> {
    if status.message().contains("`layerctl ") || status.message().contains("`layerd ") {
        return None;
    }
    match status.code() {
        Code::NotFound => Some("`layerctl snapshot ls` shows what there is."),
        Code::Unavailable => Some(
            "`systemctl status layerd` says whether it is stopping or starting, `layerctl doctor` what else is wrong.",
        ),
        Code::DataLoss => Some(
            "The data on disk is damaged: `layerctl fsck` says which, `journalctl -u layerd` since when.",
        ),
        Code::ResourceExhausted => Some("Is the disk full? `layerctl info` shows what is free."),
        Code::Unimplemented => {
            Some("This layerd is older than layerctl, or something else listens there.")
        }
        Code::Internal | Code::Unknown => Some("`journalctl -u layerd` has the details."),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Exit};
    use tonic::{Code, Status};

    fn call(code: Code) -> Error {
        Error::Call {
            what: "remove \"a\"".to_owned(),
            status: Box::new(Status::new(code, "it has\x1b[2J children")),
        }
    }

    #[test]
    fn codes_become_documented_exit_codes() {
        let table = [
            (Code::NotFound, 3),
            (Code::AlreadyExists, 4),
            (Code::FailedPrecondition, 5),
            (Code::InvalidArgument, 6),
            (Code::Unavailable, 7),
            (Code::DeadlineExceeded, 8),
            (Code::DataLoss, 9),
            (Code::ResourceExhausted, 10),
            (Code::Internal, 1),
            (Code::Cancelled, 1),
        ];
        for (code, exit) in table {
            assert_eq!(call(code).exit() as u8, exit, "{code:?}");
        }
    }

    #[test]
    fn programs_get_code_and_hint() {
        let json = serde_json::to_value(call(Code::NotFound).json()).unwrap();
        assert_eq!(json["code"], "not_found");
        assert_eq!(json["exit_code"], 3);
        assert_eq!(
            json["error"],
            "cannot remove \"a\": it has\\u{1b}[2J children"
        );
        assert_eq!(json["hint"], "`layerctl snapshot ls` shows what there is.");
        assert_eq!(call(Code::Internal).json().code, "failed");
    }

    #[test]
    fn the_first_of_several_failures_counts() {
        let several = Error::Several(vec![call(Code::NotFound), call(Code::DataLoss)]);
        assert_eq!(several.exit(), Exit::NotFound);
        assert_eq!(several.each().len(), 2);
    }

    #[test]
    fn the_attempt_is_named_once() {
        let twice = Error::Call {
            what: "remove \"a\"".to_owned(),
            status: Box::new(Status::new(
                Code::Internal,
                "cannot remove \"a\": it has children",
            )),
        };
        assert_eq!(twice.describe(), "cannot remove \"a\": it has children");
    }

    #[test]
    fn advice_of_the_daemon_is_not_contradicted() {
        let lost = |message: &str| Error::Call {
            what: "list snapshots".to_owned(),
            status: Box::new(Status::unavailable(message)),
        };
        assert_eq!(lost("it is lost; `layerctl restore` helps").hint(), None);
        assert!(lost("layerd is stopping").hint().is_some());
    }

    #[test]
    fn messages_cannot_write_to_the_terminal() {
        let text = call(Code::FailedPrecondition).describe();
        assert_eq!(text, "cannot remove \"a\": it has\\u{1b}[2J children");
    }
}
