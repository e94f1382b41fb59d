//! `watch` over real connections: rates, pages, and how it ends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use portolan::commands::{Add, Failure, Fields, Output, Remark, Watch, add, watch};
use portolan::service::Handle;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::common::SOON;
use crate::common::echo::echo_server;
use crate::world::{World, is_up};
use crate::{Closed, Paper, text};

struct Watching {
    pages: UnboundedReceiver<Vec<u8>>,
    seen: String,
    stop: CancellationToken,
    task: JoinHandle<Result<Remark, Failure>>,
}

impl Watching {
    fn start(handle: &Handle, what: Watch, json: bool) -> Self {
        let (sender, pages) = unbounded_channel();
        let (handle, stop) = (handle.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move { watch(&handle, &what, Output::new(Paper(sender), json), stopped).await });
        Self { pages, seen: String::new(), stop, task }
    }

    /// The first page that fits.
    async fn page(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let page = timeout(SOON, self.pages.recv()).await;
            let page = page.unwrap_or_else(|_| panic!("never {what}: {}", self.seen)).expect("it goes on");
            let page = String::from_utf8(page).expect("it is text");
            self.seen.push_str(&page);
            if fits(&page) {
                return page;
            }
        }
    }

    async fn end(mut self) -> (Result<Remark, Failure>, String) {
        self.stop.cancel();
        let ended = timeout(SOON, &mut self.task).await.expect("it ends").expect("it does not panic");
        let mut rest = String::new();
        while let Some(page) = self.pages.recv().await {
            rest.push_str(&String::from_utf8(page).expect("it is text"));
        }
        (ended, rest)
    }
}

fn each(interval_ms: u64) -> Watch {
    Watch { filter: String::new(), interval: Duration::from_millis(interval_ms), published: false, size: None }
}

/// A mapping with a connection that sends as fast as it is answered, until it is dropped.
async fn busy(world: &World) -> (std::net::SocketAddr, Sending) {
    let what = Add {
        mapping: format!("auto:{}", echo_server()),
        fields: Fields { name: Some("web".into()), ..Fields::default() },
        ..Add::default()
    };
    text(async |out| add(&world.handle, &what, out).await).await.well();
    let mut rows = world.rows().await;
    let bound = rows.wait("up", |rows| rows.iter().any(is_up)).await[0].listeners[0].bound.expect("bound");
    (bound, Sending::to(bound))
}

struct Sending(TcpStream);

impl Sending {
    fn to(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        let mut both = stream.try_clone().expect("another descriptor");
        std::thread::spawn(move || {
            let mut block = [7; 1000];
            while both.write_all(&block).and_then(|()| both.read_exact(&mut block)).is_ok() {}
        });
        Self(stream)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_are_what_was_counted_between_two_pages() {
    let world = World::new().await;
    let (_, sending) = busy(&world).await;
    let mut watching = Watching::start(&world.handle, each(100), true);
    let flow = |page: &str| -> Value { serde_json::from_str(page).expect("one object a line") };
    let page = watching
        .page("a rate", |page| {
            let page = flow(page);
            let rate = |row: &Value| row["in_rate"].as_u64().is_some_and(|rate| rate >= 10_000);
            rate(&page["mappings"][0]) && rate(&page["connections"][0])
        })
        .await;
    let page = flow(&page);
    assert!(page["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{page}");
    let (mapping, connection) = (&page["mappings"][0], &page["connections"][0]);
    assert_eq!((&mapping["name"], &mapping["state"]), (&"web".into(), &"up".into()));
    assert_eq!((&connection["mapping"], &connection["mapping_id"]), (&"web".into(), &1.into()));
    assert!(connection["out_rate"].as_u64().is_some_and(|rate| rate > 0), "{page}");
    // Nothing flows any more: the rate is nothing, the sums stay.
    drop(sending);
    let page = watching.page("idle again", |page| flow(page)["mappings"][0]["in_rate"] == 0).await;
    let page = flow(&page);
    assert_eq!(page["connections"], Value::Array(Vec::new()), "it has ended");
    assert!(page["mappings"][0]["bytes_in"].as_u64().is_some_and(|bytes| bytes > 1_000), "{page}");
    let (ended, _) = watching.end().await;
    assert!(matches!(ended, Ok(None)), "{ended:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_holds_both_tables_and_the_filter_holds_for_both() {
    let world = World::new().await;
    let (_, _sending) = busy(&world).await;
    let mut watching = Watching::start(&world.handle, each(50), false);
    let page = watching.page("a rate", |page| page.contains("kB/s") || page.contains("MB/s")).await;
    let lines: Vec<&str> = page.lines().collect();
    assert!(lines[0].starts_with("profile.json  1 mapping  1 connection  in "), "{page}");
    let head = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    assert_eq!(head(lines[2]), "STATE LISTEN WHO TARGET CONNS IN/s OUT/s IN OUT LAST RESULT NAME PROFILE ID");
    assert_eq!(lines[4], "");
    assert_eq!(head(lines[5]), "FAMILY CLIENT PROCESS STATE IN/s OUT/s IN OUT AGE ID MAPPING TARGET ADDRESS");
    assert!(page.ends_with("\n\n") && !page.contains('\x1b'), "a block: {page:?}");
    watching.end().await.0.expect("it was told to");

    let nobody = Watch { filter: "nobody".into(), ..each(50) };
    let mut watching = Watching::start(&world.handle, nobody, false);
    let page = watching.page("a page", |_| true).await;
    assert_eq!(page, "profile.json  0 mappings  0 connections  in -  out -  /nobody\n\n");
    watching.end().await.0.expect("it was told to");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_pages_take_each_others_place_and_it_is_given_back() {
    let world = World::new().await;
    let (_, _sending) = busy(&world).await;
    let what = Watch { size: Some(|| Ok((60, 5))), ..each(50) };
    let mut watching = Watching::start(&world.handle, what, false);
    watching.page("the terminal is taken", |page| page.contains("\x1b[?1049h")).await;
    let page = watching.page("a page", |page| page.contains("web_") || page.contains("STATE")).await;
    assert_eq!(page.matches("\r\n").count(), 4, "no more lines than the terminal has: {page:?}");
    assert!(page.starts_with("\x1b[?2026h\x1b[1;1H") && page.ends_with("\x1b[J\x1b[?2026l"), "{page:?}");
    assert!(page.contains("… 3 more"), "{page:?}");
    let (ended, rest) = watching.end().await;
    ended.expect("it was told to");
    assert!(rest.ends_with("\x1b[?25h\x1b[?1049l"), "{rest:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_gone_ends_it_quietly() {
    let world = World::new().await;
    let often = each(20);
    for json in [false, true] {
        let watched = watch(&world.handle, &often, Output::new(Closed, json), CancellationToken::new());
        let failure = timeout(SOON, watched).await.expect("it ends").unwrap_err();
        assert_eq!(failure.status(), 0);
    }
    // A terminal that is gone is no other reader.
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let gone = std::fs::File::from(OwnedFd::from(writer));
    let what = Watch { size: Some(|| Ok((80, 24))), ..each(20) };
    let watched = watch(&world.handle, &what, Output::new(gone, false), CancellationToken::new());
    assert_eq!(timeout(SOON, watched).await.expect("it ends").unwrap_err().status(), 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_ends_is_said() {
    let world = World::new().await;
    let mut watching = Watching::start(&world.handle, each(20), false);
    watching.page("a page", |_| true).await;
    world.end().await;
    let ended = timeout(SOON, &mut watching.task).await.expect("it ends").expect("it does not panic");
    let failure = ended.unwrap_err();
    assert_eq!((failure.status(), failure.to_string().as_str()), (1, "the engine has ended"));
}
