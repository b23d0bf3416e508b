//! The form of one event on standard error: always one line.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Prefix by which systemd's journal takes a line as an error (sd-daemon(3)).
pub(super) const ERROR: &str = "<3>";

/// Form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// Colours, for a terminal.
    Coloured,
    Json,
}

/// An event as `inner` formats it, without line breaks and other control characters: text of
/// clients and images can neither forge a line nor steer a terminal.
#[derive(Debug)]
pub(super) struct Line<F> {
    inner: F,
    form: Form,
    /// Begins lines with the priority that systemd's journal reads.
    has_priority: bool,
}

impl<F> Line<F> {
    pub(super) fn new(inner: F, form: Form, has_priority: bool) -> Self {
        Self {
            inner,
            form,
            has_priority,
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Line<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.inner
            .format_event(context, Writer::new(&mut text), event)?;
        if self.has_priority {
            writer.write_str(priority(*event.metadata().level()))?;
        }
        writeln!(writer, "{}", one_line(&text, self.form))
    }
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// The sequences that `tracing_subscriber` writes: styles and colours, which hide nothing.
const COLOURS: [&str; 10] = [
    "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[3m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[34m",
    "\x1b[35m", "\x1b[36m",
];

fn one_line(text: &str, form: Form) -> String {
    let mut rest = text.strip_suffix('\n').unwrap_or(text);
    let mut line = String::with_capacity(rest.len());
    while let Some(char) = rest.chars().next() {
        let is_next = |colour: &&&str| rest.starts_with(**colour);
        let colour = match form {
            Form::Coloured => COLOURS.iter().find(is_next),
            Form::Plain | Form::Json => None,
        };
        let length = colour.map_or(char.len_utf8(), |colour| colour.len());
        match (colour, form) {
            (Some(colour), _) => line.push_str(colour),
            (None, _) if !is_harmful(char) => line.push(char),
            // Those of ASCII are escaped already, so that this one is within a string.
            (None, Form::Json) => line.push_str(&format!("\\u{:04x}", u32::from(char))),
            (None, _) => line.extend(char.escape_debug()),
        }
        rest = &rest[length..];
    }
    line
}

/// True for control characters, and for those that break lines or turn the direction of text.
fn is_harmful(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::{MakeWriter, format};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Seen {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(has_priority: bool) -> String {
        let seen = Seen::default();
        let form = format().without_time().with_level(false).with_ansi(false);
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(seen.clone())
            .with_ansi(false);
        let layer = layer.event_format(Line::new(form, Form::Plain, has_priority));
        let log = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(log, || {
            tracing::error!(target: "t", name = %"a\n<7>b\r", "lost");
            tracing::warn!(target: "t", "late");
            tracing::info!(target: "t", "ready");
            tracing::debug!(target: "t", "seen");
        });
        let bytes = seen.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn nothing_steers_a_terminal() {
        let evil = "a\x1b[2Jb\x1b[8mc\x07\u{9b}31m\u{202e}d\ttab\n";
        let wanted = "a\\u{1b}[2Jb\\u{1b}[8mc\\u{7}\\u{9b}31m\\u{202e}d\\ttab";
        assert_eq!(one_line(evil, Form::Plain), wanted);
        assert_eq!(one_line(evil, Form::Coloured), wanted);
        let own = "\x1b[2mtime\x1b[0m \x1b[31mERROR\x1b[0m \x1b[3mname\x1b[0m";
        assert_eq!(one_line(own, Form::Coloured), own);
        assert!(!one_line(own, Form::Plain).contains('\x1b'));
        let object = "{\"a\":\"\\u001b\u{9b}ü\u{2028}\"}\n";
        let line = one_line(object, Form::Json);
        assert_eq!(line, "{\"a\":\"\\u001b\\u009bü\\u2028\"}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["a"], "\u{1b}\u{9b}ü\u{2028}");
    }

    #[test]
    fn each_level_has_its_priority_and_each_event_one_line() {
        let wanted = "<3>t: lost name=a\\n<7>b\\r\n<4>t: late\n<6>t: ready\n<7>t: seen\n";
        assert_eq!(logged(true), wanted);
        let plain: String = wanted
            .lines()
            .map(|line| format!("{}\n", &line[3..]))
            .collect();
        assert_eq!(logged(false), plain);
    }
}
