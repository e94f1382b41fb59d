//! Commands of a running engine: what they print, what they change, and how they end. The engine is a real one with
//! real sockets, or where the same tables are wanted every time, one that tells the demo's story.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/docker_fake.rs"]
mod docker_fake;
#[path = "../tui_screen/player.rs"]
#[allow(dead_code, reason = "it is shared with the tests of the screen")]
mod player;
#[path = "../service/world.rs"]
#[allow(dead_code, reason = "it is shared with the tests of the service")]
mod world;

mod changes;
mod events;
mod lists;
mod profiles;
mod program;
mod story;
mod tables;
mod watch;

use std::io::{self, Write};

use portolan::commands::{Failure, Output, Remark};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

/// What a command has said and how it ended.
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) ended: Result<Remark, Failure>,
}

impl Said {
    /// It went well, and there was nothing to remark.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        match self.ended {
            Ok(None) => self.text,
            other => panic!("{other:?} after {:?}", self.text),
        }
    }

    /// It went well and remarked something.
    #[track_caller]
    pub(crate) fn remark(self) -> String {
        match self.ended {
            Ok(Some(remark)) => remark,
            other => panic!("{other:?} after {:?}", self.text),
        }
    }

    /// It failed with that exit status, and these words.
    #[track_caller]
    pub(crate) fn failed(self, status: u8) -> String {
        let failure = self.ended.expect_err("it has to fail");
        assert_eq!(failure.status(), status, "{failure}");
        failure.to_string()
    }

    /// It went well, in JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.well();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// What a command says as text.
pub(crate) async fn text(command: impl AsyncFnOnce(&mut Output<&mut Vec<u8>>) -> Result<Remark, Failure>) -> Said {
    said(false, command).await
}

/// What a command says in JSON.
pub(crate) async fn json(command: impl AsyncFnOnce(&mut Output<&mut Vec<u8>>) -> Result<Remark, Failure>) -> Said {
    said(true, command).await
}

async fn said(json: bool, command: impl AsyncFnOnce(&mut Output<&mut Vec<u8>>) -> Result<Remark, Failure>) -> Said {
    let mut bytes = Vec::new();
    let ended = command(&mut Output::new(&mut bytes, json)).await;
    Said { text: String::from_utf8(bytes).expect("it is text"), ended }
}

/// Where pages and lines arrive as they are written.
pub(crate) struct Paper(pub(crate) UnboundedSender<Vec<u8>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader has seen enough.
pub(crate) struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names as arguments.
pub(crate) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
