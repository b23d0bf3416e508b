//! Progress of long work: a line on standard error, if that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::human;

/// Interval of redrawing the line.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Characters of a full bar.
const BAR: u64 = 24;

/// The line. It is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Name of the work, such as "exporting data"; safe to print.
    what: String,
    drawn: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new(what: String) -> Self {
        Self {
            what,
            drawn: None,
            is_shown: io::stderr().is_terminal(),
        }
    }

    /// Bytes done, of so many if that is known.
    pub(crate) fn bytes(&mut self, done: u64, all: Option<u64>) {
        self.draw(done, all, &human::size(done));
    }

    /// Files done, of so many if that is known, and the bytes in them.
    pub(crate) fn files(&mut self, done: u64, all: Option<u64>, bytes: u64) {
        let amount = format!("{done} files, {}", human::size(bytes));
        self.draw(done, all, &amount);
    }

    pub(crate) fn end(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn draw(&mut self, done: u64, all: Option<u64>, amount: &str) {
        let recently = |drawn: Instant| drawn.elapsed() < DRAW_EVERY;
        if self.is_shown && !self.drawn.is_some_and(recently) {
            let line = line(&self.what, done, all, amount);
            // Progress that cannot be shown is no error.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
            self.drawn = Some(Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// The line. The bar is full if more comes than was expected.
fn line(what: &str, done: u64, all: Option<u64>, amount: &str) -> String {
    let Some(all) = all.filter(|all| *all > 0) else {
        return format!("{what}: {amount}");
    };
    let part = |of: u64| u128::from(done.min(all)) * u128::from(of) / u128::from(all);
    let bar: String = (0..u128::from(BAR))
        .map(|at| if at < part(BAR) { '#' } else { '-' })
        .collect();
    format!("{what} [{bar}] {:3} %, {amount}", part(100))
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_bar_is_drawn_where_the_whole_is_known() {
        assert_eq!(line("copying a", 7, None, "7 files"), "copying a: 7 files");
        assert_eq!(
            line("copying a", 0, Some(0), "nothing"),
            "copying a: nothing"
        );
        let bar = format!("a [{}{}]  50 %, 1 of 2", "#".repeat(12), "-".repeat(12));
        assert_eq!(line("a", 1, Some(2), "1 of 2"), bar);
        let full = format!("a [{}] 100 %, 3", "#".repeat(24));
        assert_eq!(line("a", 3, Some(2), "3"), full);
    }
}
