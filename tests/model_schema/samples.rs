//! One value of everything that crosses, every field of it filled where it can be.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use portolan::model::alias::{AliasClient, WhoIs};
use portolan::model::container::{
    ComposeLabel, Container, ContainerNetwork, ContainerPort, DockerState, EnginePlace, InsideListener, Publication,
};
use portolan::model::event::{
    CloseReason, Connection, ConnectionState, Event, EventKind, MappingState, MappingTraffic, Side,
};
use portolan::model::exchange::Exchange;
use portolan::model::id::{ConnectionId, MappingId, Revision};
use portolan::model::identity::{Identity, Inspect};
use portolan::model::mapping::{Family, Protocol};
use portolan::model::metrics::{
    CONNECT_BOUNDS_US, ClosedCount, ConnectBucket, ConnectFailures, ConnectTimes, ConnectionMetrics, DatagramMetrics,
    DescriptorUse, MappingMetrics, Metrics,
};
use portolan::model::problem::{Position, Problem};
use portolan::model::profile::WrittenMapping;
use portolan::model::report::{Cause, CauseKind, Report, Step, StepKind, Verdict};
use portolan::model::request::{PortConflict, PortReport, ProbeResult, Reply, Request, RequestError};
use portolan::model::update::{
    ConnectionRow, LastOutcome, LastResult, ListenerRow, MappingRow, Observed, Overview, Owner, ProfileStatus, Update,
    Way,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn written() -> WrittenMapping {
    WrittenMapping {
        name: Some("web".into()),
        listen: "any:8080".into(),
        target: "compose/shop/web:80".into(),
        protocol: Some(Protocol::Tcp),
        network: Some("shop_default".into()),
        enabled: Some(true),
        connect_timeout: Some("5s".into()),
        idle_timeout: Some("1h30m".into()),
        half_close_timeout: Some("1h".into()),
        max_connections: Some(100),
        identity: Some(Identity::Alias),
        alias_pool: Some("10.200.0.0/16".into()),
        accept_proxy: Some(true),
        trusted_cidrs: Some(vec!["10.0.0.0/8".into(), "fd00::/8".into()]),
        inspect: Some(Inspect::Http),
    }
}

pub(crate) fn requests() -> Vec<Request> {
    let (id, ids) = (MappingId(1), vec![MappingId(1), MappingId(2)]);
    let mapping = written();
    vec![
        Request::Add { mapping: mapping.clone(), even_if_busy: true },
        Request::Edit { id, mapping: mapping.clone(), even_if_busy: false },
        Request::Remove { ids: ids.clone() },
        Request::Start { ids: ids.clone() },
        Request::Stop { ids },
        Request::Kill { id: ConnectionId(17) },
        Request::Undo,
        Request::OpenProfile { name: "dev".into() },
        Request::SaveAs { name: "dev".into() },
        Request::Profiles,
        Request::WhoHolds {
            listen: "[fe80::1%eth0]:8000-8010".parse().unwrap(),
            protocol: Protocol::Udp,
            except: Some(id),
        },
        Request::Validate { mapping: mapping.clone(), replaces: Some(id) },
        Request::Probe { target: "host/db.internal:5432".parse().unwrap(), protocol: Protocol::Sctp },
        Request::Containers,
        Request::AddAll { mappings: vec![mapping], even_if_busy: false },
        Request::Inside { container: "3f4e9a12".into() },
        Request::Why { id },
        Request::Metrics,
        Request::Whois { address: "198.18.3.7".parse().unwrap() },
        Request::Shutdown { drain_ms: 5_000 },
    ]
}

pub(crate) fn replies() -> Vec<Reply> {
    vec![
        Reply::Done { ids: vec![MappingId(1)], message: "deleted web".into(), keys: Some("u undoes".into()) },
        Reply::Profiles { names: vec!["dev".into()], open: Some("dev".into()) },
        Reply::Port(port_report()),
        Reply::Valid {
            name: "web".into(),
            notes: vec!["Only this machine can connect".into()],
            will_be_at: vec![address("[::1]:8080")],
            places: vec!["[fe80::1%eth0]:8080".into()],
        },
        Reply::Probed {
            results: [
                LastOutcome::Ok,
                LastOutcome::Refused,
                LastOutcome::Unreachable,
                LastOutcome::Timeout,
                LastOutcome::Error,
            ]
            .map(|outcome| ProbeResult { address: address("[fe80::1%3]:80"), outcome, took_us: 400 })
            .into(),
            reason: Some("it has no address now".into()),
        },
        Reply::Containers { containers: vec![container()], docker: DockerState::Connected },
        Reply::Inside {
            listeners: vec![InsideListener {
                address: address("0.0.0.0:80"),
                protocol: Protocol::Tcp,
                is_v6_only: Some(false),
                process: Some("nginx (pid 812)".into()),
            }],
            unseen: Some("its namespace needs root".into()),
        },
        Reply::Why(Box::new(report())),
        Reply::Metrics(Box::new(metrics())),
        Reply::Whois(Box::new(WhoIs {
            alias: "198.18.3.7".parse().unwrap(),
            pool: "198.18.0.0/15".into(),
            clients: [None, Some(time())]
                .map(|until| AliasClient {
                    client: "2001:db8::41".parse().unwrap(),
                    since: time(),
                    last_seen: time(),
                    open_connections: 2,
                    is_answered: until.is_some(),
                    until,
                })
                .into(),
        })),
    ]
}

pub(crate) fn refusals() -> Vec<RequestError> {
    vec![
        RequestError::Invalid { problems: vec![problem(), Problem::new("", "it is empty")] },
        RequestError::PortInUse { report: port_report() },
        RequestError::Stale { current: Revision(8) },
        RequestError::NotFound { what: "mapping 9".into() },
        RequestError::Failed { message: "there is nothing to undo".into() },
        RequestError::Silent { message: "the engine does not answer".into() },
        RequestError::Gone,
    ]
}

pub(crate) fn update() -> Update {
    Update {
        seq: 1,
        at_ms: 2_000,
        is_full: true,
        overview: Some(Overview {
            revision: Revision(3),
            profile: Some(ProfileStatus {
                name: "dev".into(),
                path: "/profiles/dev.json".into(),
                problem: Some("line 3".into()),
            }),
            order: vec![MappingId(1)],
            docker: DockerState::Unavailable { reason: "permission denied".into() },
            engine_place: EnginePlace::Elsewhere {
                reason: "rootless: its network is its own".into(),
                published_at: Some(ip("127.0.0.1")),
            },
            undo: Some("delete web".into()),
            descriptors: Some((12, 4_000)),
            is_ready: true,
            is_ending: true,
        }),
        mappings: vec![row(Owner::Portolan), row(Owner::Docker { unseen: vec!["IPv4".into()], is_partial: true })],
        mappings_removed: vec![MappingId(2)],
        connections: vec![ConnectionRow {
            mapping_id: MappingId(1),
            opened_at_ms: 10,
            closed_at_ms: Some(20),
            process: Some("curl 4242".into()),
            exchanges: exchanges(),
            exchanges_end: Some("another protocol was agreed on".into()),
            observed: Some(Observed {
                way: Way::Dnat,
                client_leg: true,
                bytes: true,
                is_older: true,
                states: ["ESTABLISHED".into(), "CLOSE_WAIT".into()],
            }),
            connection: connection(CloseReason::Error),
        }],
        connections_removed: vec![ConnectionId(4)],
        containers: vec![container()],
        containers_removed: vec!["3f4e9a12".into()],
        events: events().into_iter().take(3).collect(),
        lost: 120,
        has_more: true,
    }
}

pub(crate) fn events() -> Vec<Event> {
    let (mapping, listener, target) = ("web".to_owned(), "[::1]:8000-8010".to_owned(), "web_1:80".to_owned());
    let states = [
        MappingState::Starting,
        MappingState::Up,
        MappingState::Half,
        MappingState::Waiting,
        MappingState::Failed,
        MappingState::Degraded,
        MappingState::Stopped,
    ];
    let closed = CloseReason::ALL.map(|reason| EventKind::Closed { connection: connection(reason) });
    let mut kinds = vec![
        EventKind::Listening {
            mapping: mapping.clone(),
            listener: listener.clone(),
            protocol: Protocol::Tcp,
            target: target.clone(),
        },
        EventKind::MappingFailed { mapping: mapping.clone(), listener, error: "in use by nginx (pid 812)".into() },
        EventKind::MappingState { mapping: mapping.clone(), state: MappingState::Up, reason: None },
        EventKind::Ready { mappings: 3, listening: 2, failed: 1 },
        EventKind::TargetChanged { mapping: mapping.clone(), target, target_address: Some("172.17.0.5:80".into()) },
        EventKind::Opened { connection: young() },
        EventKind::Traffic {
            mappings: vec![MappingTraffic { mapping: mapping.clone(), connections: 1, bytes_in: 2, bytes_out: 3 }],
            connections: vec![connection(CloseReason::Finished)],
            opened: 1,
            closed: 2,
        },
        EventKind::ProfileRejected { problems: vec![problem()] },
        EventKind::ProfileApplied { added: 1, changed: 2, removed: 3 },
        EventKind::Removed { mapping: mapping.clone() },
        EventKind::Docker { docker: DockerState::Unknown },
        EventKind::Warning { message: "the log cannot be written".into() },
        EventKind::Lost { count: 120 },
    ];
    kinds.extend(states.map(|state| EventKind::MappingState {
        mapping: mapping.clone(),
        state,
        reason: Some("127.0.0.1:8080 is in use by nginx (pid 812)".into()),
    }));
    kinds.extend(closed);
    kinds.into_iter().map(|kind| Event::new(time(), kind)).collect()
}

fn time() -> Timestamp {
    "2026-01-31T10:00:00.123Z".parse().unwrap()
}

fn exchanges() -> Vec<Exchange> {
    let answered = Exchange {
        at: Timestamp::UNIX_EPOCH,
        method: "GET".into(),
        path: "/".into(),
        status: Some(200),
        duration_us: Some(1_200),
    };
    vec![answered.clone(), Exchange { status: None, duration_us: None, ..answered }]
}

/// A connection that has just been accepted: what is not known yet is null or left out.
fn young() -> Connection {
    Connection {
        source: None,
        target_address: None,
        state: ConnectionState::Connecting,
        closed_side: None,
        datagrams_in: None,
        datagrams_out: None,
        peer: None,
        alias: None,
        requests: None,
        reason: None,
        error: None,
        ..connection(CloseReason::Finished)
    }
}

fn connection(reason: CloseReason) -> Connection {
    Connection {
        id: ConnectionId(17),
        mapping: "web".into(),
        protocol: Protocol::Udp,
        client: address("[2001:db8::41]:51514"),
        listener: address("[fe80::1%2]:8080"),
        source: Some(address("172.17.0.1:40112")),
        target: "web_1:80".into(),
        target_address: Some(address("172.17.0.2:80")),
        state: ConnectionState::Closed,
        closed_side: Some(Side::Client),
        opened_at: time(),
        duration_ms: 2_034,
        bytes_in: 1_100,
        bytes_out: u64::MAX,
        datagrams_in: Some(3),
        datagrams_out: Some(4),
        peer: Some(address("10.0.0.1:40000")),
        alias: Some(ip("198.18.3.7")),
        requests: Some(2),
        reason: Some(reason),
        error: Some("its task panicked".into()),
    }
}

fn row(owner: Owner) -> MappingRow {
    MappingRow {
        id: MappingId(1),
        owner,
        name: "web".into(),
        mapping: "[fe80::1%eth0]:8000-8010:compose/shop/web:80-90/udp".parse().unwrap(),
        written: written(),
        is_session: false,
        state: MappingState::Half,
        reason: Some("127.0.0.1:8000 is in use".into()),
        listeners: vec![ListenerRow {
            family: Family::V6,
            address: "[::1]:8000-8010".into(),
            bound: Some(address("[::1]:8000")),
            error: Some("in use".into()),
        }],
        target_addresses: vec![ip("172.17.0.2"), ip("fd00::2")],
        connections: 1,
        connections_total: 2,
        errors: 3,
        bytes_in: 4,
        bytes_out: 5,
        last_result: Some(LastResult { outcome: LastOutcome::Ok, took_us: 400, failures: 1, attempts: 3 }),
        connect_p50_us: Some(380),
    }
}

fn container() -> Container {
    Container {
        id: "3f4e9a12".into(),
        name: "web_1".into(),
        image: "nginx".into(),
        state: "running".into(),
        addresses: vec![ip("172.17.0.2"), ip("fd00::2")],
        networks: vec![ContainerNetwork {
            name: "bridge".into(),
            driver: "bridge".into(),
            is_internal: false,
            addresses: vec![ip("172.17.0.2")],
            gateways: vec![ip("172.17.0.1")],
        }],
        host_network: false,
        ports: vec![ContainerPort { port: 80, protocol: Protocol::Tcp, published: Some(8080) }],
        publications: vec![Publication { host: address("[::]:8080"), port: 80, protocol: Protocol::Tcp }],
        compose: Some(ComposeLabel { project: "shop".into(), service: "web".into(), number: 1 }),
    }
}

fn port_report() -> PortReport {
    PortReport {
        conflicts: vec![PortConflict {
            address: address("127.0.0.1:8080"),
            family: Family::V4,
            holder: "nginx (pid 812)".into(),
        }],
        next_free: Some(8081),
        problem: Some("10.9.9.9 is not an address of this host".into()),
    }
}

fn problem() -> Problem {
    Problem {
        file: Some("dev.json".into()),
        position: Some(Position { line: 3, column: 14 }),
        path: "mappings[3].listen".into(),
        problem: "host port 0 means \"pick a free one\"".into(),
        hint: Some("write auto".into()),
    }
}

fn report() -> Report {
    let kinds = [
        StepKind::Listener,
        StepKind::Clients,
        StepKind::Target,
        StepKind::Route,
        StepKind::Alias,
        StepKind::Firewall,
        StepKind::Connect,
        StepKind::Inside,
        StepKind::Speech,
        StepKind::Limits,
    ];
    let verdicts = [Verdict::Ok, Verdict::Bad, Verdict::Unknown, Verdict::Skipped];
    let step = |(kind, verdict)| Step { kind, family: Some(Family::V6), verdict, text: "[::1]:8080 listens".into() };
    Report {
        name: "web".into(),
        mapping: "any:8080:web_1:80".into(),
        steps: kinds.into_iter().zip(verdicts.into_iter().cycle()).map(step).collect(),
        causes: CauseKind::ALL
            .map(|kind| Cause { kind, text: "nothing listens".into(), remedies: vec!["start it".into()] })
            .into(),
        who: "Only this machine can connect".into(),
        will_be_at: vec![address("[::1]:8080")],
        took_ms: 12,
    }
}

fn metrics() -> Metrics {
    let connections = ConnectionMetrics {
        open: 1,
        total: 17,
        closed: CloseReason::ALL.map(|reason| ClosedCount { reason, count: 1 }).into(),
        failures: ConnectFailures { refused: 1, unreachable: 2, timeout: 3, error: 4 },
        connect_times: Some(ConnectTimes {
            buckets: CONNECT_BOUNDS_US.map(|up_to_us| ConnectBucket { up_to_us, count: 1 }).into(),
            count: 2,
            sum_us: 380,
        }),
    };
    let mapping = |state| MappingMetrics {
        id: MappingId(1),
        name: "web".into(),
        protocol: Protocol::Udp,
        state,
        bytes_in: 1,
        bytes_out: u64::MAX,
        datagrams: Some(DatagramMetrics { inward: 1, outward: 2, dropped: 3 }),
        connections: connections.clone(),
    };
    Metrics {
        uptime_ms: 61_500,
        is_ready: true,
        descriptors: Some(DescriptorUse { in_use: 12, limit: 4_000 }),
        connections_open: 1,
        connections_total: 17,
        mappings: vec![mapping(MappingState::Up)],
    }
}
