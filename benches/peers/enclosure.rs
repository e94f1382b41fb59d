//! Where the bench runs: a network namespace without packet filter and connection tracking, and a process namespace
//! that takes every process with it.
//!
//! The outer program holds a pipe to the inner one. However the outer one ends, the pipe closes, the inner one ends,
//! and the kernel then ends whatever lives in its process namespace: no peer outlives the bench.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::wait;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::group;
use crate::mode::ALIAS_POOL;

/// Tells the inner program what it is, and the name of the run.
const INSIDE: &str = "PORTOLAN_BENCH_INSIDE";

/// Local ports of clients: those below are for listeners, so that no client ever takes a listener's port.
const LOCAL_PORTS: &str = "10000 65000";

/// True in the namespaces.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The name of this run: the pid of the outer program.
pub(crate) fn run_name() -> String {
    std::env::var(INSIDE).unwrap_or_else(|_| std::process::id().to_string())
}

/// Runs this program again, with the same arguments, in new namespaces, until it ends.
pub(crate) fn run_inside() -> Result<()> {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--pid", "--mount", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"]);
    command
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, run_name())
        .stdin(Stdio::piped());
    let mut child = command.spawn().context("cannot run unshare, of the package util-linux")?;
    // Taken out, since waiting would close it.
    let life = child.stdin.take();
    let status = child.wait();
    drop(life);
    group::remove_all(&run_name());
    let status = status?;
    if let Some(signal) = status.signal() {
        bail!("ended by signal {signal}");
    }
    std::process::exit(status.code().unwrap_or(1));
}

/// The inside, made ready. Its folder of temporary files goes with it.
#[derive(Debug)]
pub(crate) struct Enclosure {
    folder: TempDir,
}

impl Enclosure {
    /// For configurations, homes and logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Brings the loopback up and sees to it that all of this ends with the outer program. With `has_aliases`, every address
/// of the alias pool is one of this namespace's own.
pub(crate) fn prepare(has_aliases: bool) -> Result<Enclosure> {
    ensure!(std::process::id() == 1, "{INSIDE} is set, but this is no process namespace of the bench's own");
    let folder = tempfile::Builder::new().prefix("portolan-peers-").tempdir()?;
    let path = folder.path().to_owned();
    std::thread::spawn(move || {
        // Nothing is ever written: this returns when the outer program has ended.
        let _ = std::io::stdin().read(&mut [0]);
        abandon(&path);
    });
    ip(&["link", "set", "lo", "up"])?;
    if has_aliases {
        ip(&["route", "add", "local", ALIAS_POOL, "dev", "lo"])?;
    }
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", LOCAL_PORTS).context("ip_local_port_range")?;
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(Enclosure { folder })
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("cannot run ip")?;
    ensure!(status.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}

/// Leaves nothing behind when the outer program is gone. Best effort: this process ends in any case.
fn abandon(folder: &Path) -> ! {
    // Everybody else in this process namespace, whose first process this one is: see `prepare`.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while wait().is_ok() {}
    group::remove_all(&run_name());
    let _ = std::fs::remove_dir_all(folder);
    std::process::exit(1);
}
