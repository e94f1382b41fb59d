//! Reads mapping text (contract §1): `FromStr` of the types in [`super::mapping`].
//!
//! Every refusal says what to write instead. Text is never trimmed or folded: one mapping has few spellings,
//! so files, forms and scripts mean the same. The parts (ports, addresses, targets) are read in [`part`].

mod part;

use std::str::FromStr;

use self::part::{looks_like_address, looks_like_port, parse_address, parse_host, parse_host_port, parse_target_port};
use super::mapping::{HostPort, Listen, ListenAddress, Mapping, Protocol, Target};
use super::untrusted::SafeText;

/// Longest text that is looked at, in bytes: twice what the longest DNS name and container name need.
const MAX_TEXT: usize = 1024;
/// Colons beyond this cannot belong to two IPv6 addresses, two ports and a target.
const MAX_PARTS: usize = 20;

/// What is wrong with a mapping text, in the words of faults.md's table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

type Result<T> = std::result::Result<T, GrammarError>;

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(GrammarError(message.into()))
}

/// Input as it may stand in an error.
fn quoted(text: &str) -> SafeText {
    SafeText::quoted(text)
}

const MAPPING_FORM: &str = "expected [ADDRESS:]PORT:TARGET:PORT[/tcp|udp|sctp], for example 8080:web:80";
const LISTEN_FORM: &str = "expected [ADDRESS:]PORT[-PORT], for example 8080 or any:8080";
const TARGET_FORM: &str = "expected TARGET:PORT[-PORT], for example web:80";

impl Mapping {
    /// Joins two sides; refused unless both have as many ports.
    pub fn new(listen: Listen, target: Target, protocol: Protocol) -> Result<Self> {
        let mapping = Self { listen, target, protocol };
        match mapping.listen.port {
            HostPort::Auto if mapping.target.ports.count() > 1 => refuse(format!(
                "auto takes one port, not a range: write one target port instead of {}",
                mapping.target.ports
            )),
            HostPort::Ports(ports) if ports.count() != mapping.target.ports.count() => {
                refuse(format!("the ranges differ in length ({} and {})", ports.count(), mapping.target.ports.count()))
            }
            _ => Ok(mapping),
        }
    }
}

impl FromStr for Mapping {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self> {
        check_text(text)?;
        let parts = split_at_colons(text)?;
        let (address, port, host, last) = match parts[..] {
            [port, host, last] => {
                if looks_like_address(port) && !looks_like_port(port) {
                    return refuse(incomplete_after_address(port, host, last));
                }
                (None, port, host, last)
            }
            [address, port, host, last] => (Some(address), port, host, last),
            [port, last] if looks_like_port(port) && looks_like_port(without_protocol(last)) => {
                return refuse(names_no_container("", port, last));
            }
            _ => return refuse(unbracketed_in_mapping(&parts).unwrap_or_else(|| MAPPING_FORM.into())),
        };
        if [Some(port), address, Some(host), Some(last)].contains(&Some("")) {
            return refuse(MAPPING_FORM);
        }
        let listen = parse_listen(address, port)?;
        let (target_port, protocol) = match last.split_once('/') {
            Some((port, protocol)) => (port, Some(protocol)),
            None => (last, None),
        };
        let target = Target { host: parse_host(host)?, ports: parse_target_port(target_port)? };
        let protocol = protocol.map_or(Ok(Protocol::Tcp), str::parse)?;
        Self::new(listen, target, protocol)
    }
}

impl FromStr for Listen {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self> {
        check_text(text)?;
        let parts = split_at_colons(text)?;
        if parts.contains(&"") && parts.len() < 3 {
            return refuse(LISTEN_FORM);
        }
        match parts[..] {
            [address] if looks_like_address(address) && !looks_like_port(address) => {
                refuse(format!("{0} names no port: write {0}:PORT", quoted(address)))
            }
            [port] => parse_listen(None, no_protocol_here(port)?),
            [address, port] => parse_listen(Some(address), no_protocol_here(port)?),
            _ => refuse(unbracketed_in_half(&parts).unwrap_or_else(|| LISTEN_FORM.into())),
        }
    }
}

impl FromStr for Target {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self> {
        check_text(text)?;
        let parts = split_at_colons(text)?;
        if parts.contains(&"") && parts.len() < 3 {
            return refuse(TARGET_FORM);
        }
        match parts[..] {
            [port] if looks_like_port(without_protocol(port)) => {
                refuse(format!("{0} names no container: write CONTAINER:{0}", quoted(port)))
            }
            [host, port] => {
                let port = no_protocol_here(port)?;
                Ok(Self { host: parse_host(host)?, ports: parse_target_port(port)? })
            }
            [_] => refuse(TARGET_FORM),
            _ => refuse(unbracketed_in_half(&parts).unwrap_or_else(|| TARGET_FORM.into())),
        }
    }
}

impl FromStr for Protocol {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            other => refuse(format!("unknown protocol \"{}\": use tcp, udp or sctp", quoted(other))),
        }
    }
}

impl TryFrom<String> for Mapping {
    type Error = GrammarError;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for Listen {
    type Error = GrammarError;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for Target {
    type Error = GrammarError;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

fn parse_listen(address: Option<&str>, port: &str) -> Result<Listen> {
    let address = address.map_or(Ok(ListenAddress::Localhost), parse_address)?;
    Ok(Listen { address, port: parse_host_port(port)? })
}

/// What holds for every text, whichever part it is.
fn check_text(text: &str) -> Result<()> {
    if text.len() > MAX_TEXT {
        return refuse(format!("the text is too long ({} bytes, at most {MAX_TEXT})", text.len()));
    }
    if text.contains(char::is_whitespace) {
        return refuse(format!("\"{}\" holds a space: a mapping has none", quoted(text)));
    }
    Ok(())
}

/// Splits at the colons that stand outside brackets.
fn split_at_colons(text: &str) -> Result<Vec<&str>> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '[' if inside => return refuse(format!("\"{}\": a bracket opens inside brackets", quoted(text))),
            '[' => inside = true,
            ']' if !inside => return refuse(format!("\"{}\": a bracket closes that never opened", quoted(text))),
            ']' => {
                inside = false;
                let (before, after) = text.split_at(at + 1);
                if looks_like_port(after.split([':', '/']).next().unwrap_or_default()) {
                    let fixed = format!("{before}:{after}");
                    return refuse(format!("a colon belongs after the bracket: write {}", quoted(&fixed)));
                }
            }
            ':' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return refuse(format!("\"{}\": a bracket is never closed", quoted(text)));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn without_protocol(port: &str) -> &str {
    port.split_once('/').map_or(port, |(port, _)| port)
}

/// A half of a mapping carries no protocol: it would be given twice, and the two could differ.
fn no_protocol_here(port: &str) -> Result<&str> {
    match port.split_once('/') {
        None => Ok(port),
        Some((port, protocol)) => {
            let protocol: Protocol = protocol.parse()?;
            refuse(format!(
                "the protocol stands in its own field: write {} and \"protocol\": \"{protocol}\"",
                quoted(port)
            ))
        }
    }
}

/// `8080:80`, or the same after an address.
fn names_no_container(address: &str, port: &str, last: &str) -> String {
    let (port, last) = (quoted(port), quoted(last));
    let whole =
        if address.is_empty() { String::new() } else { format!(", here {}:{port}:CONTAINER:{last}", quoted(address)) };
    format!("{port}:{last} names no container: write {port}:CONTAINER:{last}{whole}")
}

/// `ADDRESS:x:y`: either the container or the host's port is missing.
fn incomplete_after_address(address: &str, middle: &str, last: &str) -> String {
    if !looks_like_port(without_protocol(last)) || middle.is_empty() {
        MAPPING_FORM.into()
    } else if looks_like_port(middle) {
        names_no_container(address, middle, last)
    } else {
        let (address, middle, last) = (quoted(address), quoted(middle), quoted(last));
        format!("{address}:{middle}:{last} names no host port: write {address}:PORT:{middle}:{last}")
    }
}

/// Whether these parts, joined again, are one IPv6 address.
fn is_ipv6(parts: &[&str]) -> bool {
    let text = parts.join(":");
    let ip = text.split_once('%').map_or(text.as_str(), |(ip, _)| ip);
    parts.len() > 1 && ip.parse::<std::net::Ipv6Addr>().is_ok()
}

/// Finds the reading of a text with too many colons in which an IPv6 address only lacks its brackets.
fn unbracketed_in_mapping(parts: &[&str]) -> Option<String> {
    if parts.len() < 5 || parts.len() > MAX_PARTS {
        return None;
    }
    let bracketed = |parts: &[&str]| {
        if is_ipv6(parts) {
            Some(format!("[{}]", parts.join(":")))
        } else if let [part] = parts {
            (!part.is_empty()).then(|| (*part).to_owned())
        } else {
            None
        }
    };
    let last = parts.len() - 1;
    (0..last - 1)
        .find_map(|at| {
            let target = bracketed(&parts[at + 1..last])?;
            let address = if at == 0 { String::new() } else { bracketed(&parts[..at])? + ":" };
            (looks_like_port(parts[at]) && looks_like_port(without_protocol(parts[last])))
                .then(|| format!("{address}{}:{target}:{}", parts[at], parts[last]))
        })
        // Even where no reading fits, a double colon tells what was meant.
        .or_else(|| parts.windows(2).any(|pair| pair == ["", ""]).then(|| "[::1]:8080:web:80".to_owned()))
        .map(|fixed| format!("an IPv6 address needs brackets: {}", quoted(&fixed)))
}

/// The same for `ADDRESS:PORT` or `TARGET:PORT` alone.
fn unbracketed_in_half(parts: &[&str]) -> Option<String> {
    let (port, address) = parts.split_last()?;
    (parts.len() <= MAX_PARTS && is_ipv6(address) && looks_like_port(without_protocol(port)))
        .then(|| format!("an IPv6 address needs brackets: {}", quoted(&format!("[{}]:{port}", address.join(":")))))
}
