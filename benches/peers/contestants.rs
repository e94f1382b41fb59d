//! Who is measured, how each is told to do the same thing, and how each is ended.
//!
//! All are set up as their own documentation does it, without tuning in either direction, except that queues of new
//! connections and limits of descriptors are made large enough for the work.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::configuration::{self, NGINX_STREAM};
use crate::cpu::CpuMeter;
use crate::enclosure;
use crate::group::Group;
use crate::listening::Ports;
use crate::memory;
use crate::mode::Mode;

/// One who does the work, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Contestant {
    /// No proxy: the client connects to the target.
    Direct,
    /// The one to be judged.
    Portolan,
    /// Docker's userland proxy.
    DockerProxy,
    /// nginx with its stream module.
    Nginx,
    /// `HAProxy` in TCP mode.
    Haproxy,
    /// socat, one process a connection.
    Socat,
    /// rinetd.
    Rinetd,
    /// redir, one process a connection; it knows IPv4 alone, so its client comes over IPv4.
    Redir,
    /// The one to be judged, with a mapping that tells the target nothing: beside its other modes.
    PlainPortolan,
}

use Contestant::{Direct, DockerProxy, Haproxy, Nginx, PlainPortolan, Portolan, Redir, Rinetd, Socat};

/// What is to be forwarded: ports in a row to ports in a row of 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Where clients connect.
    pub(crate) listen: Ports,
    /// The first port of the target.
    pub(crate) target: u16,
    /// UDP as well as TCP.
    pub(crate) has_udp: bool,
    /// What the target is told of its client.
    pub(crate) mode: Mode,
}

/// Longest wait for one that was asked to end.
const END: Duration = Duration::from_secs(20);

/// Where targets of the load listen.
pub(crate) const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7_000);

impl Contestant {
    /// In the order of the tables.
    pub(crate) const ALL: [Self; 9] = [
        Direct,
        Portolan,
        PlainPortolan,
        Self::PEERS[0],
        Self::PEERS[1],
        Self::PEERS[2],
        Self::PEERS[3],
        Self::PEERS[4],
        Self::PEERS[5],
    ];

    /// All but ours and `direct`, the main ones first.
    pub(crate) const PEERS: [Self; 6] = [DockerProxy, Nginx, Haproxy, Socat, Rinetd, Redir];

    /// As it is called on the command line and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Direct => "direct",
            Portolan => "portolan",
            DockerProxy => "docker-proxy",
            Nginx => "nginx",
            Haproxy => "haproxy",
            Socat => "socat",
            Rinetd => "rinetd",
            Redir => "redir",
            PlainPortolan => "portolan, none",
        }
    }

    /// Its name as part of a path.
    fn label(self) -> &'static str {
        if self == PlainPortolan { "portolan-none" } else { self.name() }
    }

    /// The Debian packages that it comes in.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Direct | Portolan | PlainPortolan => &[],
            DockerProxy => &["docker.io"],
            Nginx => &["nginx", "libnginx-mod-stream"],
            Haproxy => &["haproxy"],
            Socat => &["socat"],
            Rinetd => &["rinetd"],
            Redir => &["redir"],
        }
    }

    /// Files without which it cannot run; the first is the program.
    pub(crate) fn needs(self) -> &'static [&'static str] {
        match self {
            Direct | Portolan | PlainPortolan => &[],
            DockerProxy => &["/usr/sbin/docker-proxy"],
            Nginx => &["/usr/sbin/nginx", NGINX_STREAM],
            Haproxy => &["/usr/sbin/haproxy"],
            Socat => &["/usr/bin/socat"],
            Rinetd => &["/usr/sbin/rinetd"],
            Redir => &["/usr/bin/redir"],
        }
    }

    /// True for those whose UDP forwarding keeps many flows apart.
    pub(crate) fn does_udp(self) -> bool {
        matches!(self, Direct | Portolan | PlainPortolan | DockerProxy | Nginx)
    }

    /// True for those that take a process for each mapping.
    pub(crate) fn is_process_per_mapping(self) -> bool {
        matches!(self, DockerProxy | Socat | Redir)
    }

    /// True for those that take a process for each connection.
    pub(crate) fn is_process_per_connection(self) -> bool {
        matches!(self, Socat | Redir)
    }

    /// Where clients reach the target through it, with its listener on that port.
    pub(crate) fn client(self, port: u16) -> SocketAddr {
        match self {
            Direct => TARGET,
            Redir => (Ipv4Addr::LOCALHOST, port).into(),
            _ => (Ipv6Addr::LOCALHOST, port).into(),
        }
    }

    /// A port of its own, below those that clients are given.
    pub(crate) fn port(self) -> u16 {
        8_000 + self as u16
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(self, plan: Plan, folder: &Path, portolan: &Path) -> Result<Running> {
        self.start_under(&[], plan, folder, portolan)
    }

    /// As [`Contestant::start`], run by another program with these arguments.
    pub(crate) fn start_under(self, above: &[String], plan: Plan, folder: &Path, portolan: &Path) -> Result<Running> {
        let group = if self == Direct { None } else { Group::new(&enclosure::run_name(), self.label()) };
        let mut running = Running { children: Vec::new(), group };
        for arguments in self.command_lines(plan, folder, portolan)? {
            let has_status = self == DockerProxy;
            let mut command = Self::joining(running.group.as_ref(), has_status);
            // An empty home, in which Docker is out of reach too: nothing of this machine's user takes part.
            command
                .args(above)
                .args(arguments)
                .current_dir(folder)
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            command.env("HOME", folder).env("DOCKER_HOST", format!("unix://{}/no-docker", folder.display()));
            command.env("DOORS", doors(running.group.as_ref()));
            let errors = fs::File::create(folder.join(format!("{}.log", self.label())))?;
            command.stdin(Stdio::null()).stderr(errors);
            command.stdout(if has_status { Stdio::piped() } else { Stdio::null() });
            let mut child = command.spawn().with_context(|| format!("cannot start {}", self.name()))?;
            let status = child.stdout.take();
            running.children.push(child);
            if let Some(status) = status {
                let mut line = String::new();
                BufReader::new(status).read_line(&mut line)?;
                ensure!(line == "0\n", "{} says {line:?}", self.name());
            }
        }
        if self != Direct {
            let has_udp = plan.has_udp && self.does_udp();
            plan.listen.wait(has_udp, || running.alive()).with_context(|| self.said(folder))?;
        }
        Ok(running)
    }

    /// A shell that joins the control group and becomes the program; with a status pipe, descriptor 3 is its output.
    fn joining(group: Option<&Group>, has_status: bool) -> Command {
        let mut script = String::new();
        if group.is_some() {
            script += "for door in $DOORS; do echo $$ >\"$door\" || exit 125; done; ";
        }
        script += if has_status { "exec \"$0\" \"$@\" 3>&1 1>/dev/null" } else { "exec \"$0\" \"$@\"" };
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    }

    fn said(self, folder: &Path) -> String {
        let said = fs::read_to_string(folder.join(format!("{}.log", self.label()))).unwrap_or_default();
        format!("{} said {:?}", self.name(), said.chars().take(500).collect::<String>())
    }

    /// The processes that it takes, each as program and arguments.
    fn command_lines(self, plan: Plan, folder: &Path, portolan: &Path) -> Result<Vec<Vec<String>>> {
        let pairs = || plan.pairs();
        let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let file = |text: String| -> Result<String> {
            let path = folder.join(format!("{}.conf", self.label()));
            fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let program = self.needs().first().copied().unwrap_or_default();
        Ok(match self {
            Direct => Vec::new(),
            Portolan if plan.listen.count == 1 && plan.mode == Mode::Plain => vec![portolan_line(plan, portolan)],
            Portolan | PlainPortolan => {
                let mode = if self == Portolan { plan.mode } else { Mode::Plain };
                let path = file(configuration::profile(plan, mode))?;
                vec![vec![portolan.display().to_string(), "run".to_owned(), "--file".to_owned(), path]]
            }
            DockerProxy => pairs()
                .flat_map(|(listen, target)| {
                    let protocols: &[&str] = if plan.has_udp { &["tcp", "udp"] } else { &["tcp"] };
                    protocols.iter().map(move |protocol| {
                        words(format!(
                            "{program} -proto {protocol} -host-ip ::1 -host-port {listen} -container-ip 127.0.0.1 \
                             -container-port {target}"
                        ))
                    })
                })
                .collect(),
            Nginx => vec![words(format!(
                "{program} -e stderr -p {} -c {}",
                folder.display(),
                file(configuration::nginx(plan, folder))?
            ))],
            Haproxy => vec![words(format!("{program} -db -f {}", file(configuration::haproxy(plan))?))],
            Socat => pairs()
                .map(|(listen, target)| {
                    words(format!(
                        "{program} TCP6-LISTEN:{listen},bind=[::1],reuseaddr,fork,backlog=1024 TCP4:127.0.0.1:{target}"
                    ))
                })
                .collect(),
            Rinetd => {
                let lines = pairs().map(|(listen, target)| format!("::1 {listen} 127.0.0.1 {target}\n"));
                vec![words(format!("{program} -f -c {}", file(lines.collect())?))]
            }
            Redir => pairs()
                .map(|(listen, target)| words(format!("{program} -n -l none 127.0.0.1:{listen} 127.0.0.1:{target}")))
                .collect(),
        })
    }
}

fn portolan_line(plan: Plan, portolan: &Path) -> Vec<String> {
    let mapping = format!("[::1]:{}:127.0.0.1:{}", plan.listen.first, plan.target);
    let mut line = vec![portolan.display().to_string(), "run".to_owned(), "-p".to_owned(), mapping.clone()];
    if plan.has_udp {
        line.extend(["-p".to_owned(), format!("{mapping}/udp")]);
    }
    line
}

fn doors(group: Option<&Group>) -> String {
    let doors: Vec<PathBuf> = group.map(Group::doors).unwrap_or_default();
    doors.iter().map(|door| door.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// A contestant at work. It ends on drop, with every process that it started.
#[derive(Debug)]
pub(crate) struct Running {
    children: Vec<Child>,
    group: Option<Group>,
}

impl Running {
    /// Fails once one of its processes has ended.
    fn alive(&mut self) -> Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("ended with {status}");
            }
        }
        Ok(())
    }

    /// Where its processor time is read.
    pub(crate) fn cpu(&self) -> CpuMeter {
        match &self.group {
            _ if self.children.is_empty() => CpuMeter::Nobody,
            Some(group) => group.cpu(),
            None => CpuMeter::Processes(self.pids()),
        }
    }

    /// Its processes now.
    pub(crate) fn pids(&self) -> Vec<u32> {
        match &self.group {
            Some(group) => group.pids(),
            None => self.children.iter().flat_map(|child| memory::family(child.id())).collect(),
        }
    }

    /// Asks it to end, and waits until it has. What runs it is not asked: it ends, and tells what it found, when
    /// portolan has ended.
    pub(crate) fn finish(mut self) -> Result<()> {
        let is_child = |pid: &u32| self.children.iter().any(|child| child.id() == *pid);
        let (above, own): (Vec<u32>, Vec<u32>) = self.pids().into_iter().partition(is_child);
        for pid in if own.is_empty() { above } else { own } {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        }
        let start = Instant::now();
        while self.alive().is_ok() {
            ensure!(start.elapsed() < END, "it does not end when it is told to");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What the kernel holds for it, in bytes, where a control group tells.
    pub(crate) fn kernel_bytes(&self) -> Option<u64> {
        self.group.as_ref()?.kernel_bytes()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Those first that were started by others, so that nobody starts them anew; all are of this bench's making.
        let mut pids = self.pids();
        pids.sort_by_key(|pid| !self.children.iter().any(|child| child.id() == *pid));
        for pid in pids {
            if let Ok(pid) = i32::try_from(pid) {
                // It may have ended already.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        // Orphans are children of this program, the first of its namespace.
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
    }
}
