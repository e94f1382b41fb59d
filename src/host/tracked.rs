//! UDP flows that the kernel's connection tracking sends to another address than the one that was dialled. It keeps
//! doing so while datagrams come, even after the rule that began it is gone.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;

use super::netlink::{Ask, Netlink, attribute, ip};

/// A flow that is sent elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirected {
    /// Who sends.
    pub client: SocketAddr,
    /// Where to.
    pub dialled: SocketAddr,
    /// Where it is sent instead.
    pub sent_to: SocketAddr,
}

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;

/// UDP flows to `port` that are sent elsewhere. Needs root (`CAP_NET_ADMIN`).
pub fn redirected_udp(port: u16) -> io::Result<Vec<Redirected>> {
    const NFNL_SUBSYS_CTNETLINK: u16 = 1;
    const IPCTNL_MSG_CT_GET: u16 = 1;
    let mut netlink = Netlink::open(libc::NETLINK_NETFILTER)?;
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // `nfgenmsg`.
        let body = [u8::try_from(family).unwrap_or(0), 0, 0, 0];
        let messages = match netlink.ask(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, Ask::All, &body) {
            Ok(messages) => messages,
            // A kernel without connection tracking sends nothing elsewhere.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => continue,
            Err(error) => return Err(error),
        };
        let flows = messages.iter().filter_map(|message| redirected(message.get(4..)?));
        found.extend(flows.filter(|flow| flow.dialled.port() == port));
    }
    Ok(found)
}

fn redirected(attributes: &[u8]) -> Option<Redirected> {
    let (client, dialled) = tuple(attribute(attributes, CTA_TUPLE_ORIG)?)?;
    let (sent_to, _) = tuple(attribute(attributes, CTA_TUPLE_REPLY)?)?;
    (sent_to != dialled).then_some(Redirected { client, dialled, sent_to })
}

/// Source and destination of one direction of a UDP flow.
fn tuple(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    const CTA_TUPLE_IP: u16 = 1;
    const CTA_TUPLE_PROTO: u16 = 2;
    let addresses = attribute(bytes, CTA_TUPLE_IP)?;
    let protocol = attribute(bytes, CTA_TUPLE_PROTO)?;
    let is_udp = attribute(protocol, 1)?.first().map(|number| i32::from(*number)) == Some(libc::IPPROTO_UDP);
    // CTA_IP_V4_SRC and _DST are 1 and 2, CTA_IP_V6_SRC and _DST are 3 and 4.
    let address =
        |v4: u16, v6: u16| -> Option<IpAddr> { attribute(addresses, v4).or(attribute(addresses, v6)).and_then(ip) };
    let port = |kind: u16| -> Option<u16> { Some(u16::from_be_bytes(attribute(protocol, kind)?.try_into().ok()?)) };
    let source = SocketAddr::new(address(1, 3)?, port(2)?);
    let destination = SocketAddr::new(address(2, 4)?, port(3)?);
    is_udp.then_some((source, destination))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::encoded;
    use super::*;

    fn direction(kind: u16, source: [u8; 4], from: u16, destination: [u8; 4], to: u16) -> Vec<u8> {
        let addresses = [encoded(1, &source), encoded(2, &destination)].concat();
        let ports = [encoded(1, &[17]), encoded(2, &from.to_be_bytes()), encoded(3, &to.to_be_bytes())].concat();
        encoded(kind | 0x8000, &[encoded(1 | 0x8000, &addresses), encoded(2 | 0x8000, &ports)].concat())
    }

    #[test]
    fn a_flow_is_redirected_when_its_answers_come_from_elsewhere() {
        let to_us = direction(1, [192, 0, 2, 10], 4000, [192, 0, 2, 1], 53);
        let back = direction(2, [192, 0, 2, 1], 53, [192, 0, 2, 10], 4000);
        assert_eq!(redirected(&[to_us.clone(), back].concat()), None);
        let elsewhere = direction(2, [172, 17, 0, 2], 5353, [192, 0, 2, 10], 4000);
        let flow = redirected(&[to_us.clone(), elsewhere].concat()).expect("redirected");
        assert_eq!(flow.sent_to, "172.17.0.2:5353".parse().expect("address"));
        assert_eq!(flow.dialled, "192.0.2.1:53".parse().expect("address"));
        for cut in 0..to_us.len() {
            assert_eq!(redirected(&to_us[..cut]), None, "{cut}");
        }
    }
}
