//! What keeps clients from addresses of their own.

use std::process::Command;

use portolan::model::report::{CauseKind, StepKind};
use serde_json::json;

use crate::common::docker::Engine;
use crate::common::netns::Namespace;
use crate::common::output;
use crate::containers::pid_of;
use crate::firewalls::rule;
use crate::host::{listen, pair};
use crate::table::{AsUser, Looker, Table};

const LOCAL: &str = "route add local 198.18.0.0/15 dev lo";

pub(crate) fn rows(table: &mut Table) {
    let (host, peer) = pair();
    let _web = listen(&peer, "192.0.2.2:80");
    let _own = listen(&host, "127.0.0.1:80");
    let (own, elsewhere) = ("127.0.0.1:80", "192.0.2.2:80");
    let missing = Some(CauseKind::AliasRouteMissing);
    let report = row(table, "aliases: the route is missing", &host, own, &json!({}), missing, &AsUser::Same);
    let remedies: Vec<String> =
        report.causes.iter().flat_map(|cause| &cause.remedies).map(ToString::to_string).collect();
    let both = ["sudo portolan alias-route --add", "ip route add local 198.18.0.0/15 dev lo"];
    table.check("both commands are told", remedies == both, &report);

    host.ip(LOCAL);
    let unseen = AsUser::Unseen(None);
    let report = row(table, "healthy: aliases", &host, own, &json!({}), None, &unseen);
    let is_told = report.steps.iter().any(|step| {
        step.kind == StepKind::Alias
            && step.text.as_str().contains("what listens on every address is found under these")
    });
    table.check("that the pool is reachable is told", is_told, &report);
    let family = &json!({ "alias_pool": "fd00:a1a5::/64" });
    let pool = Some(CauseKind::AliasPool);
    host.ip("-6 route add local fd00:a1a5::/64 dev lo");
    row(table, "aliases: a pool of the other family", &host, own, family, pool, &AsUser::Same);

    rule(&host, "iptables -t nat -A POSTROUTING -m addrtype --src-type LOCAL -o up -j MASQUERADE");
    let rewritten = Some(CauseKind::AliasRewritten);
    row(table, "aliases: a rule gives another source", &host, elsewhere, &json!({}), rewritten, &unseen);
    row(table, "healthy: aliases, and that rule for others", &host, own, &json!({}), None, &unseen);
    host.ip("route add 198.18.4.0/24 dev up");
    row(table, "aliases: somebody has addresses of the pool", &host, own, &json!({}), pool, &AsUser::Same);

    two_ways(table);

    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let echo = ["nc", "-ll", "-p", "7", "-e", "cat"];
    let _open = engine.start("why_alias", &echo);
    let _ = engine.docker(&["network", "rm", "why_alias_net"]).output();
    output(engine.docker(&["network", "create", "--internal", "why_alias_net"]).args(["--subnet", "198.51.100.0/24"]));
    let closed = engine.start_with("why_alias_internal", &["--network", "why_alias_net"], &echo);
    // As of later engines, which give such a network no gateway.
    let net = format!("--net=/proc/{}/ns/net", pid_of(&engine, &closed));
    output(Command::new("nsenter").arg(net).args(["--", "ip", "route", "delete", "default"]));
    docker.ip(LOCAL);
    let looker = Looker::new(&docker, Some(engine.host()));
    row_of(table, "healthy: aliases towards a container", &looker, "why_alias:7", &json!({}), None, &unseen);
    let no_way = Some(CauseKind::AliasNoWayBack);
    row_of(
        table,
        "aliases: a container without a gateway",
        &looker,
        "why_alias_internal:7",
        &json!({}),
        no_way,
        &AsUser::Same,
    );
    docker.ip("route delete local 198.18.0.0/15 dev lo");
    drop(closed);
    output(&mut engine.docker(&["network", "rm", "why_alias_net"]));
}

/// A target whose default route is not the way by which requests come: an alias is of none of its networks.
fn two_ways(table: &mut Table) {
    let (host, peer) = pair();
    host.connect("up2", &["198.51.100.1/24"], &peer, "down2", &["198.51.100.2/24"]);
    host.ip(LOCAL);
    let _web = listen(&peer, "0.0.0.0:80");
    let target = "192.0.2.2:80";
    let no_way = Some(CauseKind::AliasNoWayBack);
    let same = &AsUser::Same;
    row(table, "aliases: the target has no route to them", &host, target, &json!({}), no_way, same);
    peer.ip("route add default via 198.51.100.1");
    host.set("ipv4/conf/up2/rp_filter", "2");
    row(table, "healthy: aliases, answers by another way", &host, target, &json!({}), None, &AsUser::Unseen(None));
    host.set("ipv4/conf/up2/rp_filter", "1");
    let report = row(table, "aliases: answers by another way are dropped", &host, target, &json!({}), no_way, same);
    let is_told = report.causes.iter().any(|cause| cause.text.as_str().contains("(rp_filter is strict on up2)"));
    table.check("which filter drops them is told", is_told, &report);
    rule(&peer, "iptables -A INPUT -s 198.18.0.0/15 -p tcp -j REJECT --reject-with tcp-reset");
    peer.ip("route replace default via 192.0.2.1");
    row(table, "aliases: the target refuses them", &host, target, &json!({}), no_way, same);
}

fn row(
    table: &mut Table,
    name: &str,
    host: &Namespace,
    target: &str,
    more: &serde_json::Value,
    expected: Option<CauseKind>,
    as_user: &AsUser,
) -> portolan::model::report::Report {
    row_of(table, name, &Looker::new(host, None), target, more, expected, as_user)
}

/// A row of a mapping with aliases, and more fields.
fn row_of(
    table: &mut Table,
    name: &str,
    looker: &Looker<'_>,
    target: &str,
    more: &serde_json::Value,
    expected: Option<CauseKind>,
    as_user: &AsUser,
) -> portolan::model::report::Report {
    let mut mapping = json!({ "name": "web", "listen": "8080", "target": target, "identity": "alias" });
    let fields = mapping.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    looker.home().write_profile("default", &json!({ "version": 1, "mappings": [mapping] }).to_string());
    looker.home().open_to_all();
    table.row_of(name, looker, "web", expected, as_user)
}
