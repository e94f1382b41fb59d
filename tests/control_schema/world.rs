//! An engine with all that it has to tell of: mappings of both protocols, clients of both, containers. It has a network
//! namespace of its own, since whoever asks it anything may have it listen anywhere and connect to anybody.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::common::control::Control;
use super::common::echo::{echo_server, exchange};
use super::common::netns::Namespace;
use super::common::program::{Home, Run};
use super::common::python;
use super::docker_fake::{FakeDocker, container};

/// Where the mappings listen.
const WEB: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 18_080);
const DNS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15_353);
/// How often is looked whether something has to be put right again.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) struct World {
    pub(crate) control: Control,
    run: Run,
    home: Home,
    namespace: Namespace,
    /// Of the bridge and of the Docker daemon that never was.
    runtime: Runtime,
    docker: FakeDocker,
    /// Of schemathesis.
    folder: TempDir,
    target: SocketAddr,
}

/// How schemathesis ended.
pub(crate) struct Judged {
    pub(crate) status: ExitStatus,
    pub(crate) text: String,
    /// An event a line.
    pub(crate) report: String,
}

impl World {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let docker = {
            let _guard = runtime.enter();
            FakeDocker::unix()
        };
        docker.set_containers(vec![container("web", "running", Some("203.0.113.7")), container("old", "exited", None)]);
        let namespace = Namespace::new("control");
        let target = namespace.enter(echo_server);
        let home = Home::with_engine(&docker.docker_host());
        let profile = json!({ "version": 1, "mappings": mappings(target) });
        home.write_profile("default", &profile.to_string());
        let mut run = home.run(Some(&namespace), [] as [&str; 0]);
        run.ready();
        let control = Control::of(&home);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { control, run, home, namespace, runtime, docker, folder, target }
    }

    /// Lets schemathesis ask. It speaks TCP alone: what it sends is carried to the socket.
    pub(crate) fn schemathesis(&self, arguments: &[&str]) -> Judged {
        let listener = self.namespace.enter(|| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.expect("a port is free");
        let url = format!("http://{}/openapi.json", listener.local_addr().expect("it is bound"));
        let bridge = self.runtime.spawn(bridge(listener, self.control.clone()));
        let clients = [(); 3].map(|()| Clients::keep(self));
        for (name, text) in
            [("schemathesis.toml", include_str!("schemathesis.toml")), ("hooks.py", include_str!("hooks.py"))]
        {
            fs::write(self.folder.path().join(name), text).expect("it can be written");
        }
        let mut command = self.namespace.command(python().get_program());
        command.args(["-m", "schemathesis.cli", "run", &url, "--no-color"]).args(arguments);
        command.args(["--report", "ndjson", "--report-ndjson-path", "report"]);
        if !super::common::soak::is_soak() {
            // The same cases each time, so that a change is judged by what it changes.
            command.arg("--generation-deterministic");
        }
        let output = command.current_dir(self.folder.path()).output().expect("it starts");
        clients.into_iter().for_each(Clients::end);
        bridge.abort();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let report = fs::read_to_string(self.folder.path().join("report"));
        Judged { status: output.status, report: report.unwrap_or_default(), text }
    }

    /// Lets something of each kind happen: a mapping comes, has a client, and goes; a container comes or goes.
    pub(crate) fn change_everything(&self) {
        let mapping = json!({ "name": "brief", "listen": "127.0.0.1:18081", "target": self.target.to_string() });
        let added = self.control.ask("POST", "/v1/mappings", Some(&mapping));
        assert_eq!(added.status, 200, "{added:?}");
        let back = self.namespace.enter(|| exchange(SocketAddr::from((Ipv4Addr::LOCALHOST, 18_081)), b"hello"));
        assert_eq!(back, b"hello");
        let removed = self.control.ask("DELETE", "/v1/mappings/brief", None);
        assert_eq!(removed.status, 200, "{removed:?}");
        let more = self.docker.asked("/containers/json") % 2;
        let names = ["web", "old", "new"];
        self.docker.change(names[..names.len() - more].iter().map(|name| container(name, "running", None)).collect());
    }

    /// Waits for the end that was asked for.
    pub(crate) fn ended(self) {
        let ended = self.run.wait();
        assert!(ended.status.success(), "{ended:?}");
    }

    /// Ends the engine. What it said on stderr, and its log.
    pub(crate) fn end(self) -> (String, String) {
        let ended = self.run.stop();
        assert!(ended.status.success(), "{ended:?}");
        let logs = fs::read_dir(self.home.path().join(".local/state/portolan")).expect("there is a log");
        let texts = logs.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        (ended.errors, texts.collect())
    }
}

/// One of each protocol, one whose address is not of this host, and one of a container.
fn mappings(target: SocketAddr) -> [Value; 4] {
    let target = target.to_string();
    [
        json!({ "name": "web", "listen": WEB.to_string(), "target": target }),
        json!({ "name": "dns", "listen": DNS.to_string(), "target": target, "protocol": "udp" }),
        json!({ "name": "held", "listen": "203.0.113.99:18082", "target": "127.0.0.1:1" }),
        json!({ "name": "container", "listen": "127.0.0.1:18083", "target": "web:80" }),
    ]
}

async fn bridge(listener: std::net::TcpListener, control: Control) {
    listener.set_nonblocking(true).expect("a socket can be nonblocking");
    let listener = TcpListener::from_std(listener).expect("it is a listener");
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut client, _) = accepted.expect("accept works");
                let control = control.clone();
                clients.spawn(async move {
                    let mut engine = connected(&control).await;
                    // Whoever hangs up early has a reason.
                    let _ = copy_bidirectional(&mut client, &mut engine).await;
                });
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

/// The socket may move just now.
async fn connected(control: &Control) -> UnixStream {
    loop {
        if let Some(socket) = control.socket()
            && let Ok(engine) = UnixStream::connect(socket).await
        {
            return engine;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Clients that come again when they are reset, and have their mapping added again when somebody has removed it.
struct Clients {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Clients {
    fn keep(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, control, target) = (Arc::clone(&stop), world.control.clone(), world.target);
        // A thread that is started there belongs there.
        let thread = world.namespace.enter(|| {
            std::thread::spawn(move || {
                while !stopped.load(Relaxed) {
                    if !talk(&stopped) {
                        for mapping in mappings(target) {
                            // Somebody else may have its name or its port now.
                            let _ = control.ask("POST", "/v1/mappings", Some(&mapping));
                        }
                        sleep(LOOK);
                    }
                }
            })
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("it only talks");
    }
}

/// Talks until it is told to stop; false if somebody else has ended it before.
fn talk(stop: &AtomicBool) -> bool {
    let Ok(mut stream) = TcpStream::connect(WEB) else { return false };
    let flow = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    stream.set_read_timeout(Some(LOOK)).expect("it can have one");
    let mut buffer = [0; 64];
    while !stop.load(Relaxed) {
        let _ = flow.send_to(b"ping", DNS);
        if stream.write_all(b"ping").is_err() {
            return false;
        }
        match stream.read(&mut buffer) {
            Ok(1..) => sleep(LOOK),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => return false,
        }
    }
    true
}
