//! Fault 21 on the screen: hostile text in every view, and every byte that the program writes to the terminal.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;
#[path = "common/docker_fake.rs"]
mod docker_fake;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::echo::echo_server;
use common::hostile::{acts, assert_harmless, bytes, containers, texts};
use common::ports::free_port;
use common::program::{Home, PORTOLAN};
use common::screen::Screen;
use common::terminal::Terminal;
use common::{Need, Running, SOON, renamed, require, wait_for};
use docker_fake::FakeDocker;
use serde_json::{Value, json};

const COLUMNS: u16 = 160;
const ROWS: u16 = 50;

/// The sequences of the screen: its modes, where the cursor goes within the terminal, the styles of its roles, and
/// the clipboard with the row that was copied.
fn is_ours(sequence: &str) -> bool {
    if matches!(sequence, "[?1049h" | "[?1049l" | "[?2004h" | "[?2004l" | "[?25h" | "[?25l" | "[2J") {
        return true;
    }
    if let Some(place) = sequence.strip_prefix('[').and_then(|rest| rest.strip_suffix('H')) {
        let (row, column) = place.split_once(';').unwrap_or(("0", "0"));
        let within = |text: &str, most: u16| text.parse().is_ok_and(|at: u16| (1..=most).contains(&at));
        return within(row, ROWS) && within(column, COLUMNS);
    }
    if let Some(styles) = sequence.strip_prefix('[').and_then(|rest| rest.strip_suffix('m')) {
        let colours: Vec<String> = (0..16).map(|n| format!("38;5;{n}")).collect();
        // The colour of the letters goes with that of the background, which is never painted.
        let styles = colours.iter().find_map(|colour| styles.strip_prefix(colour.as_str())).unwrap_or(styles);
        let plain = ["", "0", "1", "2", "4", "7", "22", "24", "27", "39", "49", "59"];
        return styles.split(';').all(|style| plain.contains(&style));
    }
    false
}

/// The program in a terminal of which every byte is kept from the first on.
struct Watched {
    screen: Screen,
    raw: PathBuf,
}

impl Watched {
    fn open(home: &Home, docker_host: &str, arguments: &[&std::ffi::OsStr]) -> Self {
        let mut command = Command::new("sh");
        // Without the variable the program copies by the terminal's own sequence, which is a way out, too.
        command.args(["-c", r#"read -r go; unset TMUX; exec "$@""#, "sh", PORTOLAN]).args(arguments);
        command.envs(home.environment()).env("DOCKER_HOST", docker_host).env("PORTOLAN_LOG", "trace");
        let terminal = Terminal::start(COLUMNS, ROWS, &command);
        let raw = home.path().join("raw");
        terminal.command(&["pipe-pane", "-o", &format!("cat >>'{}'", raw.display())]);
        terminal.keys(&["Enter"]);
        terminal.wait_for_text("? help");
        Self { screen: Screen { terminal }, raw }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.raw).unwrap_or_default()
    }

    /// Presses keys, a few at a time, so that what they show is drawn.
    fn keys(&self, key: &str, times: usize) {
        for _ in 0..times {
            self.screen.keys(&[key]);
            sleep(Duration::from_millis(60));
        }
    }

    /// Presses keys that copy, and waits for what is copied.
    fn copy(&self, keys: &[&str]) {
        let copied = || String::from_utf8_lossy(&self.bytes()).matches("]52;c;").count();
        let before = copied();
        for key in keys {
            self.keys(key, 1);
        }
        wait_for("a row on the clipboard", SOON, || (copied() > before).then_some(()));
    }

    /// Leaves a page; the next key must not come with the escape, or both would be one key.
    fn close(&self, title: &str) {
        self.screen.keys(&["Escape"]);
        self.screen.terminal.wait_for("the page is left", SOON, |text| !text.contains(title));
    }

    /// Pastes text as a terminal does, in brackets.
    fn paste(&self, text: &str) {
        let file = self.raw.with_file_name("pasted");
        std::fs::write(&file, text).unwrap();
        self.screen.terminal.command(&["load-buffer", &file.display().to_string()]);
        self.screen.terminal.command(&["paste-buffer", "-p", "-r"]);
        sleep(Duration::from_millis(60));
    }
}

/// Ports whose holders have hostile names, as mappings; and the holders.
fn held_ports() -> (Vec<Value>, Vec<Running>) {
    let names: Vec<Vec<u8>> =
        bytes().into_iter().filter(|name| !name.contains(&0) && name.len() <= 15).step_by(5).collect();
    assert!(names.len() > 25, "{}", names.len());
    let held = names.iter().map(|name| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mapping = json!({ "listen": address.to_string(), "target": "127.0.0.1:9" });
        (mapping, renamed::hold(listener.into(), name))
    });
    held.unzip()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_text_in_every_view_sends_no_byte_that_acts() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let mut fake = FakeDocker::unix();
    fake.set_containers(containers());
    let host = fake.docker_host();
    tokio::task::block_in_place(|| through_every_view(&host));
    fake.stop().await;
}

/// All that is told of each container, and why a mapping does not work.
fn through_containers(watched: &Watched) {
    let screen = &watched.screen;
    watched.keys("3", 1);
    screen.terminal.wait_for_text("CONTAINERS");
    for _ in 0..texts().len() / 10 {
        screen.keys(&["Down"; 10]);
        sleep(Duration::from_millis(60));
    }
    watched.copy(&["y"]);
    watched.copy(&["Y", "j"]);
    watched.keys("Enter", 1);
    watched.keys("g", 1);
    screen.keys(&["Escape"]);
    screen.terminal.wait_for_text("CONTAINERS");
    screen.keys(&["i"]);
    screen.terminal.wait_for_text("IMPORT");
    watched.keys("G", 1);
    watched.close("IMPORT");
    watched.keys("1", 1);
    screen.keys(&["w"]);
    screen.terminal.wait_for_text("WHY");
    watched.keys("G", 1);
    watched.close("WHY");
}

fn through_every_view(docker_host: &str) {
    let home = Home::new();
    let (mut mappings, holders) = held_ports();
    let port = free_port();
    mappings.push(json!({ "name": "web", "listen": format!("127.0.0.1:{port}"), "target": echo_server().to_string() }));
    for target in ["weeb:80", "container/web:80", "compose/web/web:80"] {
        mappings.push(json!({ "listen": "auto", "target": target }));
    }
    let profile = json!({ "version": 1, "mappings": mappings }).to_string();
    // The names of files of that folder are shown by `o`, that of the open one on top and at the end.
    let folder = home.profile("x").parent().unwrap().to_owned();
    std::fs::create_dir_all(&folder).unwrap();
    for text in texts().iter().filter(|text| !text.contains(['/', '\0']) && text.len() < 200) {
        std::fs::write(folder.join(format!("{text}.json")), "{}").unwrap();
    }
    let file = home.path().join("a\x1b]0;title\x07\u{202e}\nFORGED\x1b[41mb.json");
    std::fs::write(&file, &profile).unwrap();
    let watched = Watched::open(&home, docker_host, &["--file".as_ref(), file.as_ref()]);
    let screen = &watched.screen;

    // Home: why each mapping has failed; then the client's process.
    screen.wait_for_row("MAPPINGS", &["fail"]);
    watched.keys("C-d", 3);
    watched.keys("g", 1);
    let clients: Vec<_> = (0..3)
        .map(|at| {
            let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            renamed::hold(client.into(), [&b"c\x1b]0;t\x07\x1b[41m"[..], b"\x9b3J\xffc", "\u{202e}c\nd".as_bytes()][at])
        })
        .collect();
    watched.keys("2", 1);
    // The column cuts it, the detail does not.
    screen.terminal.wait_for_text("c\\u{1b}]0;t\\u{7}");
    watched.copy(&["y"]);
    watched.copy(&["Y", "j"]);
    watched.keys("Enter", 1);
    // Rows of mappings, copied in each form that they have.
    watched.keys("1", 1);
    watched.copy(&["y"]);
    watched.copy(&["Y", "j"]);
    watched.copy(&["Y", "n"]);

    // The form: who holds the port, and all containers.
    watched.keys("a", 1);
    screen.terminal.wait_for_text("ADD MAPPING");
    screen.terminal.type_text(mappings[0]["listen"].as_str().unwrap().rsplit(':').next().unwrap());
    screen.terminal.wait_for_text("is in use by");
    watched.keys("Tab", 2);
    let count = format!("of {}", texts().len());
    screen.terminal.wait_for_text(&count);
    let drawn = watched.bytes().len();
    for _ in 0..texts().len() / 10 {
        screen.keys(&["Down"; 10]);
        sleep(Duration::from_millis(60));
    }
    assert!(watched.bytes().len() > drawn + 10_000, "the list was drawn");
    for text in acts() {
        watched.paste(&text);
    }
    watched.close("ADD MAPPING");

    through_containers(&watched);

    // Lines of text: search in help, palette, filter.
    for (open, title) in [("?", "HELP"), (":", "PALETTE")] {
        screen.keys(&[open]);
        screen.terminal.wait_for_text(title);
        watched.paste(&acts().concat());
        watched.close(title);
    }
    screen.keys(&[":"]);
    screen.terminal.wait_for_text("PALETTE");
    watched.paste(&format!("add {}", acts().concat()));
    screen.keys(&["Enter"]);
    sleep(Duration::from_millis(300));
    if screen.text().contains("PALETTE") {
        watched.close("PALETTE");
    }
    screen.keys(&["/"]);
    watched.paste(&acts().concat());
    watched.keys("Enter", 1);
    screen.keys(&["o"]);
    screen.terminal.wait_for_text("PROFILES");
    watched.close("PROFILES");

    // An edit by hand that is refused with the words of the file, among the events of all that came before.
    let wrong: Vec<Value> =
        texts().iter().map(|text| json!({ "listen": text, "target": text, text.as_str(): 1 })).collect();
    std::fs::write(&file, json!({ "version": 1, "mappings": wrong }).to_string()).unwrap();
    watched.keys("4", 1);
    screen.terminal.wait_for_text("not applied");
    watched.keys("g", 1);
    watched.keys("C-d", 6);
    watched.keys("C-l", 1);
    screen.quit();
    let said = screen.terminal.scrollback();
    assert!(said.contains("Without a screen: portolan run --file"), "{said}");
    drop((holders, clients));

    let bytes = wait_for("the last bytes", SOON, || {
        let bytes = watched.bytes();
        String::from_utf8_lossy(&bytes).contains("Without a screen").then_some(bytes)
    });
    let text = String::from_utf8_lossy(&bytes);
    println!("{} bytes to the terminal, {} of them begin an escape", bytes.len(), text.matches('\x1b').count());
    for shown in ["\\u{1b}", "\\u{202e}", "\\u{9b}", "\\u{a}", "\\u{200b}", "\u{fffd}", "]52;c;"] {
        assert!(text.contains(shown), "{shown} was never on the screen");
    }
    assert_harmless(&bytes, |sequence| is_ours(sequence) || is_copy(sequence), &"the screen");
}

/// The clipboard's sequence with what was copied, which is pasted elsewhere and must not act there either.
fn is_copy(sequence: &str) -> bool {
    let Some(encoded) = sequence.strip_prefix("]52;c;").and_then(|rest| rest.strip_suffix('\x07')) else {
        return false;
    };
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sixes = encoded.trim_end_matches('=').bytes().map(|byte| letters.iter().position(|letter| *letter == byte));
    let bits: Option<Vec<usize>> = sixes.collect();
    let Some(bits) = bits else { return false };
    let bit = |at: usize| bits[at / 6] >> (5 - at % 6) & 1;
    let copied: Vec<u8> = (0..bits.len() * 6 / 8)
        .map(|byte| (0..8).fold(0, |value, at| value << 1 | u8::try_from(bit(byte * 8 + at)).unwrap()))
        .collect();
    assert_harmless(&copied, |_| false, &"what was copied");
    // A row of ours, and not the word that the hostile sequence would put there.
    copied.contains(&b':') || copied.contains(&b' ')
}
