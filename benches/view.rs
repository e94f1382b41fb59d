//! What the screen costs: an update taken in and a frame drawn, at 160x50 with 200 mappings and 5,000 connections.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use portolan::model::event::{Connection, ConnectionState, MappingState};
use portolan::model::id::{ConnectionId, MappingId};
use portolan::model::mapping::{Mapping, Protocol};
use portolan::model::update::{ConnectionRow, MappingRow, Overview, Update};
use portolan::tui::keymap::Key;
use portolan::tui::state::{Look, State};
use portolan::tui::update::{Msg, update};
use portolan::tui::view;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const MAPPINGS: u64 = 200;
const CONNECTIONS: u64 = 5_000;

fn mapping(id: u64, tick: u64) -> MappingRow {
    let mapping: Mapping = format!("any:{}:web_{id}:80", 10_000 + id).parse().expect("a mapping");
    MappingRow {
        id: MappingId(id),
        owner: portolan::model::update::Owner::Portolan,
        name: format!("web-{id}"),
        written: mapping.clone().into(),
        mapping,
        is_session: false,
        state: MappingState::Up,
        reason: None,
        listeners: Vec::new(),
        target_addresses: vec![[172, 17, 0, 2].into()],
        connections: CONNECTIONS / MAPPINGS,
        connections_total: CONNECTIONS / MAPPINGS,
        errors: 0,
        bytes_in: tick * 1_000 * id,
        bytes_out: tick * 90_000 * id,
        last_result: None,
        connect_p50_us: Some(400),
    }
}

fn connection(id: u64, tick: u64) -> ConnectionRow {
    let port = u16::try_from(20_000 + id % 40_000).expect("a port");
    let client = if id.is_multiple_of(2) {
        SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into(), port)
    } else {
        SocketAddr::new([198, 51, 100, 7].into(), port)
    };
    ConnectionRow {
        mapping_id: MappingId(id % MAPPINGS),
        opened_at_ms: id,
        closed_at_ms: None,
        process: None,
        observed: None,
        exchanges: Vec::new(),
        exchanges_end: None,
        connection: Connection {
            id: ConnectionId(id),
            mapping: format!("web-{}", id % MAPPINGS),
            protocol: Protocol::Tcp,
            client,
            listener: ([192, 0, 2, 10], 8080).into(),
            source: Some(([172, 17, 0, 1], port).into()),
            target: "web:80".to_owned(),
            target_address: Some(([172, 17, 0, 2], 80).into()),
            state: ConnectionState::Open,
            closed_side: None,
            opened_at: Timestamp::UNIX_EPOCH,
            duration_ms: 0,
            bytes_in: tick * id,
            bytes_out: tick * (id * 7_919 % 100_000),
            datagrams_in: None,
            datagrams_out: None,
            peer: None,
            alias: None,
            requests: None,
            reason: None,
            error: None,
        },
    }
}

/// Every row, with the counters of that tick.
fn told(tick: u64) -> Update {
    let is_full = tick == 0;
    Update {
        seq: tick + 1,
        at_ms: 10_000 + tick * 250,
        is_full,
        overview: is_full.then(|| Overview { order: (0..MAPPINGS).map(MappingId).collect(), ..Overview::default() }),
        mappings: (0..MAPPINGS).map(|id| mapping(id, tick)).collect(),
        connections: (0..CONNECTIONS).map(|id| connection(id, tick)).collect(),
        ..Update::default()
    }
}

fn frames(criterion: &mut Criterion) {
    let mut state = State::new(Look::default(), (160, 50));
    let mut terminal = Terminal::new(TestBackend::new(160, 50)).expect("no terminal is needed");
    let mut tick = 0;
    // A minute of the past, so that graphs and rates have their full length.
    while tick < 240 {
        update(&mut state, Msg::Clock(tick * 250));
        update(&mut state, Msg::Update(Box::new(told(tick))));
        tick += 1;
    }
    for (view, key) in [("mappings", '1'), ("connections", '2')] {
        update(&mut state, Msg::Key(Key::Char(key)));
        criterion.bench_function(&format!("{view}: update of every row and a frame"), |bencher| {
            bencher.iter_batched(
                || {
                    tick += 1;
                    told(tick)
                },
                |told| {
                    let at_ms = told.at_ms - 10_000;
                    update(&mut state, Msg::Clock(at_ms));
                    update(&mut state, Msg::Update(Box::new(told)));
                    terminal.draw(|frame| view::draw(black_box(&state), frame)).expect("drawn into memory");
                },
                BatchSize::LargeInput,
            );
        });
        criterion.bench_function(&format!("{view}: a key and a frame"), |bencher| {
            bencher.iter(|| {
                update(&mut state, Msg::Key(Key::Down));
                terminal.draw(|frame| view::draw(black_box(&state), frame)).expect("drawn into memory");
            });
        });
    }
}

criterion_group!(benches, frames);
criterion_main!(benches);
