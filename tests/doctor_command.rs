//! `portolan doctor` on the command line: what it prints, and how it ends.

mod common;

use std::net::TcpListener;
use std::process::Output;

use common::program::Home;
use portolan::model::report::{CauseKind, Report};

fn doctor(home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        home.command(None).arg("doctor").args(arguments).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

#[test]
fn a_bad_mapping_and_an_unknown_name_are_refused_as_everywhere() {
    let home = Home::new();
    for (arguments, answer) in [
        (&["70000:web:80"][..], "70000:web:80: host port 70000 is out of range (1-65535)"),
        (&["-p", "8080:80"], "-p 8080:80: 8080:80 names no container"),
        (
            &["web"],
            "there is no mapping \"web\" (the profile has none; a mapping is written [ADDRESS:]PORT:TARGET:PORT)",
        ),
        (&["a", "-p", "8080:127.0.0.1:80"], "there is no mapping \"a\" (there are: 8080-tcp)"),
    ] {
        let (status, stdout, stderr) = doctor(&home, arguments);
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains(answer), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_status_says_whether_a_cause_was_found_and_the_text_says_which() {
    let home = Home::new();
    let web = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = web.local_addr().expect("an address");
    let (status, stdout, stderr) = doctor(&home, &[&format!("auto:{target}")]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains(&format!("{target} answers in ")), "{stdout}");
    assert!(stdout.contains("nothing wrong") && !stdout.contains("CAUSE"), "{stdout}");
    assert!(stdout.contains("Only this machine can connect"), "{stdout}");

    let (status, stdout, _) = doctor(&home, &[&format!("{}:127.0.0.1:{}", target.port(), target.port())]);
    assert_eq!(status, Some(1), "{stdout}");
    let held = format!(" CAUSE  {target}/tcp is in use by doctor_command");
    assert!(stdout.contains("would forward to itself") || stdout.contains(&held), "{stdout}");
}

#[test]
fn every_mapping_of_the_profile_is_looked_at_or_one_by_its_name() {
    let home = Home::new();
    let web = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = web.local_addr().expect("an address");
    let profile = format!(
        r#"{{"version": 1, "mappings": [
            {{"name": "web", "listen": "auto", "target": "{target}"}},
            {{"name": "off", "listen": "auto", "target": "{target}", "enabled": false}}]}}"#
    );
    home.write_profile("default", &profile);
    let reports = |arguments: &[&str]| -> Vec<Report> {
        let (_, stdout, stderr) = doctor(&home, &[&["--json"], arguments].concat());
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
    };
    let all = reports(&[]);
    assert_eq!(all.iter().map(|report| report.name.as_str()).collect::<Vec<_>>(), ["web", "off"]);
    assert!(all[0].is_healthy(), "{}", all[0]);
    assert_eq!(all[1].cause().map(|cause| cause.kind), Some(CauseKind::MappingStopped));
    let one = reports(&["web"]);
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].steps.len(), all[0].steps.len());
    let (status, _, stderr) = doctor(&home, &["--profile", "none"]);
    assert_eq!(status, Some(2));
    assert!(stderr.contains("none.json: there is no such file"), "{stderr}");
    // The profile that runs is only read: a second look is no second run.
    assert!(!home.profile("default").with_extension("json.bak").exists());
}
