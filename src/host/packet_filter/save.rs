//! Reads what `iptables-save -c` and its kin print. Pure; what is not understood is kept as unknown, never guessed.

use std::net::IpAddr;

use super::{Action, Chain, Condition, Hook, Policy, Rule, Table, What};
use crate::model::mapping::{Family, Protocol};
use crate::model::untrusted::SafeText;

/// Most lines that are read.
const MOST_LINES: usize = 50_000;
/// Options of matches that are understood; others, and matches without options, may hold or not.
const KNOWN_MATCHES: [&str; 8] = ["tcp", "udp", "sctp", "conntrack", "state", "addrtype", "comment", "multiport"];

/// The tables in `text`.
pub(in crate::host) fn tables(text: &str, source: &str, family: Family) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines().take(MOST_LINES) {
        if let Some(name) = line.strip_prefix('*') {
            let (name, source) = (name.trim().to_owned(), source.to_owned());
            tables.push(Table { source, name, family: Some(family), ..Table::default() });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(declared) = line.strip_prefix(':') {
            chain(table, declared);
        } else if line.starts_with('[') || line.starts_with("-A") {
            rule(table, line);
        }
    }
    tables
}

/// `INPUT DROP [12:720]`
fn chain(table: &mut Table, declared: &str) {
    let mut words = declared.split_whitespace();
    let (Some(name), Some(policy)) = (words.next(), words.next()) else { return };
    let hook = match name {
        "PREROUTING" => Some(Hook::Prerouting),
        "INPUT" => Some(Hook::Input),
        "FORWARD" => Some(Hook::Forward),
        "OUTPUT" => Some(Hook::Output),
        "POSTROUTING" => Some(Hook::Postrouting),
        _ => None,
    };
    let priority = match table.name.as_str() {
        "raw" => -300,
        "mangle" => -150,
        "nat" if matches!(hook, Some(Hook::Prerouting | Hook::Output)) => -100,
        "nat" => 100,
        "security" => 50,
        _ => 0,
    };
    let chain = Chain {
        hook,
        priority,
        policy: if policy == "DROP" { Policy::Drop } else { Policy::Accept },
        policy_packets: words.next().and_then(packets),
        rules: Vec::new(),
    };
    table.chains.insert(name.to_owned(), chain);
}

/// `[12:720]`
fn packets(word: &str) -> Option<u64> {
    word.strip_prefix('[')?.split(':').next()?.parse().ok()
}

/// `[12:720] -A INPUT -p tcp -m tcp --dport 80 -j DROP`
fn rule(table: &mut Table, line: &str) {
    let (count, spec) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, spec)) => (packets(line), spec),
        None => (None, line),
    };
    let words = split(spec);
    let mut words = words.iter().map(String::as_str).peekable();
    let (Some("-A"), Some(name)) = (words.next(), words.next()) else { return };
    let mut rule = Rule {
        text: SafeText::new(&format!("{} {}: {spec}", table.source, table.name)),
        conditions: Vec::new(),
        action: Action::Continue,
        packets: count,
    };
    let mut is_negated = false;
    let mut ask = |what: What, is_negated: bool| rule.conditions.push(Condition { what, is_negated });
    while let Some(word) = words.next() {
        if word == "!" {
            is_negated = true;
            continue;
        }
        match word {
            "-j" | "-g" => {
                let target = words.next().unwrap_or_default();
                rule.action = action(target, word == "-g", words.by_ref());
                break;
            }
            "-m" if words.next_if(|name| KNOWN_MATCHES.contains(name)).is_some() => {}
            "-m" => {
                words.next();
                ask(What::Unknown, false);
            }
            "--comment" => drop(words.next()),
            "--syn" => ask(What::Opens, is_negated),
            "--tcp-flags" => {
                let opens = (words.next(), words.next()) == (Some("FIN,SYN,RST,ACK"), Some("SYN"));
                ask(if opens { What::Opens } else { What::Unknown }, is_negated);
            }
            option if option.starts_with('-') => {
                // Some options stand alone.
                let value = words.next_if(|next| !next.starts_with('-') && *next != "!").unwrap_or_default();
                ask(condition(option, value), is_negated);
            }
            // More words of an option that is not understood, which may hold already.
            _ => {}
        }
        is_negated = false;
    }
    table.chains.entry(name.to_owned()).or_default().rules.push(rule);
}

fn condition(option: &str, value: &str) -> What {
    let known = match option {
        "-p" => Some(match value {
            "tcp" => What::Protocol(Protocol::Tcp),
            "udp" => What::Protocol(Protocol::Udp),
            "sctp" => What::Protocol(Protocol::Sctp),
            _ => What::OtherProtocol,
        }),
        "-s" => network(value).map(|(ip, prefix)| What::Source(ip, prefix)),
        "-d" => network(value).map(|(ip, prefix)| What::Destination(ip, prefix)),
        "-i" => Some(What::In(value.to_owned())),
        "-o" => Some(What::Out(value.to_owned())),
        "--sport" | "--sports" => ports(value).map(What::SourcePort),
        "--dport" | "--dports" => ports(value).map(What::DestinationPort),
        "--dst-type" if value == "LOCAL" => Some(What::ToThisHost),
        "--src-type" if value == "LOCAL" => Some(What::FromThisHost),
        "--ctstate" | "--state" => Some(What::State {
            new: value.split(',').any(|state| state == "NEW"),
            established: value.split(',').any(|state| state == "ESTABLISHED"),
        }),
        _ => None,
    };
    // `--ctstate` also knows of addresses that were changed, which no packet here tells.
    let is_of_addresses = value.split(',').any(|state| matches!(state, "DNAT" | "SNAT"));
    if is_of_addresses && option == "--ctstate" { What::Unknown } else { known.unwrap_or(What::Unknown) }
}

/// `192.0.2.0/24`, or one address.
fn network(value: &str) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = value.split_once('/').map_or((value, None), |(ip, prefix)| (ip, Some(prefix)));
    let ip: IpAddr = ip.parse().ok()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok()).filter(|prefix| *prefix <= most)?;
    Some((ip, prefix))
}

/// `80`, `80:90`, `80,443,8000:8010`
fn ports(value: &str) -> Option<Vec<(u16, u16)>> {
    let one = |text: &str| -> Option<(u16, u16)> {
        match text.split_once(':') {
            Some(("", last)) => Some((0, last.parse().ok()?)),
            Some((first, "")) => Some((first.parse().ok()?, u16::MAX)),
            Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
            None => text.parse().ok().map(|port| (port, port)),
        }
    };
    value.split(',').map(one).collect()
}

fn action<'a>(target: &str, is_goto: bool, mut rest: impl Iterator<Item = &'a str>) -> Action {
    if is_goto {
        return Action::Goto(target.to_owned());
    }
    match target {
        "ACCEPT" => Action::Accept,
        "MASQUERADE" | "SNAT" => Action::Rewrite,
        "DROP" => Action::Drop,
        "REJECT" => Action::Reject,
        "RETURN" => Action::Return,
        "DNAT" => {
            let to = rest.find(|word| *word == "--to-destination").and_then(|_| rest.next());
            Action::Redirect { to: SafeText::quoted(to.unwrap_or("another address")) }
        }
        "REDIRECT" => {
            let to = rest.find(|word| *word == "--to-ports").and_then(|_| rest.next());
            Action::Redirect { to: SafeText::new(&format!("port {}", SafeText::quoted(to.unwrap_or("?")))) }
        }
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CHECKSUM" | "CT" | "TRACE" | "SET" | "CLASSIFY" | "TOS"
        | "DSCP" | "TTL" | "HL" | "AUDIT" | "SECMARK" | "CONNSECMARK" | "NOTRACK" | "RATEEST" => Action::Continue,
        // What the tools write in capitals is no chain of anybody's.
        "NFQUEUE" | "QUEUE" | "TPROXY" | "NETMAP" | "SYNPROXY" | "TEE" | "TARPIT" | "STEAL" | "" => Action::Unknown,
        chain => Action::Jump(chain.to_owned()),
    }
}

/// Words as the tools write them: in quotes where they hold blanks.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut is_quoted, mut is_open) = (false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                is_open = true;
            }
            '\\' if is_quoted => word.extend(characters.next()),
            blank if blank.is_whitespace() && !is_quoted => {
                if is_open {
                    words.push(std::mem::take(&mut word));
                }
                is_open = false;
            }
            other => {
                word.push(other);
                is_open = true;
            }
        }
    }
    if is_open {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = r#"# Generated
*nat
:PREROUTING ACCEPT [7:420]
:DOCKER - [0:0]
[3:180] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[0:0] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT DROP [5:300]
[1:60] -A INPUT -i lo -j ACCEPT
[2:120] -A INPUT -s 192.0.2.0/24 -m comment --comment "a \"b\" -j ACCEPT" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[0:0] -A INPUT -p tcp -m multiport --dports 80,443,8000:8010 -m limit --limit 5/min -j DROP
[0:0] -A INPUT -p icmp -g elsewhere
COMMIT
"#;

    #[test]
    fn tables_chains_and_rules_are_read_with_their_counters() {
        let tables = tables(DOCKER, "iptables", Family::V4);
        let [nat, filter] = &tables[..] else { panic!("{tables:?}") };
        let docker = &nat.chains["DOCKER"].rules[0];
        let not = |what| Condition { what, is_negated: true };
        let is = |what| Condition { what, is_negated: false };
        assert_eq!(docker.action, Action::Redirect { to: "172.17.0.2:80".into() });
        assert_eq!(
            docker.conditions,
            [
                not(What::In("docker0".into())),
                is(What::Protocol(Protocol::Tcp)),
                is(What::DestinationPort(vec![(8080, 8080)]))
            ]
        );
        let entry = &nat.chains["PREROUTING"];
        assert_eq!((entry.hook, entry.policy_packets), (Some(Hook::Prerouting), Some(7)));
        assert_eq!(entry.rules[0].conditions, [is(What::ToThisHost)]);
        assert_eq!((&entry.rules[0].action, entry.rules[0].packets), (&Action::Jump("DOCKER".into()), Some(3)));

        let input = &filter.chains["INPUT"];
        assert_eq!((input.policy, input.policy_packets), (Policy::Drop, Some(5)));
        let [lo, answers, limited, elsewhere] = &input.rules[..] else { panic!("{input:?}") };
        assert_eq!(lo.conditions, [is(What::In("lo".into()))]);
        let network = What::Source("192.0.2.0".parse().expect("address"), 24);
        assert_eq!(answers.conditions, [is(network), is(What::State { new: false, established: true })]);
        assert_eq!(answers.action, Action::Accept);
        let ports = vec![(80, 80), (443, 443), (8000, 8010)];
        assert!(limited.conditions.contains(&is(What::DestinationPort(ports))));
        assert!(limited.conditions.contains(&is(What::Unknown)));
        assert_eq!(elsewhere.action, Action::Goto("elsewhere".into()));
    }

    #[test]
    fn nonsense_is_no_panic_and_no_rule() {
        for text in [
            "",
            "[",
            "[1:",
            "*",
            ":",
            "-A",
            "*f\n-A INPUT -f -j DROP",
            "*filter\n-A",
            "*filter\n[x] -A INPUT -j",
            "*f\n[1:1] -A \"\\",
        ] {
            let _ = tables(text, "iptables", Family::V4);
        }
        let odd = tables("*filter\n-A INPUT ! -s nowhere -f -m owner --uid-owner 5 -j DROP\n", "iptables", Family::V4);
        let rule = &odd[0].chains["INPUT"].rules[0];
        assert!(rule.conditions.iter().all(|condition| condition.what == What::Unknown), "{rule:?}");
        assert_eq!((&rule.action, rule.packets), (&Action::Drop, None));
    }
}
