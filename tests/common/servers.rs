//! nginx and HAProxy as Debian packs them, each with a configuration of a test's own, in a folder of its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::netns::Namespace;
use super::{Running, SOON, output, wait_until};

/// Lets nginx pass on what is no HTTP.
pub const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A server that runs until dropped.
#[derive(Debug)]
pub struct ConfiguredServer {
    process: Running,
    folder: TempDir,
}

impl ConfiguredServer {
    /// nginx with these blocks (`http {…}`, `stream {…}`); `FOLDER` in them is the server's own. It listens when this
    /// returns, on each of `ports` at least.
    #[track_caller]
    pub fn nginx(namespace: &Namespace, blocks: &str, ports: &[u16]) -> Self {
        let head = format!(
            "load_module {STREAM_MODULE};\ndaemon off;\nmaster_process off;\nuser root;\npid FOLDER/pid;\n\
             error_log FOLDER/log.errors;\nevents {{}}\n"
        );
        let folder = configured(&(head + blocks));
        let mut command = namespace.command("nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("configuration"));
        Self::start(namespace, command, folder, ports)
    }

    /// HAProxy with these sections; what it logs by `log stdout` is in [`ConfiguredServer::log`]. It listens when this
    /// returns, on each of `ports` at least.
    #[track_caller]
    pub fn haproxy(namespace: &Namespace, sections: &str, ports: &[u16]) -> Self {
        let head = "global\n log stdout format raw local0\n\
                    defaults\n log global\n timeout connect 20s\n timeout client 20s\n timeout server 20s\n";
        let folder = configured(&(head.to_owned() + sections));
        let mut command = namespace.command("haproxy");
        command.arg("-db").arg("-f").arg(folder.path().join("configuration"));
        Self::start(namespace, command, folder, ports)
    }

    #[track_caller]
    fn start(namespace: &Namespace, mut command: Command, folder: TempDir, ports: &[u16]) -> Self {
        let log = |name: &str| File::create(folder.path().join(name)).expect("a file in a folder of ours");
        command.stdin(Stdio::null()).stdout(log("log")).stderr(log("log.stderr"));
        let process = Running(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let mut server = Self { process, folder };
        wait_until(&format!("{command:?} listens"), SOON, || {
            let ended = server.process.0.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "{command:?} has ended: {}", server.errors());
            let listening = output(namespace.command("ss").args(["-Htln"]));
            ports.iter().all(|port| listening.split_whitespace().any(|word| word.ends_with(&format!(":{port}"))))
        });
        server
    }

    /// A file of its folder, as far as it is written.
    pub fn file(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What it has written to its standard output.
    pub fn log(&self) -> String {
        self.file("log")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn errors(&self) -> String {
        self.file("log.stderr") + &self.file("log.errors")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn configured(text: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let text = text.replace("FOLDER", &folder.path().display().to_string());
    fs::write(folder.path().join("configuration"), text + "\n").expect("a file in a folder of ours");
    folder
}
