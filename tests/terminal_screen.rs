//! What the screen shows at each size.

mod common;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use common::peers::{Web, get};
use common::ports::free_port;
use common::program::Home;
use common::screen::{Screen, pane_of};
use common::{Need, SOON, output, require, wait_for};

/// A profile whose rows need no port of this machine.
const STOPPED: &str = r#"{ "version": 1, "mappings": [
    { "name": "web", "listen": "any:48080", "target": "192.0.2.10:80", "enabled": false },
    { "name": "api", "listen": "localhost:49000", "target": "192.0.2.10:9000", "enabled": false },
    { "name": "tls", "listen": "[2001:db8:1111:2222:3333:4444:5555:6666]:48443",
      "target": "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:38443", "enabled": false },
    { "name": "dns", "listen": "localhost:45353", "target": "192.0.2.10:53", "protocol": "udp", "enabled": false }
] }"#;

fn with_stopped_mappings() -> Home {
    let home = Home::new();
    home.write_profile("default", STOPPED);
    home
}

#[test]
fn at_80_columns_every_essential_is_there_and_no_port_is_cut() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_stopped_mappings();
    let screen = Screen::open(&home, None, &[]);
    screen.wait_for_row("MAPPINGS", &["45353"]);
    let text = screen.text();
    for essential in ["STATE", "LISTEN", "TARGET", "CONNS", "? help"] {
        assert!(text.contains(essential), "{essential} is missing:\n{text}");
    }
    let rows = screen.pane("MAPPINGS");
    for (listen, target) in [(":48080", ":80"), (":49000", ":9000"), (":48443", ":38443"), (":45353", ":53")] {
        let is_whole =
            |row: &&String| row.contains(listen) && row.split_whitespace().any(|word| word.ends_with(target));
        assert!(rows.iter().any(|row| is_whole(&row)), "{listen} to {target} in\n{text}");
    }
    screen.quit();
}

/// Whether the selected mapping is the one that listens on `port`.
fn is_selected(screen: &Screen, port: u16) -> bool {
    let port = format!(":{port}");
    let selected: Vec<_> = screen.pane("MAPPINGS").into_iter().filter(|row| row.starts_with('>')).collect();
    matches!(&selected[..], [row] if row.contains(&port))
}

#[test]
fn columns_come_with_the_width_and_the_selection_stays_through_every_size() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_stopped_mappings();
    let screen = Screen::open(&home, None, &[]);
    screen.wait_for_row("MAPPINGS", &["45353"]);
    screen.keys(&["g", "j"]);
    screen.wait_for_row("MAPPINGS", &[">", ":49000"]);
    assert!(!screen.text().contains("TARGET ADDRESS"));

    let start = Instant::now();
    screen.terminal.resize(160, 50);
    screen
        .terminal
        .wait_for("the target address column", 10 * Duration::from_secs(1), |text| text.contains("TARGET ADDRESS"));
    println!("the column was there after {:?}", start.elapsed());
    assert!(is_selected(&screen, 49_000), "{}", screen.text());

    screen.terminal.resize(30, 8);
    screen.terminal.wait_for("one line", SOON, |text| !text.contains("LISTEN") && text.contains("portolan"));
    screen.terminal.resize(80, 24);
    screen.terminal.wait_for_text("? help");
    screen.wait_for_row("MAPPINGS", &["45353"]);
    assert!(is_selected(&screen, 49_000), "{}", screen.text());
    screen.quit();
}

#[test]
fn help_finds_every_binding_that_the_program_lists() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_stopped_mappings();
    let listed = output(home.command(None).args(["keys", "--json"]));
    let bindings: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("keys --json prints a list");
    assert!(bindings.len() > 30, "only {} bindings", bindings.len());

    let screen = Screen::open_with((160, 50), &home, None, &[], &[]);
    screen.keys(&["?"]);
    screen.terminal.wait_for_text("HELP");
    screen.terminal.type_text("freeze");
    let text = screen.terminal.wait_for("the freeze row alone", SOON, |text| {
        pane_of(text, "HELP").iter().any(|row| row.contains("freeze the screen")) && !text.contains("sort by the next")
    });
    assert!(!text.contains("undo"), "{text}");

    for binding in bindings {
        let help = binding["help"].as_str().expect("each binding has its help");
        let key = binding["keys"][0].as_str().expect("each binding has a key");
        screen.keys(&["C-u"]);
        screen.terminal.type_text(help);
        screen.terminal.wait_for(&format!("{key}: {help}"), SOON, |text| {
            pane_of(text, "HELP").iter().any(|row| row.contains(help) && row.split_whitespace().any(|word| word == key))
        });
    }
    screen.keys(&["Escape"]);
    screen.wait_for_row("MAPPINGS", &["45353"]);
    screen.quit();
}

#[test]
fn frozen_the_picture_stands_still_and_forwarding_goes_on() {
    if !require(&[Need::Tmux, Need::Python, Need::Curl]) {
        return;
    }
    let home = Home::new();
    let web = Web::start(None, "127.0.0.1", 0);
    let port = free_port();
    let screen = Screen::open(&home, None, &["-p", &format!("{port}:127.0.0.1:{}", web.port())]);
    screen.wait_for_row("MAPPINGS", &[&port.to_string(), "up"]);
    let url = format!("http://[::1]:{port}/data/5000");
    get(None, &url);
    screen.wait_for_row("CONNECTIONS", &["v6-v4", "x "]);

    screen.keys(&["f"]);
    let frozen = screen.terminal.wait_for_text("FROZEN");
    // What happens meanwhile would show: more connections, other ages.
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(get(None, &url).len(), 5000);
        count += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(count > 3);
    let later = screen.terminal.wait_for("the count of what is new", SOON, |text| {
        text.lines().any(|line| line.contains("FROZEN") && !line.contains(" 0 new"))
    });
    let differ: Vec<_> = frozen.lines().zip(later.lines()).filter(|(before, after)| before != after).collect();
    assert!(differ.iter().all(|(_, after)| after.contains("FROZEN")), "{differ:#?}");
    screen.keys(&["f"]);
    screen.terminal.wait_for_text("LIVE");
    screen.quit();
}

#[test]
fn try_maps_a_page_and_says_the_command_that_reaches_it_over_ipv6() {
    if !require(&[Need::Tmux, Need::Curl]) {
        return;
    }
    let home = Home::new();
    let screen = Screen::open(&home, None, &["try"]);
    let text = screen.terminal.wait_for_text("curl");
    let url = text
        .split_whitespace()
        .map(|word| word.trim_matches(['\'', '"']))
        .find(|word| word.starts_with("http://[::1]:"));
    let url = url.unwrap_or_else(|| panic!("no command that reaches it over IPv6:\n{text}"));
    assert!(get(None, url).contains("127.0.0.1"), "the page tells the address that it sees");
    screen.wait_for_row("CONNECTIONS", &["v6-v4", "x finished"]);
    screen.quit();
    assert!(!home.profile("default").exists(), "trying leaves nothing behind");
}

#[test]
fn a_copied_row_is_in_the_buffer_of_a_tmux_with_default_settings() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_stopped_mappings();
    let screen = Screen::open(&home, None, &[]);
    screen.wait_for_row("MAPPINGS", &[">", "48080"]);
    screen.keys(&["y"]);
    screen.terminal.wait_for_text("sent to tmux");
    let buffer = wait_for("the buffer", SOON, || {
        let buffers = screen.terminal.command(&["list-buffers"]);
        (!buffers.is_empty()).then(|| screen.terminal.command(&["show-buffer"]))
    });
    assert!(buffer.contains("any:48080") && buffer.contains("192.0.2.10:80"), "{buffer:?}");
    screen.quit();
}

#[test]
fn without_colour_no_colour_is_sent_and_the_selection_still_shows() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_stopped_mappings();
    let colours = |environment: &[(&str, &str)]| {
        let screen = Screen::open_with((80, 24), &home, None, &[], environment);
        screen.wait_for_row("MAPPINGS", &[">"]);
        let text = screen.terminal.screen_with_escapes();
        let row = text.lines().find(|line| line.contains("48080")).expect("the first row is shown").to_owned();
        screen.quit();
        let codes: Vec<u16> = text
            .split("\u{1b}[")
            .skip(1)
            .filter_map(|rest| rest.split_once('m'))
            .flat_map(|(codes, _)| codes.split(';').filter_map(|code| code.parse().ok()).collect::<Vec<_>>())
            .filter(|code| matches!(code, 30..=38 | 40..=48 | 90..=107))
            .collect();
        (codes, row)
    };
    let (with, _) = colours(&[]);
    assert!(!with.is_empty(), "without NO_COLOR there are colours, else this test sees nothing");
    let (without, row) = colours(&[("NO_COLOR", "1")]);
    assert!(without.is_empty(), "{without:?}");
    assert!(row.contains('>') && row.contains("\u{1b}[7m") || row.contains(";7m"), "{row:?}");
}

#[test]
fn in_ascii_no_byte_above_127_is_sent() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_stopped_mappings();
    for (arguments, environment) in [(&["--ascii"][..], &[][..]), (&[], &[("LANG", "C"), ("LC_ALL", "C")])] {
        let screen = Screen::open_with((160, 50), &home, None, arguments, environment);
        let raw = home.path().join("raw");
        screen.terminal.command(&["pipe-pane", "-o", &format!("cat >>'{}'", raw.display())]);
        for keys in [&["C-l"][..], &["2"], &["4"], &["1"], &["a"], &["Escape"], &["?"], &["Escape"], &["C-l"]] {
            let sent = || std::fs::read(&raw).map_or(0, |bytes| bytes.len());
            let before = sent();
            screen.keys(keys);
            wait_for("what a key draws", SOON, || (sent() > before).then_some(()));
            if keys == ["Escape"] {
                // With the next key close behind it, it would be another one (Alt), and a clock may have drawn.
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        wait_for("the last picture", SOON, || {
            let bytes = std::fs::read(&raw).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains("MAPPINGS").then_some(())
        });
        let bytes = std::fs::read(&raw).expect("the terminal's bytes were kept");
        let above: Vec<_> = String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_ascii()).collect();
        assert!(above.is_empty(), "{above:?} with {arguments:?} {environment:?}");
        screen.quit();
        std::fs::remove_file(&raw).expect("it was there");
    }
}

#[test]
fn the_demo_shows_the_same_screen_each_time_without_a_word_of_it_in_the_screens_code() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = Home::new();
    // Every picture of the first seconds, whole: figures, graphs and ages with it.
    let pictures = || {
        let screen = Screen::open_with((160, 50), &home, None, &["--demo"], &[]);
        screen.wait_for_row("CONNECTIONS", &["v6-v4"]);
        let (start, mut pictures) = (Instant::now(), BTreeSet::new());
        while start.elapsed() < Duration::from_secs(5) {
            pictures.insert(screen.text());
        }
        screen.quit();
        pictures
    };
    // Two runs need not draw at the same moments; of a few, two have.
    let mut seen = pictures();
    assert!(seen.len() > 2, "the story goes on: {seen:#?}");
    let is_the_same = (0..4).any(|_| {
        let other = pictures();
        let same = other.iter().filter(|picture| seen.contains(*picture)).count();
        println!("{same} of {} pictures were those of another run", other.len());
        seen.extend(other);
        same > 0
    });
    assert!(is_the_same, "{seen:#?}");

    let sources = format!("{}/src/tui", env!("CARGO_MANIFEST_DIR"));
    let found = Command::new("grep").args(["-rniw", "demo", &sources]).output().expect("grep runs");
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
}
