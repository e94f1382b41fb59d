//! A socket of Docker's that an ordinary user may open, as one in the group `docker` may: it passes on what comes.

use std::io;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tempfile::TempDir;

/// The socket; closed on drop.
pub(crate) struct Relay {
    folder: TempDir,
    ends: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    /// Passes on to `unix:///PATH`.
    pub(crate) fn start(docker: &str) -> Self {
        let target = docker.strip_prefix("unix://").expect("a path").to_owned();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("it is free");
        for (path, mode) in [(folder.path(), 0o755), (path.as_path(), 0o777)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its own file");
        }
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let accepting = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = UnixStream::connect(&target) else { continue };
                for (mut from, mut to) in
                    [(client.try_clone(), server.try_clone()), (server.try_clone(), client.try_clone())]
                        .map(|(from, to)| (from.expect("a clone"), to.expect("a clone")))
                {
                    std::thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self { folder, ends, accepting: Some(accepting) }
    }

    /// As `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.folder.path().join("docker.sock"));
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}
