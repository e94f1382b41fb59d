//! A client of the service in a process of its own, in another network namespace or as another user: this test
//! program again, as [`observe`], which prints the updates it gets. So each of them has crossed as data.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use portolan::docker::Endpoint;
use portolan::model::engine::EngineName;
use portolan::model::profile::{MappingConfig, WrittenMapping};
use portolan::model::update::{ConnectionRow, Interest, MappingRow, Update};
use portolan::service::{Options, Running as Service};

use super::Running;
use super::netns::Namespace;

const DOCKER: &str = "PORTOLAN_TEST_OBSERVED_DOCKER";
const MAPPINGS: &str = "PORTOLAN_TEST_OBSERVED_MAPPINGS";

/// An ordinary user that every system has.
pub const NOBODY: u32 = 65534;

/// What a test of an observing program calls in an ignored test named `observer`: leases everything and prints it.
pub fn observe() {
    let Ok(docker) = std::env::var(DOCKER) else { return };
    let mappings = std::env::var(MAPPINGS).unwrap_or_default();
    let session = mappings.split_whitespace().map(|text| {
        let (listen, target) = text.split_once("->").expect("a mapping");
        let (target, protocol) = target.split_once('/').unwrap_or((target, "tcp"));
        let written = WrittenMapping {
            listen: listen.to_owned(),
            target: target.to_owned(),
            protocol: Some(serde_json::from_value(protocol.into()).expect("a protocol")),
            ..WrittenMapping::default()
        };
        MappingConfig::from_written(&written).expect("a valid mapping")
    });
    let (_warn, warnings) = tokio::sync::mpsc::channel(1);
    let options = Options {
        profile: None,
        session: session.collect(),
        docker: Endpoint::parse(&docker, false),
        always_docker: false,
        descriptor_limit: 4_000,
        sockets: Vec::new(),
        warnings,
        session_name: EngineName::Session { pid: std::process::id() },
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let service = Service::start(options);
        let interest = Interest {
            mappings: true,
            connections: true,
            processes: true,
            published: true,
            sample_ms: 100,
            ..Interest::default()
        };
        let mut updates = service.handle().subscribe(interest).await.expect("it runs");
        while let Some(update) = updates.next().await {
            println!("\nUPDATE {}", serde_json::to_string(&update).expect("it is data"));
        }
    });
}

/// This test program, at a place where every user may go: where it was built, another one may not.
pub struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    /// Copies it.
    #[track_caller]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("permissions");
        std::fs::copy(std::env::current_exe().expect("this program"), folder.path().join("observer")).expect("a copy");
        Self { folder }
    }

    /// Starts one of its ignored tests in a namespace, as root or as another user. What it prints is piped.
    #[track_caller]
    pub fn run(&self, namespace: &Namespace, user: Option<u32>, test: &str, environment: &[(&str, &str)]) -> Running {
        let path = self.folder.path().join("observer");
        let mut command = match user {
            None => namespace.command(&path),
            Some(user) => {
                let mut command = namespace.command("setpriv");
                command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
                command.args(["--inh-caps=-all", "--"]).arg(&path);
                command
            }
        };
        command.args([test, "--exact", "--ignored", "--nocapture"]).current_dir("/");
        command.envs(environment.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped());
        Running(command.spawn().expect("it starts"))
    }
}

/// What the observer sees.
#[derive(Default)]
pub struct World {
    /// Rows of all mappings.
    pub mappings: Vec<MappingRow>,
    /// Rows of connections, closed ones among them.
    pub connections: HashMap<u64, ConnectionRow>,
    /// Ids that went without a row.
    pub removed: Vec<u64>,
}

impl World {
    fn take(&mut self, update: Update) {
        if update.is_full {
            *self = Self::default();
        }
        self.mappings.retain(|row| !update.mappings_removed.contains(&row.id));
        for row in update.mappings {
            self.mappings.retain(|old| old.id != row.id);
            self.mappings.push(row);
        }
        for row in update.connections {
            self.connections.insert(row.connection.id.0, row);
        }
        for id in update.connections_removed {
            assert!(self.connections.remove(&id.0).is_some(), "{id} was never there");
            self.removed.push(id.0);
        }
    }

    /// Rows of open sessions of a published port.
    pub fn sessions(&self) -> Vec<&ConnectionRow> {
        self.connections.values().filter(|row| row.observed.is_some() && row.closed_at_ms.is_none()).collect()
    }
}

/// The observing process.
pub struct Observer {
    pub world: World,
    process: Running,
    lines: Receiver<String>,
    _program: Program,
}

impl Observer {
    /// Starts it in a namespace, as root or as another user. `mappings` are `LISTEN->TARGET[/udp]`.
    #[track_caller]
    pub fn start(namespace: &Namespace, user: Option<u32>, docker: &str, mappings: &str) -> Self {
        let program = Program::new();
        let mut process = program.run(namespace, user, "observer", &[(DOCKER, docker), (MAPPINGS, mappings)]);
        let output = BufReader::new(process.0.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { world: World::default(), process, lines, _program: program }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Takes the updates that have come.
    pub fn poll(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line);
        }
    }

    fn take(&mut self, line: &str) {
        if let Some(update) = line.strip_prefix("UPDATE ") {
            self.world.take(serde_json::from_str(update).unwrap_or_else(|error| panic!("{error}: {update}")));
        }
    }

    /// Takes updates until the world fits.
    #[track_caller]
    pub fn wait(&mut self, what: &str, deadline: Duration, mut fits: impl FnMut(&World) -> bool) {
        let end = Instant::now() + deadline;
        while !fits(&self.world) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("not within {deadline:?}: {what}: {:#?} {:#?}", self.world.mappings, self.world.sessions())
            };
            self.take(&line);
        }
    }
}

/// A daemon's socket at a place where every user may go.
pub struct OpenSocket {
    folder: tempfile::TempDir,
}

impl OpenSocket {
    /// Leads to the daemon at `host`, a `unix://` address.
    #[track_caller]
    pub fn to(host: &str) -> Self {
        let daemon = PathBuf::from(host.strip_prefix("unix://").expect("a unix socket"));
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("permissions");
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("permissions");
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                join(client, &daemon);
            }
        });
        Self { folder }
    }

    /// As `DOCKER_HOST` has it.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }
}

fn join(client: UnixStream, daemon: &Path) {
    let Ok(server) = UnixStream::connect(daemon) else { return };
    for (from, to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))] {
        let (mut from, mut to) = (from.expect("a copy"), to.expect("a copy"));
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}
