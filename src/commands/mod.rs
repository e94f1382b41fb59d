//! What a script asks of a running engine: `ls`, `add`, `kill`, `watch` and the like, each a small function over a
//! handle that writes to wherever its answer goes.
//!
//! An equal client of the service, as the screen and `run` are: it knows `model` and the handle, not where the engine
//! is. Rows are found by the screen's filter and said in the words of the screen's columns; with `--json` they are the
//! types of the model as they are. What an answer has to say beside itself is a remark, which goes to stderr.

mod changes;
mod in_place;
mod lists;
mod table;
mod watch;
mod whois;
mod world;

use std::io::{self, Write};

use serde::Serialize;

use crate::model::problem::Problem;
use crate::model::request::{Reply, RequestError};

pub use changes::{Add, Edit, Fields, Which, add, edit, kill, open, remove, save_as, start, stop, undo};
pub use in_place::Size;
pub use lists::{Connections, Mappings, Profiles, connections, mappings, profiles, say_profiles};
pub use watch::{Watch, watch};
pub use whois::{say_whois, whois};

/// What a command has to say beside its answer, such as that a list is empty.
pub type Remark = Option<String>;

/// Where an answer goes, and whether it is JSON.
#[derive(Debug)]
pub struct Output<W> {
    writer: W,
    json: bool,
}

/// Why a command has not been carried out, or nobody has heard of it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked for is wrong.
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid {
        /// Every problem.
        problems: Vec<Problem>,
    },
    /// It could not be done; what to do.
    #[error("{0}")]
    Failed(String),
    /// Nobody reads the answer any more.
    #[error("nobody reads any more")]
    ReaderGone,
    /// The answer could not be written.
    #[error("cannot write to stdout: {0}")]
    Output(io::Error),
}

impl Failure {
    /// The exit status (contract §4). That a reader has seen enough is no failure.
    pub fn status(&self) -> u8 {
        match self {
            Self::ReaderGone => 0,
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Invalid { .. } => 2,
        }
    }

    fn invalid(problem: Problem) -> Self {
        Self::Invalid { problems: vec![problem] }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ReaderGone } else { Self::Output(error) }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Invalid { problems } => Self::Invalid { problems },
            RequestError::PortInUse { ref report } => {
                let free = report.next_free.map(|port| format!("; {port} is free")).unwrap_or_default();
                Self::Failed(format!("{error} (--even-if-busy keeps the mapping and tries again{free})"))
            }
            other => Self::Failed(other.to_string()),
        }
    }
}

impl<W: Write> Output<W> {
    /// Answers as text, or as JSON.
    pub fn new(writer: W, json: bool) -> Self {
        Self { writer, json }
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.writer.write_all(text.as_bytes())?;
        Ok(self.writer.flush()?)
    }

    /// One line of JSON.
    fn value(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        self.text(&format!("{text}\n"))
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), Failure> {
        match reply {
            Reply::Done { message, .. } if !self.json => self.text(&format!("{message}\n")),
            // Which key of the screen takes it back is nothing to a script.
            Reply::Done { ids, message, keys: Some(_) } => {
                self.value(&Reply::Done { ids: ids.clone(), message: message.clone(), keys: None })
            }
            _ => self.value(reply),
        }
    }
}
