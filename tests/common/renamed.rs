//! A process under a name of the test's choosing, which holds a socket.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use super::Running;

/// Names itself, says so, and stands still.
const PROGRAM: &str = r#"printf %s "$1" >"/proc/$$/comm" && echo named && kill -STOP $$"#;

/// Hands a socket over to a process of that name (any bytes but NUL; the kernel keeps 15), which keeps it until drop.
#[track_caller]
pub fn hold(socket: OwnedFd, name: &[u8]) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", PROGRAM, "sh"]).arg(OsStr::from_bytes(name)).stdin(Stdio::from(socket)).stdout(Stdio::piped());
    let mut child = command.spawn().expect("sh starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("stdout is piped");
    BufReader::new(output).read_line(&mut line).expect("it says a word");
    assert_eq!(line, "named\n", "it could not name itself {:?}", String::from_utf8_lossy(name));
    Running(child)
}
