//! The form of one event on standard error: always one line.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Prefix by which systemd's journal takes a line as an error (sd-daemon(3)).
pub(super) const ERROR: &str = "<3>";

/// An event as `inner` formats it, without line breaks within: text of clients and images cannot
/// forge a line.
#[derive(Debug)]
pub(super) struct Line<F> {
    inner: F,
    /// Begins lines with the priority that systemd's journal reads.
    has_priority: bool,
}

impl<F> Line<F> {
    pub(super) fn new(inner: F, has_priority: bool) -> Self {
        Self {
            inner,
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
        writeln!(writer, "{}", one_line(&text))
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

fn one_line(text: &str) -> String {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.replace('\n', "\\n").replace('\r', "\\r")
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
        let layer = layer.event_format(Line::new(form, has_priority));
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
