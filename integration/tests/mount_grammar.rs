//! The engine's corpus of Docker's dialect, against Docker 28: the `-v`, `--mount` and `--tmpfs` that
//! it accepts, and the mounts that result.
//!
//! The engine's own tests hold the parser to the same file, so the two agree where both pass.
#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "mount_grammar/facts.rs"]
mod facts;
#[path = "mount_grammar/started.rs"]
mod started;

use std::path::{Path, PathBuf};
use std::process::Output;

use layerd_integration::image::{busybox, write_layer};
use layerd_integration::{Daemon, Docker, Scratch};
use serde::Deserialize;
use serde_json::Value;

use facts::Mount;

const CORPUS: &str = include_str!("../../server/spec/src/corpus.toml");

#[derive(Debug, Deserialize)]
struct Corpus {
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    flags: Vec<String>,
    docker: Answer,
    docker28: Option<Answer>,
    #[serde(default)]
    ours: bool,
    #[serde(default)]
    start: bool,
    differs: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Mounts(Vec<String>),
    /// Which fault it is only our parser says.
    Fault(#[expect(dead_code, reason = "see above")] String),
}

/// A Docker on layerd, and where they live. Dropped in this order.
struct World {
    docker: Docker,
    daemon: Daemon,
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new();
        let daemon = Daemon::start(&scratch.dir("d"));
        let docker = Docker::start(&scratch.dir("k"), daemon.socket());
        let archive = scratch.path().join("base.tar");
        write_layer(&archive, &busybox());
        docker.docker(&["import", archive.to_str().unwrap(), "base"]);
        Self {
            docker,
            daemon,
            scratch,
        }
    }

    /// The directory that a row's flags name.
    fn stage(&self, number: usize) -> PathBuf {
        let dir = self.scratch.dir(&format!("row-{number}"));
        for name in ["src", "cwd"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("file"), "").unwrap();
        dir
    }

    fn create(&self, flags: &[String], dir: &Path) -> Output {
        let mut arguments = vec!["create", "--pull", "never", "--network", "none"];
        for flag in flags {
            let (name, value) = flag.split_once(' ').unwrap_or((flag, ""));
            arguments.extend([name, value]);
        }
        arguments.extend(["base", "cat", "/proc/mounts"]);
        let mut command = self.docker.command(&arguments);
        command.current_dir(dir.join("cwd")).output().unwrap()
    }

    fn inspect(&self, container: &str) -> Value {
        let said = self.docker.docker(&["inspect", container]);
        serde_json::from_str::<Value>(&said).unwrap()[0].take()
    }

    fn start(&self, container: &str) -> Output {
        let mut command = self.docker.command(&["start", "--attach", container]);
        command.output().unwrap()
    }

    /// Nothing of a row is to be there for the next one.
    fn clear(&self, container: Option<&str>) {
        if let Some(container) = container {
            self.docker
                .docker(&["rm", "--force", "--volumes", container]);
        }
        let volumes = self.docker.docker(&["volume", "ls", "--quiet"]);
        let volumes: Vec<&str> = volumes.split_whitespace().collect();
        if !volumes.is_empty() {
            self.docker
                .docker(&[&["volume", "rm", "--force"], &volumes[..]].concat());
        }
    }

    /// Runs Docker with the flags; the error is the first difference from the expected result.
    fn replay(&self, number: usize, row: &Row) -> Result<(), String> {
        let dir = self.stage(number);
        let expand = |text: &str| {
            text.replace("{dir}", dir.to_str().unwrap())
                .replace("{a255}", &"a".repeat(255))
                .replace("{a256}", &"a".repeat(256))
        };
        let flags: Vec<String> = row.flags.iter().map(|flag| expand(flag)).collect();
        let output = self.create(&flags, &dir);
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let container = output.status.success().then_some(id.as_str());
        let error = String::from_utf8_lossy(&output.stderr);
        let result = match row.docker28.as_ref().unwrap_or(&row.docker) {
            _ if row.ours => refused(container, &error),
            Answer::Fault(_) if row.start => self.refused_at_start(container, &error),
            Answer::Fault(_) => refused(container, &error),
            Answer::Mounts(mounts) => {
                let mounts: Vec<Mount> = mounts
                    .iter()
                    .map(|text| Mount::parse(&expand(text)))
                    .collect();
                self.accepted(row, &mounts, container, &error)
            }
        };
        self.clear(container);
        result
    }

    fn refused_at_start(&self, container: Option<&str>, error: &str) -> Result<(), String> {
        let container = container.ok_or_else(|| format!("refused too early: {error}"))?;
        if self.start(container).status.success() {
            return Err("started".to_owned());
        }
        Ok(())
    }

    fn accepted(
        &self,
        row: &Row,
        mounts: &[Mount],
        container: Option<&str>,
        error: &str,
    ) -> Result<(), String> {
        if let Some(missing) = mounts.iter().find_map(Mount::missing_source) {
            refused(container, error)?;
            return match error.contains("does not exist") {
                true => Ok(()),
                false => Err(format!("{missing} is missing, and it says: {error}")),
            };
        }
        let container = container.ok_or_else(|| format!("refused: {error}"))?;
        facts::compare(mounts, &self.inspect(container))?;
        if row.start {
            let output = self.start(container);
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            started::compare(mounts, &String::from_utf8_lossy(&output.stdout))?;
        }
        Ok(())
    }

    fn finish(mut self) {
        self.docker.docker(&["rmi", "base"]);
        self.docker.stop();
        self.daemon.stop();
    }
}

fn refused(container: Option<&str>, error: &str) -> Result<(), String> {
    match container {
        Some(_) => Err("accepted".to_owned()),
        // Neither of these says anything about the flags.
        None if error.contains("Unable to find image") || error.contains("Cannot connect") => {
            Err(error.to_owned())
        }
        None => Ok(()),
    }
}

/// Step of the short form. `make test-peers-full` replays every row; the engine's own tests do in any case.
const FEW: usize = 3;

/// Replays each `step`-th of the rows whose first flag is of this kind.
fn replay(flag: &str, step: usize) {
    let corpus: Corpus = toml::from_str(CORPUS).unwrap();
    let is_wanted = |row: &Row| row.flags[0].split(' ').next() == Some(flag);
    let rows: Vec<Row> = corpus
        .rows
        .into_iter()
        .filter(is_wanted)
        .step_by(step)
        .collect();
    let world = World::new();
    let (mut agreed, mut wrong) = (0, Vec::new());
    for (number, row) in rows.iter().enumerate() {
        match (world.replay(number, row), &row.differs) {
            (Ok(()), None) => agreed += 1,
            (Err(_), Some(_)) => {}
            (Err(difference), None) => wrong.push(format!("{:?}: {difference}", row.flags)),
            (Ok(()), Some(reason)) => {
                wrong.push(format!("{:?}: agrees, though {reason}", row.flags));
            }
        }
    }
    let count = |which: fn(&Row) -> bool| rows.iter().filter(|row| which(row)).count();
    println!(
        "{} rows: {agreed} agree, {} differ on purpose, {} are wrong; {} were started, {} are \
         answered otherwise by Docker 29, {} hold words of ours",
        rows.len(),
        count(|row| row.differs.is_some()),
        wrong.len(),
        count(|row| row.start),
        count(|row| row.docker28.is_some()),
        count(|row| row.ours),
    );
    assert!(wrong.is_empty(), "Docker disagrees:\n{}", wrong.join("\n"));
    assert!(agreed > 40 / step, "the corpus has shrunk");
    world.finish();
}

#[test]
fn root_docker_28_agrees_on_v() {
    replay("-v", FEW);
}

#[test]
fn root_full_docker_28_agrees_on_v() {
    replay("-v", 1);
}

#[test]
fn root_docker_28_agrees_on_mount() {
    replay("--mount", FEW);
}

#[test]
fn root_full_docker_28_agrees_on_mount() {
    replay("--mount", 1);
}

#[test]
fn root_docker_28_agrees_on_tmpfs() {
    replay("--tmpfs", FEW);
}

#[test]
fn root_full_docker_28_agrees_on_tmpfs() {
    replay("--tmpfs", 1);
}
