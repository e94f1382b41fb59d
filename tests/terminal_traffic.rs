//! Connections on the screen: both families, both legs, how they end, and what deleting does to them.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::netns::Namespace;
use common::peers::{Web, curl, established, get};
use common::ports::free_port;
use common::program::Home;
use common::screen::Screen;
use common::{Need, Running, SOON, output, require, wait_for, wait_until};

/// A request whose answer lasts until `/release` is asked for.
fn hold(namespace: Option<&Namespace>, family: &str, url: &str) -> Running {
    let child: Child =
        curl(namespace, &["-N", "--max-time", "120", family, url]).stdout(Stdio::null()).spawn().expect("curl starts");
    Running(child)
}

#[test]
fn each_family_has_its_row_and_both_legs_are_those_that_ss_lists() {
    if !require(&[Need::Namespaces, Need::Tmux, Need::Python, Need::Curl, Need::Ss]) {
        return;
    }
    let host = Namespace::new("host");
    let web = Web::start(Some(&host), "127.0.0.1", 3000);
    let home = Home::new();
    // Wide enough for both legs of any address.
    let screen = Screen::open_with((120, 30), &home, Some(&host), &["-p", "any:8080:127.0.0.1:3000"], &[]);
    screen.wait_for_row("MAPPINGS", &["any:8080", "up", "net"]);

    // The pane of connections, where the selection is moved.
    screen.keys(&["Tab"]);
    let (mut clients, mut sources) = (Vec::new(), Vec::new());
    for (family, address, families) in [("-6", "[::1]:8080", "v6-v4"), ("-4", "127.0.0.1:8080", "v4-v4")] {
        clients.push(hold(Some(&host), family, &format!("http://{address}/hold")));
        let row = screen.wait_for_row("CONNECTIONS", &[families, "open"]);
        // All is on one host, so each connection is listed at both its ends; ours accepts on 8080 and dials 3000.
        let near = wait_for("the client's leg in ss", SOON, || {
            established(Some(&host)).into_iter().find(|(local, _)| local == address)
        });
        assert!(row.contains(&format!("{} ", near.1)), "{row}\nss: {near:?}");
        screen.keys(&["G"]);
        screen.wait_for_row("DETAIL", &["client", &format!("{} -> {}", near.1, near.0)]);
        let detail = screen.wait_for_row("DETAIL", &["target", "127.0.0.1:3000"]);
        let far = detail.split_whitespace().nth(1).expect("the source stands after the word").to_owned();
        assert!(detail.contains(&format!("{far} -> 127.0.0.1:3000")), "{detail}");
        let listed = established(Some(&host));
        assert!(listed.contains(&(far.clone(), "127.0.0.1:3000".to_owned())), "{far} in {listed:?}");
        sources.push(far);
    }
    // Each client has a leg of its own towards the target.
    assert_ne!(sources[0], sources[1]);
    get(Some(&host), "http://127.0.0.1:3000/release");
    screen.wait_for_row("CONNECTIONS", &["v6-v4", "x finished"]);
    screen.wait_for_row("CONNECTIONS", &["v4-v4", "x finished"]);
    drop(clients);
    drop(web);
    screen.quit();
}

/// The clients of the rows, from the top.
fn clients(screen: &Screen) -> Vec<String> {
    let rows = screen.pane("CONNECTIONS").into_iter().skip(1);
    let client = |row: String| row.trim_start_matches('>').split_whitespace().nth(1).map(str::to_owned);
    rows.filter_map(client).filter(|client| client.starts_with('[')).collect()
}

#[test]
fn finished_connections_stay_in_place_for_ten_seconds_with_their_reason_and_come_back_on_demand() {
    if !require(&[Need::Tmux, Need::Python, Need::Curl]) {
        return;
    }
    let home = Home::new();
    let web = Web::start(None, "127.0.0.1", 0);
    let port = free_port();
    let screen = Screen::open_with((80, 40), &home, None, &["-p", &format!("{port}:127.0.0.1:{}", web.port())], &[]);
    screen.wait_for_row("MAPPINGS", &[&port.to_string(), "up"]);
    // Two that go on, and between them two that have finished.
    let rows = |count: usize| wait_until("the rows", SOON, || clients(&screen).len() == count);
    let mut held = vec![hold(None, "-6", &format!("http://[::1]:{port}/hold"))];
    rows(1);
    let mut finished = Vec::new();
    let mut first_end = None;
    for _ in 0..2 {
        let client =
            output(curl(None, &["-o", "/dev/null", "-w", "%{local_port}"]).arg(format!("http://[::1]:{port}/")));
        first_end.get_or_insert_with(Instant::now);
        let start = Instant::now();
        screen.wait_for_row_within(
            10 * Duration::from_secs(1),
            "CONNECTIONS",
            &[&format!("]:{client} "), "x finished"],
        );
        println!("its row came after {:?}", start.elapsed());
        finished.push(format!("[::1]:{client}"));
    }
    let (first_end, last_end) = (first_end.expect("the first one"), Instant::now());
    held.push(hold(None, "-6", &format!("http://[::1]:{port}/hold")));
    rows(4);

    // Sorted again at least three times meanwhile, the rows stand where they stood.
    let order = clients(&screen);
    assert_eq!(order[1..3], finished[..]);
    let mut looks = 0;
    while first_end.elapsed() < Duration::from_secs(9) {
        let now = clients(&screen);
        // What the machine's load makes of a look at the very end says nothing.
        assert!(now == order || first_end.elapsed() > Duration::from_millis(9_500), "{now:?}, not {order:?}");
        looks += 1;
        thread::sleep(Duration::from_millis(200));
    }
    assert!(looks > 5, "it has been looked at {looks} times");
    let gone = || {
        let now = clients(&screen);
        finished.iter().all(|client| !now.contains(client))
    };
    wait_until("they are gone", SOON, gone);
    let (least, most) = (last_end.elapsed(), first_end.elapsed());
    println!("they were gone between {least:?} and {most:?} after their end");
    assert!(most > Duration::from_millis(9_500), "gone {most:?} after the first end");
    assert!(least < Duration::from_secs(13 + 5), "gone only {least:?} after the last end");
    assert_eq!(clients(&screen), [order[0].clone(), order[3].clone()]);
    screen.keys(&["x"]);
    for client in &finished {
        screen.wait_for_row("CONNECTIONS", &[&format!("{client} "), "x finished"]);
    }
    drop(held);
    screen.quit();
}

/// Fifty clients that connect, ask for a little, stay for a moment, and begin again, until told to stop.
fn churn(port: u16, stop: &AtomicBool) {
    thread::scope(|scope| {
        for client in 0..50 {
            scope.spawn(move || {
                for round in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let Ok(mut stream) = TcpStream::connect((Ipv6Addr::LOCALHOST, port)) else { return };
                    let request = b"GET /data/20000 HTTP/1.1\r\nConnection: close\r\n\r\n";
                    let mut answer = Vec::new();
                    if stream.write_all(request).is_ok() {
                        let _ = stream.read_to_end(&mut answer);
                    }
                    // Not all in step, so that the order by rate changes all the time.
                    thread::sleep(Duration::from_millis(100 + (client * 37 + round * 101) % 400));
                }
            });
        }
    });
}

#[test]
fn among_fifty_churning_connections_the_selected_one_stays_selected() {
    if !require(&[Need::Tmux, Need::Python, Need::Curl]) {
        return;
    }
    let home = Home::new();
    let web = Web::start(None, "127.0.0.1", 0);
    let port = free_port();
    let screen = Screen::open(&home, None, &["-p", &format!("{port}:127.0.0.1:{}", web.port())]);
    screen.wait_for_row("MAPPINGS", &[&port.to_string(), "up"]);
    screen.keys(&["2"]);
    let _held = hold(None, "-6", &format!("http://[::1]:{port}/hold"));
    let detail = screen.wait_for_row("DETAIL", &["client", &format!("-> [::1]:{port}")]);
    let client = detail.split_whitespace().nth(1).expect("the client stands after the word").to_owned();
    assert!(screen.text().contains("out/s v"), "the list is sorted by out/s: {}", screen.text());

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| churn(port, &stop));
        // Stops the churn on a failure, too.
        let _end = Finally(|| stop.store(true, Ordering::Relaxed));
        screen.terminal.wait_for("the churn", SOON, |text| text.matches("v6-v4").count() > 5);
        for capture in 0..20 {
            screen.wait_for_row_within(
                Duration::from_millis(500),
                "DETAIL",
                &["client", &format!("{client} -> [::1]:{port}")],
            );
            assert!(screen.text().contains("v6-v4"), "capture {capture}");
            thread::sleep(Duration::from_secs(1));
        }
    });
    screen.quit();
}

struct Finally<F: FnMut()>(F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn deleting_asks_with_the_number_of_connections_and_can_be_undone() {
    if !require(&[Need::Tmux, Need::Python, Need::Curl]) {
        return;
    }
    let home = Home::new();
    let web = Web::start(None, "127.0.0.1", 0);
    let port = free_port();
    let screen = Screen::open(&home, None, &["-p", &format!("{port}:127.0.0.1:{}", web.port())]);
    // Its address may be cut at this width, its port never.
    let listen = format!(":{port}");
    screen.wait_for_row("MAPPINGS", &[&listen, "up"]);
    let mut clients: Vec<_> = (0..3).map(|_| hold(None, "-6", &format!("http://[::1]:{port}/hold"))).collect();
    screen.terminal.wait_for("three connections", SOON, |text| text.contains("3 open"));

    screen.keys(&["d"]);
    screen.terminal.wait_for("the question", SOON, |text| text.lines().any(|line| line.contains("3 open connections")));
    screen.keys(&["Escape"]);
    screen
        .terminal
        .wait_for("no question", SOON, |text| text.contains("? help") && !text.contains("3 open connections"));
    screen.wait_for_row("MAPPINGS", &[&listen, "up"]);
    for client in &mut clients {
        assert!(client.0.try_wait().expect("curl can be waited for").is_none(), "esc has ended a connection");
    }

    screen.keys(&["d"]);
    screen.terminal.wait_for("the question", SOON, |text| text.lines().any(|line| line.contains("3 open connections")));
    screen.keys(&["d"]);
    screen.wait_for_no_row(SOON, "MAPPINGS", &[&listen]);
    for client in &mut clients {
        let end = wait_for("the connection is reset", SOON, || client.0.try_wait().expect("curl can be waited for"));
        // 56: reset while receiving; never a clean end, which would make a cut answer look whole.
        assert_eq!(end.code(), Some(56));
    }
    let refused = curl(None, &[&format!("http://[::1]:{port}/")]).status().expect("curl starts");
    assert_eq!(refused.code(), Some(7), "nobody listens any more");

    screen.keys(&["u"]);
    screen.wait_for_row("MAPPINGS", &[&listen, "up"]);
    assert_eq!(get(None, &format!("http://[::1]:{port}/")).trim(), "127.0.0.1");
    screen.quit();
}
