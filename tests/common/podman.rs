//! A private Podman with its Docker-compatible API, in namespaces of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::netns::Namespace;
use super::{SOON, output, wait_until};

/// Podman's service. It ends on drop, and everything in it.
#[derive(Debug)]
pub struct Podman {
    /// The host that it runs on; its bridge is 203.0.113.1/24 while a container runs.
    pub namespace: Namespace,
    folder: TempDir,
    service: Child,
}

impl Podman {
    /// Starts it, with the image `portolan-test` of busybox alone.
    #[track_caller]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let namespace = Namespace::new("podman");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lib/podman-inside.sh");
        let mut command = namespace.command("unshare");
        command
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["bash", script])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        let service = command.spawn().expect("unshare starts");
        let podman = Self { namespace, folder, service };
        wait_until("Podman answers", 2 * SOON, || {
            let answer = podman.docker(&["version"]).output();
            answer.is_ok_and(|answer| answer.status.success())
        });
        podman.import();
        podman
    }

    /// As `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("podman.sock")
    }

    /// Docker's own client with this engine.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(arguments);
        command
    }

    /// Runs a busybox program as a container.
    #[track_caller]
    pub fn run(&self, name: &str, arguments: &[&str], command: &[&str]) {
        let mut run = self.docker(&["run", "--detach", "--name", name]);
        output(run.args(arguments).arg("portolan-test").args(command));
    }

    /// The address of a container.
    #[track_caller]
    pub fn address(&self, name: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        output(&mut self.docker(&["inspect", "--format", format, name])).trim().to_owned()
    }

    fn import(&self) {
        let root = self.folder.path().join("image");
        let script =
            "set -e; mkdir -p \"$1/bin\" \"$1/tmp\" \"$1/www\"; cp \"$(command -v busybox)\" \"$1/bin/busybox\"
            for applet in cat echo hostname httpd mkdir nc sh sleep; do ln -s busybox \"$1/bin/$applet\"; done
            tar -C \"$1\" -c . >\"$1.tar\"";
        output(Command::new("sh").args(["-c", script, "sh"]).arg(&root));
        output(self.docker(&["import"]).arg(root.with_extension("tar")).arg("portolan-test"));
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Its standard input ends, and with it the first process of its namespace and so all others.
        drop(self.service.stdin.take());
        let _ = self.service.wait();
    }
}
