//! The parts of a mapping text: ports, addresses to listen on, targets.
//!
//! Each function gets one part without its neighbours and either returns a valid value or says what is wrong
//! with that part.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Result, quoted, refuse};
use crate::model::mapping::{HostPort, ListenAddress, PortRange, ScopedIp, TargetHost};
use crate::model::untrusted::acts_on_a_terminal;

/// Longest container, project or service name.
const MAX_NAME: usize = 255;
/// Longest DNS name and longest label of one (RFC 1035).
const MAX_DNS_NAME: usize = 253;
const MAX_DNS_LABEL: usize = 63;
/// Longest interface name: IFNAMSIZ without its closing zero.
const MAX_INTERFACE: usize = 15;

/// Whether the text has the shape of a host's port, so that a neighbour can be blamed instead.
pub(super) fn looks_like_port(text: &str) -> bool {
    text == "auto" || (text.starts_with(|c: char| c.is_ascii_digit()) && is_digits_and(text, '-'))
}

/// Whether the text has the shape of an address to listen on.
pub(super) fn looks_like_address(text: &str) -> bool {
    matches!(text, "localhost" | "any" | "*") || text.starts_with('[') || looks_like_ipv4(text)
}

/// Digits and dots alone, a dot among them: no name can look so, a mistyped address does.
fn looks_like_ipv4(text: &str) -> bool {
    text.contains('.') && is_digits_and(text, '.')
}

fn is_digits_and(text: &str, other: char) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || c == other)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) fn parse_host_port(text: &str) -> Result<HostPort> {
    match text {
        "auto" => Ok(HostPort::Auto),
        "0" => refuse("host port 0 means \"pick a free one\": write auto"),
        _ if text.split('-').any(|end| end == "auto") => {
            refuse("auto takes one port, not a range: write auto, or a range of numbers")
        }
        _ => parse_ports("host", text).map(HostPort::Ports),
    }
}

pub(super) fn parse_target_port(text: &str) -> Result<PortRange> {
    if text == "auto" {
        return refuse("auto stands on the host's side alone: write the target's port");
    }
    parse_ports("target", text)
}

fn parse_ports(side: &str, text: &str) -> Result<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    if !is_digits(first) || !is_digits(last) {
        return refuse(format!("{side} port \"{}\" is not a number (1-65535) or a range such as 80-90", quoted(text)));
    }
    let (first, last) = (parse_port(side, first)?, parse_port(side, last)?);
    match PortRange::new(first, last) {
        Some(range) => Ok(range),
        None => refuse(format!("the range starts at {first}, after its end {last}")),
    }
}

/// Reads digits alone; never 0.
fn parse_port(side: &str, digits: &str) -> Result<u16> {
    let significant = digits.trim_start_matches('0');
    match significant.parse::<u16>() {
        Ok(port) if significant.len() == digits.len() => Ok(port),
        Ok(port) => refuse(format!("{side} port {} has a leading zero: write {port}", quoted(digits))),
        Err(_) => refuse(format!("{side} port {} is out of range (1-65535)", quoted(digits))),
    }
}

pub(super) fn parse_address(text: &str) -> Result<ListenAddress> {
    match text {
        "localhost" => Ok(ListenAddress::Localhost),
        "any" | "*" => Ok(ListenAddress::Any),
        _ => match parse_ip(text)? {
            Some(ip) => Ok(ListenAddress::Ip(ip)),
            None => refuse(format!(
                "\"{}\" is no address to listen on: use localhost, any or an address of this host",
                quoted(text)
            )),
        },
    }
}

/// Reads an address as it stands in front of a port; `None` where the text does not try to be one.
fn parse_ip(text: &str) -> Result<Option<ScopedIp>> {
    if looks_like_ipv4(text) {
        return match text.parse::<Ipv4Addr>() {
            Ok(ip) => usable(ip.into()).map(|()| Some(IpAddr::V4(ip).into())),
            Err(_) if text.split('.').count() != 4 => {
                refuse(format!("{} is not a valid IPv4 address: it has four numbers, such as 172.17.0.2", quoted(text)))
            }
            Err(_) => refuse(format!("{} is not a valid IPv4 address (leading zeros are not accepted)", quoted(text))),
        };
    }
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return refuse(format!("expected a colon after the bracket in \"{}\"", quoted(text)));
    };
    if looks_like_ipv4(inner) {
        return refuse(format!("an IPv4 address stands without brackets: {}", quoted(inner)));
    }
    let (ip, zone) = inner.split_once('%').map_or((inner, None), |(ip, zone)| (ip, Some(zone)));
    let Ok(ip) = ip.parse::<Ipv6Addr>() else {
        return refuse(format!("{} is not a valid IPv6 address", quoted(text)));
    };
    usable(ip.into())?;
    match (ip.is_unicast_link_local(), zone) {
        (true, None) => refuse(format!("a link-local address needs its interface: [{ip}%eth0]")),
        (false, Some(_)) => refuse(format!("an interface belongs to a link-local address alone: write [{ip}]")),
        (_, Some(zone)) if !is_interface_name(zone) => {
            refuse(format!("\"{}\" is no name of an interface", quoted(zone)))
        }
        (_, zone) => Ok(Some(ScopedIp { ip: ip.into(), zone: zone.map(str::to_owned) })),
    }
}

/// Refuses addresses that no connection can use.
fn usable(ip: IpAddr) -> Result<()> {
    if let IpAddr::V6(v6) = ip
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        // A V6ONLY socket cannot use it, and two spellings of one listener would hide a conflict.
        return refuse(format!("[{ip}] is an IPv4 address in IPv6 clothes: write {v4}"));
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return refuse("a multicast or broadcast address cannot be mapped");
    }
    Ok(())
}

fn is_interface_name(zone: &str) -> bool {
    !matches!(zone, "" | "." | "..")
        && zone.len() <= MAX_INTERFACE
        && !zone.contains(|c: char| c.is_whitespace() || acts_on_a_terminal(c) || matches!(c, '/' | ':' | '%'))
}

pub(super) fn parse_host(text: &str) -> Result<TargetHost> {
    if let Some(ip) = parse_ip(text)? {
        return Ok(TargetHost::Ip(ip));
    }
    if let Some((kind, rest)) = text.split_once('/') {
        return match kind {
            "container" => {
                container_name(rest)?;
                Ok(TargetHost::Container { name: rest.to_owned(), explicit: true })
            }
            "compose" => compose(rest),
            "host" => dns_name(rest),
            _ => refuse(format!(
                "unknown kind of target \"{}\": write container/NAME, compose/PROJECT/SERVICE or host/NAME",
                quoted(kind)
            )),
        };
    }
    match text {
        "localhost" => Ok(TargetHost::Localhost),
        "any" | "*" => refuse(format!("{text} is an address to listen on, not a target")),
        _ if is_digits(text) => {
            refuse(format!("a target of digits alone is ambiguous: write container/{}", quoted(text)))
        }
        _ => {
            container_name(text)?;
            Ok(TargetHost::Container { name: text.to_owned(), explicit: false })
        }
    }
}

/// As Docker names containers and Compose names projects and services.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn container_name(text: &str) -> Result<()> {
    if is_name(text) {
        return Ok(());
    }
    refuse(format!(
        "\"{}\" is no container name: letters, digits, _ . and -, at most {MAX_NAME}, a letter or digit first",
        quoted(text)
    ))
}

fn compose(rest: &str) -> Result<TargetHost> {
    match rest.split_once('/') {
        Some((project, service)) if is_name(project) && is_name(service) => {
            Ok(TargetHost::Compose { project: project.to_owned(), service: service.to_owned() })
        }
        _ => refuse(format!(
            "\"compose/{}\" is no Compose service: write compose/PROJECT/SERVICE, for example compose/shop/web",
            quoted(rest)
        )),
    }
}

fn dns_name(text: &str) -> Result<TargetHost> {
    if text.starts_with('[') || text.parse::<IpAddr>().is_ok() {
        return refuse(format!("an address stands without host/: write {}", quoted(&bracketed(text))));
    }
    if !text.is_ascii() {
        return refuse(format!("\"{}\" is not ASCII: write the name in its xn-- form", quoted(text)));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > MAX_DNS_NAME || !name.split('.').all(is_dns_label) {
        return refuse(format!("\"{}\" is no DNS name, such as host/db.internal", quoted(text)));
    }
    // Resolvers read `host/123` and `host/0x7f.1` as addresses, by rules that no one expects.
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    if is_digits(last) || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return refuse(format!("\"{}\" is no DNS name: its last part is a number", quoted(text)));
    }
    Ok(TargetHost::Dns(text.to_owned()))
}

fn bracketed(text: &str) -> String {
    if text.parse::<Ipv6Addr>().is_ok() { format!("[{text}]") } else { text.to_owned() }
}

fn is_dns_label(label: &str) -> bool {
    (1..=MAX_DNS_LABEL).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}
