//! Rules of the packet filter: of this host, of one on the way, by either of the kernel's filters.

use portolan::model::report::CauseKind;

use crate::common::netns::Namespace;
use crate::common::output;
use crate::host::{listen, pair};
use crate::table::{AsUser, Table};

/// `iptables …` in a namespace.
#[track_caller]
pub(crate) fn rule(namespace: &Namespace, command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    output(namespace.command(program).args(words));
}

/// A host with these rules and one that answers.
fn with(rules: &[&str]) -> (Namespace, Namespace, Vec<std::net::TcpListener>) {
    let (host, peer) = pair();
    let web = ["192.0.2.2:80", "[2001:db8::2]:80"].map(|address| listen(&peer, address));
    for one in rules {
        rule(&host, one);
    }
    (host, peer, web.into())
}

pub(crate) fn rows(table: &mut Table) {
    let expected = Some(CauseKind::Firewall);
    let silent = AsUser::Unseen(Some(CauseKind::TargetTimedOut));
    let refused = AsUser::Unseen(Some(CauseKind::TargetRefused));
    let pass = AsUser::Unseen(None);
    let rows: [(&str, &[&str], &str, &AsUser); 9] = [
        ("a rule drops what goes out", &["iptables -A OUTPUT -p tcp --dport 80 -j DROP"], "8080:192.0.2.2:80", &silent),
        ("a rule drops the answers", &["iptables -A INPUT -p tcp --sport 80 -j DROP"], "8080:192.0.2.2:80", &silent),
        (
            "a rule drops over IPv6",
            &["ip6tables -A OUTPUT -p tcp --dport 80 -j DROP"],
            "8080:[2001:db8::2]:80",
            &silent,
        ),
        (
            "a rule of the older filter drops",
            &["iptables-legacy -A OUTPUT -d 192.0.2.0/24 -j DROP"],
            "8080:192.0.2.2:80",
            &silent,
        ),
        ("a policy drops", &["iptables -P INPUT DROP"], "8080:192.0.2.2:80", &silent),
        // Only its counter shows what it does.
        (
            "a rule drops by what is not known here",
            &["iptables -A OUTPUT -m length --length 1:1000 -j DROP"],
            "8080:192.0.2.2:80",
            &silent,
        ),
        (
            "a rule in a chain of its own drops",
            &["iptables -N mine", "iptables -A mine -p tcp --dport 80 -j DROP", "iptables -A OUTPUT -o up -j mine"],
            "8080:192.0.2.2:80",
            &silent,
        ),
        (
            "a rule refuses",
            &["iptables -A OUTPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset"],
            "8080:192.0.2.2:80",
            &refused,
        ),
        (
            "a rule drops clients",
            &["iptables -A INPUT -i up -p tcp --dport 8080 -j DROP"],
            "any:8080:192.0.2.2:80",
            &pass,
        ),
    ];
    for (name, rules, mapping, as_user) in rows {
        let (host, _peer, _web) = with(rules);
        table.row(name, &host, mapping, expected, as_user);
    }

    let (host, _peer, _web) = with(&["iptables -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to 192.0.2.2:80"]);
    let shadowed = Some(CauseKind::ShadowedByDnat);
    table.row("a rule takes clients away", &host, "any:8080:192.0.2.2:80", shadowed, &pass);

    // One that drops something else, while the target keeps silent for a reason of its own.
    let (host, peer, _web) =
        with(&["iptables -A OUTPUT -p tcp --dport 443 -j DROP", "iptables -A INPUT -p udp -j DROP"]);
    rule(&peer, "iptables -A INPUT -p tcp --dport 80 -j DROP");
    let elsewhere = Some(CauseKind::TargetTimedOut);
    table.row("a firewall elsewhere, and rules that are not it", &host, "8080:192.0.2.2:80", elsewhere, &silent);

    // One that says so.
    let unreachable = AsUser::Unseen(Some(CauseKind::TargetUnreachable));
    for (name, program, kind, mapping) in [
        ("a firewall on the way says so", "iptables", "icmp-admin-prohibited", "8080:192.0.2.2:80"),
        ("a firewall on the way says so over IPv6", "ip6tables", "icmp6-adm-prohibited", "8080:[2001:db8::2]:80"),
    ] {
        let (host, peer, _web) = with(&[]);
        rule(&peer, &format!("{program} -A INPUT -p tcp --dport 80 -j REJECT --reject-with {kind}"));
        table.row(name, &host, mapping, expected, &unreachable);
    }
}
