//! Whether a contestant listens, asked of the kernel: a trial connection would already be work.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use procfs::net::{TcpState, tcp, tcp6, udp, udp6};

/// Longest wait for a contestant to listen; one that is run by a program that counts takes long.
const PATIENCE: Duration = Duration::from_mins(2);

/// A span of ports that are to be listened on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// The lowest.
    pub(crate) first: u16,
    /// How many.
    pub(crate) count: u16,
}

impl Ports {
    fn holds(self, port: u16) -> bool {
        port >= self.first && port - self.first < self.count
    }

    /// Waits until every one is listened on over TCP, and over UDP if that is asked for, as long as `alive` is fine.
    pub(crate) fn wait(self, has_udp: bool, mut alive: impl FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.tcp_listeners()? < usize::from(self.count) || (has_udp && self.udp_sockets()? == 0) {
            alive()?;
            if Instant::now() > deadline {
                bail!("nobody listens on every one of {self:?} after {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn tcp_listeners(self) -> Result<usize> {
        let mut ports: Vec<u16> = (tcp()?.into_iter().chain(tcp6()?))
            .filter(|entry| entry.state == TcpState::Listen && self.holds(entry.local_address.port()))
            .map(|entry| entry.local_address.port())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Ok(ports.len())
    }

    fn udp_sockets(self) -> Result<usize> {
        Ok((udp()?.into_iter().chain(udp6()?)).filter(|entry| self.holds(entry.local_address.port())).count())
    }
}
