//! One engine, many windows: screens come and go over the control socket, and traffic does not notice.

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::ports::free_port;
use common::program::Home;
use common::screen::Screen;
use common::soak::amount;
use common::terminal::Terminal;
use common::{Need, SOON, require, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portolan::control::{self, Attached};
use portolan::model::profile::WrittenMapping;
use portolan::model::request::{Reply, Request};
use portolan::model::update::{Interest, MappingRow};
use portolan::service::Handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The control socket of the engine with the default profile.
fn socket(home: &Home) -> PathBuf {
    home.path().join("run/portolan/default.sock")
}

fn with_mapping(listen: u16, target: u16) -> Home {
    let home = Home::new();
    let mapping = format!(r#"{{ "name": "web", "listen": "{listen}", "target": "127.0.0.1:{target}" }}"#);
    home.write_profile("default", &format!(r#"{{ "version": 1, "mappings": [{mapping}] }}"#));
    home
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("it runs");
}

/// It has nothing to do, and does nothing: not even wait for keys that never come again.
fn assert_rests(pid: u32) {
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks() - before;
    // Of 200 that a thread without a rest would use.
    assert!(used < 60, "{used} ticks in two seconds");
}

/// Ends an engine that has no window.
fn shut_down(home: &Home, pid: u32) {
    let ended = home.command(None).args(["shutdown", "--drain", "0"]).output().expect("it runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    wait_until("the engine ends", SOON, || !is_alive(pid));
    assert!(!socket(home).exists(), "its socket goes with it");
}

/// An engine in another process, on the runtime of a test.
async fn attached(home: &Home) -> (Handle, JoinSet<()>) {
    let attached: Attached = control::attach(socket(home)).await.expect("it listens");
    let handle = attached.handle();
    (handle, [attached.run()].into_iter().collect())
}

async fn row(handle: &Handle) -> MappingRow {
    let interest = Interest { mappings: true, ..Interest::default() };
    let mut rows = handle.subscribe(interest).await.expect("it runs").next().await.expect("rows").mappings;
    rows.pop().expect("a mapping")
}

/// Echoes whatever comes, at the kernel's pace.
async fn echo_server() -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let serving = async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    };
    (port, [serving].into_iter().collect())
}

/// Sends bytes and compares what comes back, until `stop`; then closes in order. Gives how many there were.
async fn transfer(port: u16, number: usize, stop: Arc<AtomicBool>) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let chunk: Vec<u8> =
        (0..8_192_usize).map(|at| (at.wrapping_mul(31) ^ number ^ (at >> 8)).to_le_bytes()[0]).collect();
    let mut back = vec![0; chunk.len()];
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&chunk).await.expect("it is taken");
        stream.read_exact(&mut back).await.expect("it comes back");
        assert!(back == chunk, "other bytes came back on {number}");
        sent += chunk.len() as u64;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.shutdown().await.expect("an end");
    assert_eq!(stream.read(&mut back).await.expect("the end comes back"), 0);
    sent
}

const TRANSFERS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_are_killed_left_or_closed_cost_no_byte_and_no_connection() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let (target, _echo) = echo_server().await;
    let listen = free_port();
    let home = with_mapping(listen, target);
    let owner = Screen::open(&home, None, &[]);
    owner.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "up"]);
    let engine = owner.terminal.engine();
    let stop = Arc::new(AtomicBool::new(false));
    let mut transfers: JoinSet<u64> =
        (0..TRANSFERS).map(|number| transfer(listen, number, Arc::clone(&stop))).collect();
    let (handle, _bridge) = attached(&home).await;
    let all_open = async {
        while row(&handle).await.connections != TRANSFERS as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, all_open).await.expect("all are open");

    // A second window is killed.
    let second = Screen::open(&home, None, &[]);
    second.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "100"]);
    let window = second.terminal.engine();
    assert_ne!(window, engine);
    signal(window, Signal::SIGKILL);
    wait_for("the window is gone", SOON, || second.terminal.exit_status());
    assert_eq!(row(&handle).await.connections, TRANSFERS as u64);

    // The one that owns the engine is left.
    owner.keys(&["q"]);
    owner.terminal.wait_for_text("b leave it running");
    owner.keys(&["b"]);
    assert_eq!(owner.terminal.wait_for_end(), 0);
    let said = owner.terminal.scrollback();
    assert!(said.contains("1 mapping goes on without a screen") && said.contains(&engine.to_string()), "{said}");
    drop(owner);
    assert!(is_alive(engine), "the same process");
    assert_eq!(row(&handle).await.connections, TRANSFERS as u64);

    // Others come, one leaves by `q` without a question, one is closed with its terminal.
    for leaves in [true, false] {
        let third = Screen::open(&home, None, &["attach"]);
        third.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "100"]);
        if leaves {
            third.keys(&["q"]);
            assert_eq!(third.terminal.wait_for_end(), 0);
            let said = third.terminal.scrollback();
            assert!(said.contains("1 mapping goes on without this window"), "{said}");
        } else {
            third.terminal.close();
        }
    }
    assert_eq!(row(&handle).await.connections, TRANSFERS as u64);

    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    while let Some(transferred) = transfers.join_next().await {
        sent += transferred.expect("every byte came back");
    }
    let all_closed = async {
        while row(&handle).await.connections != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, all_closed).await.expect("all are closed");
    let row = row(&handle).await;
    println!(
        "{TRANSFERS} transfers of {sent} bytes each way; the engine says {} in, {} out",
        row.bytes_in, row.bytes_out
    );
    assert_eq!((row.bytes_in, row.bytes_out, row.errors), (sent, sent, 0));
    assert_eq!(row.connections_total, TRANSFERS as u64);
    assert_rests(engine);
    shut_down(&home, engine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_closes_leaves_a_profile_running_and_takes_a_session_with_it() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let (target, _echo) = echo_server().await;
    for how in ["closed", "killed in front"] {
        let listen = free_port();
        let home = with_mapping(listen, target);
        let owner = Screen::open(&home, None, &[]);
        owner.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "up"]);
        let engine = owner.terminal.engine();
        let stop = Arc::new(AtomicBool::new(false));
        let mut transfers: JoinSet<u64> = (0..10).map(|number| transfer(listen, number, Arc::clone(&stop))).collect();
        if how == "closed" {
            owner.terminal.close();
        } else {
            signal(owner.terminal.pid(), Signal::SIGKILL);
            owner.terminal.close();
        }
        let again = Screen::open(&home, None, &[]);
        again.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "10"]);
        assert!(is_alive(engine), "{how}");
        stop.store(true, Ordering::Relaxed);
        while let Some(transferred) = transfers.join_next().await {
            transferred.expect("every byte came back");
        }
        assert_rests(engine);
        // From any window it can be ended.
        again.command("shutdown");
        again.terminal.wait_for_text("for every window");
        again.keys(&["e"]);
        wait_until("the engine ends", SOON, || !is_alive(engine));
        again.terminal.wait_for_text("ENGINE ENDED");
        again.quit();
    }

    let home = Home::new();
    let session = Screen::open(&home, None, &["-p", "auto:127.0.0.1:9"]);
    let engine = session.terminal.engine();
    session.terminal.close();
    wait_until("the engine ends", SOON, || !is_alive(engine));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_window_sees_the_changes_of_the_others_within_250_ms_and_undo_is_the_services() {
    let home = with_mapping(free_port(), 9);
    let mut run = home.run(None, [] as [&str; 0]);
    run.ready();
    let (one, _first) = attached(&home).await;
    let (two, _second) = attached(&home).await;
    let interest = Interest { mappings: true, events: true, ..Interest::default() };
    let mut seen = two.subscribe(interest).await.expect("it runs");
    seen.next().await.expect("rows");
    let mut times = Vec::new();
    for round in 0..50_u16 {
        let mapping = WrittenMapping {
            listen: "auto".into(),
            target: format!("127.0.0.1:{}", 1000 + round),
            ..WrittenMapping::default()
        };
        let start = Instant::now();
        let added = one.request(Request::Add { mapping, even_if_busy: false }).await.expect("it can be added");
        let Reply::Done { ids, .. } = added else { panic!("{added:?}") };
        let told =
            async { while !seen.next().await.expect("it runs").mappings.iter().any(|row| ids.contains(&row.id)) {} };
        timeout(SOON, told).await.expect("it is told");
        times.push(start.elapsed());
        // Whoever undoes, the last change is taken back.
        let start = Instant::now();
        two.request(Request::Undo).await.expect("there is a change");
        let told = async { while !seen.next().await.expect("it runs").mappings_removed.contains(&ids[0]) {} };
        timeout(SOON, told).await.expect("it is told");
        times.push(start.elapsed());
        assert_eq!(row(&one).await.name, "web");
    }
    times.sort_unstable();
    println!("of 100 changes, half were seen in the other window after {:?}, all after {:?}", times[50], times[99]);
    // For a debug build beside other tests, the longest are a matter of who else has the processor.
    assert!(times[amount(94, 99)] < Duration::from_millis(250), "{times:?}");
    assert!(run.stop().status.success());
}

#[test]
fn a_lost_engine_is_said_and_found_again_when_it_is_back() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let listen = free_port();
    let home = with_mapping(listen, 9);
    let mut run = home.run(None, [] as [&str; 0]);
    run.ready();
    let window = Screen::open(&home, None, &["attach"]);
    window.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "up"]);
    for _ in 0..3 {
        run.signal(Signal::SIGKILL);
        let killed = run.wait();
        assert!(!killed.status.success());
        window.terminal.wait_for_text("ENGINE LOST");
        assert!(socket(&home).exists(), "it could not take its socket away");
        run = home.run(None, [] as [&str; 0]);
        run.ready();
        window.terminal.wait_for("the engine is back", SOON, |text| !text.contains("LOST") && text.contains("LIVE"));
        window.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "up"]);
        window.keys(&["t"]);
        window.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "stop"]);
        window.keys(&["u"]);
        window.terminal.wait_for_text("undid");
        window.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "up"]);
    }
    window.keys(&["q"]);
    assert_eq!(window.terminal.wait_for_end(), 0);
    assert!(run.stop().status.success());
}

#[test]
fn an_engine_that_is_stopped_is_said_to_be_silent_until_it_goes_on() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let listen = free_port();
    let home = with_mapping(listen, 9);
    let mut run = home.run(None, [] as [&str; 0]);
    run.ready();
    let window = Screen::open(&home, None, &["attach"]);
    window.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "up"]);
    for is_long in [true, false] {
        // A screen that is stopped itself, for longer than an engine may be silent, takes the engine for living.
        signal(window.terminal.pid(), Signal::SIGSTOP);
        std::thread::sleep(Duration::from_secs(4));
        signal(window.terminal.pid(), Signal::SIGCONT);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            assert!(window.text().contains("LIVE"), "{}", window.text());
            std::thread::sleep(Duration::from_millis(50));
        }
        run.signal(Signal::SIGSTOP);
        window.terminal.wait_for_text("!! NO ANSWER");
        // What is asked now is not done later, when nobody thinks of it any more.
        window.keys(&["t"]);
        window.terminal.wait_for_text("not done: the engine does not answer");
        // However long that is: it is asked anew meanwhile.
        let start = Instant::now();
        while is_long && start.elapsed() < Duration::from_secs(15) {
            assert!(window.text().contains("!! NO ANSWER"), "{}", window.text());
            std::thread::sleep(Duration::from_millis(100));
        }
        run.signal(Signal::SIGCONT);
        window.terminal.wait_for("the engine is back", SOON, |text| text.contains("LIVE"));
        window.keys(&["t"]);
        window.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "stop"]);
        window.keys(&["u"]);
        window.wait_for_row("MAPPINGS", &[&format!("localhost:{listen}"), "up"]);
    }
    window.quit();
    assert!(run.stop().status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_too_many_is_told_so() {
    let home = with_mapping(free_port(), 9);
    let mut run = home.run(None, [] as [&str; 0]);
    run.ready();
    let (handle, _carrying) = attached(&home).await;
    let mut windows = JoinSet::new();
    for _ in 0..48 {
        let mut window = handle.subscribe(Interest::default()).await.expect("there is room");
        windows.spawn(async move { while window.next().await.is_some() {} });
    }
    let one_more = handle.subscribe(Interest::default()).await.expect_err("there is no room");
    assert_eq!(one_more.to_string(), "48 streams are open, as many as there may be");
    let watch = home.command(None).args(["watch"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&watch.stderr).into_owned();
    assert!(said.contains("48 streams are open, as many as there may be"), "{said}");
    assert!(!watch.status.success());
    windows.shutdown().await;
    wait_until("a place for one", SOON, || {
        let listed = home.command(None).args(["ls"]).output().expect("it runs");
        listed.status.success()
    });
    assert!(run.stop().status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_rows_come_as_one_update_as_from_an_engine_in_the_same_process() {
    const CONNECTIONS: usize = 1_700;
    let (target, _echo) = echo_server().await;
    let port = free_port();
    let home = with_mapping(port, target);
    let mut run = home.run(None, [] as [&str; 0]);
    run.ready();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        client.write_all(b"x").await.expect("it is taken");
        client.read_exact(&mut [0]).await.expect("it comes back");
        clients.push(client);
    }
    let (handle, _carrying) = attached(&home).await;
    let interest = Interest { mappings: true, connections: true, ..Interest::default() };
    let first = handle.subscribe(interest).await.expect("it runs").next().await.expect("rows");
    assert!(first.is_full && !first.has_more);
    assert_eq!((first.mappings.len(), first.connections.len()), (1, CONNECTIONS));
    let listed = home.command(None).args(["connections", "--json"]).output().expect("it runs");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed.as_array().expect("a list").len(), CONNECTIONS);
    assert!(run.stop().status.success());
}

#[test]
fn a_profile_has_one_engine_and_who_will_not_attach_is_told_which() {
    let home = with_mapping(free_port(), 9);
    let mut run = home.run(None, [] as [&str; 0]);
    run.ready();
    let pid = run.pid();
    let other = home.command(None).arg("run").output().expect("it runs");
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert_eq!(other.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("pid {pid}")), "{said}");
    if require(&[Need::Tmux]) {
        let mut command = home.command(None);
        command.arg("--no-attach");
        let terminal = Terminal::start(80, 24, &command);
        assert_eq!(terminal.wait_for_end(), 1);
        assert!(terminal.scrollback().contains(&format!("pid {pid}")), "{}", terminal.scrollback());
    }
    assert!(run.stop().status.success());
    let nobody = home.command(None).arg("shutdown").output().expect("it runs");
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(1), "{said}");
    assert!(said.contains("no engine runs profile default: start one with `portolan`"), "{said}");
}

/// What two screens cannot have in common: the kernel's choice of ports, when things were and how long they took.
fn without_chance(screen: &str) -> String {
    let mut text = String::new();
    for line in screen.lines() {
        // A graph of a few bytes: whether a sample fell between the opening and them.
        if let [name @ ("in/s" | "out/s"), ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
            text.extend([name, " #\n"]);
            continue;
        }
        let mut words: Vec<String> = Vec::new();
        let is_bar = |word: &str| !word.is_empty() && word.chars().all(|c| ('\u{2580}'..='\u{259f}').contains(&c));
        for word in line.split(' ').filter(|word| !is_bar(word)) {
            let is_age = word.len() > 1
                && word.ends_with('s')
                && word.trim_end_matches(['m', 's']).chars().all(|c| c.is_ascii_digit() || c == 'm' || c == '.');
            let is_digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit() || c == '.');
            let is_time = word.split(':').count() == 3 && word.split(':').all(is_digits);
            let is_moment = word.ends_with('Z') && word.contains('T') && word.split(':').count() == 3;
            let port =
                word.trim_end_matches(['?', ',']).rsplit_once(':').and_then(|(_, port)| port.parse::<u32>().ok());
            words.push(match port {
                _ if is_age => "#s".to_owned(),
                _ if word.len() > 3 && word.chars().all(|c| c.is_ascii_digit()) => "####".to_owned(),
                _ if is_time || is_moment => "##:##:##".to_owned(),
                Some(32_768..) => format!("{}:#####", word.rsplit_once(':').expect("it has").0),
                _ => word.to_owned(),
            });
        }
        text.push_str(words.join(" ").split_whitespace().collect::<Vec<_>>().join(" ").as_str());
        text.push('\n');
    }
    text
}

/// Drives a screen by a fixed script, and gives what it showed at each step.
fn played(home: &Home, listen: u16, arguments: &[&str]) -> Vec<(String, String)> {
    let second = format!("localhost:{}", listen + 1);
    let window = Screen::open_with((120, 40), home, None, arguments, &[]);
    let mut shown: Vec<(String, String)> = Vec::new();
    let mut client = None;
    let steps: [(&str, &[&str], &str); 25] = [
        ("first", &[], "0 conn"),
        ("traffic", &["client"], "1 conn"),
        ("help", &["?"], "search"),
        ("back from help", &["Escape"], "MAPPINGS"),
        ("connections", &["2"], "LISTENER"),
        ("connection", &["Enter"], "client to container"),
        ("back from it", &["Escape"], "LISTENER"),
        ("reset?", &["K"], "Reset the connection"),
        ("reset", &["K"], "no connection now"),
        // One that came later has not heard what was before.
        ("events", &["4", "/", "k", "i", "l", "l", "e", "d", "Enter"], "#1 killed"),
        ("containers", &["3"], "CONTAINERS"),
        ("mappings", &["1"], "MAPPINGS"),
        ("added", &[":add"], &second),
        ("second", &["j"], &second),
        ("stopped", &["t"], "stop"),
        ("undone", &["u"], "undid"),
        ("form", &["e"], "EDIT"),
        ("form left", &["Escape"], "MAPPINGS"),
        ("deleted", &["d"], "deleted"),
        ("back again", &["u"], "undid"),
        ("profiles", &["o"], "default"),
        ("profiles left", &["Escape"], "MAPPINGS"),
        ("filtered", &["/"], "filter"),
        ("filter left", &["Escape"], "MAPPINGS"),
        ("zoomed", &["z"], "MAPPINGS"),
    ];
    for (name, keys, text) in steps {
        match keys {
            [":add"] => window.command(&format!("add {}:127.0.0.1:9", listen + 1)),
            ["client"] => {
                let stream = client.insert(std::net::TcpStream::connect(("127.0.0.1", listen)).expect("it listens"));
                assert!(common::echo::echoes(stream));
            }
            keys => window.keys(keys),
        }
        window.terminal.wait_for(name, SOON, |screen| screen.contains(text));
        // Figures and words come with the next samples: until nothing changes any more.
        let settled = wait_for("a screen that stays", SOON, || {
            let before = without_chance(&window.text());
            std::thread::sleep(Duration::from_millis(500));
            let is_at_rest = !before.contains("B/s out");
            (is_at_rest && without_chance(&window.text()) == before).then_some(before)
        });
        shown.push((name.to_owned(), settled));
    }
    window.keys(&["z"]);
    window.command(&format!("delete {}-tcp", listen + 1));
    window.wait_for_no_row(SOON, "MAPPINGS", &[&second]);
    window.quit();
    shown
}

#[test]
fn the_same_script_gives_the_same_screens_over_a_local_and_an_attached_engine() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let listen = free_port();
    let _neighbour = free_port();
    let home = with_mapping(listen, common::echo::echo_server().port());
    let local = played(&home, listen, &[]);
    let mut run = home.run(None, [] as [&str; 0]);
    run.ready();
    let attached = played(&home, listen, &["attach"]);
    assert!(run.stop().status.success());
    for ((name, local), (_, attached)) in local.iter().zip(&attached) {
        assert_eq!(local, attached, "{name}");
    }
    println!("{} screens are equal", local.len());
}
