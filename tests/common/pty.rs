//! A bare pseudo-terminal: every byte that a program writes to it, as it was written.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;

/// Runs a command to its end with a terminal as its stdout and stderr, and gives what it wrote there.
#[track_caller]
pub fn run(mut command: Command) -> (ExitStatus, Vec<u8>) {
    let pty = openpty(None, None).expect("a pseudo-terminal");
    for end in [&pty.master, &pty.slave] {
        // Other programs that start meanwhile would keep it open.
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("it can be marked");
    }
    let slave = |slave: &OwnedFd| Stdio::from(slave.try_clone().expect("another descriptor"));
    command.stdin(Stdio::null()).stdout(slave(&pty.slave)).stderr(slave(&pty.slave));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // With our own ends gone, the end of the program is the end of what can be read.
    drop(command);
    drop(pty.slave);
    let mut shown = Vec::new();
    // Linux ends it with an error, EIO.
    let _ = File::from(pty.master).read_to_end(&mut shown);
    (child.wait().expect("it was started"), shown)
}
