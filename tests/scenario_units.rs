//! The units in `assets/systemd`: systemd finds nothing wrong with them, and under a systemd of the test's own the program
//! does all it is for with everything taken away that they take.

mod common;

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::echo::{echo_server, echoes};
use common::netns::Namespace;
use common::program::PORTOLAN;
use common::{Need, SOON, output, require, wait_for, wait_until};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/systemd");

/// The units in a folder, with the program where it is.
fn units(folder: &Path) -> Vec<PathBuf> {
    let names = ["portolan.service", "portolan.socket", "user/portolan.service"];
    fs::create_dir(folder.join("user")).expect("ours");
    let put = |name: &&str| {
        let text = fs::read_to_string(Path::new(UNITS).join(name)).expect("it is there");
        let path = folder.join(name);
        fs::write(&path, text.replace("/usr/bin/portolan", PORTOLAN)).expect("ours");
        path
    };
    names.iter().map(put).collect()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !require(&[Need::Systemd]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let units = units(folder.path());
    for (of, unit) in ["--system", "--system", "--user"].into_iter().zip(&units) {
        let mut verify = Command::new("systemd-analyze");
        verify.args([of, "verify", "--man=no"]).arg(unit).env("XDG_RUNTIME_DIR", folder.path());
        let said = verify.output().expect("it starts");
        let text = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success() && text.is_empty(), "{}: {text}", unit.display());
    }
}

#[test]
fn the_service_of_the_system_is_exposed_to_little() {
    if !require(&[Need::Systemd]) {
        return;
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager"]).arg(Path::new(UNITS).join("portolan.service"));
    let table = output(&mut analyze);
    let level = table.lines().rev().find_map(|line| line.split_once("exposure level for portolan.service: "));
    let level = level.and_then(|(_, level)| level.split(' ').next()?.parse::<f64>().ok());
    let level = level.unwrap_or_else(|| panic!("no level in {table}"));
    println!("exposure {level}");
    // 1.3 by systemd 252; others weigh otherwise.
    assert!(level < 1.6, "{table}");
}

/// A systemd of the test's own. It ends with this.
struct Systemd {
    outside: Child,
    pid: String,
    folder: tempfile::TempDir,
}

impl Systemd {
    /// Boots with the units, and what `change` adds to them, and starts the service with its sockets.
    fn boot(profile: &str, change: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = folder.path().join("units");
        fs::create_dir(&own).expect("ours");
        for name in ["portolan.service", "portolan.socket"] {
            fs::copy(Path::new(UNITS).join(name), own.join(name)).expect("it is there");
        }
        fs::write(own.join("test.target"), "[Unit]\nWants=portolan.socket portolan.service\n").expect("ours");
        change(&own);
        let file = folder.path().join("profile.json");
        fs::write(&file, profile).expect("ours");
        let prefix = std::env::var("PORTOLAN_TEST_PREFIX").unwrap_or_else(|_| "ptl".to_owned());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "bash"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lib/systemd-inside.sh"));
        command.arg(folder.path()).arg(format!("{prefix}-systemd-{}", std::process::id()));
        command.arg(&own).args([PORTOLAN]).arg(&file).arg("test.target");
        let log = fs::File::create(folder.path().join("log")).expect("ours");
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("ours")).stderr(log);
        let mut booting = Self { outside: command.spawn().expect("it starts"), pid: String::new(), folder };
        booting.pid = wait_for("it has a first process", SOON, || {
            assert!(booting.outside.try_wait().expect("ours").is_none(), "{}", booting.log());
            fs::read_to_string(booting.folder.path().join("pid")).ok()
        });
        booting.pid = booting.pid.trim().to_owned();
        booting.until("the service is active", "ActiveState", |state| state == "active");
        booting
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A command in it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--all", "--", program]);
        command
    }

    fn systemctl(&self, arguments: &[&str]) -> String {
        output(self.command("systemctl").args(arguments))
    }

    /// Waits for what `systemctl show` says of the service.
    fn until(&self, what: &str, property: &str, holds: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let end = std::time::Instant::now() + SOON;
        wait_for(what, SOON * 2, || {
            // At first nobody listens to it.
            let said = self.command("systemctl").args(["show", "portolan.service", "-P", property]).output();
            last = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default();
            assert!(
                std::time::Instant::now() < end,
                "{what}: {property} is {last:?}\n{}\n{}",
                self.log(),
                self.journal()
            );
            holds(&last).then(|| last.clone())
        })
    }

    fn journal(&self) -> String {
        let said = self.command("journalctl").args(["--no-pager", "-o", "cat", "-u", "portolan"]).output();
        said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default()
    }

    /// Its network.
    fn network(&self) -> Namespace {
        Namespace::of_process(&self.pid)
    }

    /// A line of `/proc/PID/status` of the service's process.
    fn status(&self, field: &str) -> String {
        let pid = self.systemctl(&["show", "portolan.service", "-P", "MainPID"]);
        let status = output(self.command("cat").arg(format!("/proc/{}/status", pid.trim())));
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of it");
        line.trim_start_matches(':').trim().to_owned()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.outside.stdin.take());
        let _ = self.outside.wait();
    }
}

/// What a client of this address meets.
fn is_served(network: &Namespace, address: &str) -> bool {
    let address: SocketAddr = address.parse().expect("an address");
    network.enter(|| TcpStream::connect(address)).is_ok_and(|mut stream| {
        stream.set_read_timeout(Some(SOON)).expect("set");
        echoes(&mut stream)
    })
}

#[test]
fn with_all_rights_taken_away_it_serves_privileged_ports_and_is_restarted_when_it_hangs() {
    if !require(&[Need::Systemd, Need::Namespaces, Need::OwnSystemd]) {
        return;
    }
    let profile = |more: &str| {
        format!(
            "{{\"version\": 1, \"mappings\": [{{\"name\": \"web\", \"listen\": \"any:80\", \"target\": \"host/localhost:9000\"}},
            {{\"name\": \"dns\", \"listen\": \"any:5353\", \"target\": \"127.0.0.1:53\", \"protocol\": \"udp\",
            \"idle_timeout\": \"1s\"}}{more}]}}"
        )
    };
    let systemd = Systemd::boot(&profile(""), |units| {
        fs::create_dir(units.join("portolan.service.d")).expect("ours");
        // To see it bite within the time of a test.
        fs::write(units.join("portolan.service.d/test.conf"), "[Service]\nWatchdogSec=4s\n").expect("ours");
    });
    let network = systemd.network();
    let server = network.enter(echo_server);
    systemd.until("both mappings listen", "StatusText", |text| text == "2 mappings, 2 listening");

    // It is nobody in particular, who may do nothing.
    assert_ne!(systemd.status("Uid").split_whitespace().next(), Some("0"));
    for capabilities in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        assert_eq!(systemd.status(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!((systemd.status("NoNewPrivs"), systemd.status("Seccomp")), ("1".to_owned(), "2".to_owned()));

    // An edit by hand is applied (to where the test's server is), names are looked up, datagrams are answered.
    let edited = profile("").replace("9000", &server.port().to_string());
    let echo = network.enter(|| UdpSocket::bind("127.0.0.1:53").expect("nobody is there"));
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut datagram) {
            let _ = echo.send_to(&datagram[..length], from);
        }
    });
    let edit = |text: &str| {
        let script = "printf %s \"$1\" >/etc/portolan/profiles/default.json";
        output(systemd.command("sh").args(["-c", script, "sh", text]));
    };
    edit(&edited);
    let both = || ["127.0.0.1:80", "[::1]:80"].iter().all(|address| is_served(&network, address));
    wait_until("both families are served", SOON, both);
    for address in ["127.0.0.1:5353", "[::1]:5353"] {
        let own = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let client = network.enter(|| UdpSocket::bind(own).expect("a free port"));
        client.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        client.connect(address).expect("an address");
        wait_until("an answer", SOON, || client.send(b"ping").is_ok() && client.recv(&mut [0; 9]).is_ok());
    }

    // Its control socket is where the unit has it, and root may ask there.
    let mut ask = systemd.command("/usr/bin/portolan");
    let listed = output(ask.args(["ls", "--socket", "/run/portolan/default.sock"]));
    assert!(listed.contains("web") && listed.contains("dns"), "{listed}");

    // A port that nobody handed in is another matter, and its mapping alone fails.
    let low = ", {\"listen\": \"127.0.0.1:81\", \"target\": \"127.0.0.1:53\"}]}";
    edit(&edited.replace("]}", low));
    systemd.until("the third fails", "StatusText", |text| text == "3 mappings, 2 listening, 1 failed");
    edit(&edited);

    // Stopped, it is started for the next client, who is served although the target is a name.
    systemd.systemctl(&["stop", "portolan.service"]);
    systemd.until("it is stopped", "ActiveState", |state| state == "inactive");
    assert!(is_served(&network, "[::1]:80"), "{}", systemd.journal());
    systemd.until("it is started", "ActiveState", |state| state == "active");

    // One that hangs is ended and started again, and its clients wait meanwhile.
    systemd.systemctl(&["kill", "--kill-who=main", "--signal=STOP", "portolan.service"]);
    systemd.until("it is started again", "NRestarts", |restarts| restarts == "1");
    wait_until("it serves again", SOON, both);
    let journal = systemd.journal();
    assert!(!journal.contains("not permitted") && !journal.contains("panicked"), "{journal}");
}
