//! What goes wrong is in the log file the next day, too: what events say of it, once, and no event more for that.

mod common;

use std::path::Path;

use common::ports::free_port;
use common::program::Home;
use common::{SOON, wait_for};

/// The lines of all log files.
fn log(home: &Home) -> Vec<String> {
    fn files(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                files(&entry.path(), found);
            } else if entry.path().extension().is_some_and(|extension| extension == "log") {
                let text = std::fs::read_to_string(entry.path()).expect("it is text");
                found.extend(text.lines().map(str::to_owned));
            }
        }
    }
    let mut found = Vec::new();
    files(&home.path().join(".local/state"), &mut found);
    found
}

#[test]
fn docker_out_of_reach_a_refused_edit_and_a_busy_port_are_in_the_log_once_and_make_no_warning() {
    let home = Home::new();
    let holder = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let busy = holder.local_addr().expect("it is bound").port();
    let free = free_port();
    let profile = |comma: &str| {
        format!(
            r#"{{ "version": 1, "mappings": [
                {{ "name": "web", "listen": "127.0.0.1:{free}", "target": "web_1:80" }},
                {{ "name": "busy", "listen": "127.0.0.1:{busy}", "target": "192.0.2.1:80" }}{comma} ] }}"#
        )
    };
    home.write_profile("default", &profile(""));
    let mut run = home.run(None, Vec::<String>::new());
    run.event("Docker is out of reach", SOON, |event| event["event"] == "docker" && event["docker"] != "connected");
    run.event("the busy port", SOON, |event| event["event"] == "mapping_failed" && event["mapping"] == "busy");
    home.write_profile("default", &profile(", 5"));
    run.event("the edit is refused", SOON, |event| event["event"] == "profile_rejected");
    let lines = wait_for("the record of the edit", SOON, || {
        let lines = log(&home);
        lines.iter().any(|line| line.contains("profile not applied")).then_some(lines)
    });
    let count = |part: &str| lines.iter().filter(|line| line.contains("WARN") && line.contains(part)).count();
    for part in [
        "docker: cannot open",
        "busy: cannot listen on 127.0.0.1:",
        "profile not applied, what runs goes on",
        "web: waiting: Docker: cannot open",
    ] {
        assert_eq!(count(part), 1, "{part} in {lines:#?}");
    }
    let warnings: Vec<_> = run.events().iter().filter(|event| event["event"] == "warning").collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
    run.stop();
}
