//! The programs zfs(8) and zpool(8): how they are started, and what their answers mean.
//!
//! Arguments are lists, which no shell reads. Each call has a time limit, and answers are cut off at a
//! length. The words of an error are those of `LC_ALL=C`, from libzfs 0.8 to 2.3.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use layerd_mounts::Error;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Most that a call may take. A pool whose disks do not answer holds a call up for ever.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// Most bytes of an answer: a list of 100,000 layers takes a tenth.
const MOST: usize = 64 << 20;
/// Bytes of an error that are kept.
const MOST_SAID: usize = 4096;
/// Interval at which the end of a program is looked for that closed its outputs before.
const AGAIN: Duration = Duration::from_millis(2);

/// The two programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    zfs: PathBuf,
    zpool: PathBuf,
    limit: Duration,
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It did not start.
    #[error("{program} cannot be started: {cause}")]
    Start { program: String, cause: io::Error },
    /// It did not end.
    #[error("{program} gave no answer within {} s and was killed; see `zpool status`", limit.as_secs())]
    Late { program: String, limit: Duration },
    /// It said that something is wrong.
    #[error("{program}: {text}")]
    Said { program: String, text: String },
    /// Its answer is not one of zfs.
    #[error("{program}: {problem}")]
    Odd {
        program: String,
        problem: &'static str,
    },
}

impl Programs {
    /// Those of the search path.
    pub(crate) fn new() -> Self {
        Self {
            zfs: "zfs".into(),
            zpool: "zpool".into(),
            limit: LIMIT,
        }
    }

    /// Others, for tests.
    #[cfg(test)]
    pub(super) fn at(zfs: &std::path::Path, zpool: &std::path::Path, limit: Duration) -> Self {
        Self {
            zfs: zfs.to_owned(),
            zpool: zpool.to_owned(),
            limit,
        }
    }

    /// Runs `zfs` and answers what it prints.
    pub(super) fn zfs(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.run(&self.zfs, arguments, "")
    }

    /// Runs `zpool` and answers what it prints.
    pub(super) fn zpool(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.run(&self.zpool, arguments, "")
    }

    /// Has the kernel run a channel program, in one transaction; answers the text that it returns. Needs
    /// root. zfs-program(8).
    pub(super) fn script(
        &self,
        pool: &str,
        script: &'static str,
        arguments: &[&str],
    ) -> Result<String, Failure> {
        let arguments = [&["program", "-j", pool, "-"], arguments].concat();
        let said = self.run(&self.zfs, &arguments, script)?;
        // It returns words and numbers, in which nothing is escaped.
        let text = said.trim().strip_prefix(r#"{"return":""#);
        let text = text.and_then(|text| text.strip_suffix(r#""}"#));
        text.map(str::to_owned).ok_or_else(|| Failure::Odd {
            program: "zfs program".to_owned(),
            problem: "its answer is not understood",
        })
    }

    fn run(
        &self,
        program: &std::path::Path,
        arguments: &[&str],
        input: &str,
    ) -> Result<String, Failure> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let verb = arguments.first().unwrap_or(&"");
        let name = format!("{name} {verb}");
        let start = |cause| Failure::Start {
            program: name.clone(),
            cause,
        };
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // It fits into the pipe; a program that reads none of it says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let end = Instant::now() + self.limit;
        let ended = collect(&mut child, end).and_then(|read| Ok((read, wait(&mut child, end)?)));
        match ended {
            Ok(((out, said), status)) => answer(name, out, &said, status),
            Err(cause) => {
                give_up(child);
                Err(match cause.kind() {
                    io::ErrorKind::TimedOut => Failure::Late {
                        program: name,
                        limit: self.limit,
                    },
                    io::ErrorKind::FileTooLarge => Failure::Odd {
                        program: name,
                        problem: "its answer is too long",
                    },
                    _ => start(cause),
                })
            }
        }
    }
}

fn answer(
    program: String,
    out: Vec<u8>,
    said: &[u8],
    status: ExitStatus,
) -> Result<String, Failure> {
    if !status.success() {
        let text = String::from_utf8_lossy(said);
        let text = text.trim().replace('\n', "; ");
        let text = match text.is_empty() {
            true => status.to_string(),
            false => text.chars().filter(|one| !one.is_control()).collect(),
        };
        return Err(Failure::Said { program, text });
    }
    String::from_utf8(out).map_err(|_| Failure::Odd {
        program,
        problem: "its answer is not text",
    })
}

/// Reads both outputs to their ends; of the second only the beginning is kept.
fn collect(child: &mut Child, end: Instant) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut outputs = [
        Output::new(child.stdout.take(), MOST)?,
        Output::new(child.stderr.take(), MOST_SAID)?,
    ];
    while outputs.iter().any(|output| output.pipe.is_some()) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let open = outputs.iter().filter_map(|output| output.pipe.as_ref());
        let mut polled: Vec<_> = open
            .map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN))
            .collect();
        match poll(&mut polled, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
        for output in &mut outputs {
            output.read()?;
        }
    }
    let [out, said] = outputs;
    match out.is_cut_off {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok((out.text, said.text)),
    }
}

/// One output of a program.
struct Output {
    pipe: Option<std::fs::File>,
    text: Vec<u8>,
    most: usize,
    is_cut_off: bool,
}

impl Output {
    fn new(pipe: Option<impl Into<std::os::fd::OwnedFd>>, most: usize) -> io::Result<Self> {
        let pipe = pipe.map(|pipe| std::fs::File::from(pipe.into()));
        if let Some(pipe) = &pipe {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            pipe,
            text: Vec::new(),
            most,
            is_cut_off: false,
        })
    }

    /// Takes what is there; closes it at its end.
    fn read(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 << 10];
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        match pipe.read(&mut piece) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                let room = self.most.saturating_sub(self.text.len());
                self.is_cut_off |= length > room;
                self.text.extend_from_slice(&piece[..length.min(room)]);
            }
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
        Ok(())
    }
}

fn wait(child: &mut Child, end: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(AGAIN);
    }
}

/// Kills a program, and leaves it to a thread to wait for its end: the kernel may hold it up as long as it
/// likes.
fn give_up(mut child: Child) {
    let _ = child.kill();
    let reap = std::thread::Builder::new().name("zfs".to_owned());
    let _ = reap.spawn(move || child.wait());
}

impl Failure {
    /// The same as an error of a driver. Full and missing are told by number and kind, as from a system
    /// call.
    pub(super) fn to_error(&self, attempt: &'static str, dataset: &str) -> Error {
        let path = std::path::Path::new(dataset);
        let kind = match self.meaning() {
            Meaning::Full(number) => {
                tracing::debug!(dataset, "{attempt}: {self}");
                return Error::io(attempt, path, number);
            }
            Meaning::Kind(kind) => kind,
        };
        Error::io(attempt, path, io::Error::new(kind, self.to_string()))
    }

    /// True if a dataset or snapshot that was named is not there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.meaning(), Meaning::Kind(io::ErrorKind::NotFound))
            && matches!(self, Self::Said { .. })
    }

    /// True if there is one already.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.meaning(), Meaning::Kind(io::ErrorKind::AlreadyExists))
    }

    fn meaning(&self) -> Meaning {
        match self {
            Self::Start { cause, .. } => Meaning::Kind(match cause.kind() {
                // It is no layer that is missing.
                io::ErrorKind::NotFound => io::ErrorKind::Unsupported,
                kind => kind,
            }),
            Self::Late { .. } => Meaning::Kind(io::ErrorKind::TimedOut),
            Self::Odd { .. } => Meaning::Kind(io::ErrorKind::InvalidData),
            Self::Said { text, .. } => meaning(text),
        }
    }
}

/// Meaning of an error for callers.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Full(Errno),
    Kind(io::ErrorKind),
}

/// Reads an error of libzfs (`zfs_standard_error`, `libzfs_error_description`).
fn meaning(text: &str) -> Meaning {
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    if says(&["out of space"]) {
        return Meaning::Full(Errno::ENOSPC);
    }
    if says(&["quota exceeded"]) {
        return Meaning::Full(Errno::EDQUOT);
    }
    Meaning::Kind(
        if says(&[
            "dataset does not exist",
            "no such pool",
            "could not find any snapshots to destroy",
        ]) {
            io::ErrorKind::NotFound
        } else if says(&["dataset already exists"]) {
            io::ErrorKind::AlreadyExists
        } else if says(&["is busy", "has children", "has dependent clones"]) {
            io::ErrorKind::ResourceBusy
        } else if says(&["permission denied"]) {
            io::ErrorKind::PermissionDenied
        } else {
            io::ErrorKind::Other
        },
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use nix::errno::Errno;

    use super::{Failure, Meaning, Programs, meaning};

    /// A program that runs these lines of a shell.
    fn stand_in(dir: &Path, lines: &str) -> Programs {
        let path = dir.join("zfs");
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        Programs::at(&path, &path, Duration::from_millis(700))
    }

    fn run(lines: &str, arguments: &[&str]) -> Result<String, Failure> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        stand_in(dir.path(), lines).zfs(arguments)
    }

    #[test]
    fn arguments_are_not_read_by_a_shell() {
        let said = run(
            r#"printf '%s\n' "$@" "$LC_ALL""#,
            &["list", "$(id) `id` ;x"],
        );
        assert_eq!(said.expect("it runs"), "list\n$(id) `id` ;x\nC\n");
    }

    #[test]
    fn a_missing_program_is_no_missing_layer() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let nowhere = dir.path().join("zfs");
        let programs = Programs::at(&nowhere, &nowhere, Duration::from_secs(5));
        let failure = programs.zfs(&["list"]).expect_err("there is none");
        assert!(!failure.is_missing());
        let error = failure.to_error("look at", "tank/layers");
        assert_eq!(error.io_kind(), Some(ErrorKind::Unsupported), "{error:?}");
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        for lines in ["exec sleep 60", "exec >&- 2>&-; exec sleep 60"] {
            let begun = Instant::now();
            let failure = run(lines, &["list"]).expect_err("it takes too long");
            assert!(matches!(failure, Failure::Late { .. }), "{failure:?}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{lines}");
            assert_eq!(
                failure.to_error("x", "y").io_kind(),
                Some(ErrorKind::TimedOut)
            );
        }
    }

    #[test]
    fn answers_have_bounds() {
        let failure = run("exec head -c 100m /dev/zero", &[]).expect_err("too much");
        let late_or_odd = matches!(failure, Failure::Odd { .. } | Failure::Late { .. });
        assert!(late_or_odd, "{failure:?}");
        let failure = run("head -c 1m /dev/zero | tr '\\0' x >&2; exit 1", &[]);
        let text = failure.expect_err("it failed").to_string();
        assert!(text.len() < 5000, "{}", text.len());
        let failure = run(r"printf 'a\377b'", &[]).expect_err("no text");
        assert!(failure.to_string().contains("not text"), "{failure}");
        let failure = run(r"printf 'one\ntwo\033[1m\n' >&2; exit 1", &["get"]);
        let text = failure.expect_err("it failed").to_string();
        assert_eq!(text, "zfs get: one; two[1m");
        let failure = run("kill -9 $$", &["get"]).expect_err("killed");
        assert!(failure.to_string().contains("signal: 9"), "{failure}");
    }

    #[test]
    fn scripts_go_by_the_input_and_return_a_text() {
        let lines = r#"read line; printf '{"return":"%s %s"}\n' "$line" "$*""#;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let programs = stand_in(dir.path(), lines);
        let said = programs.script("tank", "return 1", &["tank/a"]);
        assert_eq!(said.expect("it runs"), "return 1 program -j tank - tank/a");
        for odd in [
            "echo",
            "echo '{}'",
            r#"echo '{"return":5}'"#,
            "echo '{\"return\":\"'",
        ] {
            let said = stand_in(dir.path(), odd).script("tank", "", &[]);
            assert!(matches!(said, Err(Failure::Odd { .. })), "{odd}: {said:?}");
        }
    }

    #[test]
    fn words_of_errors_have_meanings() {
        let kind = |text: &str| meaning(text);
        for (text, wanted) in [
            (
                "cannot open 'a/b': dataset does not exist",
                ErrorKind::NotFound,
            ),
            (
                "cannot create 'a/b': dataset already exists",
                ErrorKind::AlreadyExists,
            ),
            (
                "cannot destroy 'a/b': dataset is busy",
                ErrorKind::ResourceBusy,
            ),
            (
                "cannot destroy 'a/b': filesystem has children; use '-r'",
                ErrorKind::ResourceBusy,
            ),
            (
                "cannot open 'a': permission denied",
                ErrorKind::PermissionDenied,
            ),
            ("The ZFS modules are not loaded.", ErrorKind::Other),
        ] {
            assert_eq!(kind(text), Meaning::Kind(wanted), "{text}");
        }
        assert_eq!(
            kind("cannot create 'a': out of space"),
            Meaning::Full(Errno::ENOSPC)
        );
        let over = "cannot create 'a': the quota was passed: quota exceeded";
        assert_eq!(kind(over), Meaning::Full(Errno::EDQUOT));
    }
}
