//! Mapping text as contract §1 defines it: every form, every refusal, and what no input may do.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use jsonschema::Validator;
use portolan::model::mapping::{
    HostPort, Listen, ListenAddress, Mapping, PortRange, Protocol, ScopedIp, Target, TargetHost,
};
use portolan::model::paste::read_paste;
use portolan::model::profile::MappingConfig;
use portolan::model::schema::schema;
use portolan::model::untrusted::acts_on_a_terminal;
use proptest::prelude::*;
use serde_json::json;

/// Text, and what it reads back as.
const GOOD: &[(&str, &str)] = &[
    ("8080:web_1:80", "localhost:8080:web_1:80"),
    ("[::1]:8080:172.17.0.2:80", "[::1]:8080:172.17.0.2:80"),
    ("any:8080:web_1:80", "any:8080:web_1:80"),
    ("*:8080:web_1:80", "any:8080:web_1:80"),
    ("localhost:8080:web_1:80", "localhost:8080:web_1:80"),
    ("5353:172.17.0.3:53/udp", "localhost:5353:172.17.0.3:53/udp"),
    ("127.0.0.1:8000-8010:web:80-90", "127.0.0.1:8000-8010:web:80-90"),
    ("auto:web:80", "localhost:auto:web:80"),
    ("any:auto:web:80/sctp", "any:auto:web:80/sctp"),
    ("192.0.2.7:80:web:80/tcp", "192.0.2.7:80:web:80"),
    ("[2001:db8::2]:80:[fd00::2]:80", "[2001:db8::2]:80:[fd00::2]:80"),
    ("[2001:DB8:0::2]:80:web:80", "[2001:db8::2]:80:web:80"),
    ("[fe80::1%eth0]:80:[fe80::2%br-lan]:80", "[fe80::1%eth0]:80:[fe80::2%br-lan]:80"),
    ("0.0.0.0:80:web:80", "0.0.0.0:80:web:80"),
    ("[::]:80:web:80", "[::]:80:web:80"),
    ("80-80:web:81-81", "localhost:80:web:81"),
    ("1-65535:web:1-65535", "localhost:1-65535:web:1-65535"),
    ("8080:container/web_1:80", "localhost:8080:container/web_1:80"),
    ("8080:container/8080:80", "localhost:8080:container/8080:80"),
    ("8080:3f4e9a12:80", "localhost:8080:3f4e9a12:80"),
    ("8080:compose/shop/web:80/udp", "localhost:8080:compose/shop/web:80/udp"),
    ("8080:localhost:80", "localhost:8080:localhost:80"),
    ("8080:host/db.internal:80", "localhost:8080:host/db.internal:80"),
    ("8080:host/db.internal.:80", "localhost:8080:host/db.internal.:80"),
    ("8080:host/_sip._udp.xn--bcher-kva.example:80", "localhost:8080:host/_sip._udp.xn--bcher-kva.example:80"),
    ("8080:host/localhost:80", "localhost:8080:host/localhost:80"),
    ("8080:web.internal:80", "localhost:8080:web.internal:80"),
    ("8080:169.254.1.1:80", "localhost:8080:169.254.1.1:80"),
];

const FORM: &str = "expected [ADDRESS:]PORT:TARGET:PORT[/tcp|udp|sctp], for example 8080:web:80";
const MULTICAST: &str = "a multicast or broadcast address cannot be mapped";

/// Text, and the whole answer: first the table of faults.md, then what else people type.
const BAD: &[(&str, &str)] = &[
    ("70000:web:80", "host port 70000 is out of range (1-65535)"),
    ("0:web:80", "host port 0 means \"pick a free one\": write auto"),
    ("8080:80", "8080:80 names no container: write 8080:CONTAINER:80"),
    ("127.0.0.1:8080:80", "8080:80 names no container: write 8080:CONTAINER:80, here 127.0.0.1:8080:CONTAINER:80"),
    ("8080:8080:80", "a target of digits alone is ambiguous: write container/8080"),
    ("8080", FORM),
    ("8080:", FORM),
    (":80", FORM),
    ("a:b", FORM),
    ("::1:8080:web:80", "an IPv6 address needs brackets: [::1]:8080:web:80"),
    ("[fe80::1]:80:web:80", "a link-local address needs its interface: [fe80::1%eth0]"),
    ("256.1.1.1:80:web:80", "256.1.1.1 is not a valid IPv4 address (leading zeros are not accepted)"),
    ("80:172.17:80", "172.17 is not a valid IPv4 address: it has four numbers, such as 172.17.0.2"),
    ("010.0.0.1:80:web:80", "010.0.0.1 is not a valid IPv4 address (leading zeros are not accepted)"),
    ("8000-8010:web:80-85", "the ranges differ in length (11 and 6)"),
    ("9000-8000:web:80-90", "the range starts at 9000, after its end 8000"),
    ("8080:web:80/icmp", "unknown protocol \"icmp\": use tcp, udp or sctp"),
    ("224.0.0.1:80:web:80", MULTICAST),
    ("255.255.255.255:80:web:80", MULTICAST),
    ("8080:239.1.2.3:80", MULTICAST),
    ("[ff02::1%eth0]:80:web:80", MULTICAST),
    ("8080:[ff02::1]:80", MULTICAST),
    // Parts that are missing or too many.
    ("", FORM),
    (":", FORM),
    ("::", FORM),
    (":::", FORM),
    (":8080:web:80", FORM),
    ("8080::80", FORM),
    ("8080:web:", FORM),
    ("8080:compose/shop/web", FORM),
    ("8080:web", FORM),
    ("any:8080:web", FORM),
    ("1:2:3:4:5:6", FORM),
    ("any:8080:80/udp", "8080:80/udp names no container: write 8080:CONTAINER:80/udp, here any:8080:CONTAINER:80/udp"),
    ("auto:80", "auto:80 names no container: write auto:CONTAINER:80"),
    ("any:web:80", "any:web:80 names no host port: write any:PORT:web:80"),
    // Addresses.
    ("8080:fd00::2:80", "an IPv6 address needs brackets: 8080:[fd00::2]:80"),
    ("::1:8080:fd00::2:80/udp", "an IPv6 address needs brackets: [::1]:8080:[fd00::2]:80/udp"),
    ("any:8080:fd00::2:80", "an IPv6 address needs brackets: any:8080:[fd00::2]:80"),
    ("fe80::1%eth0:80:web:80", "an IPv6 address needs brackets: [fe80::1%eth0]:80:web:80"),
    ("::1:8080:80", "an IPv6 address needs brackets: [::1]:8080:web:80"),
    ("8080:[fe80::1]:80", "a link-local address needs its interface: [fe80::1%eth0]"),
    ("[::1%lo]:80:web:80", "an interface belongs to a link-local address alone: write [::1]"),
    ("[fe80::1%]:80:web:80", "\"\" is no name of an interface"),
    ("[fe80::1%eth0%eth1]:80:web:80", "\"eth0%eth1\" is no name of an interface"),
    ("[fe80::1%averylonginterface]:80:web:80", "\"averylonginterface\" is no name of an interface"),
    ("[127.0.0.1]:80:web:80", "an IPv4 address stands without brackets: 127.0.0.1"),
    ("[::ffff:127.0.0.1]:80:web:80", "[::ffff:127.0.0.1] is an IPv4 address in IPv6 clothes: write 127.0.0.1"),
    ("[::g]:80:web:80", "[::g] is not a valid IPv6 address"),
    ("[]:80:web:80", "[] is not a valid IPv6 address"),
    ("[::1:80:web:80", "\"[::1:80:web:80\": a bracket is never closed"),
    ("::1]:80:web:80", "\"::1]:80:web:80\": a bracket closes that never opened"),
    ("[[::1]]:80:web:80", "\"[[::1]]:80:web:80\": a bracket opens inside brackets"),
    ("[::1]8080:web:80", "a colon belongs after the bracket: write [::1]:8080:web:80"),
    ("[::1]80-90:web:80-90", "a colon belongs after the bracket: write [::1]:80-90:web:80-90"),
    ("[::1]auto:web:80", "a colon belongs after the bracket: write [::1]:auto:web:80"),
    ("8080:[fd00::2]80/udp", "a colon belongs after the bracket: write 8080:[fd00::2]:80/udp"),
    ("[::1]x:80:web:80", "expected a colon after the bracket in \"[::1]x\""),
    ("web:8080:db:80", "\"web\" is no address to listen on: use localhost, any or an address of this host"),
    // Ports.
    ("http:web:80", "host port \"http\" is not a number (1-65535) or a range such as 80-90"),
    ("-1:web:80", "host port \"-1\" is not a number (1-65535) or a range such as 80-90"),
    ("80-:web:80", "host port \"80-\" is not a number (1-65535) or a range such as 80-90"),
    ("1-2-3:web:80", "host port \"1-2-3\" is not a number (1-65535) or a range such as 80-90"),
    ("+80:web:80", "host port \"+80\" is not a number (1-65535) or a range such as 80-90"),
    ("８０８０:web:80", "host port \"８０８０\" is not a number (1-65535) or a range such as 80-90"),
    ("0-10:web:0-10", "host port 0 is out of range (1-65535)"),
    ("65536:web:80", "host port 65536 is out of range (1-65535)"),
    ("99999999999999999999:web:80", "host port 99999999999999999999 is out of range (1-65535)"),
    ("080:web:80", "host port 080 has a leading zero: write 80"),
    ("8080:web:0", "target port 0 is out of range (1-65535)"),
    ("8080:web:70000", "target port 70000 is out of range (1-65535)"),
    ("8080:web:http", "target port \"http\" is not a number (1-65535) or a range such as 80-90"),
    ("8080:web:auto", "auto stands on the host's side alone: write the target's port"),
    ("auto:web:80-90", "auto takes one port, not a range: write one target port instead of 80-90"),
    ("auto-8080:web:80", "auto takes one port, not a range: write auto, or a range of numbers"),
    ("8080:web:80/", "unknown protocol \"\": use tcp, udp or sctp"),
    ("8080:web:80/TCP", "unknown protocol \"TCP\": use tcp, udp or sctp"),
    ("8080:web:80/udp/tcp", "unknown protocol \"udp/tcp\": use tcp, udp or sctp"),
    // Targets.
    ("8080:any:80", "any is an address to listen on, not a target"),
    ("8080:*:80", "* is an address to listen on, not a target"),
    (
        "8080:nginx/latest:80",
        "unknown kind of target \"nginx\": write container/NAME, compose/PROJECT/SERVICE or host/NAME",
    ),
    ("8080:_web:80", "\"_web\" is no container name: letters, digits, _ . and -, at most 255, a letter or digit first"),
    (
        "8080:container/:80",
        "\"\" is no container name: letters, digits, _ . and -, at most 255, a letter or digit first",
    ),
    (
        "8080:compose/shop:80",
        "\"compose/shop\" is no Compose service: write compose/PROJECT/SERVICE, for example compose/shop/web",
    ),
    (
        "8080:compose//web:80",
        "\"compose//web\" is no Compose service: write compose/PROJECT/SERVICE, for example compose/shop/web",
    ),
    (
        "8080:compose/a/b/c:80",
        "\"compose/a/b/c\" is no Compose service: write compose/PROJECT/SERVICE, for example compose/shop/web",
    ),
    ("8080:host/:80", "\"\" is no DNS name, such as host/db.internal"),
    ("8080:host/-db:80", "\"-db\" is no DNS name, such as host/db.internal"),
    ("8080:host/a..b:80", "\"a..b\" is no DNS name, such as host/db.internal"),
    ("8080:host/bücher.example:80", "\"bücher.example\" is not ASCII: write the name in its xn-- form"),
    ("8080:host/10.0.0.1:80", "an address stands without host/: write 10.0.0.1"),
    ("8080:host/[::1]:80", "an address stands without host/: write [::1]"),
    ("8080:host/10.1:80", "\"10.1\" is no DNS name: its last part is a number"),
    ("8080:host/0x7f000001:80", "\"0x7f000001\" is no DNS name: its last part is a number"),
    // Characters that have no place in a mapping.
    (" 8080:web:80", "\" 8080:web:80\" holds a space: a mapping has none"),
    ("8080:web:80\n", "\"8080:web:80\\u{a}\" holds a space: a mapping has none"),
    ("8080:web\x1b[2J:80", "\"8080:web\\u{1b}[2J:80\": a bracket is never closed"),
    (
        "8080:web\x1b:80",
        "\"web\\u{1b}\" is no container name: letters, digits, _ . and -, at most 255, a letter or digit first",
    ),
];

#[test]
fn every_form_reads_and_says_itself_again() {
    for (text, canonical) in GOOD {
        let mapping: Mapping = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(mapping.to_string(), *canonical);
        assert_eq!(canonical.parse(), Ok(mapping));
    }
}

#[test]
fn every_refusal_says_what_to_write() {
    for (text, answer) in BAD {
        match text.parse::<Mapping>() {
            Ok(mapping) => panic!("{text:?} was read as {mapping}"),
            Err(error) => assert_eq!(error.to_string(), *answer, "for {text:?}"),
        }
    }
}

#[test]
fn the_halves_speak_as_the_whole_does() {
    let listen = |text: &str| text.parse::<Listen>().map(|l| l.to_string()).map_err(|e| e.to_string());
    let target = |text: &str| text.parse::<Target>().map(|t| t.to_string()).map_err(|e| e.to_string());
    let refused = |message: &str| Err(message.to_owned());

    assert_eq!(listen("5432"), Ok("localhost:5432".into()));
    assert_eq!(listen("[::1]:auto"), Ok("[::1]:auto".into()));
    assert_eq!(listen("70000"), refused("host port 70000 is out of range (1-65535)"));
    assert_eq!(listen("::1:80"), refused("an IPv6 address needs brackets: [::1]:80"));
    assert_eq!(listen("any"), refused("any names no port: write any:PORT"));
    assert_eq!(listen("[::1]"), refused("[::1] names no port: write [::1]:PORT"));
    for text in ["", ":", "any:", ":80", "80:web:80", "a:b:c:d"] {
        assert_eq!(listen(text), refused("expected [ADDRESS:]PORT[-PORT], for example 8080 or any:8080"), "{text}");
    }
    for text in ["53/udp", "any:53/udp"] {
        let answer = "the protocol stands in its own field: write 53 and \"protocol\": \"udp\"";
        assert_eq!(listen(text), refused(answer));
    }

    assert_eq!(target("container/db_1:5432"), Ok("container/db_1:5432".into()));
    assert_eq!(target("[fd00::2]:80-90"), Ok("[fd00::2]:80-90".into()));
    assert_eq!(target("fd00::2:80"), refused("an IPv6 address needs brackets: [fd00::2]:80"));
    assert_eq!(target("80"), refused("80 names no container: write CONTAINER:80"));
    assert_eq!(target("80:80"), refused("a target of digits alone is ambiguous: write container/80"));
    for text in ["", ":", "web", "web:", ":80", "compose/shop/web", "80:web:80"] {
        assert_eq!(target(text), refused("expected TARGET:PORT[-PORT], for example web:80"), "{text}");
    }
    assert_eq!(
        target("web:53/udp"),
        refused("the protocol stands in its own field: write 53 and \"protocol\": \"udp\"")
    );
    assert_eq!(target("web:53/icmp"), refused("unknown protocol \"icmp\": use tcp, udp or sctp"));
}

#[test]
fn huge_text_is_refused_by_its_length_and_quoted_in_part() {
    let error = "9".repeat(1_000_000).parse::<Mapping>().unwrap_err().to_string();
    assert_eq!(error, "the text is too long (1000000 bytes, at most 1024)");
    let error = format!("8080:{}:80", "x".repeat(300)).parse::<Mapping>().unwrap_err().to_string();
    assert!(error.contains(&format!("\"{}…\"", "x".repeat(80))), "{error}");
    assert!(":".repeat(1024).parse::<Mapping>().is_err());
}

fn port_range() -> impl Strategy<Value = PortRange> {
    (1u16.., 0u16..20).prop_map(|(first, more)| PortRange::new(first, first.saturating_add(more)).unwrap())
}

fn scoped_ip() -> impl Strategy<Value = ScopedIp> {
    let v4 = any::<Ipv4Addr>()
        .prop_filter("usable", |ip| !ip.is_multicast() && !ip.is_broadcast())
        .prop_map(|ip| IpAddr::V4(ip).into());
    let v6 = any::<Ipv6Addr>()
        .prop_filter("usable", |ip| !ip.is_multicast() && !ip.is_unicast_link_local() && ip.to_ipv4_mapped().is_none())
        .prop_map(|ip| IpAddr::V6(ip).into());
    let link_local = (any::<u64>(), "[a-z][a-z0-9.@_-]{0,14}").prop_map(|(host, zone)| ScopedIp {
        ip: Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(host)).into(),
        zone: Some(zone),
    });
    prop_oneof![v4, v6, link_local]
}

fn target_host() -> impl Strategy<Value = TargetHost> {
    let name = "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,30}";
    prop_oneof![
        scoped_ip().prop_map(TargetHost::Ip),
        Just(TargetHost::Localhost),
        name.prop_map(|name| TargetHost::Container { name, explicit: true }),
        "[a-zA-Z][a-zA-Z0-9_.-]{0,30}"
            .prop_filter("a word of the grammar", |name| !matches!(name.as_str(), "localhost" | "any"))
            .prop_map(|name| TargetHost::Container { name, explicit: false }),
        (name, name).prop_map(|(project, service)| TargetHost::Compose { project, service }),
        "([a-z0-9_]([a-z0-9-]{0,10}[a-z0-9])?\\.){0,3}[a-z]{1,8}".prop_map(TargetHost::Dns),
    ]
}

fn mapping() -> impl Strategy<Value = Mapping> {
    let address =
        prop_oneof![Just(ListenAddress::Localhost), Just(ListenAddress::Any), scoped_ip().prop_map(ListenAddress::Ip)];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (address, any::<bool>(), port_range(), any::<u16>(), target_host(), protocol).prop_map(
        |(address, auto, ports, shift, host, protocol)| {
            let length = u16::try_from(ports.count() - 1).unwrap();
            let first = (shift % (65535 - length)) + 1;
            let (port, ports) = if auto {
                (HostPort::Auto, PortRange::single(first).unwrap())
            } else {
                (HostPort::Ports(ports), PortRange::new(first, first + length).unwrap())
            };
            Mapping { listen: Listen { address, port }, target: Target { host, ports }, protocol }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn what_is_shown_reads_back_as_the_same(mapping in mapping()) {
        prop_assert_eq!(mapping.to_string().parse(), Ok(mapping.clone()));
        prop_assert_eq!(mapping.listen.to_string().parse(), Ok(mapping.listen));
        prop_assert_eq!(mapping.target.to_string().parse(), Ok(mapping.target));
    }

    #[test]
    fn the_schema_accepts_whatever_the_grammar_does(mapping in mapping()) {
        static SCHEMA: LazyLock<Validator> = LazyLock::new(|| jsonschema::draft202012::new(&schema()).unwrap());
        static WHOLE: LazyLock<Validator> =
            LazyLock::new(|| jsonschema::draft202012::new(&schemars::schema_for!(Mapping).to_value()).unwrap());
        let (listen, target) = (mapping.listen.to_string(), mapping.target.to_string());
        let profile = json!({ "version": 1, "mappings": [{ "listen": listen, "target": target }] });
        prop_assert!(SCHEMA.is_valid(&profile), "{}", profile);
        prop_assert!(WHOLE.is_valid(&json!(mapping.to_string())), "{}", mapping);
    }

    #[test]
    fn no_text_panics_or_reaches_the_terminal_raw(text in prop_oneof![
        any::<String>(),
        "[0-9a-f:\\[\\]%/.*\\-]{0,40}",
        "(localhost|any|\\*|\\[::1\\]|::1|fe80::1|[0-9]{1,5})?:?([0-9-]{0,11}|auto):(web|host/|compose/|80)?:[0-9-]{0,11}(/[a-z]{0,4})?",
    ]) {
        let outcomes = [
            text.parse::<Mapping>().map(|m| m.to_string()),
            text.parse::<Listen>().map(|l| l.to_string()),
            text.parse::<Target>().map(|t| t.to_string()),
            text.parse::<Protocol>().map(|p| p.to_string()),
        ];
        for outcome in outcomes {
            let shown = outcome.unwrap_or_else(|error| error.to_string());
            prop_assert!(!shown.chars().any(acts_on_a_terminal), "{}", shown);
            prop_assert!(shown.chars().count() < 1500);
        }
    }

    #[test]
    fn no_pasted_text_panics_and_what_it_gives_is_usable(text in prop_oneof![
        any::<String>(),
        r#"(sudo )?docker (--x y )?run [-a-zA-Z0-9:/=.'" \[\]\\\n]{0,60}"#,
        r#"ssh [-a-zA-Z0-9:/=.@*'" \[\]]{0,60}"#,
        r"(docker run|ssh) -(p|L|dp|NL|-publish) ?[0-9:a-z\[\]/-]{0,30} [a-z]{0,5}",
    ]) {
        if let Some(Ok(mappings)) = read_paste(&text) {
            for written in mappings {
                prop_assert!(MappingConfig::from_written(&written).is_ok(), "{:?}", written);
            }
        }
    }

    #[test]
    fn what_reads_shows_itself_so_that_it_reads_again(
        text in "(any:|\\[::1\\]:)?[1-9][0-9]{0,4}:(web|localhost|10\\.0\\.0\\.[0-9]{1,3}):[1-9][0-9]{0,4}(/udp)?"
    ) {
        if let Ok(mapping) = text.parse::<Mapping>() {
            prop_assert_eq!(mapping.to_string().parse(), Ok(mapping));
        }
    }
}
