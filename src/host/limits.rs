//! What the kernel allows this process and what it has: IPv6, low ports.

use std::fs;

/// The first port that needs no capability, where the kernel does not say another.
const FIRST_UNPRIVILEGED: u16 = 1024;
/// `CAP_NET_BIND_SERVICE`.
const NET_BIND_SERVICE: u64 = 1 << 10;

/// Whether this host has IPv6: at least one IPv6 address, if only loopback's. Without one, `localhost` and `any`
/// mean IPv4.
pub fn has_ipv6() -> bool {
    fs::read_to_string("/proc/net/if_inet6").is_ok_and(|table| !table.trim().is_empty())
}

/// The first port that everybody may bind (1024, unless the administrator chose another).
pub fn first_unprivileged_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(FIRST_UNPRIVILEGED)
}

/// Whether this process may bind `port`.
pub fn may_bind(port: u16) -> bool {
    port >= first_unprivileged_port() || has_bind_capability()
}

fn has_bind_capability() -> bool {
    procfs::process::Process::myself()
        .and_then(|process| process.status())
        .is_ok_and(|status| status.capeff & NET_BIND_SERVICE != 0)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn ipv6_is_said_to_be_there_exactly_when_loopback_can_be_bound() {
        assert_eq!(has_ipv6(), TcpListener::bind("[::1]:0").is_ok());
    }

    #[test]
    fn high_ports_are_for_everybody() {
        assert!(may_bind(65535));
        assert!(first_unprivileged_port() <= FIRST_UNPRIVILEGED);
    }
}
