//! The commands as they are typed: whom they ask, what they refuse, and their exit status.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use nix::sys::signal::Signal;

use crate::common::program::Home;

fn portolan(home: &Home, arguments: &[&str]) -> Output {
    home.command(None).args(arguments).output().expect("the program can be started")
}

fn failed(home: &Home, arguments: &[&str], status: i32) -> String {
    let output = portolan(home, arguments);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("it is text")
}

#[test]
fn without_an_engine_each_command_says_which_one_is_meant_and_how_to_start_it() {
    let home = Home::new();
    let start = |option: &str| format!("start one with `portolan{option}` or `portolan run{option}`\n");
    for arguments in [
        &["ls"][..],
        &["ls", "web", "state:up", "--json", "--published"],
        &["add", "8080:web:80", "--name", "web", "--idle-timeout", "5s", "--stopped", "--even-if-busy"],
        &["edit", "web", "8080:web:80"],
        &["edit", "web", "--max-connections", "default"],
        &["rm", "web", "dns"],
        &["start", "web"],
        &["stop", "--all"],
        &["undo"],
        &["connections", "--closed", "fam:6"],
        &["kill", "17", "18"],
        &["watch", "--interval", "10s", "web"],
        &["events", "--json", "--interval", "200ms"],
        &["events", "web", "port:8080", "fam:6"],
        &["open", "dev", "--new"],
        &["saveas", "dev"],
    ] {
        let said = failed(&home, arguments, 1);
        assert_eq!(said, format!("portolan: no engine runs profile default: {}", start("")), "{arguments:?}");
    }
    let said = failed(&home, &["--profile", "dev", "ls"], 1);
    assert_eq!(said, format!("portolan: no engine runs profile dev: {}", start(" --profile dev")));
    let said = failed(&home, &["ls", "--file", "x.json"], 1);
    assert_eq!(said, format!("portolan: no engine runs x.json: {}", start(" --file x.json")));
    let said = failed(&home, &["ls", "--profile", "\x1b[2J"], 1);
    assert!(said.starts_with("portolan: --profile: \"\\u{1b}[2J\" is no name"), "{said}");
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_status_2() {
    let home = Home::new();
    for (arguments, said) in [
        (&["-p", "8080:web:80", "ls"][..], "the argument '--publish <MAPPING>' cannot be used with 'ls'"),
        (&["ls", "-p", "8080:web:80"], "unexpected argument '-p' found"),
        (&["--profile", "a", "rm", "web", "--profile", "b"], "the argument '--profile <NAME>' cannot be used multiple"),
        (
            &["--profile", "a", "rm", "web", "--file", "b"],
            "the argument '--profile <NAME>' cannot be used with '--file",
        ),
        (&["--demo", "watch"], "the argument '--demo' cannot be used with a subcommand"),
        (&["add"], "the following required arguments were not provided"),
        (&["rm"], "the following required arguments were not provided"),
        (&["start"], "the following required arguments were not provided"),
        (&["stop", "web", "--all"], "the argument '[NAME]...' cannot be used with '--all'"),
        (&["kill", "web"], "invalid value 'web' for '<ID>...'"),
        (&["watch", "--interval", "1ms"], "the shortest interval is 20ms"),
    ] {
        let told = failed(&home, arguments, 2);
        assert!(told.contains(said), "{arguments:?}: {told}");
    }
}

#[test]
fn profiles_are_known_without_an_engine() {
    let home = Home::new();
    let output = portolan(&home, &["profiles"]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "no profile yet: the first mapping that is added makes one\n");
    for name in ["staging", "dev"] {
        home.write_profile(name, "{\"version\": 1, \"mappings\": []}");
    }
    let output = portolan(&home, &["profiles"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PROFILE  STATE\ndev      -\nstaging  -\n");
    let output = portolan(&home, &["profiles", "--json"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"reply\":\"profiles\",\"names\":[\"dev\",\"staging\"],\"open\":null,\"running\":[]}\n"
    );
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn profiles_that_engines_run_are_marked_whichever_engine_is_asked() {
    let home = Home::new();
    for name in ["dev", "idle", "prod"] {
        home.write_profile(name, r#"{"version": 1, "mappings": []}"#);
    }
    let mut engines = ["dev", "prod"].map(|name| home.run(None, ["--profile", name]));
    for engine in &mut engines {
        engine.ready();
    }
    let table = |arguments: &[&str]| {
        let output = portolan(&home, arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    assert_eq!(table(&["profiles"]), "PROFILE  STATE\ndev      running\nidle     -\nprod     running\n");
    assert_eq!(
        table(&["profiles", "--profile", "dev"]),
        "PROFILE  STATE\ndev      open\nidle     -\nprod     running\n"
    );
    let socket = home.path().join("run/portolan/prod.sock").display().to_string();
    let by_socket = table(&["profiles", "--socket", &socket]);
    assert_eq!(by_socket, "PROFILE  STATE\ndev      -\nidle     -\nprod     open\n", "whose it is is not known");
    // One that was killed leaves its socket, on which nobody listens.
    engines[0].signal(Signal::SIGKILL);
    let [dev, prod] = engines;
    dev.wait();
    assert_eq!(table(&["profiles"]), "PROFILE  STATE\ndev      -\nidle     -\nprod     running\n");
    let listed: serde_json::Value = serde_json::from_str(&table(&["profiles", "--json"])).expect("it is JSON");
    assert_eq!((&listed["open"], &listed["running"]), (&serde_json::Value::Null, &serde_json::json!(["prod"])));
    assert!(prod.stop().status.success());
}

#[test]
fn profiles_of_an_engine_that_is_named_or_cannot_be_looked_for_are_not_made_up() {
    let home = Home::new();
    home.write_profile("dev", r#"{"version": 1, "mappings": []}"#);
    for (arguments, told) in [
        (&["profiles", "--socket", "/no/such"][..], "portolan: no engine listens at /no/such: "),
        (&["profiles", "--profile", "dev"], "portolan: no engine runs profile dev: start one with "),
        (&["--profile", "dev", "profiles", "--json"], "portolan: no engine runs profile dev: start one with "),
        (&["profiles", "--file", "x.json"], "portolan: no engine runs x.json: start one with "),
        (&["profiles", "--profile", "a/b"], "portolan: --profile: \"a/b\" is no name"),
    ] {
        let said = failed(&home, arguments, 1);
        assert!(said.starts_with(told), "{arguments:?}: {said}");
    }
    let folder = home.path().join("run/portolan");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let said = failed(&home, &["profiles"], 1);
    assert!(said.contains("chmod 700"), "{said}");
}

#[test]
fn every_command_of_an_engine_has_a_help_with_what_it_takes() {
    let home = Home::new();
    let all = String::from_utf8(portolan(&home, &["--help"]).stdout).expect("it is text");
    for command in [
        "ls",
        "add",
        "edit",
        "rm",
        "start",
        "stop",
        "undo",
        "connections",
        "kill",
        "whois",
        "watch",
        "events",
        "profiles",
        "open",
        "saveas",
        "attach",
        "shutdown",
    ] {
        assert!(all.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "{command}: {all}");
        let help = String::from_utf8(portolan(&home, &[command, "--help"]).stdout).expect("it is text");
        for option in ["--json", "--profile", "--file", "--socket"] {
            // A window, and the last word of an engine, are for people.
            let is_taken = option != "--json" || !["attach", "shutdown"].contains(&command);
            assert_eq!(help.contains(option), is_taken, "{command} {option}: {help}");
        }
        assert!(!help.contains("--publish "), "{help}");
        assert!(!help.contains("--ascii") && !help.contains("--demo"), "{help}");
    }
}
