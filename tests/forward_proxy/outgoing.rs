//! The target is told who its client is, ahead of everything else.

use std::net::SocketAddr;

use portolan::model::event::CloseReason;
use portolan::model::identity::Identity;
use portolan::wire::proxy::{Parsed, Told, Transport, parse, version_1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::sockets::{Bench, PATIENCE, connect, noise, until};
use crate::{Got, accept, map, told};

/// What the header of `bytes` tells, and what is behind it.
fn split(bytes: &[u8]) -> (Option<Told>, &[u8]) {
    match parse(bytes, Transport::Stream) {
        Ok(Parsed::Header { length, told }) => (told, &bytes[length..]),
        other => panic!("{other:?} in {bytes:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_speaks_first_has_the_header_before_the_client_has_said_a_word() {
    for (identity, listen) in
        [(Identity::ProxyV1, "[::1]"), (Identity::ProxyV2, "[::1]"), (Identity::ProxyV2, "127.0.0.1")]
    {
        let bench = Bench::start();
        let got = Got::default();
        let server = got.server("220 ready\r\n");
        let listener = map(&bench, listen, server.address, |config| config.identity = identity).await;
        let mut stream = connect(listener).await;
        let client = stream.local_addr().expect("it is connected");
        let mut greeting = [0; 11];
        timeout(PATIENCE, stream.read_exact(&mut greeting)).await.expect("in time").expect("the greeting");
        let whole = until("the header", || got.all().pop().filter(|got| !got.is_empty())).await;
        assert_eq!(split(&whole), (Some(Told { client, listener }), &b""[..]));
        stream.write_all(b"QUIT\r\n").await.expect("it is taken");
        stream.shutdown().await.expect("it ends");
        let record = bench.closed(1).await.remove(0);
        let all = got.all().remove(0);
        assert_eq!(split(&all).1, b"QUIT\r\n");
        let row = record.connection();
        assert_eq!((row.reason, row.bytes_in, row.bytes_out), (Some(CloseReason::Finished), 6, 11));
        if identity == Identity::ProxyV2 {
            // The id that other engines do not give, and whose end is the one of the events; and the mapping's name.
            let id = bench.registry.unique_id(record.id);
            assert!(id.starts_with("portolan-") && id.ends_with("-1"), "{id}");
            let field =
                |kind: u8, value: &str| [&[kind, 0, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
            let fields = [field(0x05, &id), field(0xE0, "test")].concat();
            assert!(all.windows(fields.len()).any(|window| window == fields), "{all:?}");
        }
        bench.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_in_front_has_told_goes_on_to_the_target() {
    for identity in [Identity::ProxyV1, Identity::ProxyV2] {
        let bench = Bench::start();
        let got = Got::default();
        let server = got.server("");
        let both = |config: &mut portolan::model::profile::MappingConfig| {
            accept(config);
            config.identity = identity;
        };
        let listener = map(&bench, "127.0.0.1", server.address, both).await;
        let mut stream = connect(listener).await;
        stream.write_all(&[&version_1(told())[..], b"x"].concat()).await.expect("it is taken");
        stream.shutdown().await.expect("it ends");
        bench.closed(1).await;
        assert_eq!(split(&got.all()[0]), (Some(told()), &b"x"[..]));
        bench.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_behind_the_headers_is_spliced_and_exact() {
    for identity in [Identity::None, Identity::ProxyV1, Identity::ProxyV2] {
        let bench = Bench::start();
        let got = Got::default();
        let server = got.server("");
        let listener = map(&bench, "[::1]", server.address, |config| {
            accept(config);
            config.identity = identity;
        })
        .await;
        let payload = noise(1, 16 << 20);
        let mut stream = connect(listener).await;
        stream.write_all(&version_1(told())).await.expect("it is taken");
        stream.write_all(&payload).await.expect("it is taken");
        stream.shutdown().await.expect("it ends");
        let record = bench.closed(1).await.remove(0);
        let all = got.all().remove(0);
        let rest = if identity == Identity::None { &all[..] } else { split(&all).1 };
        assert!(rest == payload, "{identity:?}");
        assert_eq!(record.counters.read().bytes_in, 16 << 20);
        let (to_splice, _) = bench.engine.path_switches();
        assert!(to_splice > 0, "{identity:?}: bulk is spliced");
        bench.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_for_those_who_come_after_it() {
    let bench = Bench::start();
    let got = Got::default();
    let server = got.server("");
    let listener = map(&bench, "[::1]", server.address, |_| {}).await;
    let mut before = connect(listener).await;
    before.write_all(b"plain").await.expect("it is taken");
    until("the first one", || got.all().first().filter(|got| *got == b"plain").map(drop)).await;
    let mut config = crate::sockets::config(&format!("[::1]:{}:{}", listener.port(), server.address));
    config.identity = Identity::ProxyV1;
    bench.apply(1, &config, &[server.address]).await;
    let mut after = connect(listener).await;
    let client: SocketAddr = after.local_addr().expect("it is connected");
    for stream in [&mut before, &mut after] {
        stream.write_all(b" too").await.expect("it is taken");
        stream.shutdown().await.expect("it ends");
    }
    bench.closed(2).await;
    let all = got.all();
    assert_eq!(all[0], b"plain too");
    assert_eq!(split(&all[1]), (Some(Told { client, listener }), &b" too"[..]));
    bench.shutdown().await;
}
