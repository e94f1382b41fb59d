//! Log records: to a rotated file under the state folder, and warnings also to whoever watches events.
//!
//! Nothing here writes to the terminal, which belongs to the screen.

use std::fmt::Write as _;
use std::path::Path;

use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::model::event::LOG_TARGET;
use crate::model::untrusted::{SafeText, one_line};

/// Days of logs kept.
const FILES: usize = 5;
/// Lines that may wait for the disk; further ones are dropped. Room for all of them is taken at the start.
const WAITING: usize = 1_024;
/// Warnings that may wait to become events; more of them are in the file alone.
const WARNINGS: usize = 64;
/// Longest record of the file, in characters.
const LONGEST: usize = 4_096;

/// What keeps the log going: to be kept until the end, when dropping it writes what still waits; and warnings that are
/// to become events.
pub(crate) type Log = (Option<WorkerGuard>, mpsc::Receiver<SafeText>);

/// Starts logging to `folder` (made if missing). `PORTOLAN_LOG` filters, as `RUST_LOG` does elsewhere.
///
/// Where the folder cannot be written, warnings become events all the same, the first of them saying so.
pub(crate) fn start(folder: &Path) -> Log {
    let (sender, warnings) = mpsc::channel(WARNINGS);
    let filter = EnvFilter::try_from_env("PORTOLAN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let appender = std::fs::create_dir_all(folder).map_err(|error| error.to_string()).and_then(|()| {
        RollingFileAppender::builder()
            .rotation(Rotation::DAILY)
            .filename_prefix("portolan")
            .filename_suffix("log")
            .max_log_files(FILES)
            .build(folder)
            .map_err(|error| error.to_string())
    });
    let registry = tracing_subscriber::registry().with(filter).with(ToEvents(sender.clone()));
    let (guard, started) = match appender {
        Ok(appender) => {
            let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(WAITING).finish(appender);
            (
                Some(guard),
                registry
                    .with(fmt::layer().with_writer(writer).with_ansi(false).event_format(OneLine::default()))
                    .try_init(),
            )
        }
        Err(error) => {
            let _ = sender.try_send(SafeText::new(&format!("no log file in {}: {error}", folder.display())));
            (None, registry.try_init())
        }
    };
    // A second call in one process (tests) keeps the first subscriber.
    drop(started);
    (guard, warnings)
}

/// Records as the library words them, each on one line on which nothing acts: panics come with several lines, and
/// other crates log what they were sent.
#[derive(Default)]
struct OneLine(Format<Full>);

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut record = String::new();
        self.0.format_event(context, Writer::new(&mut record), event)?;
        writeln!(writer, "{}", one_line(record.trim_end(), LONGEST))
    }
}

/// Sends the text of warnings and errors to the service.
struct ToEvents(mpsc::Sender<SafeText>);

impl<S: Subscriber> Layer<S> for ToEvents {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // What an event has said is in the file for later readers, not for those who have seen it.
        if *event.metadata().level() > Level::WARN || event.metadata().target() == LOG_TARGET {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        // When the channel is full, the record is in the file alone.
        let _ = self.0.try_send(SafeText::new(&format!("{}{}", text.message, text.fields)));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_an_event_has_said_makes_no_other_event() {
        let (sender, mut warnings) = mpsc::channel(4);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(ToEvents(sender)), || {
            tracing::warn!(target: LOG_TARGET, "told");
            tracing::warn!("not told");
            tracing::info!("of no weight");
        });
        assert_eq!(warnings.try_recv().ok(), Some("not told".into()));
        assert!(warnings.try_recv().is_err());
    }

    #[test]
    fn a_record_is_one_line_on_which_nothing_acts() {
        let paper = Paper::default();
        let file = paper.clone();
        let layer = fmt::layer().with_writer(move || file.clone()).with_ansi(false).event_format(OneLine::default());
        let hostile = "a\u{1b}]0;x\u{7}\u{202e}\u{9b}2J\r\nb\u{200b}\tc";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let _span = tracing::info_span!("span", hostile, shown = %hostile).entered();
            tracing::warn!(hostile, shown = %hostile, "message {hostile}");
            tracing::warn!("{}", "long".repeat(LONGEST));
        });
        let text = String::from_utf8(paper.0.lock().expect("no panic").clone()).expect("text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text:?}");
        let acts = |c: char| crate::model::untrusted::acts_on_a_terminal(c);
        assert!(lines.iter().all(|line| !line.chars().any(acts)), "{text:?}");
        // Said, not swallowed: in the message, and as fields of the record and of the span.
        assert_eq!(lines[0].matches("\\u{202e}").count(), 5, "{text:?}");
        assert!(lines[1].ends_with('…') && lines[1].chars().count() < 2 * LONGEST, "it is cut");
    }
}
