//! Figures, ages, addresses and states as people read them, on the screen and in what commands print (SI units,
//! three significant digits).
//!
//! Pure functions of their arguments. Nothing here knows of a terminal; text is shortened with `…`, which the
//! screen turns into ASCII where that is asked for.

use std::net::{IpAddr, SocketAddr};

use super::event::{CloseReason, ConnectionState, MappingState};
use super::mapping::{Family, Mapping, Protocol};
use super::update::{LastOutcome, LastResult};

mod shorten;

pub use shorten::{
    elide_address, elide_addresses, elide_end, elide_endpoint, elide_middle, elide_process, width, wrap,
};

const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// Three significant digits and an SI prefix, at most five columns: `312`, `1.10k`, `48.0M`, `340k`.
pub fn si(count: u64) -> String {
    let (digits, prefix) = scaled(count as f64);
    format!("{digits}{prefix}")
}

/// As [`si`], with a space and the unit: `340 kB`, `1.24 MB`, `12 B`.
pub fn si_bytes(count: f64) -> String {
    let (digits, prefix) = scaled(count);
    format!("{digits} {prefix}B")
}

/// A rate in a column: `-` when idle.
pub fn rate(per_second: Option<f64>) -> String {
    match per_second {
        Some(rate) if rate >= 0.5 => {
            let (digits, prefix) = scaled(rate);
            format!("{digits}{prefix}")
        }
        _ => "-".to_owned(),
    }
}

/// A rate in a sentence: `340 kB/s`, `-` when idle.
pub fn rate_long(per_second: f64) -> String {
    if per_second >= 0.5 { format!("{}/s", si_bytes(per_second)) } else { "-".to_owned() }
}

/// Digits and prefix. Rounding may reach the next prefix: 999,600 is `1.00M`.
fn scaled(count: f64) -> (String, &'static str) {
    let mut value = count.round();
    if value < 999.5 {
        return (format!("{value:.0}"), "");
    }
    for prefix in &PREFIXES[1..] {
        value /= 1000.0;
        if value >= 999.5 {
            continue;
        }
        let digits = if value < 9.995 {
            format!("{value:.2}")
        } else if value < 99.95 {
            format!("{value:.1}")
        } else {
            format!("{value:.0}")
        };
        return (digits, prefix);
    }
    (format!("{value:.0}"), "E")
}

/// `9s`, `2m03s`, `3h12m`, `4d`.
pub fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `0.02ms`, `0.4ms`, `12ms`, `1.2s`.
pub fn latency(microseconds: u64) -> String {
    let ms = microseconds as f64 / 1000.0;
    match microseconds {
        0..100 => format!("{ms:.2}ms"),
        100..9_950 => format!("{ms:.1}ms"),
        9_950..999_500 => format!("{ms:.0}ms"),
        _ => format!("{:.1}s", ms / 1000.0),
    }
}

/// `v6-v4`: the client's family, then the target's; `??` where it is not known.
pub fn families(client: Option<SocketAddr>, target: Option<SocketAddr>) -> String {
    let family = |at: Option<SocketAddr>| at.map_or_else(|| "??".to_owned(), |at| Family::of(at.ip()).to_string());
    format!("{}-{}", family(client), family(target))
}

/// An endpoint, or `??` where it is not known.
pub fn endpoint(at: Option<SocketAddr>) -> String {
    at.map_or_else(|| "??".to_owned(), |at| at.to_string())
}

/// How a browser speaks to a target's port.
pub fn scheme(target_port: u16) -> &'static str {
    if matches!(target_port, 443 | 8443) { "https" } else { "http" }
}

/// Where clients find a mapping: `http://[::1]:8080/`, `[::1]:5353/udp`.
pub fn place(address: SocketAddr, protocol: Protocol, target_port: u16) -> String {
    match protocol {
        Protocol::Tcp => format!("{}://{address}/", scheme(target_port)),
        other => format!("{address}/{other}"),
    }
}

/// A port of a container: `80/tcp`.
pub fn port(port: u16, protocol: Protocol) -> String {
    format!("{port}/{protocol}")
}

/// An address as it stands before a port: IPv6 in brackets.
pub fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// The listen side with the protocol: `any:8080/tcp`.
pub fn listen(mapping: &Mapping, with_tcp: bool) -> String {
    if mapping.protocol == Protocol::Tcp && !with_tcp {
        mapping.listen.to_string()
    } else {
        format!("{}/{}", mapping.listen, mapping.protocol)
    }
}

/// The word of the STATE column, five columns at most where the list is dense.
pub fn mapping_state(state: MappingState) -> &'static str {
    match state {
        MappingState::Starting => "start",
        MappingState::Up => "up",
        MappingState::Half => "half",
        MappingState::Waiting => "wait",
        MappingState::Failed => "fail",
        MappingState::Degraded => "degr",
        MappingState::Stopped => "stop",
    }
}

/// The contract's word, for sentences and filters.
pub fn mapping_state_word(state: MappingState) -> &'static str {
    match state {
        MappingState::Starting => "starting",
        MappingState::Up => "up",
        MappingState::Half => "half",
        MappingState::Waiting => "waiting",
        MappingState::Failed => "failed",
        MappingState::Degraded => "degraded",
        MappingState::Stopped => "stopped",
    }
}

/// The word of the STATE column of a connection.
pub fn connection_state(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Connecting => "dialing",
        ConnectionState::Open => "open",
        ConnectionState::HalfClosed => "half",
        ConnectionState::Closing => "closing",
        ConnectionState::Closed => "closed",
    }
}

/// Why a connection ended, in at most fifteen columns.
pub fn close_reason(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Finished => "finished",
        CloseReason::ClientReset => "reset by client",
        CloseReason::TargetReset => "reset by target",
        CloseReason::TargetRefused => "refused",
        CloseReason::TargetUnreachable => "unreachable",
        CloseReason::ConnectTimeout => "no answer",
        CloseReason::IdleTimeout => "idle too long",
        CloseReason::HalfCloseTimeout => "half too long",
        CloseReason::Killed => "reset by user",
        CloseReason::MappingRemoved => "mapping gone",
        CloseReason::Rejected => "rejected",
        CloseReason::Limit => "over limit",
        CloseReason::Evicted => "gave its place",
        CloseReason::Fault => "fault",
        CloseReason::Shutdown => "program ended",
        CloseReason::Error => "error",
    }
}

/// Outcome of an attempt to reach a target, as one word.
pub fn outcome(outcome: LastOutcome) -> &'static str {
    match outcome {
        LastOutcome::Ok => "ok",
        LastOutcome::Refused => "refused",
        LastOutcome::Unreachable => "unreachable",
        LastOutcome::Timeout => "no answer",
        LastOutcome::Error => "error",
    }
}

/// `ok 0.4ms` or `refused 3/3`.
pub fn last_result(result: LastResult) -> String {
    match result.outcome {
        LastOutcome::Ok => format!("ok {}", latency(result.took_us)),
        other => format!("{} {}/{}", outcome(other), result.failures, result.attempts),
    }
}

/// What tells in an error, as it fits a column: `node 812` of `in use by node (pid 812)`, `not running` of
/// `Docker: cannot open …: not running`. Other texts stay as they are.
pub fn short_error(error: &str) -> String {
    // How these texts begin or end, and what is left of them.
    const ENDS: [(&str, &str); 3] = [
        (" is not an address of this host", "not local"),
        (" has no network address", "no address"),
        (": the mapping waits", "stopped"),
    ];
    if let Some((_, short)) = ENDS.iter().find(|(end, _)| error.ends_with(end)) {
        return (*short).to_owned();
    }
    if error.contains(" needs the capability CAP_NET_BIND_SERVICE") {
        return "port < 1024".to_owned();
    }
    if error.contains("\" not found") {
        return "not found".to_owned();
    }
    if let Some(why) = error.strip_prefix("Docker: ").and_then(|error| error.rsplit_once(": ")) {
        return why.1.to_owned();
    }
    let who = error.rsplit_once("in use by ").map_or(error, |(_, who)| who);
    match who.split_once(" (pid ") {
        Some((name, rest)) => {
            let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
            format!("{name} {pid}")
        }
        None => who.to_owned(),
    }
}

/// `dev.json` of `/home/me/.config/portolan/profiles/dev.json`.
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_significant_digits() {
        let table = [
            (0, "0"),
            (312, "312"),
            (999, "999"),
            (1000, "1.00k"),
            (1100, "1.10k"),
            (9_994, "9.99k"),
            (9_996, "10.0k"),
            (99_949, "99.9k"),
            (99_960, "100k"),
            (340_000, "340k"),
            (999_499, "999k"),
            (999_600, "1.00M"),
            (20_838_000, "20.8M"),
            (48_000_000, "48.0M"),
            (u64::MAX, "18.4E"),
        ];
        for (count, shown) in table {
            assert_eq!(si(count), shown, "{count}");
        }
    }

    #[test]
    fn idle_is_a_dash_and_rates_say_their_unit() {
        assert_eq!(rate(None), "-");
        assert_eq!(rate(Some(0.0)), "-");
        assert_eq!(rate(Some(1_210_000.0)), "1.21M");
        assert_eq!(rate_long(340_000.0), "340 kB/s");
        assert_eq!(rate_long(12.0), "12 B/s");
        assert_eq!(si_bytes(1_900_000.0), "1.90 MB");
    }

    #[test]
    fn ages_and_latencies_read_as_in_the_specification() {
        for (ms, shown) in [(0, "0s"), (9_999, "9s"), (123_000, "2m03s"), (11_520_000, "3h12m"), (400_000_000, "4d")] {
            assert_eq!(age(ms), shown);
        }
        for (us, shown) in [(20, "0.02ms"), (400, "0.4ms"), (9_960, "10ms"), (12_300, "12ms"), (1_200_000, "1.2s")] {
            assert_eq!(latency(us), shown);
        }
    }

    #[test]
    fn who_holds_a_port_fits_a_column() {
        assert_eq!(short_error("[::1]:9000 is in use by node (pid 812)"), "node 812");
        assert_eq!(short_error("permission denied"), "permission denied");
        let table = [
            ("Docker: cannot open /var/run/docker.sock: not running", "not running"),
            ("Docker: cannot open /var/run/docker.sock: permission denied", "permission denied"),
            ("2001:db8:1111:2222:3333:4444:5555:6666 is not an address of this host", "not local"),
            ("port 80 needs the capability CAP_NET_BIND_SERVICE, or a port from 1024", "port < 1024"),
            ("container \"web\" not found (similar: \"web-1\")", "not found"),
            ("container \"web_1\" is stopped: the mapping waits", "stopped"),
            ("container \"web_1\" has no network address", "no address"),
        ];
        for (error, short) in table {
            assert_eq!(short_error(error), short);
        }
    }
}
