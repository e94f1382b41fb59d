//! The tests: what work each is, and which figures it gives.

use serde::{Deserialize, Serialize};

use crate::contestants::Contestant;
use crate::mode::Mode;

/// Which way bulk data goes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Direction {
    /// From the client to the target.
    Up,
    /// From the target to the client.
    Down,
}

/// A piece of work.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// As many bytes as go through.
    Bulk {
        /// Connections at once.
        streams: usize,
        /// Which way.
        direction: Direction,
    },
    /// Small requests and answers, one at a time on each connection.
    PingPong {
        /// Connections at once.
        connections: usize,
    },
    /// Connections, one after the other.
    Connect {
        /// Connections that stay open beside it.
        idle: usize,
    },
    /// Connections that do nothing.
    Idle {
        /// How many.
        connections: usize,
    },
    /// A thousand mappings.
    Mappings,
    /// Datagrams that are sent back.
    UdpEcho {
        /// Client sockets.
        flows: usize,
        /// Bytes of one datagram.
        size: usize,
    },
    /// One datagram at a time.
    UdpRoundTrip,
    /// Datagrams at a steady pace, whatever becomes of them.
    UdpBurst {
        /// Datagrams in a second.
        per_second: u32,
        /// Bytes of one datagram.
        size: usize,
    },
    /// Small HTTP requests and answers, one at a time on each connection.
    Http {
        /// Connections at once.
        connections: usize,
    },
    /// Large answers to HTTP requests.
    Download {
        /// Connections at once.
        streams: usize,
    },
    /// So many small requests and answers on one connection, of which others count what they take.
    Count {
        /// How many.
        transactions: u32,
    },
}

impl Work {
    /// True if it is UDP.
    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Self::UdpEcho { .. } | Self::UdpRoundTrip | Self::UdpBurst { .. })
    }
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// The larger one.
    More,
    /// The smaller one.
    Less,
}

/// A figure of a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// As the load calls it.
    pub(crate) key: &'static str,
    /// As tables call it.
    pub(crate) heading: &'static str,
    /// Digits behind the point.
    pub(crate) digits: usize,
    /// What one hopes for.
    pub(crate) better: Better,
    /// Whether a ratio says anything.
    pub(crate) is_compared: bool,
}

const fn more(key: &'static str, heading: &'static str, digits: usize) -> Metric {
    Metric { key, heading, digits, better: Better::More, is_compared: true }
}

const fn less(key: &'static str, heading: &'static str, digits: usize) -> Metric {
    Metric { key, heading, digits, better: Better::Less, is_compared: true }
}

const fn alone(metric: Metric) -> Metric {
    Metric { is_compared: false, ..metric }
}

/// A test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// As it is called on the command line.
    pub(crate) id: &'static str,
    /// As tables call it.
    pub(crate) title: &'static str,
    /// What is done.
    pub(crate) work: Work,
    /// What the target is told of its client.
    pub(crate) mode: Mode,
    /// What is told of it.
    pub(crate) metrics: &'static [Metric],
    /// Part of the quick choice.
    pub(crate) is_quick: bool,
    /// Rounds are no more than these: memory does not vary as time does.
    pub(crate) most_rounds: u32,
}

const BULK: &[Metric] = &[more("gb_per_s", "GB/s", 2), less("cpu_s_per_gb", "CPU s/GB", 4)];
const PING: &[Metric] = &[
    more("tx_per_s", "tx/s", 0),
    less("p50_us", "p50 µs", 1),
    less("p99_us", "p99 µs", 1),
    less("cpu_us_per_tx", "CPU µs/tx", 2),
];
const CONNECT: &[Metric] = &[more("conn_per_s", "conn/s", 0), less("cpu_us_per_conn", "CPU µs/conn", 1)];
const IDLE: &[Metric] = &[
    less("pss_bytes", "PSS bytes/conn", 0),
    less("total_bytes", "with kernel bytes/conn", 0),
    alone(less("descriptors", "fds/conn", 2)),
    alone(less("processes", "processes/conn", 2)),
];
const MAPPINGS: &[Metric] = &[
    less("ready_s", "ready s", 3),
    less("pss_mb", "PSS MB", 1),
    less("total_mb", "with kernel MB", 1),
    alone(less("processes", "processes", 0)),
];
const ECHO: &[Metric] = &[
    more("packets_per_s", "packets/s", 0),
    less("cpu_s_per_million", "CPU s/M", 2),
    alone(less("lost_percent", "lost %", 2)),
];
const ROUND_TRIP: &[Metric] = &[less("p50_us", "p50 µs", 1), less("p99_us", "p99 µs", 1)];
const BURST: &[Metric] = &[
    alone(more("sent_per_s", "sent/s", 0)),
    more("received_per_s", "received/s", 0),
    alone(less("lost_percent", "lost %", 3)),
    less("cpu_s_per_million", "CPU s/M received", 2),
];

const HTTP: &[Metric] = &[
    more("tx_per_s", "requests/s", 0),
    less("p50_us", "p50 µs", 1),
    less("p99_us", "p99 µs", 1),
    less("cpu_us_per_tx", "CPU µs/request", 2),
];
const COUNT: &[Metric] = &[
    less("instructions", "instructions/tx", 0),
    less("user_instructions", "of them in user mode", 0),
    less("calls", "system calls/tx", 2),
];

const fn case(id: &'static str, title: &'static str, work: Work, metrics: &'static [Metric]) -> Case {
    Case { id, title, work, mode: Mode::Plain, metrics, is_quick: false, most_rounds: u32::MAX }
}

const fn told(mode: Mode, case: Case) -> Case {
    Case { mode, ..case }
}

const fn quick(case: Case) -> Case {
    Case { is_quick: true, ..case }
}

const fn few(case: Case) -> Case {
    Case { most_rounds: 3, ..case }
}

const fn bulk(streams: usize, direction: Direction) -> Work {
    Work::Bulk { streams, direction }
}

const PING_64: Work = Work::PingPong { connections: 64 };
const COUNTED: Work = Work::Count { transactions: 4_000 };

static ALL: [Case; 34] = [
    // First of all: thousands of connections that others have ended make the kernel's list of listeners slow to read.
    few(case("mappings", "1,000 TCP mappings", Work::Mappings, MAPPINGS)),
    quick(case("bulk-1-up", "Bulk, 1 stream, client to target", bulk(1, Direction::Up), BULK)),
    case("bulk-1-down", "Bulk, 1 stream, target to client", bulk(1, Direction::Down), BULK),
    quick(case("bulk-8-up", "Bulk, 8 streams, client to target", bulk(8, Direction::Up), BULK)),
    case("bulk-8-down", "Bulk, 8 streams, target to client", bulk(8, Direction::Down), BULK),
    quick(case("ping-1", "Ping-pong of 64 bytes, 1 connection", Work::PingPong { connections: 1 }, PING)),
    quick(case("ping-64", "Ping-pong of 64 bytes, 64 connections", Work::PingPong { connections: 64 }, PING)),
    quick(case("connect", "Connections in a second; the target closes first", Work::Connect { idle: 0 }, CONNECT)),
    case("connect-idle", "The same beside 3,000 idle connections", Work::Connect { idle: 3_000 }, CONNECT),
    few(case("idle", "An idle connection", Work::Idle { connections: 2_000 }, IDLE)),
    case("udp-1x64", "UDP echo, 1 flow of 64 bytes", Work::UdpEcho { flows: 1, size: 64 }, ECHO),
    quick(case("udp-1000x64", "UDP echo, 1,000 flows of 64 bytes", Work::UdpEcho { flows: 1_000, size: 64 }, ECHO)),
    case("udp-1000x1400", "UDP echo, 1,000 flows of 1,400 bytes", Work::UdpEcho { flows: 1_000, size: 1_400 }, ECHO),
    case("udp-rtt", "UDP round trip, 64 bytes, one at a time", Work::UdpRoundTrip, ROUND_TRIP),
    case(
        "udp-burst-150k",
        "UDP, 150,000 datagrams of 1,400 bytes a second, sent back",
        Work::UdpBurst { per_second: 150_000, size: 1_400 },
        BURST,
    ),
    case(
        "udp-burst-400k",
        "UDP, 400,000 datagrams of 1,400 bytes a second, sent back",
        Work::UdpBurst { per_second: 400_000, size: 1_400 },
        BURST,
    ),
    told(
        Mode::ProxyV2,
        quick(case("id-proxy-ping-64", "PROXY v2: ping-pong of 64 bytes, 64 connections", PING_64, PING)),
    ),
    told(
        Mode::ProxyV2,
        quick(case(
            "id-proxy-bulk-8-down",
            "PROXY v2: bulk, 8 streams, target to client",
            bulk(8, Direction::Down),
            BULK,
        )),
    ),
    told(
        Mode::ProxyV2,
        quick(case(
            "id-proxy-connect",
            "PROXY v2: connections in a second; the target closes first",
            Work::Connect { idle: 0 },
            CONNECT,
        )),
    ),
    told(
        Mode::ProxyV2,
        quick(case(
            "id-proxy-udp-1000x64",
            "PROXY v2 in each datagram: UDP echo, 1,000 flows of 64 bytes",
            Work::UdpEcho { flows: 1_000, size: 64 },
            ECHO,
        )),
    ),
    told(
        Mode::ProxyV2,
        quick(few(case("id-proxy-count", "PROXY v2: what a ping-pong of 64 bytes takes", COUNTED, COUNT))),
    ),
    told(Mode::ProxyV1, case("id-proxy-v1-ping-64", "PROXY v1: ping-pong of 64 bytes, 64 connections", PING_64, PING)),
    told(
        Mode::ProxyV1,
        case("id-proxy-v1-bulk-8-down", "PROXY v1: bulk, 8 streams, target to client", bulk(8, Direction::Down), BULK),
    ),
    told(
        Mode::ProxyV1,
        case(
            "id-proxy-v1-connect",
            "PROXY v1: connections in a second; the target closes first",
            Work::Connect { idle: 0 },
            CONNECT,
        ),
    ),
    told(Mode::ProxyV1, few(case("id-proxy-v1-count", "PROXY v1: what a ping-pong of 64 bytes takes", COUNTED, COUNT))),
    told(Mode::Alias, quick(case("id-alias-ping-64", "Alias: ping-pong of 64 bytes, 64 connections", PING_64, PING))),
    told(
        Mode::Alias,
        quick(case("id-alias-bulk-8-down", "Alias: bulk, 8 streams, target to client", bulk(8, Direction::Down), BULK)),
    ),
    told(
        Mode::Alias,
        quick(case(
            "id-alias-connect",
            "Alias: connections in a second; the target closes first",
            Work::Connect { idle: 0 },
            CONNECT,
        )),
    ),
    told(
        Mode::Alias,
        quick(case(
            "id-alias-udp-1000x64",
            "Alias: UDP echo, 1,000 flows of 64 bytes",
            Work::UdpEcho { flows: 1_000, size: 64 },
            ECHO,
        )),
    ),
    told(Mode::Alias, quick(few(case("id-alias-count", "Alias: what a ping-pong of 64 bytes takes", COUNTED, COUNT)))),
    told(Mode::Http, case("id-http-1", "HTTP: small requests, 1 connection", Work::Http { connections: 1 }, HTTP)),
    told(
        Mode::Http,
        quick(case("id-http-64", "HTTP: small requests, 64 connections", Work::Http { connections: 64 }, HTTP)),
    ),
    told(
        Mode::Http,
        quick(case("id-http-body", "HTTP: answers of 8 MB, 8 connections", Work::Download { streams: 8 }, BULK)),
    ),
    told(
        Mode::Inspect,
        quick(case(
            "inspect-http-64",
            "HTTP requests listed only: small requests, 64 connections",
            Work::Http { connections: 64 },
            HTTP,
        )),
    ),
];

impl Case {
    /// Every test, in the order in which they run.
    pub(crate) fn all() -> &'static [Self] {
        &ALL
    }

    /// True for those that are measured when nothing else is asked for; the others are about who the client is.
    pub(crate) fn is_plain(&self) -> bool {
        self.mode == Mode::Plain
    }

    /// Whether `contestant` can do it.
    pub(crate) fn is_for(&self, contestant: Contestant) -> bool {
        let can_work = match self.work {
            Work::Mappings | Work::Idle { .. } => contestant != Contestant::Direct,
            // Three thousand processes anew for each round would take most of the bench's time.
            Work::Connect { idle: 1.. } => !contestant.is_process_per_connection(),
            // What is of interest is what a mode takes beyond the plain one.
            Work::Count { .. } => matches!(contestant, Contestant::Portolan | Contestant::PlainPortolan),
            _ => true,
        };
        can_work && self.mode.is_known_to(contestant, self.work.is_udp())
    }
}
