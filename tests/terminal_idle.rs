//! What the program costs while nothing happens, and how soon it answers a key.

mod common;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use common::netns::Namespace;
use common::program::Home;
use common::screen::Screen;
use common::{Need, SOON, require};

/// Clock ticks of a process, in user and kernel mode. Linux gives every program 100 of them a second.
fn ticks(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the program runs");
    // The second field, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ").expect("the name ends");
    fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().expect("a number")).sum()
}

#[test]
fn idle_with_a_hundred_mappings_it_leaves_the_processor_alone() {
    if !require(&[Need::Namespaces, Need::Tmux]) {
        return;
    }
    let host = Namespace::new("idle");
    let home = Home::new();
    let mut mappings = String::new();
    for port in 10_000..10_100 {
        let comma = if mappings.is_empty() { "" } else { "," };
        let _ = write!(mappings, r#"{comma}{{ "listen": "{port}", "target": "192.0.2.1:80" }}"#);
    }
    home.write_profile("default", &format!(r#"{{ "version": 1, "mappings": [{mappings}] }}"#));
    let screen = Screen::open_with((160, 50), &home, Some(&host), &[], &[]);
    screen.terminal.wait_for("all of them", SOON, |text| text.contains("100 mappings"));
    screen.wait_for_row("MAPPINGS", &["localhost:10001", "up"]);

    let pid = screen.terminal.engine();
    let (start, before) = (Instant::now(), ticks(pid));
    std::thread::sleep(Duration::from_secs(10));
    let used = f64::from(ticks(pid) - before) / start.elapsed().as_secs_f64();
    println!("{used:.2} % of a core");
    // The aim is 1 % of a release build; ten times as much is room for a debug build on a busy machine.
    assert!(used < 10.0, "{used:.2} % of a core");
    screen.quit();
}

#[test]
fn a_key_is_painted_at_once() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = Home::new();
    let mapping = |port: u16| format!(r#"{{ "listen": "{port}", "target": "192.0.2.1:80", "enabled": false }}"#);
    let mappings: Vec<String> = (48_000..48_100).map(mapping).collect();
    home.write_profile("default", &format!(r#"{{ "version": 1, "mappings": [{}] }}"#, mappings.join(",")));
    let screen = Screen::open_with((160, 50), &home, None, &[], &[]);
    screen.wait_for_row("MAPPINGS", &[">", "localhost:48000"]);
    let mut times: Vec<Duration> = (1..=40)
        .map(|step| {
            // Down for a while, then up again.
            let (key, row) = if step <= 20 { ("j", 48_000 + step) } else { ("k", 48_040 - step) };
            let start = Instant::now();
            screen.keys(&[key]);
            while !screen.pane("MAPPINGS").iter().any(|line| line.starts_with('>') && line.contains(&row.to_string())) {
                assert!(start.elapsed() < SOON, "{key} to {row}:\n{}", screen.text());
            }
            start.elapsed()
        })
        .collect();
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("from the start of tmux that sends the key to the picture: median {median:?}, slowest {slowest:?}");
    // The aim is 50 ms, the two starts of tmux not counted; ten times as much is room for a busy machine.
    assert!(median < Duration::from_millis(500), "{median:?}");
    screen.quit();
}
