//! Names as a test wants them: an /etc/hosts of the program's own, which may change while it runs.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use tempfile::NamedTempFile;

use super::netns::Namespace;
use super::program::{Home, PORTOLAN};

/// The list of names that the program sees in place of the machine's. Needs what namespaces need.
#[derive(Debug)]
pub struct Hosts(NamedTempFile);

impl Hosts {
    /// Lines of an address and a name.
    #[track_caller]
    pub fn new(lines: &str) -> Self {
        let hosts = Self(NamedTempFile::new().expect("a temporary file can be made"));
        hosts.set(lines);
        hosts
    }

    /// From now on these lines. The file stays the same one, since it is what the program has mounted.
    #[track_caller]
    pub fn set(&self, lines: &str) {
        let mut file = OpenOptions::new().write(true).open(self.0.path()).expect("it is there");
        // In one piece and never empty between: whoever reads meanwhile finds the old names or the new.
        writeln!(file, "{lines}").expect("it can be written");
        let length = lines.len() as u64 + 1;
        file.set_len(length).expect("it can be cut");
    }

    /// The program in a namespace, with these names and a mount namespace of its own. The process is the program
    /// itself: a signal reaches it.
    pub fn command(&self, namespace: &Namespace, home: &Home) -> Command {
        let mut command = namespace.command("unshare");
        let mount = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        command.args(["--mount", "--", "sh", "-c", mount, "sh"]).arg(self.0.path()).arg(PORTOLAN);
        command.env_clear().envs(home.environment());
        command
    }
}
