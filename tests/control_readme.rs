//! The section "Scripts" of the README: each of its commands as it stands there, one after the other, against a real
//! engine.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use common::control::Control;
use common::netns::Namespace;
use common::program::{Home, PORTOLAN};
use common::{Need, Running, SOON, output, require, wait_for};
use serde_json::Value;

/// The commands of the section: what stands indented, with its continued lines.
fn commands() -> Vec<String> {
    let readme = include_str!("../README.md");
    let (_, section) = readme.split_once("\n## Scripts\n").expect("the section is there");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let lines: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    lines.join("\n").replace("\\\n", "\\\0").lines().map(|command| command.replace('\0', "\n")).collect()
}

/// A command as a user runs it, with the program on the path.
fn shell(home: &Home, namespace: &Namespace, command: &str) -> Command {
    let programs = Path::new(PORTOLAN).parent().expect("a program lies in a folder").display();
    let mut shell = namespace.command("bash");
    shell.args(["-c", command]).env_clear().envs(home.environment());
    shell.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap_or_default()));
    shell
}

/// What a command is to print, by what is in it: a JSON pointer and the value there, or a piece of text.
const EXPECTED: [(&str, &str, &str); 13] = [
    ("/v1/engine", "/is_ready", "true"),
    ("http://portolan/v1/mappings", "/mappings", "[]"),
    ("-d '{\"name\": \"web\"", "/message", "\"added web: only this machine can connect\""),
    ("/web/stop", "/message", "\"stopped web\""),
    ("/web/start", "/message", "\"started web\""),
    ("/v1/connections?", "/connections", "[]"),
    ("/v1/events", "/event", "\"mapping_state\""),
    ("-X DELETE", "/error", "\"stale\""),
    ("http://portolan/metrics", "", "portolan_mapping_up{mapping=\"web\"} 1\n"),
    ("http://127.0.0.1:9464/metrics", "", "portolan_mapping_up{mapping=\"web\"} 1\n"),
    ("/openapi.json", "/openapi", "\"3.1.0\""),
    ("/v1/shutdown", "/message", "\"the engine ends\""),
    ("portolan run", "", ""),
];

#[test]
fn every_command_of_the_section_on_scripts_does_what_it_says() {
    if !require(&[Need::Namespaces, Need::Curl]) {
        return;
    }
    let commands = commands();
    assert_eq!(commands.len(), EXPECTED.len(), "{commands:#?}");
    // Its ports are the ones of the README.
    let namespace = Namespace::new("readme");
    let home = Home::new();
    let [engine, questions @ ..] = &commands[..] else { panic!("there is no command") };
    assert!(engine.starts_with("portolan run --metrics "), "{engine}");
    // As a user would have it: the empty profile is there.
    home.write_profile("default", r#"{ "version": 1 }"#);
    let mut engine =
        Running(shell(&home, &namespace, &format!("exec {engine}")).stdout(Stdio::null()).spawn().expect("it starts"));
    let control = Control::of(&home);
    for (command, (part, place, wanted)) in questions.iter().zip(EXPECTED) {
        assert!(command.contains(part), "{command}: was to have {part}");
        let mut shell = shell(&home, &namespace, command);
        let told = if part == "/v1/events" { line_of(wanted, &mut shell, &control) } else { output(&mut shell) };
        if place.is_empty() {
            assert!(told.contains(wanted), "{command}: {told}");
        } else {
            let value: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{command}: {error}: {told}"));
            assert_eq!(value.pointer(place).map(Value::to_string).as_deref(), Some(wanted), "{command}: {told}");
        }
    }
    let ended = wait_for("the engine ends", SOON, || engine.0.try_wait().expect("it is ours"));
    assert!(ended.success(), "{ended:?}");
}

/// The first line with `event` of a command that goes on and tells what happens. Something happens until it does.
fn line_of(event: &str, command: &mut Command, control: &Control) -> String {
    let event = event.to_owned();
    let mut running = Running(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    let stdout = running.0.stdout.take().expect("it is piped");
    let (told, line) = mpsc::channel();
    let reader = thread::spawn(move || {
        told.send(BufReader::new(stdout).lines().map_while(Result::ok).find(|line| line.contains(&event)))
    });
    let line = wait_for("the command tells something", SOON, || {
        for change in ["stop", "start"] {
            assert_eq!(control.ask("POST", &format!("/v1/mappings/web/{change}"), None).status, 200);
        }
        line.try_recv().ok()
    });
    let _ = reader.join();
    line.expect("it goes on")
}
