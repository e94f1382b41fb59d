//! The program as a user runs it: with an empty home of its own, and its event stream read line by line.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::netns::Namespace;
use super::wait_for;

/// The program under test.
pub const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");

/// An empty home: no profile, no log, no Docker. Gone on drop.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    docker_host: String,
}

impl Home {
    /// A home in which Docker is out of reach.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let docker_host = format!("unix://{}", folder.path().join("no-docker.sock").display());
        Self { folder, docker_host }
    }

    /// A home that knows the private Docker engine.
    pub fn with_docker() -> Self {
        Self::with_engine(&std::env::var("PORTOLAN_TEST_DOCKER").expect("Need::Docker was asked for"))
    }

    /// A home that knows the engine of this `DOCKER_HOST`.
    pub fn with_engine(docker_host: &str) -> Self {
        Self { docker_host: docker_host.to_owned(), ..Self::new() }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the profile NAME is kept.
    pub fn profile(&self, name: &str) -> PathBuf {
        self.path().join(".config/portolan/profiles").join(format!("{name}.json"))
    }

    /// Writes the profile NAME.
    pub fn write_profile(&self, name: &str, text: &str) {
        let path = self.profile(name);
        std::fs::create_dir_all(path.parent().expect("a profile lies in a folder")).expect("folders can be made");
        std::fs::write(path, text).expect("a profile can be written");
    }

    /// Lets every user read what is in it.
    pub fn open_to_all(&self) {
        super::output(Command::new("chmod").args(["-R", "a+rX"]).arg(self.path()));
    }

    /// The environment that the program is started with, and nothing of the caller's but PATH.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let below = |folder: &str| self.path().join(folder).display().to_string();
        vec![
            ("HOME", self.path().display().to_string()),
            ("XDG_CONFIG_HOME", below(".config")),
            ("XDG_STATE_HOME", below(".local/state")),
            ("XDG_DATA_HOME", below(".local/share")),
            ("XDG_CACHE_HOME", below(".cache")),
            ("XDG_RUNTIME_DIR", below("run")),
            ("DOCKER_HOST", self.docker_host.clone()),
            ("LANG", "C.UTF-8".to_owned()),
            ("TZ", "UTC".to_owned()),
            ("RUST_BACKTRACE", "1".to_owned()),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ]
    }

    /// The program, here or in a namespace, with this home and nothing else of the caller's environment.
    pub fn command(&self, namespace: Option<&Namespace>) -> Command {
        let mut command = namespace.map_or_else(|| Command::new(PORTOLAN), |namespace| namespace.command(PORTOLAN));
        command.env_clear().envs(self.environment());
        command
    }

    /// `portolan run --json` with more arguments.
    pub fn run<A: AsRef<OsStr>>(&self, namespace: Option<&Namespace>, arguments: impl IntoIterator<Item = A>) -> Run {
        let mut command = self.command(namespace);
        command.args(["run", "--json"]).args(arguments);
        Run::start(command)
    }
}

/// A running `portolan run --json`. Killed on drop, unless it was stopped.
#[derive(Debug)]
pub struct Run {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
    readers: Vec<JoinHandle<String>>,
}

impl Run {
    /// Starts a command that prints the event stream.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = mpsc::channel();
        let events = std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.expect("the event stream is UTF-8");
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
                if sender.send(event).is_err() {
                    break;
                }
            }
            String::new()
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Self { child, lines, seen: Vec::new(), readers: vec![events, errors] }
    }

    /// The first event, of those already seen or to come, that fits.
    #[track_caller]
    pub fn event(&mut self, what: &str, deadline: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        self.event_after(0, what, deadline, fits)
    }

    /// As [`Self::event`], but none of the first `skip` events.
    #[track_caller]
    pub fn event_after(&mut self, skip: usize, what: &str, deadline: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + deadline;
        let mut next = skip;
        loop {
            while next < self.seen.len() {
                if fits(&self.seen[next]) {
                    return self.seen[next].clone();
                }
                next += 1;
            }
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("not within {deadline:?}: {what}; events:\n{}", self.seen_text())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let errors = self.readers.pop().map(|reader| reader.join().unwrap_or_default()).unwrap_or_default();
                    panic!("the event stream ended before: {what}; events:\n{}\nstderr:\n{errors}", self.seen_text());
                }
            }
        }
    }

    /// Waits for `ready`.
    #[track_caller]
    pub fn ready(&mut self) -> Value {
        self.event("ready", super::SOON, |event| event["event"] == "ready")
    }

    /// The bound address of a listener whose text begins so: of `127.0.0.1`, of `[::1]`.
    #[track_caller]
    pub fn listening(&mut self, address: &str) -> SocketAddr {
        let event = self.event(&format!("listening on {address}"), super::SOON, |event| {
            event["event"] == "listening" && event["listener"].as_str().is_some_and(|text| text.starts_with(address))
        });
        event["listener"].as_str().and_then(|text| text.parse().ok()).expect("a listener is an address")
    }

    /// Waits for the `closed` of a connection and gives the connection.
    #[track_caller]
    pub fn closed(&mut self, id: u64) -> Value {
        let fits = |event: &Value| event["event"] == "closed" && event["connection"]["id"] == id;
        self.event(&format!("closed {id}"), super::SOON, fits)["connection"].clone()
    }

    /// How many events have been taken so far.
    pub fn mark(&mut self) -> usize {
        self.seen.extend(self.lines.try_iter());
        self.seen.len()
    }

    /// Every event up to now.
    pub fn events(&mut self) -> &[Value] {
        self.mark();
        &self.seen
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid is positive");
        kill(Pid::from_raw(pid), signal).expect("a child can be signalled");
    }

    /// SIGINT, as Ctrl-C sends it. Gives the exit status, the rest of the events and what stood on stderr.
    #[track_caller]
    pub fn stop(self) -> Ended {
        self.signal(Signal::SIGINT);
        self.wait()
    }

    /// Waits for its end. Gives the exit status, the rest of the events and what stood on stderr.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let status =
            wait_for("the program ends", super::SOON, || self.child.try_wait().expect("a child can be waited for"));
        let errors = self.readers.pop().map(|reader| reader.join().expect("stderr was read")).unwrap_or_default();
        for reader in self.readers.drain(..) {
            reader.join().expect("every line of the event stream is JSON");
        }
        self.mark();
        Ended { status, events: std::mem::take(&mut self.seen), errors }
    }

    fn seen_text(&self) -> String {
        self.seen.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is left of a run.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub events: Vec<Value>,
    pub errors: String,
}
