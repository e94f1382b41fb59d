//! Processes of Docker's stock `docker-proxy`: what each carries, which stands in its arguments for all to read, and
//! the sockets that it holds, which only root may list.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::processes::socket_inodes;
use crate::model::mapping::Protocol;

/// A process that carries one published port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Its number.
    pub pid: u32,
    /// When it was started, in the kernel's ticks: with the number, nobody else.
    pub started: u64,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it listens.
    pub host: SocketAddr,
    /// Where it connects to.
    pub container: SocketAddr,
}

/// Every one that this user can see, in whatever network namespace.
pub fn find() -> Vec<Proxy> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| of(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn of(pid: u32) -> Option<Proxy> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    if name.strip_suffix(b"\n") != Some(b"docker-proxy") {
        return None;
    }
    let (protocol, host, container) = parse(&fs::read(format!("/proc/{pid}/cmdline")).ok()?)?;
    Some(Proxy { pid, started: stat(pid)?.1, protocol, host, container })
}

impl Proxy {
    /// Whether it still runs.
    pub fn is_there(&self) -> bool {
        stat(self.pid).is_some_and(|(_, started)| started == self.started)
    }

    /// The sockets that it holds. `None` where this user may not know, or while the process is stopped in the middle
    /// of whatever it was doing.
    pub fn sockets(&self) -> Option<HashSet<u64>> {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?;
        let sockets = socket_inodes(self.pid).collect();
        let (state, started) = stat(self.pid)?;
        (started == self.started && !matches!(state, 'T' | 't')).then_some(sockets)
    }
}

/// State and start of a process.
fn stat(pid: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in brackets may hold anything, brackets and spaces too.
pub(super) fn parse_stat(text: &str) -> Option<(char, u64)> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Reads its arguments, in the style of Go's `flag`: `-x v`, `-x=v`, with one dash or two.
pub(super) fn parse(arguments: &[u8]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let mut words = arguments.split(|byte| *byte == 0).skip(1).filter_map(|word| std::str::from_utf8(word).ok());
    let (mut protocol, mut host_ip, mut host_port) = (Protocol::Tcp, None, None);
    let (mut container_ip, mut container_port) = (None, None);
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value),
            None if matches!(flag, "proto" | "host-ip" | "host-port" | "container-ip" | "container-port") => {
                (flag, words.next()?)
            }
            None => continue,
        };
        match name {
            "proto" => {
                protocol = match value {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    "sctp" => Protocol::Sctp,
                    _ => return None,
                }
            }
            "host-ip" => host_ip = Some(value.parse::<IpAddr>().ok()?),
            "host-port" => host_port = Some(value.parse().ok()?),
            "container-ip" => container_ip = Some(value.parse::<IpAddr>().ok()?),
            "container-port" => container_port = Some(value.parse().ok()?),
            _ => {}
        }
    }
    Some((protocol, SocketAddr::new(host_ip?, host_port?), SocketAddr::new(container_ip?, container_port?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_arguments_say_what_it_carries() {
        let read = |text: &str| {
            parse(text.replace(' ', "\0").as_bytes())
                .map(|(protocol, host, container)| format!("{protocol} {host} {container}"))
        };
        let usual =
            "/usr/bin/docker-proxy -proto tcp -host-ip :: -host-port 8080 -container-ip 172.17.0.2 -container-port 80 ";
        assert_eq!(read(usual).as_deref(), Some("tcp [::]:8080 172.17.0.2:80"));
        let other =
            "x --proto=udp -host-ip=0.0.0.0 -use-listen-fd -host-port=53 -container-ip=fd00::2 -container-port=53";
        assert_eq!(read(other).as_deref(), Some("udp 0.0.0.0:53 [fd00::2]:53"));
        for bad in [
            "",
            "docker-proxy",
            "docker-proxy -version",
            "docker-proxy -proto",
            "docker-proxy -proto icmp -host-ip :: -host-port 1 -container-ip :: -container-port 1",
            "docker-proxy -host-ip x -host-port 1 -container-ip :: -container-port 1",
            "docker-proxy -host-ip :: -host-port 99999 -container-ip :: -container-port 1",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_name_of_brackets_hides_nothing() {
        let text = "812 (a) b) S 1 812 812 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 9 9";
        assert_eq!(parse_stat(text), Some(('S', 4711)));
        assert_eq!(parse_stat("812 (a"), None);
        assert!(stat(std::process::id()).is_some_and(|(_, started)| started > 0));
    }
}
