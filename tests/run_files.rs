//! `portolan run` and the files that it stands on: the profile while it runs, the state folder, the watch.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::program::{Home, PORTOLAN, Run};
use common::{Need, SOON, require};
use serde_json::Value;

const EMPTY: &str = "{\"version\": 1}";
const WEB: &str =
    "{\"version\": 1, \"mappings\": [{\"name\": \"web\", \"listen\": \"auto\", \"target\": \"127.0.0.1:9\"}]}";

fn is_warning(event: &Value, text: &str) -> bool {
    event["event"] == "warning" && event["message"].as_str().is_some_and(|message| message.contains(text))
}

/// A home whose state folder cannot be made, since there is a file in its way.
fn without_state(home: &Home, arguments: &[&str]) -> Command {
    let file = home.path().join("a-file");
    fs::write(&file, "").expect("it can be written");
    let mut command = home.command(None);
    command.env("XDG_STATE_HOME", file.join("state")).args(arguments);
    command
}

#[test]
fn a_deleted_profile_is_told_once_and_what_runs_goes_on() {
    let home = Home::new();
    home.write_profile("default", WEB);
    let mut run = home.run::<&str>(None, []);
    run.ready();
    fs::remove_file(home.profile("default")).expect("it is there");
    let gone = run.event("it is gone", SOON, |event| is_warning(event, "is gone"));
    let message = gone["message"].as_str().expect("a text");
    assert!(message.contains("default.json") && message.contains("what runs goes on"), "{message}");
    // It comes back with a change, and goes once more.
    home.write_profile("default", EMPTY);
    run.event("the change", SOON, |event| event["event"] == "removed" && event["mapping"] == "web");
    let mark = run.mark();
    fs::remove_file(home.profile("default")).expect("it is there");
    run.event_after(mark, "it is gone again", SOON, |event| is_warning(event, "is gone"));
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
    assert_eq!(ended.events.iter().filter(|event| is_warning(event, "is gone")).count(), 2);
}

#[test]
fn the_default_profile_need_not_be_there_which_is_said() {
    let home = Home::new();
    let mut run = home.run::<&str>(None, []);
    assert_eq!(run.ready()["mappings"], 0);
    home.write_profile("default", WEB);
    run.event("the mapping", SOON, |event| event["event"] == "listening" && event["mapping"] == "web");
    let ended = run.stop();
    assert!(
        ended.errors.ends_with("default.json is not there yet: nothing is mapped until it is\n"),
        "{}",
        ended.errors
    );
    assert_eq!(ended.errors.lines().count(), 1);
}

/// The first thing that is logged is logged before anybody can have subscribed.
#[test]
fn a_warning_of_the_start_is_always_told_and_ready_comes_once() {
    for round in 0..20 {
        let home = Home::new();
        let mut run = Run::start(without_state(&home, &["run", "--json", "-p", "auto:127.0.0.1:9"]));
        run.ready();
        run.event("the warning", SOON, |event| is_warning(event, "no log file in"));
        let ended = run.stop();
        let ready = ended.events.iter().filter(|event| event["event"] == "ready").count();
        assert_eq!(ready, 1, "round {round}");
    }
}

#[test]
fn a_lock_that_cannot_be_made_says_what_to_do() {
    let home = Home::new();
    home.write_profile("default", EMPTY);
    let ended = without_state(&home, &["run"]).stdin(Stdio::null()).output().expect("the program starts");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot lock ") && said.contains("set XDG_STATE_HOME"), "{said}");
}

#[test]
fn without_a_free_watch_of_files_a_profile_opens_and_is_looked_at_all_the_same() {
    if !require(&[Need::UserNamespaces]) {
        return;
    }
    let home = Home::new();
    home.write_profile("default", EMPTY);
    let limit = Path::new("/proc/sys/user/max_inotify_instances");
    let script = format!("echo 0 >{} && exec \"$@\"", limit.display());
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--", "sh", "-c", &script, "sh", PORTOLAN, "run", "--json"]);
    command.env_clear().envs(home.environment());
    let mut run = Run::start(command);
    run.ready();
    run.event("the warning", SOON, |event| is_warning(event, "looked at every 2 s alone"));
    home.write_profile("default", WEB);
    run.event("the edit", SOON + Duration::from_secs(2), |event| {
        event["event"] == "listening" && event["mapping"] == "web"
    });
    let ended = run.stop();
    assert!(ended.status.success(), "{}", ended.errors);
}
