//! Docker's stock proxy, started as dockerd starts it: one process for one port and family, which says on descriptor 3
//! that it listens.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};

use super::Running;

/// Tries to find a port that stays free until the proxy binds it.
const TRIES: usize = 20;

/// A running docker-proxy. Ends on drop.
#[derive(Debug)]
pub struct DockerProxy {
    process: Running,
    listener: SocketAddr,
}

impl DockerProxy {
    /// For TCP, on a port of its own of `host`.
    #[track_caller]
    pub fn tcp(host: &str, target: SocketAddr) -> Self {
        Self::start("tcp", host, target, None)
    }

    /// For UDP.
    #[track_caller]
    pub fn udp(host: &str, target: SocketAddr) -> Self {
        Self::start("udp", host, target, None)
    }

    /// As [`Self::tcp`], with so many descriptors and no more.
    #[track_caller]
    pub fn hungry(host: &str, target: SocketAddr, descriptors: u64) -> Self {
        Self::start("tcp", host, target, Some(descriptors))
    }

    #[track_caller]
    fn start(protocol: &str, host: &str, target: SocketAddr, descriptors: Option<u64>) -> Self {
        let host: IpAddr = host.parse().expect("an address");
        let mut said = String::new();
        for _ in 0..TRIES {
            let listener = free(protocol, host);
            // It knows no port 0. Its status goes where the shell's output went, until it closes that.
            let script =
                r#"PATH=$PATH:/usr/sbin; ulimit -n "$1" && shift && exec docker-proxy "$@" 3>&1 >/dev/null 2>&1"#;
            let limit = descriptors.map_or_else(|| "hard".to_owned(), |limit| limit.to_string());
            let mut command = Command::new("bash");
            command.args(["-c", script, "bash", &limit, "-proto", protocol]);
            command.args(["-host-ip", &host.to_string(), "-host-port", &listener.port().to_string()]);
            command.args(["-container-ip", &target.ip().to_string(), "-container-port", &target.port().to_string()]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("bash starts");
            let mut process = Running(child);
            said.clear();
            let status = process.0.stdout.as_mut().expect("stdout is piped").read_to_string(&mut said);
            status.expect("its status is text");
            if said == "0\n" {
                return Self { process, listener };
            }
        }
        panic!("docker-proxy does not start: {said:?}");
    }

    /// Where it listens.
    pub fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.0.try_wait().expect("a child can be waited for")
    }
}

fn free(protocol: &str, host: IpAddr) -> SocketAddr {
    let bound = if protocol == "udp" {
        UdpSocket::bind((host, 0)).and_then(|socket| socket.local_addr())
    } else {
        TcpListener::bind((host, 0)).and_then(|socket| socket.local_addr())
    };
    bound.expect("a free port")
}
