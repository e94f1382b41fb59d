//! Fault 21, through the program itself: hostile text by every door, and every way out. Nothing of it acts on the
//! terminal or on the reader of events, and each record of the log stays one line.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;
#[path = "common/docker_fake.rs"]
mod docker_fake;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::hostile::{acting, acts, assert_harmless, assert_plain, assert_plain_json, bytes, containers, texts};
use common::program::{Home, PORTOLAN, Run};
use common::{SOON, pty, renamed};
use docker_fake::{Answer, FakeDocker};
use nix::sys::signal::Signal;
use serde_json::json;

/// Does something for each of the texts, on both processors.
fn for_each<T: Sync>(inputs: &[T], check: impl Fn(usize, &T) + Sync) {
    std::thread::scope(|scope| {
        for half in 0..2 {
            let check = &check;
            scope.spawn(move || {
                inputs.iter().enumerate().skip(half).step_by(2).for_each(|(at, input)| check(at, input));
            });
        }
    });
}

/// The styles of an error of the command line: error, literal, valid, invalid, and their end.
fn is_style(sequence: &str) -> bool {
    matches!(sequence, "[0m" | "[1m" | "[4m" | "[31m" | "[32m" | "[33m")
}

/// What the program says on a terminal, which must not act; gives its exit status.
fn said(mut command: Command, input: &dyn std::fmt::Debug) -> (Option<i32>, String) {
    if command.get_envs().all(|(name, _)| name != "TERM") {
        // With colours, as on any terminal: without, clap's printer would take every sequence out.
        command.env("TERM", "xterm-256color");
    }
    let what = format!("{:?} with {input:?}", command.get_args());
    let (status, shown) = pty::run(command);
    assert_harmless(&shown, is_style, &what);
    (status.code(), String::from_utf8(shown).unwrap())
}

/// Each record of the log is one line, which begins with its time; nothing acts.
fn assert_log_is_plain(home: &Home) -> usize {
    let mut records = 0;
    for entry in fs::read_dir(home.path().join(".local/state/portolan")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension() != Some(OsStr::new("log")) {
            continue;
        }
        let text = fs::read(&path).unwrap();
        assert_harmless(&text, |_| false, &path);
        for line in String::from_utf8(text).unwrap().lines() {
            let is_record = line.starts_with("20") && line.split_whitespace().next().unwrap().ends_with('Z');
            assert!(is_record, "no record, but a part of one: {line:?}");
            records += 1;
        }
    }
    records
}

fn concat(parts: &[&[u8]]) -> OsString {
    OsString::from_vec(parts.concat())
}

#[test]
fn the_judge_finds_every_act() {
    for bytes in bytes() {
        let found = acting(&bytes, is_style);
        // A line's end alone is none, but in JSON and in a record of the log, which have one line each.
        let is_lines = bytes.iter().all(|byte| b"web\n".contains(byte));
        assert_eq!(found.is_none(), is_lines, "{bytes:?}: {found:?}");
    }
    assert_eq!(acting("\x1b[1mwëb\r\n\x1b[1m FORGED".as_bytes(), is_style), None);
}

#[test]
fn no_argument_acts_when_it_is_repeated() {
    let home = Home::new();
    let inputs: Vec<Vec<u8>> = bytes().into_iter().filter(|input| !input.contains(&0)).collect();
    for_each(&inputs, |_, input| {
        let program = |arguments: &[&OsStr]| {
            let mut command = home.command(None);
            command.args(arguments);
            let (status, text) = said(command, &String::from_utf8_lossy(input));
            assert_eq!(status, Some(2), "{arguments:?}: {text}");
            text
        };
        let text: &OsStr = OsStr::from_bytes(input);
        let check = OsStr::new("check");
        // Unknown flags and commands, values where none belong, values that are none.
        program(&[text]);
        program(&[&concat(&[b"--", input])]);
        program(&[check, text]);
        program(&["run".as_ref(), &concat(&[b"--json=", input])]);
        program(&["run".as_ref(), &concat(&[b"--drain=", input]), "-p".as_ref(), "auto:127.0.0.1:9".as_ref()]);
        program(&[check, "--profile".as_ref(), text]);
        // Mappings: as many problems as there are arguments.
        let forms: [OsString; 6] = [
            text.to_owned(),
            concat(&[input, b":80"]),
            concat(&[b"8080:", input, b":80"]),
            concat(&[b"8080:host/", input, b":80"]),
            concat(&[b"[", input, b"]:8080:web:80"]),
            concat(&[b"8080:web:80/", input]),
        ];
        let mut arguments = vec![check];
        for form in &forms {
            arguments.extend([OsStr::new("-p"), form]);
        }
        let text = program(&arguments);
        let is_text = std::str::from_utf8(input).is_ok();
        assert!(!is_text || text.lines().count() == forms.len(), "{text}");
        // What the program was called as.
        for arguments in [&["--help"][..], &["run", "--help"], &["run", "x"], &[]] {
            let mut command = home.command(None);
            command.arg0(OsStr::from_bytes(input)).args(arguments);
            said(command, &String::from_utf8_lossy(input));
        }
    });
}

#[test]
fn no_name_of_a_file_or_folder_acts() {
    let home = Home::new();
    let inputs: Vec<Vec<u8>> = bytes()
        .into_iter()
        .filter(|input| !input.contains(&0) && !input.contains(&b'/') && input.len() < 200)
        .collect();
    assert!(inputs.len() > 150, "{}", inputs.len());
    for_each(&inputs, |at, input| {
        let name = OsStr::from_bytes(input);
        let folder = home.path().join(at.to_string());
        fs::create_dir(&folder).unwrap();
        let program = |command: &str, file: &OsStr| {
            let mut program = home.command(None);
            program.current_dir(&folder).args([OsStr::new(command), OsStr::new("--file"), file]);
            let (status, text) = said(program, &String::from_utf8_lossy(input));
            assert_eq!(text.lines().count(), 1, "{text}");
            (status, text)
        };
        assert_eq!(program("check", name).0, Some(2), "it is missing");
        fs::write(folder.join(name), "{}").unwrap();
        for command in ["check", "run"] {
            assert_eq!(program(command, name).0, Some(2), "it has no version");
        }
        fs::write(folder.join(name), r#"{"version":1,"mappings":[]}"#).unwrap();
        assert_eq!(program("check", name).0, Some(0), "it is fine");
        fs::remove_file(folder.join(name)).unwrap();
        fs::create_dir(folder.join(name)).unwrap();
        assert_eq!(program("check", name).0, Some(2), "it is a folder");
        // The folders of a user, in which profiles and logs lie; a file stands where a folder should be.
        fs::create_dir_all(folder.join(name).join("portolan")).unwrap();
        fs::write(folder.join(name).join("portolan/profiles"), "").unwrap();
        for variable in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "HOME", "PORTOLAN_LOG", "TERM", "LANG", "NO_COLOR"] {
            let mut program = home.command(None);
            program.args(["check", "-p", "8080", "--profile", "x"]).env(variable, folder.join(name));
            assert_eq!(said(program, &String::from_utf8_lossy(input)).0, Some(2));
        }
        // The program cannot write where its state belongs, and says so.
        let mut program = home.command(None);
        fs::write(folder.join("state"), "").unwrap();
        program.args(["run", "--file"]).arg(concat(&[b"sub/", input])).current_dir(&folder);
        program.env("XDG_STATE_HOME", folder.join(name).join("portolan/profiles"));
        assert_ne!(said(program, &String::from_utf8_lossy(input)).0, Some(0));
    });
}

/// Mappings with one field hostile, one for each text.
fn hostile_profile(field: &str) -> String {
    let mapping = |text: String| {
        let mut mapping = json!({ "listen": "8080", "target": "web:80" });
        mapping[if field == "unknown" { &text } else { field }] = json!(text);
        mapping
    };
    json!({ "version": 1, "mappings": texts().into_iter().map(mapping).collect::<Vec<_>>() }).to_string()
}

#[test]
fn no_content_of_a_profile_acts() {
    let home = Home::new();
    for field in ["name", "listen", "target", "protocol", "enabled", "idle_timeout", "identity", "unknown"] {
        home.write_profile("default", &hostile_profile(field));
        for command in ["check", "run"] {
            let mut program = home.command(None);
            program.arg(command);
            let (status, text) = said(program, &field);
            assert_eq!(status, Some(2));
            let lines = text.lines().count();
            assert!(lines >= texts().len(), "{lines} problems of {field}");
            assert!(text.lines().all(|line| line.contains("default.json:")), "each is one line: {text}");
        }
    }
    // The file itself.
    for_each(&bytes(), |at, input| {
        for (form, content) in
            [input.clone(), [b"{\"version\": 1, \"", &input[..], b"\": \""].concat()].iter().enumerate()
        {
            let path = home.path().join(format!("{at}-{form}"));
            fs::write(&path, content).unwrap();
            let mut program = home.command(None);
            program.args(["check", "--file"]).arg(&path);
            assert_eq!(said(program, &String::from_utf8_lossy(input)).0, Some(2));
        }
    });
}

#[test]
fn an_edit_by_hand_acts_on_no_reader_of_events() {
    let home = Home::new();
    home.write_profile("default", r#"{"version":1,"mappings":[{"listen":"auto","target":"127.0.0.1:9"}]}"#);
    let mut run = traced(&home, &home.command(None), &["--json"]);
    run.ready();
    home.write_profile("default", &hostile_profile("target"));
    run.event("refused", SOON, |event| event["event"] == "profile_rejected");
    let ended = run.stop();
    assert_plain(&ended.errors, &"the edit");
    assert!(ended.status.success());
    ended.events.iter().for_each(|event| assert_plain_json(event, &"the edit"));
    assert_log_is_plain(&home);
}

/// `portolan run` with every record logged, from a command with its environment.
fn traced(home: &Home, like: &Command, arguments: &[&str]) -> Run {
    let mut command = home.command(None);
    for (name, value) in like.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("PORTOLAN_LOG", "trace").arg("run").args(arguments);
    Run::start(command)
}

#[test]
fn no_docker_host_acts() {
    let inputs: Vec<Vec<u8>> = bytes().into_iter().filter(|input| !input.contains(&0)).collect();
    let shown = std::sync::Mutex::new(0);
    for_each(&inputs, |at, input| {
        let home = Home::new();
        let host = match at % 3 {
            0 => OsString::from_vec(input.clone()),
            1 => concat(&[b"unix:///nowhere/", input]),
            // Never a name that would be looked up.
            _ => concat(&[b"tcp://127.0.0.1/", input]),
        };
        let mut like = Command::new(PORTOLAN);
        like.env("DOCKER_HOST", &host);
        let mut run = traced(&home, &like, &["--json", "-p", "auto:web:80"]);
        run.event("docker's state", SOON, |event| event["event"] == "docker");
        let ended = run.stop();
        assert_plain(&ended.errors, &host);
        ended.events.iter().for_each(|event| assert_plain_json(event, &host));
        assert_log_is_plain(&home);
        *shown.lock().unwrap() += usize::from(ended.events.iter().any(|event| event.to_string().contains("\\\\u{")));
    });
    let shown = shown.into_inner().unwrap();
    assert!(shown > 100, "{shown} of {} were shown, escaped", inputs.len());
}

/// A plain `run`, stopped once a line holds `last`; all its lines.
fn plain_run(home: &Home, arguments: &[&str], docker_host: &str, last: &str) -> String {
    let mut command = home.command(None);
    command.env("DOCKER_HOST", docker_host).env("PORTOLAN_LOG", "trace").arg("run").args(arguments);
    let mut child = common::Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut reader = BufReader::new(child.0.stdout.take().unwrap());
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(last) {
        assert_ne!(reader.read_until(b'\n', &mut text).unwrap(), 0, "{}", String::from_utf8_lossy(&text));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    reader.read_to_end(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_docker_tells_acts() {
    let mut fake = FakeDocker::unix();
    let mut containers = containers();
    fake.set_containers(containers.clone());
    let host = fake.docker_host();
    let mappings = ["-p", "auto:web:80", "-p", "auto:container/weeb:80", "-p", "auto:compose/web/web:80"];
    let home = Home::new();
    let shown = tokio::task::block_in_place(|| plain_run(&home, &mappings, &host, "similar"));
    assert_plain(&shown, &"containers");
    assert!(shown.contains("similar") && shown.contains("\\u{"), "their names are shown, escaped: {shown}");
    let mut like = Command::new(PORTOLAN);
    like.env("DOCKER_HOST", &host);
    let arguments = [&["--json"], &mappings[..]].concat();
    let mut run = traced(&home, &like, &arguments);
    tokio::task::block_in_place(|| run.event("names like it", SOON, |event| event.to_string().contains("similar")));
    for text in texts() {
        fake.say(
            json!({"Type": text, "Action": text, "Actor": {"ID": text, "Attributes": {text.clone(): text}}})
                .to_string(),
        );
    }
    // Half of them go, and then Docker itself, so that it is all told again.
    containers.truncate(containers.len() / 2);
    fake.change(containers);
    fake.stop().await;
    tokio::task::block_in_place(|| {
        run.event("Docker is gone", SOON, |event| event.to_string().contains("unavailable"))
    });
    let ended = tokio::task::block_in_place(|| run.stop());
    assert_plain(&ended.errors, &"containers");
    ended.events.iter().for_each(|event| assert_plain_json(event, &"containers"));
    let records = assert_log_is_plain(&home);
    println!("{} containers, {} events, {records} records", texts().len(), ended.events.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refusal_of_docker_acts() {
    let fake = FakeDocker::unix();
    let mut shown = 0;
    let acts = acts();
    for (at, text) in acts.iter().enumerate() {
        fake.answer_version(match at % 3 {
            0 => Answer::Status(500, text.clone()),
            1 => Answer::Body(json!({"Version": text, "ApiVersion": text}).to_string()),
            _ => Answer::Body(text.clone()),
        });
        let home = Home::new();
        let mut like = Command::new(PORTOLAN);
        like.env("DOCKER_HOST", fake.docker_host());
        let ended = tokio::task::block_in_place(|| {
            let mut run = traced(&home, &like, &["--json", "-p", "auto:web:80"]);
            run.event("Docker's refusal", SOON, |event| event["event"] == "docker");
            run.stop()
        });
        assert_plain(&ended.errors, text);
        ended.events.iter().for_each(|event| assert_plain_json(event, text));
        shown += usize::from(ended.events.iter().any(|event| event.to_string().contains("\\\\u{")));
        assert_log_is_plain(&home);
    }
    assert!(shown > acts.len() / 2, "{shown} of {} were shown, escaped", acts.len());
}

#[test]
fn no_name_of_a_process_acts() {
    // Who holds a port is named by the name that it gave itself, of at most 15 bytes.
    let all = bytes().into_iter().filter(|name| !name.contains(&0) && name.len() <= 15);
    let names: Vec<Vec<u8>> = all.step_by(3).collect();
    let mut mappings = Vec::new();
    let holders: Vec<_> = names
        .iter()
        .map(|name| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            mappings.push(json!({ "listen": address.to_string(), "target": "127.0.0.1:9" }));
            renamed::hold(listener.into(), name)
        })
        .collect();
    let home = Home::new();
    home.write_profile("default", &json!({ "version": 1, "mappings": mappings }).to_string());
    // Nothing listens, so that it ends by itself and says all of them on stderr, too.
    let mut program = home.command(None);
    program.env("PORTOLAN_LOG", "trace").arg("run");
    let (status, shown) = said(program, &"names of processes");
    assert_eq!(status, Some(1));
    let shown_times = |holder: &common::Running| shown.matches(&format!("(pid {})", holder.0.id())).count();
    assert!(holders.iter().all(|holder| shown_times(holder) >= 2), "each is named as event and at the end: {shown}");
    assert_log_is_plain(&home);
    let ended = home.run::<&str>(None, []).wait();
    assert_plain(&ended.errors, &"names of processes");
    ended.events.iter().for_each(|event| assert_plain_json(event, &"names of processes"));
    println!("{} names", names.len());
}

#[test]
fn what_the_environment_says_of_logs_and_time_acts_nowhere() {
    for text in acts().into_iter().filter(|text| !text.contains('\0')) {
        let home = Home::new();
        let mut command = home.command(None);
        command.env("PORTOLAN_LOG", &text).env("TZ", &text).args(["run", "--json", "-p", "auto:127.0.0.1:9"]);
        let mut run = Run::start(command);
        run.ready();
        let ended = run.stop();
        assert_plain(&ended.errors, &text);
        ended.events.iter().for_each(|event| assert_plain_json(event, &text));
        assert_log_is_plain(&home);
    }
}
