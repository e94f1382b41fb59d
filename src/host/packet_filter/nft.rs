//! Reads what `nft -j list ruleset` prints. Pure; what is not understood is kept as unknown, never guessed.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;

use super::{Action, COMMON, Chain, Condition, Hook, Policy, Rule, Table, What};
use crate::model::mapping::{Family, Protocol};
use crate::model::untrusted::SafeText;

/// Most objects that are read.
const MOST: usize = 50_000;

/// The tables in `text`, without those that the tools of the older filter list (all but those of the families in
/// `unlisted`); `None` for what is no such list.
pub(in crate::host) fn tables(text: &str, unlisted: &[(Family, SafeText)]) -> Option<Vec<Table>> {
    let listed: Value = serde_json::from_str(text).ok()?;
    let mut tables: Vec<Table> = Vec::new();
    // There may be as many tables as objects in them.
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    for object in listed.get("nftables")?.as_array()?.iter().take(MOST) {
        if let Some(table) = object.get("table") {
            // Filters of bridges and devices are another matter.
            let of = word(table, "family");
            if !["ip", "ip6", "inet"].contains(&of) {
                continue;
            }
            let (family, source) = (family(of), format!("nft {of}"));
            places.insert((of, word(table, "name")), tables.len());
            tables.push(Table { source, name: word(table, "name").to_owned(), family, ..Table::default() });
        } else if let Some(declared) = object.get("chain") {
            if let Some(table) = table_of(&mut tables, &places, declared) {
                table.chains.insert(word(declared, "name").to_owned(), chain(declared));
            }
        } else if let Some(written) = object.get("rule")
            && let Some(table) = table_of(&mut tables, &places, written)
        {
            let name = word(written, "chain").to_owned();
            let rule = rule(table, &name, written);
            table.chains.entry(name).or_default().rules.push(rule);
        }
    }
    let is_foreign = |table: &Table| {
        let is_unlisted = |family| unlisted.iter().any(|(of, _)| *of == family);
        table.family.is_none_or(is_unlisted) || !COMMON.contains(&table.name.as_str())
    };
    tables.retain(is_foreign);
    Some(tables)
}

/// The family of a table of IP, `None` for both.
fn family(word: &str) -> Option<Family> {
    match word {
        "ip" => Some(Family::V4),
        "ip6" => Some(Family::V6),
        _ => None,
    }
}

fn word<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn table_of<'a>(
    tables: &'a mut [Table],
    places: &HashMap<(&str, &str), usize>,
    object: &Value,
) -> Option<&'a mut Table> {
    tables.get_mut(*places.get(&(word(object, "family"), word(object, "table")))?)
}

fn chain(declared: &Value) -> Chain {
    let hook = match word(declared, "hook") {
        "prerouting" => Some(Hook::Prerouting),
        "input" => Some(Hook::Input),
        "forward" => Some(Hook::Forward),
        "output" => Some(Hook::Output),
        "postrouting" => Some(Hook::Postrouting),
        _ => None,
    };
    let priority = declared.get("prio").and_then(Value::as_i64).unwrap_or(0);
    Chain {
        hook,
        priority: i32::try_from(priority).unwrap_or(0),
        policy: if word(declared, "policy") == "drop" { Policy::Drop } else { Policy::Accept },
        policy_packets: None,
        rules: Vec::new(),
    }
}

fn rule(table: &Table, chain: &str, written: &Value) -> Rule {
    let mut rule = Rule { text: SafeText::default(), conditions: Vec::new(), action: Action::Continue, packets: None };
    for expression in written.get("expr").and_then(Value::as_array).into_iter().flatten() {
        let Some((name, value)) = expression.as_object().and_then(|object| object.iter().next()) else { continue };
        match name.as_str() {
            "match" => rule.conditions.extend(conditions(value)),
            "counter" => rule.packets = value.get("packets").and_then(Value::as_u64),
            "accept" => rule.action = Action::Accept,
            "masquerade" | "snat" => rule.action = Action::Rewrite,
            "drop" => rule.action = Action::Drop,
            "reject" => rule.action = Action::Reject,
            "return" => rule.action = Action::Return,
            "jump" => rule.action = Action::Jump(word(value, "target").to_owned()),
            "goto" => rule.action = Action::Goto(word(value, "target").to_owned()),
            "dnat" => rule.action = Action::Redirect { to: end(value) },
            "redirect" => rule.action = Action::Redirect { to: SafeText::new(&format!("port {}", end(value))) },
            "log" | "mangle" | "notrack" | "set" | "ct helper" | "meter" => {}
            // Limits and the like decide with what is not known here; verdict maps and queues decide themselves.
            "limit" | "quota" | "xt" => rule.conditions.push(unknown()),
            _ => rule.action = Action::Unknown,
        }
    }
    let handle = written.get("handle").map(ToString::to_string).unwrap_or_default();
    rule.text = SafeText::new(&format!("{} {} {chain} handle {handle}", table.source, table.name));
    rule
}

fn unknown() -> Condition {
    Condition { what: What::Unknown, is_negated: false }
}

/// `192.0.2.7:80`, as far as it is written.
fn end(value: &Value) -> SafeText {
    let plain = |key: &str| match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    match (plain("addr"), plain("port")) {
        (address, port) if port.is_empty() => SafeText::quoted(&address),
        (address, port) if address.is_empty() => SafeText::quoted(&port),
        (address, port) => SafeText::quoted(&format!("{address}:{port}")),
    }
}

fn conditions(matched: &Value) -> Vec<Condition> {
    let (left, right) = (&matched["left"], &matched["right"]);
    let is_negated = word(matched, "op") == "!=";
    if !matches!(word(matched, "op"), "==" | "!=" | "in") {
        return vec![unknown()];
    }
    let mut all = Vec::new();
    let what = if let Some(payload) = left.get("payload") {
        let (protocol, field) = (word(payload, "protocol"), word(payload, "field"));
        // A field of a protocol is asked only of packets of that protocol.
        all.extend(self::protocol(protocol).map(|what| Condition { what, is_negated: false }));
        match (protocol, field) {
            ("tcp" | "udp" | "sctp" | "th", "dport") => ports(right).map(What::DestinationPort),
            ("tcp" | "udp" | "sctp" | "th", "sport") => ports(right).map(What::SourcePort),
            ("ip" | "ip6", "daddr") => network(right).map(|(ip, prefix)| What::Destination(ip, prefix)),
            ("ip" | "ip6", "saddr") => network(right).map(|(ip, prefix)| What::Source(ip, prefix)),
            ("ip", "protocol") | ("ip6", "nexthdr") => right.as_str().and_then(self::protocol),
            _ => None,
        }
    } else if let Some(meta) = left.get("meta") {
        let name = right.as_str().map(|name| name.replace('*', "+"));
        match word(meta, "key") {
            "iifname" | "iif" => name.map(What::In),
            "oifname" | "oif" => name.map(What::Out),
            "l4proto" => right.as_str().and_then(self::protocol),
            _ => None,
        }
    } else if left.get("ct").is_some_and(|ct| word(ct, "key") == "state") {
        states(right)
    } else if left.get("fib").is_some_and(|fib| word(fib, "result") == "type" && is_word(&fib["flags"], "daddr")) {
        (right == "local").then_some(What::ToThisHost)
    } else if left.get("fib").is_some_and(|fib| word(fib, "result") == "type" && is_word(&fib["flags"], "saddr")) {
        (right == "local").then_some(What::FromThisHost)
    } else {
        None
    };
    all.push(Condition { what: what.unwrap_or(What::Unknown), is_negated });
    all
}

/// That word, alone or as the only one of a list.
fn is_word(value: &Value, word: &str) -> bool {
    value == word || value.as_array().is_some_and(|list| list.len() == 1 && list[0] == word)
}

fn protocol(word: &str) -> Option<What> {
    match word {
        "tcp" => Some(What::Protocol(Protocol::Tcp)),
        "udp" => Some(What::Protocol(Protocol::Udp)),
        "sctp" => Some(What::Protocol(Protocol::Sctp)),
        "icmp" | "icmpv6" | "ipv6-icmp" | "esp" | "ah" | "dccp" | "udplite" | "gre" => Some(What::OtherProtocol),
        _ => None,
    }
}

fn states(right: &Value) -> Option<What> {
    let listed: Vec<&str> = match right {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        Value::Object(_) => right.get("set")?.as_array()?.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    Some(What::State { new: listed.contains(&"new"), established: listed.contains(&"established") })
}

fn ports(right: &Value) -> Option<Vec<(u16, u16)>> {
    let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let one = |value: &Value| -> Option<(u16, u16)> {
        if let Some(range) = value.get("range") {
            return Some((port(range.get(0)?)?, port(range.get(1)?)?));
        }
        port(value).map(|port| (port, port))
    };
    match right.get("set") {
        Some(set) => set.as_array()?.iter().map(one).collect(),
        None => one(right).map(|one| vec![one]),
    }
}

fn network(right: &Value) -> Option<(IpAddr, u8)> {
    if let Some(prefix) = right.get("prefix") {
        let length = prefix.get("len")?.as_u64()?;
        return Some((word(prefix, "addr").parse().ok()?, u8::try_from(length).ok()?));
    }
    let ip: IpAddr = right.as_str()?.parse().ok()?;
    Some((ip, if ip.is_ipv4() { 32 } else { 128 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "fw", "handle": 1}},
        {"set": {"family": "inet", "name": "blocked", "table": "fw", "type": "ipv4_addr", "handle": 4}},
        {"chain": {"family": "inet", "table": "fw", "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "fw", "name": "pre", "handle": 3, "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "fw", "chain": "input", "handle": 6, "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"counter": {"packets": 7, "bytes": 0}}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "input", "handle": 8, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [22, {"range": [8000, 8010]}]}}}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "input", "handle": 9, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "192.0.2.0", "len": 24}}}}, {"reject": {"type": "tcp reset"}}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "input", "handle": 11, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@blocked"}}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "pre", "handle": 14, "expr": [{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "docker0"}}, {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8080}}, {"dnat": {"family": "ip", "addr": "192.0.2.7", "port": 80}}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "pre", "handle": 15, "expr": [{"match": {"op": "==", "left": {"fib": {"result": "type", "flags": ["daddr"]}}, "right": "local"}}, {"redirect": {"port": 8081}}]}},
        {"rule": {"family": "inet", "table": "fw", "chain": "pre", "handle": 16, "expr": [{"vmap": {"key": 1, "data": 2}}]}}]}"#;

    #[test]
    fn what_nft_lists_is_read() {
        let tables = tables(LISTED, &[]).expect("a list");
        let [fw] = &tables[..] else { panic!("{tables:?}") };
        assert_eq!((fw.family, fw.name.as_str()), (None, "fw"));
        let input = &fw.chains["input"];
        assert_eq!((input.hook, input.policy), (Some(Hook::Input), Policy::Drop));
        let [answers, ports, refused, blocked] = &input.rules[..] else { panic!("{input:?}") };
        let is = |what| Condition { what, is_negated: false };
        assert_eq!(answers.conditions, [is(What::State { new: false, established: true })]);
        assert_eq!((answers.packets, &answers.action), (Some(7), &Action::Accept));
        let range = What::DestinationPort(vec![(22, 22), (8000, 8010)]);
        assert_eq!(ports.conditions, [is(What::Protocol(Protocol::Tcp)), is(range)]);
        assert_eq!(refused.conditions, [is(What::Source("192.0.2.0".parse().expect("address"), 24))]);
        assert_eq!((refused.text.as_str(), &refused.action), ("nft inet fw input handle 9", &Action::Reject));
        assert_eq!(blocked.conditions, [is(What::Unknown)]);
        let pre = &fw.chains["pre"];
        assert_eq!(pre.rules[0].conditions[0], Condition { what: What::In("docker0".into()), is_negated: true });
        assert_eq!(pre.rules[0].action, Action::Redirect { to: "192.0.2.7:80".into() });
        assert_eq!(pre.rules[1].conditions, [is(What::ToThisHost)]);
        assert_eq!(pre.rules[1].action, Action::Redirect { to: "port 8081".into() });
        assert_eq!(pre.rules[2].action, Action::Unknown);
    }

    #[test]
    fn nonsense_is_no_list_or_an_empty_one() {
        for text in ["", "{}", "[]", r#"{"nftables": 1}"#] {
            assert_eq!(tables(text, &[]), None, "{text}");
        }
        let odd = r#"{"nftables": [1, {}, {"rule": 1}, {"chain": {}}, {"table": {"family": "bridge", "name": "x"}}]}"#;
        assert_eq!(tables(odd, &[]), Some(Vec::new()));
    }

    #[test]
    fn as_many_tables_as_are_read_take_no_longer_than_as_many_rules() {
        use std::fmt::Write as _;
        let mut text = r#"{"nftables":[{"metainfo":{}}"#.to_owned();
        for number in 0..MOST / 2 {
            write!(text, r#",{{"table":{{"family":"inet","name":"t{number}"}}}}"#).expect("a string");
        }
        for number in 0..MOST / 2 {
            write!(text, r#",{{"chain":{{"family":"inet","table":"t0","name":"c{number}"}}}}"#).expect("a string");
        }
        let began = std::time::Instant::now();
        let tables = tables(&(text + "]}"), &[]).expect("a list");
        assert_eq!((tables.len(), tables[0].chains.len()), (MOST / 2, MOST / 2 - 1));
        // Ten times what it takes on a slow machine; a search for each chain would take ten times that.
        assert!(began.elapsed() < std::time::Duration::from_mins(1), "{:?}", began.elapsed());
    }
}
