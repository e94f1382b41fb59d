//! Containers on the screen: the view that lists them, the form that one fills in, the import of what they expose,
//! and the page that says why a mapping does not work.

mod common;
#[path = "common/docker_fake.rs"]
mod docker_fake;

use std::net::{Ipv4Addr, TcpListener};

use common::ports::free_port;
use common::program::Home;
use common::screen::Screen;
use common::{Need, SOON, require, wait_until};
use docker_fake::{FakeDocker, container};
use serde_json::{Value, json};
use tokio::task::block_in_place;

/// A container that runs and exposes these ports; nobody is behind its address.
fn exposing(name: &str, address: &str, ports: &[u16]) -> Value {
    let mut value = container(name, "running", Some(address));
    value["Ports"] = ports.iter().map(|port| json!({"PrivatePort": port, "Type": "tcp"})).collect();
    value
}

fn open(home: &Home, fake: &FakeDocker, arguments: &[&str]) -> Screen {
    Screen::open_with((100, 30), home, None, arguments, &[("DOCKER_HOST", &fake.docker_host())])
}

/// The mappings of the profile, as the file says.
fn saved(home: &Home) -> Vec<String> {
    let Ok(text) = std::fs::read_to_string(home.profile("default")) else { return Vec::new() };
    let value: Value = serde_json::from_str(&text).expect("a valid profile");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mappings = value["mappings"].as_array().expect("a list").iter();
    mappings.map(|mapping| format!("{} {}", text(&mapping["listen"]), text(&mapping["target"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_come_and_go_and_a_fills_the_form_in() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let (home, fake, port) = (Home::new(), FakeDocker::unix(), free_port());
    let web = exposing("web_1", "192.0.2.10", &[port, 443]);
    fake.set_containers(vec![web.clone(), container("old", "exited", None)]);
    let screen = block_in_place(|| open(&home, &fake, &[]));
    block_in_place(|| {
        screen.keys(&["3"]);
        screen.wait_for_row("CONTAINERS", &["running", "web_1", "192.0.2.10", "busybox"]);
        screen.wait_for_row("CONTAINERS", &["exited", "old", "-"]);
        // Nobody is inside of a container that never was: that it cannot be seen is said, not that nobody listens.
        screen.wait_for_row("DETAIL", &["inside", "??"]);
    });

    fake.change(vec![web, exposing("new", "192.0.2.11", &[80])]);
    block_in_place(|| {
        screen.wait_for_row("CONTAINERS", &["new", "192.0.2.11"]);
        screen.wait_for_no_row(SOON, "CONTAINERS", &["old"]);
        screen.wait_for_row("CONTAINERS", &[">", "web_1"]);
        screen.keys(&["a"]);
        // Docker lists ports in an order of its own; the lowest comes first.
        screen.wait_for_row("ADD MAPPING", &["Target", "web_1", "443"]);
        screen.wait_for_row("ADD MAPPING", &["Port", "8443"]);
        screen.keys(&["Escape"]);
        screen.wait_for_row("CONTAINERS", &["web_1"]);
        screen.keys(&["/"]);
        screen.terminal.type_text("new");
        screen.keys(&["Enter"]);
        screen.wait_for_no_row(SOON, "CONTAINERS", &["web_1"]);
        screen.quit();
    });
    assert!(fake.requests().iter().all(|request| request.starts_with("GET ")), "{:?}", fake.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_containers_expose_becomes_mappings_at_once_and_one_undo_takes_them_back() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let (home, fake) = (Home::new(), FakeDocker::unix());
    let [one, other] = [free_port(), free_port()];
    fake.set_containers(vec![exposing("api", "192.0.2.10", &[one]), exposing("web", "192.0.2.11", &[other])]);
    let screen = block_in_place(|| open(&home, &fake, &[]));
    block_in_place(|| {
        screen.keys(&["3"]);
        screen.wait_for_row("CONTAINERS", &["web"]);
        screen.keys(&["1", "i"]);
        screen.wait_for_row("IMPORT", &["api", &format!("{one}/tcp"), &format!("localhost:{one}")]);
        screen.keys(&["a", "Enter"]);
        screen.wait_for_row("MAPPINGS", &[&one.to_string(), "api", "up"]);
        screen.wait_for_row("MAPPINGS", &[&other.to_string(), "web", "up"]);
    });
    let listens = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err();
    assert!(listens(one) && listens(other));
    assert_eq!(saved(&home), [format!("localhost:{one} api:{one}"), format!("localhost:{other} web:{other}")]);
    block_in_place(|| {
        // Mapped now: said at its line.
        screen.keys(&["i"]);
        screen.wait_for_row("IMPORT", &["api", "mapped as localhost"]);
        screen.keys(&["Escape"]);
        screen.terminal.wait_for("the overlay closed", SOON, |text| !text.contains("IMPORT"));
        screen.keys(&["u"]);
        screen.wait_for_no_row(SOON, "MAPPINGS", &["api"]);
        wait_until("one undo takes both back", SOON, || saved(&home).is_empty() && !listens(one) && !listens(other));
        screen.quit();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_with_a_port_in_use_adds_nothing_and_says_who_holds_it() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let (home, fake) = (Home::new(), FakeDocker::unix());
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let busy = holder.local_addr().expect("bound").port();
    let free = free_port();
    fake.set_containers(vec![exposing("api", "192.0.2.10", &[free]), exposing("web", "192.0.2.11", &[busy])]);
    let screen = block_in_place(|| open(&home, &fake, &[]));
    block_in_place(|| {
        screen.keys(&["3"]);
        screen.wait_for_row("CONTAINERS", &["web"]);
        screen.keys(&["i"]);
        screen.wait_for_row("IMPORT", &["web", &format!("localhost:{busy}")]);
        screen.keys(&["a", "Enter"]);
        screen.wait_for_row("IMPORT", &["in use by", &format!("(pid {}", std::process::id())]);
        assert!(saved(&home).is_empty(), "none of them");
        // Another port is a key away.
        screen.keys(&["n", "Enter"]);
        screen.terminal.wait_for_text("added 2 mappings");
        assert_eq!(saved(&home).len(), 2);
        assert!(!saved(&home)[1].contains(&format!(":{busy} ")), "{:?}", saved(&home));
        screen.quit();
    });
    drop(holder);
}

#[test]
fn why_opens_a_page_that_checks_again_and_is_left_by_escape() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let (home, port, target) = (Home::new(), free_port(), free_port());
    let screen = Screen::open(&home, None, &["-p", &format!("{port}:127.0.0.1:{target}")]);
    screen.wait_for_row("MAPPINGS", &[&port.to_string(), "up"]);
    let title = format!("WHY localhost:{port} -> 127.0.0.1:{target}");
    let is_answered = |screen: &str| screen.contains(&title) && !screen.contains("checking ...");
    screen.keys(&["w"]);
    let text = screen.terminal.wait_for("the page with its answer", SOON, is_answered);
    for key in ["r rerun", "e edit", "esc back"] {
        assert!(text.contains(key), "{key}:\n{text}");
    }
    // Whatever is answered, it is steps with their marks, or the reason why there are none.
    assert!(text.lines().any(|line| [" ok ", " !! ", " ?? "].iter().any(|mark| line.starts_with(mark))), "{text}");
    screen.keys(&["r"]);
    screen.terminal.wait_for("the page, checked again", SOON, is_answered);
    screen.keys(&["e"]);
    screen.wait_for_row("EDIT MAPPING", &["Port", &port.to_string()]);
    screen.keys(&["Escape"]);
    screen.wait_for_row("MAPPINGS", &[">", &port.to_string()]);
    screen.command("why");
    screen.terminal.wait_for("the page, by the palette", SOON, is_answered);
    screen.keys(&["Escape"]);
    screen.wait_for_row("MAPPINGS", &[">", &port.to_string()]);
    screen.quit();
}
