//! What the screen changes is kept: the form, the palette, the file, and the way back.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::netns::Namespace;
use common::peers::{Web, get};
use common::ports::free_port;
use common::program::Home;
use common::screen::Screen;
use common::terminal::Terminal;
use common::{Need, Running, SOON, output, require, wait_for};
use serde_json::Value;

fn read_profile(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the profile can be read");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

#[test]
fn a_port_in_use_is_told_with_its_holder_and_saved_only_when_asked_twice() {
    if !require(&[Need::Tmux, Need::Python, Need::Ss]) {
        return;
    }
    let home = Home::new();
    let web = Web::start(None, "127.0.0.1", 0);
    let port = web.port().to_string();
    let listed = output(Command::new("ss").args(["-ltnpH"]).arg(format!("sport = :{port}")));
    let pid = listed.split("pid=").nth(1).and_then(|rest| rest.split(',').next()).expect("ss names the process");
    assert_eq!(pid, web.pid().to_string());

    let screen = Screen::open(&home, None, &[]);
    screen.keys(&["a"]);
    screen.terminal.wait_for_text("ADD MAPPING");
    screen.terminal.type_text(&port);
    let said = format!("in use by python3 (pid {pid}");
    screen.terminal.wait_for(&said, 10 * Duration::from_secs(1), |text| text.contains(&said));

    screen.keys(&["Tab", "Tab"]);
    screen.terminal.type_text("192.0.2.1");
    screen.keys(&["Tab"]);
    screen.terminal.type_text("80");
    screen.keys(&["Enter"]);
    // The first save is refused: the form is still there and says what a second one does.
    screen.terminal.wait_for_text("enter again");
    assert!(screen.text().contains("ADD MAPPING"));
    assert!(!home.profile("default").exists(), "nothing was saved");

    screen.keys(&["Enter"]);
    screen.wait_for_row("MAPPINGS", &[&format!(":{port}"), "half"]);
    assert_eq!(read_profile(&home.profile("default"))["mappings"][0]["listen"], format!("localhost:{port}"));
    screen.quit();
}

/// The server of Python's own can take both families by one socket, as many do without being asked.
#[test]
fn a_port_that_a_server_holds_in_both_families_is_kept_as_failed_and_said_so() {
    if !require(&[Need::Namespaces, Need::Tmux, Need::Python, Need::Ss]) {
        return;
    }
    let host = Namespace::new("host");
    let home = Home::new();
    let server =
        host.command("python3").args(["-m", "http.server", "--bind", "::", "8080"]).current_dir(home.path()).spawn();
    let server = Running(server.expect("python3 starts"));
    let pid = wait_for("the server listens", SOON, || {
        let listed = output(host.command("ss").args(["-ltnpH", "sport = :8080"]));
        listed.split("pid=").nth(1).and_then(|rest| rest.split(',').next()).map(str::to_owned)
    });

    let screen = Screen::open(&home, Some(&host), &[]);
    screen.keys(&["a"]);
    screen.terminal.wait_for_text("ADD MAPPING");
    screen.terminal.type_text("8080");
    screen.terminal.wait_for_text(&format!("in use by python3 (pid {pid}"));
    screen.keys(&["Tab", "Tab"]);
    screen.terminal.type_text("127.0.0.1");
    screen.keys(&["Tab"]);
    screen.terminal.type_text("80");
    screen.keys(&["Enter"]);
    screen.terminal.wait_for_text("enter again keeps it as failed");
    assert!(!home.profile("default").exists(), "the first save is refused");
    screen.keys(&["Enter"]);
    screen.wait_for_row("MAPPINGS", &["fail", "localhost:8080"]);
    let text = screen.terminal.wait_for_text("saved as failed");
    assert!(!text.contains("can connect"), "{text}");
    assert_eq!(read_profile(&home.profile("default"))["mappings"][0]["listen"], "localhost:8080");

    // As soon as the server is gone, the mapping has the port.
    drop(server);
    screen.wait_for_row("MAPPINGS", &["up", "localhost:8080"]);
    screen.quit();
}

#[test]
fn lines_that_go_on_are_pasted_as_one_command() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = Home::new();
    let screen = Screen::open(&home, None, &[]);
    // tmux sends the ends of lines as terminals do: as carriage returns, within the marks of a paste.
    let pasted = "docker run -d --name web \\\n  -p 48080:80 \\\n  nginx:1.27\n";
    screen.terminal.command(&["set-buffer", "--", pasted]);
    for keys in [&["a"][..], &[]] {
        if !keys.is_empty() {
            screen.keys(keys);
            screen.terminal.wait_for_text("ADD MAPPING");
        }
        screen.terminal.command(&["paste-buffer", "-p"]);
        let text = screen.terminal.wait_for_text("filled in from what was pasted");
        assert!(text.contains("[48080 ") && text.contains("[web ") && text.contains("[80 "), "{text}");
        screen.keys(&["Escape"]);
        screen.terminal.wait_for_text("No mapping yet");
        screen.terminal.wait_for("the next news", 2 * SOON, |text| !text.contains("filled in"));
    }
    screen.quit();
}

#[test]
fn after_quitting_the_file_is_json_and_the_same_rows_come_back() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = Home::new();
    let ports = [free_port(), free_port(), free_port()];
    let screen = Screen::open(&home, None, &[]);
    for port in ports {
        screen.add(&format!("{port}:192.0.2.1:80"), &format!(":{port}"), "up");
    }
    let rows = |screen: &Screen| -> BTreeSet<String> {
        // The header is a row, too; what differs by the moment is left out.
        screen
            .pane("MAPPINGS")
            .iter()
            .map(|row| row.split_whitespace().filter(|word| *word != ">").take(4).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let before = rows(&screen);
    screen.quit();
    let said = screen.terminal.scrollback();
    assert!(said.contains("Stopped 3 mappings") && said.contains("portolan run"), "{said}");
    assert_eq!(read_profile(&home.profile("default"))["mappings"].as_array().map(Vec::len), Some(3));

    let screen = Screen::open(&home, None, &[]);
    screen.wait_for_row("MAPPINGS", &[&ports[2].to_string(), "up"]);
    assert_eq!(rows(&screen), before);
    screen.quit();
}

#[test]
fn killed_during_a_save_it_leaves_the_old_or_the_new_file_whole() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = Home::new();
    home.write_profile("default", r#"{ "version": 1, "mappings": [] }"#);
    let mut kept = 0;
    for round in 0_u64..10 {
        let screen = Screen::open(&home, None, &[]);
        screen.terminal.wait_for_text("MAPPINGS");
        // Stopped ones bind nothing, so that the save is all there is to be hit.
        screen.keys(&[":"]);
        screen.terminal.wait_for_text("PALETTE");
        screen.terminal.type_text(&format!("add 127.0.0.1:{}:192.0.2.1:80", free_port()));
        screen.keys(&["Enter"]);
        // Each round a little later, from before the save until after it.
        std::thread::sleep(Duration::from_millis(round * 3));
        output(Command::new("kill").args(["-KILL", &screen.terminal.engine().to_string()]));
        wait_for("it is dead", SOON, || screen.terminal.exit_status());
        drop(screen);
        let now = read_profile(&home.profile("default"))["mappings"].as_array().map(Vec::len).expect("a list");
        assert!(now == kept || now == kept + 1, "{kept} mappings became {now}");
        kept = now;
    }
    println!("{kept} of 10 saves were done before the kill");
}

/// Edits that cannot be written: each says why, and file, rows and listeners are as before.
fn edits_are_refused(screen: &Screen, home: &Home, kept: u16, reason: &str) {
    let before = std::fs::read(home.profile("default")).expect("the profile can be read");
    let port = free_port();
    for (edit, name) in [("add", ""), ("edit", "web "), ("delete", "web")] {
        let mapping = if edit == "delete" { String::new() } else { format!("{port}:192.0.2.1:80") };
        screen.command(&format!("{edit} {name}{mapping}"));
        screen
            .terminal
            .wait_for("the reason", SOON, |text| text.contains("not saved, nothing changed") && text.contains(reason));
        // The same words must be said anew for the next one.
        screen.keys(&["y"]);
        screen.terminal.wait_for("the next news", SOON, |text| !text.contains("not saved"));
        assert_eq!(std::fs::read(home.profile("default")).expect("it can be read"), before, "{edit}");
        assert!(screen.text().contains(&format!(":{kept}")) && !screen.text().contains(&port.to_string()), "{edit}");
        assert!(TcpStream::connect(("127.0.0.1", kept)).is_ok() && TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[test]
fn a_file_closed_for_writing_or_a_full_disk_refuses_every_edit_with_the_reason() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = Home::new();
    let kept = free_port();
    let profile = |comma: &str| {
        format!(
            r#"{{ "version": 1, "mappings": [{{ "name": "web", "listen": "{kept}", "target": "192.0.2.1:80" }}{comma}] }}"#
        )
    };
    home.write_profile("default", &profile(""));
    let set_mode = |mode| {
        std::fs::set_permissions(home.profile("default"), Permissions::from_mode(mode)).expect("it is ours");
    };
    set_mode(0o400);
    let screen = Screen::open_with((160, 50), &home, None, &[], &[]);
    screen.wait_for_row("MAPPINGS", &[&kept.to_string(), "up"]);
    edits_are_refused(&screen, &home, kept, "is read-only");
    set_mode(0o600);
    let added = free_port();
    screen.add(&format!("{added}:192.0.2.1:80"), &added.to_string(), "up");
    screen.quit();

    // The limit of a file's size fails in the middle of a write, as a full disk does.
    let mut many = String::new();
    for port in 1..=60 {
        let _ = write!(
            many,
            r#",{{ "name": "m{port}", "listen": "{}", "target": "192.0.2.1:80", "enabled": false }}"#,
            100 + port
        );
    }
    home.write_profile("default", &profile(&many));
    let mut command = home.command(None);
    command.arg("--light");
    let mut limited = Command::new("bash");
    limited.envs(home.environment()).args(["-c", r#"trap "" XFSZ; ulimit -f 4; exec "$@""#, "bash"]);
    limited.arg(command.get_program()).args(command.get_args());
    let screen = Screen { terminal: Terminal::start(160, 50, &limited) };
    screen.wait_for_row("MAPPINGS", &[&kept.to_string(), "up"]);
    edits_are_refused(&screen, &home, kept, "cannot write");
    screen.quit();
    let left = std::fs::read_dir(home.profile("x").parent().expect("a folder")).expect("it is there");
    let left: BTreeSet<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(left.iter().all(|name| name == "default.json" || name == "default.json.bak"), "{left:?}");
}

#[test]
fn from_an_empty_profile_to_a_restart_everything_is_as_it_was_left() {
    if !require(&[Need::Namespaces, Need::Tmux, Need::Python, Need::Curl]) {
        return;
    }
    let host = Namespace::new("host");
    let _web = Web::start(Some(&host), "127.0.0.1", 3000);
    let home = Home::new();
    let screen = Screen::open_with((120, 40), &home, Some(&host), &[], &[]);
    screen.terminal.wait_for_text("No mapping yet");

    // Through the form, to the network.
    screen.keys(&["a"]);
    screen.terminal.wait_for_text("ADD MAPPING");
    screen.terminal.type_text("8080");
    screen.keys(&["BTab", "Right"]);
    screen.terminal.wait_for_text("<this network>");
    screen.keys(&["Tab", "Tab", "Tab"]);
    screen.terminal.type_text("127.0.0.1");
    screen.keys(&["Tab"]);
    screen.terminal.type_text("3000");
    screen.keys(&["Tab"]);
    screen.terminal.wait_for_text("127.0.0.1:3000 answers");
    screen.keys(&["Enter"]);
    screen.wait_for_row("MAPPINGS", &["any:8080", "up", "net", ":3000"]);
    // Through the palette, for this machine alone.
    screen.add("9090:127.0.0.1:3000", "localhost:9090", "up");

    // Traffic over both families, and its rows.
    for (address, port, families) in
        [("[::1]", 8080, "v6-v4"), ("127.0.0.1", 8080, "v4-v4"), ("[::1]", 9090, "v6-v4"), ("127.0.0.1", 9090, "v4-v4")]
    {
        assert_eq!(get(Some(&host), &format!("http://{address}:{port}/data/12345")).len(), 12_345);
        screen.keys(&["2"]);
        screen.wait_for_row("CONNECTIONS", &[families, "x finished", &format!("{address}:{port}")]);
        screen.keys(&["1"]);
    }
    for listen in ["any:8080", "localhost:9090"] {
        // Two answers of 12,345 bytes and their heads.
        screen.wait_for_row("MAPPINGS", &[listen, "ok ", "24.9k"]);
    }

    // Edited, deleted, and the delete undone.
    screen.command("edit 9090-tcp 9191:127.0.0.1:3000");
    screen.wait_for_row("MAPPINGS", &["localhost:9191", "up"]);
    assert_eq!(get(Some(&host), "http://[::1]:9191/").trim(), "127.0.0.1");
    screen.command("delete 8080-tcp");
    screen.wait_for_no_row(SOON, "MAPPINGS", &["any:8080"]);
    screen.keys(&["u"]);
    screen.wait_for_row("MAPPINGS", &["any:8080", "up"]);
    assert_eq!(get(Some(&host), "http://[::1]:8080/").trim(), "127.0.0.1");
    screen.command("delete 9191-tcp");
    screen.wait_for_no_row(SOON, "MAPPINGS", &["localhost:9191"]);
    screen.add("[::1]:7070:127.0.0.1:3000", "[::1]:7070", "up");

    let listens = |screen: &Screen| -> Vec<String> {
        screen
            .pane("MAPPINGS")
            .iter()
            .skip(1)
            .filter_map(|row| row.split_whitespace().find(|word| word.contains(':')).map(str::to_owned))
            .collect()
    };
    let before = listens(&screen);
    assert_eq!(before.len(), 2, "{before:?}");
    screen.quit();

    let saved = read_profile(&home.profile("default"));
    let saved: Vec<_> =
        saved["mappings"].as_array().expect("a list").iter().map(|mapping| mapping["listen"].clone()).collect();
    assert_eq!(saved, ["any:8080", "[::1]:7070"]);
    let screen = Screen::open_with((120, 40), &home, Some(&host), &[], &[]);
    screen.wait_for_row("MAPPINGS", &["any:8080", "up"]);
    screen.wait_for_row("MAPPINGS", &["[::1]:7070", "up"]);
    assert_eq!(listens(&screen), before);
    for url in ["http://[::1]:8080/", "http://127.0.0.1:8080/", "http://[::1]:7070/"] {
        assert_eq!(get(Some(&host), url).trim(), "127.0.0.1");
    }
    screen.quit();
}
