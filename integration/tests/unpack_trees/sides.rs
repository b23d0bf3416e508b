//! The two that unpack: containerd's code, and ours.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use layerd_integration::process::output;
use layerd_layers::apply::{Compression, Options, Target, Whiteouts, apply};
use layerd_layers::copy::Markers;
use serde::Deserialize;
use serde_json::json;

use super::{Ground, upon};

/// A layer to unpack, and its directories.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) blob: &'a Path,
    pub(crate) layer: &'a Path,
    /// Nearest first.
    pub(crate) lowers: &'a [PathBuf],
    /// Deletions are noted as overlayfs reads them, not executed.
    pub(crate) overlay: bool,
}

/// An unpacker's result: diff id and length, or the error.
pub(crate) type Said = Result<(String, u64), String>;

/// containerd's code, in a program of its own. Ended when dropped.
pub(crate) struct Theirs {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Answer {
    diff_id: String,
    size: u64,
    error: String,
}

impl Theirs {
    pub(crate) fn start() -> Self {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/differ/build.sh");
        let program = output(&mut Command::new(build));
        let mut child = Command::new(program.trim())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("what was built can be started");
        let orders = child.stdin.take();
        let answers = child.stdout.take().expect("it was asked for");
        Self {
            child,
            orders,
            answers: BufReader::new(answers),
        }
    }

    /// Unpacks a blob into `upper` as it is mounted over `lowers`.
    pub(crate) fn apply_upon(
        &mut self,
        ground: &Ground,
        blob: &Path,
        lowers: &[PathBuf],
        upper: &Path,
    ) -> Said {
        upon(ground, lowers, upper, |layer| {
            self.apply(&Order {
                blob,
                layer,
                lowers: &[],
                overlay: false,
            })
        })
    }

    pub(crate) fn apply(&mut self, order: &Order<'_>) -> Said {
        let line = json!({
            "blob": order.blob,
            "layer": order.layer,
            "lowers": order.lowers,
            "overlay": order.overlay,
        });
        let orders = self.orders.as_mut().expect("taken only by drop");
        writeln!(orders, "{line}").expect("it reads its orders");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        let answer: Answer = serde_json::from_str(&answer).expect("in JSON");
        if answer.error.is_empty() {
            Ok((answer.diff_id, answer.size))
        } else {
            Err(answer.error)
        }
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// layerd's code, called as a function. Checks that what it counted is what is there.
pub(crate) fn ours(order: &Order<'_>) -> Said {
    let open = |path: &Path| File::open(path).expect("the test made it");
    let lowers: Vec<File> = order.lowers.iter().map(|lower| open(lower)).collect();
    let lowers: Vec<_> = lowers.iter().map(AsFd::as_fd).collect();
    let layer = open(order.layer);
    let whiteouts = match order.overlay {
        true => Whiteouts::Devices(Markers::Trusted),
        false => Whiteouts::Delete,
    };
    let target = Target {
        layer: layer.as_fd(),
        lowers: &lowers,
        whiteouts,
    };
    let options = Options {
        compression: Compression::Detect,
        ..Options::default()
    };
    let applied = apply(open(order.blob), &target, &options).map_err(|error| chain(&error))?;
    let digits = applied.diff_id.iter().map(|byte| format!("{byte:02x}"));
    let usage = usage(order.layer);
    assert_eq!((applied.bytes, applied.inodes), usage, "{order:?}");
    Ok((
        format!("sha256:{}", digits.collect::<String>()),
        applied.size,
    ))
}

/// Bytes and inodes of a tree, each inode counted once.
fn usage(top: &Path) -> (u64, u64) {
    let mut inodes = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("no other process changes it");
        inodes.insert((meta.dev(), meta.ino()), meta.blocks() * 512);
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).expect("root reads every directory");
            todo.extend(entries.map(|entry| entry.expect("as above").path()));
        }
    }
    (inodes.values().sum(), inodes.len() as u64)
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
