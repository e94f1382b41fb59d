//! A look from inside the network namespace of another process, on a thread of its own.

use std::fs::File;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Does `work` as if this process were in the network namespace of process `pid`. Needs root. The thread ends with
/// the work, so nothing else of this program ever runs there.
pub fn within<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    thread::scope(|scope| {
        let looking = thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?;
        looking.join().unwrap_or_else(|_| Err(io::Error::other("the look into a namespace has failed")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_alone_may_look_into_a_namespace() {
        let looked = within(std::process::id(), || 1);
        assert_eq!(looked.is_ok(), nix::unistd::geteuid().is_root(), "{looked:?}");
        assert!(within(u32::MAX, || 1).is_err());
    }
}
