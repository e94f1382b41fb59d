//! Log records: to a rotated file under the state folder, and warnings also to whoever watches events.
//!
//! Nothing here writes to the terminal, which belongs to the screen.

use std::fmt::Write as _;
use std::path::Path;

use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::model::untrusted::SafeText;

/// Days of logs kept.
const FILES: usize = 5;
/// Warnings that may wait to become events; more of them are in the file alone.
const WARNINGS: usize = 64;

/// Starts logging to `folder` (made if missing). `PORTOLAN_LOG` filters, as `RUST_LOG` does elsewhere.
/// Keep the guard until the end: dropping it writes what still waits.
///
/// Where the folder cannot be written, warnings become events all the same, the first of them saying so.
pub(crate) fn start(folder: &Path) -> (Option<WorkerGuard>, mpsc::Receiver<SafeText>) {
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
            let (writer, guard) = tracing_appender::non_blocking(appender);
            (Some(guard), registry.with(fmt::layer().with_writer(writer).with_ansi(false)).try_init())
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

/// Sends the text of warnings and errors to the service.
struct ToEvents(mpsc::Sender<SafeText>);

impl<S: Subscriber> Layer<S> for ToEvents {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > Level::WARN {
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
