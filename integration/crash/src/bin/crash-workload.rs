//! Workload of the tracer's tests: threads that each make six state-changing system calls a round.
//!
//! `crash-workload DIRECTORY THREADS` makes one round for each line on standard input and says
//! `done` after it. A thread that fails says so and the round goes on.

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let directory = arguments.next().map(PathBuf::from);
    let threads = arguments
        .next()
        .and_then(|text| text.to_str()?.parse().ok());
    let Some((directory, threads)) = directory.zip(threads) else {
        return ExitCode::FAILURE;
    };
    match rounds(&directory, threads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn rounds(directory: &Path, threads: usize) -> io::Result<()> {
    say("ready")?;
    for (round, line) in io::stdin().lock().lines().enumerate() {
        line?;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    if let Err(error) = work(directory, &format!("{round}-{thread}")) {
                        // A closed pipe ends the round's last line too.
                        let _ = say(&format!("failed {error}"));
                    }
                });
            }
        });
        say("done")?;
    }
    Ok(())
}

/// mkdir, open, write, fsync, rename, fsync.
fn work(directory: &Path, name: &str) -> io::Result<()> {
    let own = directory.join(name);
    fs::create_dir(&own)?;
    let mut file = File::create(own.join("new"))?;
    file.write_all(name.as_bytes())?;
    file.sync_all()?;
    fs::rename(own.join("new"), own.join("file"))?;
    File::open(own)?.sync_all()
}

fn say(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()
}
