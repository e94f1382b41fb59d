//! Other profiles: opened over what runs, and made out of it.

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use common::echo::{echo_server, echoes};
use common::ports::free_port;
use common::program::Home;
use common::screen::Screen;
use common::{Need, SOON, require, wait_until};
use serde_json::Value;

fn accepts(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn profile(mappings: &[(&str, u16)], target: SocketAddr) -> String {
    let mappings: Vec<String> = mappings
        .iter()
        .map(|(name, port)| format!(r#"{{ "name": "{name}", "listen": "127.0.0.1:{port}", "target": "{target}" }}"#))
        .collect();
    format!(r#"{{ "version": 1, "mappings": [{}] }}"#, mappings.join(", "))
}

fn names(home: &Home, profile: &str) -> Vec<String> {
    let text = std::fs::read_to_string(home.profile(profile)).expect("it is there");
    let value: Value = serde_json::from_str(&text).expect("it is JSON");
    let mappings = value["mappings"].as_array().expect("a list");
    mappings.iter().map(|mapping| mapping["name"].as_str().expect("it has a name").to_owned()).collect()
}

#[test]
fn another_profile_keeps_the_connections_of_what_is_in_both_and_a_copy_keeps_undo() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let (home, target) = (Home::new(), echo_server());
    let [both, here, there, extra] = [free_port(), free_port(), free_port(), free_port()];
    home.write_profile("default", &profile(&[("here", here), ("both", both)], target));
    home.write_profile("other", &profile(&[("renamed", both), ("there", there)], target));
    let before = std::fs::read(home.profile("other")).expect("it is there");

    let screen = Screen::open_with((160, 50), &home, None, &[], &[]);
    screen.wait_for_row("MAPPINGS", &[&both.to_string(), "up"]);
    let mut staying = TcpStream::connect((Ipv4Addr::LOCALHOST, both)).expect("it listens");
    let mut going = TcpStream::connect((Ipv4Addr::LOCALHOST, here)).expect("it listens");
    assert!(echoes(&mut staying) && echoes(&mut going));

    screen.command("open other");
    screen.wait_for_row("MAPPINGS", &[&there.to_string(), "up"]);
    wait_until("the other's listener", SOON, || accepts(there) && !accepts(here));
    assert!(echoes(&mut staying), "it is the same in both");
    assert!(!echoes(&mut going), "it is not in the other");
    assert_eq!(std::fs::read(home.profile("other")).expect("it is there"), before, "opening writes nothing");

    // A profile that is left can be run by others, and comes back.
    screen.command("open default");
    screen.wait_for_row("MAPPINGS", &[&here.to_string(), "up"]);
    assert!(echoes(&mut staying));

    screen.add(&format!("127.0.0.1:{extra}:{target}"), &extra.to_string(), "up");
    screen.command(&format!("delete {extra}-tcp"));
    wait_until("it is gone", SOON, || !accepts(extra));
    screen.command("saveas copy");
    screen.terminal.wait_for_text("saved in");
    assert_eq!(names(&home, "copy"), ["here", "both"]);
    let left = std::fs::read(home.profile("default")).expect("it is there");
    screen.keys(&["u"]);
    wait_until("what was deleted before is back", SOON, || accepts(extra));
    let value = std::fs::read_to_string(home.profile("copy")).expect("it is there");
    assert!(value.contains(&extra.to_string()), "undo is in the copy: {value}");
    assert_eq!(std::fs::read(home.profile("default")).expect("it is there"), left, "and in the copy alone");
    assert!(echoes(&mut staying));

    for (name, answer) in [("copy", "copy is open: choose another name"), ("../x", "is no name: names use letters")] {
        screen.command(&format!("saveas {name}"));
        screen.terminal.wait_for_text(answer);
        assert!(!screen.text().contains("--profile"), "{}", screen.text());
    }
    screen.command("saveas other");
    screen.terminal.wait_for_text("choose another name");
    assert_eq!(std::fs::read(home.profile("other")).expect("it is there"), before, "nothing is overwritten");
    screen.quit();
}
