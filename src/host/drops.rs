//! What the kernel counts of packets that it dropped for a reason of its own, and the reverse-path filter behind some
//! of them. Each network namespace counts for itself; that of a process is read by its pid.

use std::fs;
use std::path::PathBuf;

use crate::model::untrusted::SafeText;

/// Counters of drops, as they stood at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Packets that came in by another way than answers to them would go (`rp_filter`).
    pub reverse_path: u64,
    /// Connections that found the queue of their listener full.
    pub full_queue: u64,
}

/// The counters of this network namespace, or of that of process `pid`.
pub fn read(pid: Option<u32>) -> Option<Drops> {
    let owner = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    parse(&fs::read_to_string(format!("/proc/{owner}/net/netstat")).ok()?)
}

/// Two lines for each group, names and figures.
pub(super) fn parse(text: &str) -> Option<Drops> {
    let mut lines = text.lines();
    let names = lines.by_ref().find(|line| line.starts_with("TcpExt:"))?.split_whitespace();
    let figures = lines.next()?.split_whitespace();
    let mut drops = Drops::default();
    for (name, figure) in names.zip(figures) {
        match name {
            "IPReversePathFilter" => drops.reverse_path = figure.parse().ok()?,
            "ListenOverflows" => drops.full_queue = figure.parse().ok()?,
            _ => {}
        }
    }
    Some(drops)
}

/// The interfaces on which the reverse-path filter is strict: what comes in there is dropped unless answers would
/// leave by the same one.
pub fn strict_interfaces() -> Vec<SafeText> {
    let value = |interface: &str| -> u32 {
        let path: PathBuf = ["/proc/sys/net/ipv4/conf", interface, "rp_filter"].iter().collect();
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let all = value("all");
    let interfaces = fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let names = interfaces.filter_map(|entry| entry.file_name().into_string().ok());
    // The kernel takes the higher of the two.
    names
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo") && all.max(value(name)) == 1)
        .map(|name| SafeText::new(&name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let text = "TcpExt: SyncookiesSent ListenOverflows IPReversePathFilter\nTcpExt: 1 22 333\nIpExt: A\nIpExt: 4\n";
        assert_eq!(parse(text), Some(Drops { reverse_path: 333, full_queue: 22 }));
        for broken in ["", "TcpExt: A", "TcpExt: ListenOverflows\nTcpExt: x\n", "IpExt: A\nIpExt: 1\n"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
        assert!(read(None).is_some());
        assert_eq!(read(Some(std::process::id())).is_some(), read(None).is_some());
    }
}
