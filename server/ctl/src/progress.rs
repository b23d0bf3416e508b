//! Progress of long work: a line on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::human;

/// Form of the line while the whole is not known, and with it.
const OPEN: &str = "{prefix}: {msg}";
const BAR: &str = "{prefix} [{bar:24.##-}] {percent:>3} %, {msg}";

/// The line. It is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// With the name of the work, such as "exporting data"; safe to print.
    pub(crate) fn new(what: String) -> Self {
        Self::on(ProgressDrawTarget::stderr(), what)
    }

    fn on(target: ProgressDrawTarget, what: String) -> Self {
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(what);
        bar.set_style(style(OPEN));
        Self(bar)
    }

    /// Bytes done, of so many if that is known.
    pub(crate) fn bytes(&mut self, done: u64, all: Option<u64>) {
        self.draw(done, all, human::size(done));
    }

    /// Files done, of so many if that is known, and the bytes in them.
    pub(crate) fn files(&mut self, done: u64, all: Option<u64>, bytes: u64) {
        self.draw(done, all, format!("{done} files, {}", human::size(bytes)));
    }

    /// Layers done, of so many.
    pub(crate) fn layers(&mut self, done: u64, all: u64) {
        self.draw(done, Some(all), format!("{done} of {all} layers"));
    }

    pub(crate) fn end(&mut self) {
        self.0.finish_and_clear();
    }

    /// The bar is full if more comes than was expected.
    fn draw(&mut self, done: u64, all: Option<u64>, amount: String) {
        let all = all.filter(|all| *all > 0);
        if self.0.length() != all {
            self.0.set_style(style(all.map_or(OPEN, |_| BAR)));
            all.map_or_else(|| self.0.unset_length(), |all| self.0.set_length(all));
        }
        self.0.set_message(amount);
        self.0.set_position(all.map_or(done, |all| done.min(all)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// The forms above are valid, as a test shows.
fn style(form: &str) -> ProgressStyle {
    ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use indicatif::{ProgressDrawTarget, ProgressStyle};

    use super::{BAR, OPEN, Progress};

    #[test]
    fn the_forms_are_valid() {
        for form in [OPEN, BAR] {
            assert!(ProgressStyle::with_template(form).is_ok(), "{form}");
        }
    }

    #[test]
    fn a_bar_is_drawn_where_the_whole_is_known_and_is_never_more_than_full() {
        let mut progress = Progress::on(ProgressDrawTarget::hidden(), "a".to_owned());
        for (done, all, wanted) in [
            (7, None, (7, None)),
            (0, Some(0), (0, None)),
            (1, Some(2), (1, Some(2))),
            (3, Some(2), (2, Some(2))),
            (4, None, (4, None)),
        ] {
            progress.files(done, all, 7);
            assert_eq!((progress.0.position(), progress.0.length()), wanted);
            assert_eq!(progress.0.message(), format!("{done} files, 7B"));
        }
    }
}
