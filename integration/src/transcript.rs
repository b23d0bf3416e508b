//! Transcript of a test: the commands of its clients and their output, for a file of docs/evidence.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Clients whose commands are shown, and layerctl.
const CLIENTS: [&str; 4] = ["docker", "podman", "ctr", "layerctl"];
/// Options that only tell a client of a test where things are.
const PLACES: [&str; 6] = [
    "--address",
    "--host",
    "--namespace",
    "--root",
    "--storage-driver",
    "--timeout",
];

/// Longest line that is shown whole, in characters.
const LINE: usize = 300;

thread_local! {
    static RECORD: RefCell<Option<Record>> = const { RefCell::new(None) };
}

struct Record {
    text: String,
    /// Newest entry, and the number of times that it came in turn.
    last: (String, usize),
    /// Directory that is written as `$DIR`.
    dir: String,
}

/// Records what this thread's clients do. Kept in target/evidence if the test succeeds, from where
/// `make evidence` takes it.
#[derive(Debug)]
pub struct Transcript(String);

impl Transcript {
    /// Begins the file `name`; `dir` is a folder whose name means nothing to a reader.
    #[must_use]
    pub fn begin(name: &str, dir: &Path) -> Self {
        let record = Record {
            text: String::new(),
            last: (String::new(), 0),
            dir: dir.display().to_string(),
        };
        RECORD.with_borrow_mut(|current| *current = Some(record));
        Self(name.to_owned())
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        let record = RECORD.take();
        if let Some(mut record) = record.filter(|_| !std::thread::panicking()) {
            record.add(String::new());
            save(&format!("{}.txt", self.0), record.text.trim_start());
        }
    }
}

/// Writes a file that `make evidence` makes one of docs/evidence of.
///
/// # Panics
/// If target/ cannot be written.
pub fn save(file: &str, text: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/evidence");
    fs::create_dir_all(&dir).expect("target/ can be written");
    fs::write(dir.join(file), text).expect("target/ can be written");
}

/// Records a command of a client and its output, if a transcript was begun.
pub fn command(command: &Command, said: &str) {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let name = |word: &String| Path::new(word).file_name()?.to_str().map(str::to_owned);
    let client = words.iter().enumerate().find_map(|(at, word)| {
        let name = name(word)?;
        CLIENTS.contains(&name.as_str()).then_some((at, name))
    });
    if let Some((at, name)) = client {
        let mut shown = name;
        let mut rest = words[at + 1..].iter();
        while let Some(word) = rest.next() {
            if PLACES.contains(&word.as_str()) {
                rest.next();
            } else {
                let quote = if word.contains([' ', '|', ';', '{']) {
                    "'"
                } else {
                    ""
                };
                let _ = write!(shown, " {quote}{word}{quote}");
            }
        }
        record(&format!("# {shown}\n{said}"));
    }
}

/// Records an answer to a call of gRPC, if a transcript was begun. Its type names the call.
pub fn answer<T: Debug, E: Debug>(answer: &Result<T, E>) {
    match answer {
        Ok(message) => record(&format!("> {message:?}\n")),
        Err(failed) => record(&format!("> {failed:?}\n")),
    }
}

/// Records a command in a container and its output, if a transcript was begun.
pub fn inside(command: &str, said: &str) {
    record(&format!("$ {command}\n{said}"));
}

fn record(text: &str) {
    RECORD.with_borrow_mut(|current| {
        if let Some(current) = current {
            let text = text.replace(&current.dir, "$DIR");
            current.add(text.lines().map(shortened).collect());
        }
    });
}

fn shortened(line: &str) -> String {
    let shown: String = line.chars().take(LINE).collect();
    let rest = if shown.len() < line.len() { "..." } else { "" };
    format!("{shown}{rest}\n")
}

impl Record {
    fn add(&mut self, text: String) {
        if self.last.0 == text {
            self.last.1 += 1;
            return;
        }
        let (last, times) = std::mem::replace(&mut self.last, (text, 1));
        let _ = writeln!(self.text, "\n{}", last.trim_end());
        if times > 1 {
            let _ = writeln!(self.text, "({times} times)");
        }
    }
}
