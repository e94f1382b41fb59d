//! The control socket as scripts use it: by curl.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::program::Home;
use super::{Running, SOON, wait_for};

/// Exit status of curl when there is nobody.
const NOT_CONNECTED: i32 = 7;

/// What an engine answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks by curl for what `arguments` say. None if there is nobody to ask.
#[track_caller]
pub fn curl(arguments: impl FnOnce(&mut Command)) -> Option<Answer> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code} %{content_type}"]);
    arguments(&mut command);
    let told = command.output().expect("curl starts");
    if told.status.code() == Some(NOT_CONNECTED) {
        return None;
    }
    assert!(told.status.success(), "{command:?}: {told:?}");
    let text = String::from_utf8(told.stdout).expect("answers are UTF-8");
    let (body, told) = text.rsplit_once('\n').expect("the status comes last");
    let (status, content_type) = told.split_once(' ').expect("and the content type");
    Some(Answer {
        status: status.parse().expect("a status is a number"),
        content_type: content_type.to_owned(),
        body: body.to_owned(),
    })
}

/// The control sockets of a home, of which there is one.
#[derive(Clone, Debug)]
pub struct Control {
    folder: PathBuf,
}

impl Control {
    /// Waits for the socket of the engine that runs with this home.
    #[track_caller]
    pub fn of(home: &Home) -> Self {
        let control = Self { folder: home.path().join("run/portolan") };
        wait_for("the control socket is there", SOON, || control.socket());
        control
    }

    /// Where it is now: it moves when the engine opens another profile.
    pub fn socket(&self) -> Option<PathBuf> {
        let mut paths = std::fs::read_dir(&self.folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        paths.find(|path| path.extension().is_some_and(|extension| extension == "sock"))
    }

    /// `METHOD PATH`, with a body of JSON if there is one.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        // By a file: an argument has no room for a long one.
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        if let Some(body) = body {
            write!(file, "{body}").expect("it can be written");
        }
        wait_for("an engine answers", SOON, || {
            // It may just have moved.
            let socket = self.socket()?;
            curl(|command| {
                command.args(["--request", method, "--unix-socket"]).arg(socket).arg(format!("http://portolan{path}"));
                if body.is_some() {
                    command.arg("--json").arg(format!("@{}", file.path().display()));
                }
            })
        })
    }

    /// What is answered with 200, as JSON.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, None);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// A stream, line by line, for as long as what is returned lives.
    #[track_caller]
    pub fn lines(&self, path: &str, body: Option<&Value>) -> (Running, impl Iterator<Item = Value> + use<>) {
        let socket = wait_for("the control socket is there", SOON, || self.socket());
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--unix-socket"]).arg(socket).arg(format!("http://portolan{path}"));
        if let Some(body) = body {
            command.args(["--json", &body.to_string()]);
        }
        let mut child = command.arg("--no-buffer").stdout(Stdio::piped()).spawn().expect("curl starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let values = lines.map(|line| serde_json::from_str(&line.expect("lines are UTF-8")).expect("each is JSON"));
        (Running(child), values)
    }
}
